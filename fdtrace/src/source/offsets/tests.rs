use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use super::super::bpf::{self, insn};
use super::*;

fn kernel_btf() -> Option<Vec<u8>> {
    btf::read_kernel().inspect_err(|error| eprintln!("skipped: {error}")).ok()
}

/// User space sees the same registers in the same layout: that is ABI, and known to libc.
#[test]
#[cfg(target_arch = "x86_64")]
fn registers_agree_with_the_user_abi() {
    use std::mem::offset_of;
    let Some(bytes) = kernel_btf() else { return };
    let offsets = resolve(&Btf::parse(&bytes).unwrap(), Arch::X86_64).unwrap();
    macro_rules! abi {
        ($($register:ident),+) => { [$(offset_of!(libc::user_regs_struct, $register) as u32),+] };
    }
    assert_eq!(offsets.regs_arg, abi!(rdi, rsi, rdx, r10, r8, r9));
    let Offsets { regs_nr, regs_ip, regs_sp, regs_bp, .. } = offsets;
    assert_eq!([regs_nr, regs_ip, regs_sp, regs_bp], abi!(orig_rax, rip, rsp, rbp));
}

/// As `arch/arm64/include/asm/ptrace.h` has it: nameless union, nameless structure, two numbers behind it.
#[test]
fn registers_of_aarch64() {
    const STRUCT: u32 = 4;
    const UNION: u32 = 5;
    let mut b = btf::tests::Builder::new();
    let long = b.int(8, 64);
    let int = b.int(4, 32);
    let registers = [("regs", long, 0, None), ("sp", long, 31 * 64, None), ("pc", long, 32 * 64, None)];
    let inner = b.aggregate(STRUCT, "", &registers);
    let union = b.aggregate(UNION, "", &[("user_regs", inner, 0, None), ("", inner, 0, None)]);
    let members = [("", union, 0, None), ("orig_x0", long, 34 * 64, None), ("syscallno", int, 35 * 64, None)];
    b.aggregate(STRUCT, "pt_regs", &members);
    let bytes = b.finish();
    let found = registers_of(&bytes, Arch::Aarch64).unwrap();
    assert_eq!((found.nr, found.arg), (280, [272, 8, 16, 24, 32, 40]));
    assert_eq!((found.ip, found.sp, found.bp), (256, 248, 232));
    let missing = registers_of(&bytes, Arch::X86_64).err().unwrap();
    assert_eq!(missing.to_string(), "kernel BTF has no `pt_regs.orig_ax`");
}

fn registers_of(bytes: &[u8], arch: Arch) -> Result<Registers, MissingMember> {
    registers(&Btf::parse(bytes).unwrap(), arch)
}

#[test]
fn resolves_quickly_and_names_unknown_members() {
    let Some(bytes) = kernel_btf() else { return };
    let start = Instant::now();
    let btf = Btf::parse(&bytes).unwrap();
    let parsed = start.elapsed();
    if let Some(arch) = Arch::native() {
        resolve(&btf, arch).unwrap();
    }
    eprintln!("{} types: parsed in {parsed:?}, resolved after {:?}", btf.len(), start.elapsed());
    let more = resolve_more(&btf, &[("eventpoll", "refs"), ("list_head", "prev")]);
    assert!(more.is_err() || more.is_ok_and(|offsets| offsets[1] == 8));
    let error = resolve_more(&btf, &[("list_head", "next"), ("files_struct", "gone")]).unwrap_err();
    assert_eq!(error.to_string(), "kernel BTF has no `files_struct.gone`");
}

/// Follows pointers in kernel memory, starting at the current task, and gives 32 bits of what the last offset holds.
fn read_current(chain: &[u32]) -> u32 {
    let (last, pointers) = chain.split_last().unwrap();
    let mut code = vec![insn(0x85, 0, 0, 0, 35)]; // r0 = get_current_task()
    let mut read = |offset: u32, size: i32| {
        code.extend([
            insn(0xbf, 3, 0, 0, 0),                    // r3 = r0
            insn(0x07, 3, 0, 0, offset.cast_signed()), // r3 += offset
            insn(0xbf, 1, 10, 0, 0),                   // r1 = frame pointer
            insn(0x07, 1, 0, 0, -8),                   // r1 -= 8
            insn(0xb7, 2, 0, 0, size),                 // r2 = size
            insn(0x7a, 10, 0, -8, 0),                  // *(u64 *)(fp - 8) = 0
            insn(0x85, 0, 0, 0, 113),                  // probe_read_kernel(r1, r2, r3)
            insn(0x79, 0, 10, -8, 0),                  // r0 = *(u64 *)(fp - 8)
        ]);
    };
    for &offset in pointers {
        read(offset, 8);
    }
    read(*last, 4);
    code.push(insn(0x95, 0, 0, 0, 0));
    let program = bpf::load(bpf::Program::RawTracepoint, &code).unwrap();
    bpf::run_once(program.as_fd()).unwrap()
}

/// The independent witness: a BPF program reads our own task through the offsets, /proc says what must be there.
#[test]
#[ignore = "needs root and a kernel with BPF"]
fn kernel_memory_at_the_offsets_agrees_with_proc() {
    let o = of_running_kernel().unwrap();
    // SAFETY: takes no arguments and cannot fail.
    let tid = unsafe { libc::gettid() }.cast_unsigned();
    assert_eq!(read_current(&[o.task_tgid]), std::process::id());
    assert_eq!(read_current(&[o.task_pid]), tid);
    assert_eq!(read_current(&[o.task_group_leader, o.task_pid]), std::process::id());
    let comm = std::fs::read("/proc/thread-self/comm").unwrap();
    assert_eq!(read_current(&[o.task_comm]).to_ne_bytes(), comm[..4]);

    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<u64> =
        stat[stat.rfind(')').unwrap() + 2..].split(' ').map(|field| field.trim().parse().unwrap_or(0)).collect();
    // Numbered as in proc(5), which begins to count at 1 and of which two are cut off.
    let field = |number: usize| fields[number - 3];
    let started =
        u64::from(read_current(&[o.task_start_boottime])) | u64::from(read_current(&[o.task_start_boottime + 4])) << 32;
    assert_eq!(started / 10_000_000, field(22));
    assert_eq!(read_current(&[o.task_mm, o.mm_arg_start]), field(48) as u32);
    assert_eq!(read_current(&[o.task_mm, o.mm_arg_end]), field(49) as u32);
    assert_eq!(u64::from(read_current(&[o.task_signal, o.signal_live])), field(20));

    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let fd = u32::try_from(std::os::fd::AsRawFd::as_raw_fd(&file)).unwrap();
    let meta = file.metadata().unwrap();
    assert!(fd < 64 && read_current(&[o.task_files, o.files_fdt, o.fdt_max_fds]) >= 64);
    let table = [o.task_files, o.files_fdt];
    let through = |rest: &[u32]| read_current(&[&table, rest].concat());
    assert_eq!(through(&[o.fdt_open_fds, 0]) >> fd & 1, 1);
    assert_eq!(through(&[o.fdt_close_on_exec, 0]) >> fd & 1, 1);
    let inode = [o.fdt_fd, fd * 8, o.file_f_inode];
    let of_inode = |rest: &[u32]| through(&[&inode, rest].concat());
    assert_eq!(of_inode(&[o.inode_i_ino]), meta.ino() as u32);
    assert_eq!(of_inode(&[o.inode_i_mode]) & 0xffff, meta.mode());
    let dev = of_inode(&[o.inode_i_sb, o.sb_s_dev]);
    assert_eq!(libc::makedev(dev >> 20, dev & 0xfffff), meta.dev());

    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let slot = u32::try_from(std::os::fd::AsRawFd::as_raw_fd(&socket)).unwrap() * 8;
    let private = [o.fdt_fd, slot, o.file_private_data];
    let of_socket = |rest: &[u32]| through(&[&private, rest].concat());
    assert_eq!(of_socket(&[o.socket_type]) & 0xffff, libc::SOCK_DGRAM.cast_unsigned());
    assert_eq!(of_socket(&[o.socket_sk, o.sock_family]) & 0xffff, libc::AF_INET.cast_unsigned());
}
