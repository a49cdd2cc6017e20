//! How often the kernel skipped one of our programs.
//!
//! A program that is running on a processor is not run again there: where hooks can be preempted, events are lost
//! without a trace in the ring. The kernel counts them (`recursion_misses`, since 5.12); aya does not show the count.
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h#L6530>

use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `struct bpf_prog_info` up to and including `recursion_misses`, its last word.
const INFO_WORDS: usize = 27;

#[repr(C)]
struct Attributes {
    fd: u32,
    len: u32,
    info: u64,
}

/// The count of one program; 0 where the kernel does not count.
pub fn of(program: BorrowedFd<'_>) -> u64 {
    let mut info = [0u64; INFO_WORDS];
    let attributes = Attributes {
        fd: program.as_raw_fd().cast_unsigned(),
        len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    let size = size_of::<Attributes>();
    // SAFETY: a command that fills at most `len` bytes at `info`, both of which describe the live array above.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attributes, size) };
    if ret == 0 { info[INFO_WORDS - 1] } else { 0 }
}
