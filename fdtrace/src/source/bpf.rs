//! The few `bpf(2)` commands that preflight issues by hand, to learn what the kernel allows.
//!
//! Probing asks the kernel instead of guessing from its version: the answer also covers capabilities, lockdown, seccomp
//! and what the distribution patched. The tracer itself loads through aya; nothing here stays loaded.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

pub const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    Insn { code, registers: src << 4 | dst, offset, immediate }
}

/// `r0 = 0; exit`: the smallest program.
pub const RETURN_ZERO: [Insn; 2] = [insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)];

const PROBE_READ_KERNEL: i32 = 113;

/// Calls `bpf_probe_read_kernel` once: 8 bytes from address 0, which fails at run time and is harmless.
pub const READ_KERNEL: [Insn; 7] = [
    insn(0xbf, 1, 10, 0, 0),
    insn(0x07, 1, 0, 0, -8),
    insn(0xb7, 2, 0, 0, 8),
    insn(0xb7, 3, 0, 0, 0),
    insn(0x85, 0, 0, 0, PROBE_READ_KERNEL),
    insn(0xb7, 0, 0, 0, 0),
    insn(0x95, 0, 0, 0, 0),
];

/// What kind of program to load, and for what.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    RawTracepoint,
    /// A program of type "tracing"; the id is that of the function or tracepoint in the kernel's BTF.
    BtfTracepoint(u32),
    Fentry(u32),
    Iterator(u32),
}

impl Program {
    /// Program type, expected attach type, BTF id: `include/uapi/linux/bpf.h`.
    fn types(self) -> (u32, u32, u32) {
        const TRACING: u32 = 26;
        match self {
            Self::RawTracepoint => (17, 0, 0),
            Self::BtfTracepoint(id) => (TRACING, 23, id),
            Self::Fentry(id) => (TRACING, 24, id),
            Self::Iterator(id) => (TRACING, 28, id),
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

#[repr(C)]
#[derive(Default)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    padding: u32,
}

/// Creates a ring buffer of the smallest size.
pub fn create_ring_buffer(page_size: u32) -> io::Result<OwnedFd> {
    const RINGBUF: u32 = 27;
    bpf_fd(0, &MapCreate { map_type: RINGBUF, max_entries: page_size, ..MapCreate::default() })
}

/// Loads `insns`. They must not refer to maps.
pub fn load(program: Program, insns: &[Insn]) -> io::Result<OwnedFd> {
    let (prog_type, expected_attach_type, attach_btf_id) = program.types();
    let mut prog_name = [0; 16];
    prog_name[..13].copy_from_slice(b"fdtrace_probe");
    bpf_fd(
        5,
        &ProgLoad {
            prog_type,
            insn_cnt: u32::try_from(insns.len()).unwrap_or(u32::MAX),
            insns: insns.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            prog_name,
            expected_attach_type,
            attach_btf_id,
            ..ProgLoad::default()
        },
    )
}

/// Attaches a raw tracepoint by name; tracing programs know their place already and take none.
pub fn attach(program: BorrowedFd<'_>, tracepoint: Option<&std::ffi::CStr>) -> io::Result<OwnedFd> {
    bpf_fd(
        17,
        &RawTracepointOpen {
            name: tracepoint.map_or(0, |name| name.as_ptr() as u64),
            prog_fd: program.as_raw_fd().cast_unsigned(),
            padding: 0,
        },
    )
}

/// Issues a command whose result is a descriptor. `T` must be a prefix of `union bpf_attr` for that command.
fn bpf_fd<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attributes`, and behind them live buffers; it writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    match i32::try_from(result) {
        // SAFETY: these commands return a new descriptor that nobody else knows.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs a raw tracepoint program once, in the calling task, and gives its return value.
#[cfg(test)]
pub fn run_once(program: BorrowedFd<'_>) -> io::Result<u32> {
    #[repr(C)]
    #[derive(Default)]
    struct TestRun {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
    }
    let mut attributes = TestRun { prog_fd: program.as_raw_fd().cast_unsigned(), ..TestRun::default() };
    // SAFETY: the kernel reads and writes `attributes`, which it is told the size of.
    let result = unsafe { libc::syscall(libc::SYS_bpf, 10, std::ptr::from_mut(&mut attributes), size_of::<TestRun>()) };
    if result == 0 { Ok(attributes.retval) } else { Err(io::Error::last_os_error()) }
}
