//! What the live tests share.

use std::{ffi::OsString, io};

/// The program that exercises: the one built along, or where `FDTRACE_EXERCISER` says it was moved.
pub fn exerciser() -> OsString {
    std::env::var_os("FDTRACE_EXERCISER").unwrap_or_else(|| env!("CARGO_BIN_EXE_fdtrace-exercise").into())
}

/// How often the kernel skipped a BPF program because it was running already on that processor: a sentence.
///
/// All programs of the machine are asked, so this is for tests that run alone.
pub fn misses() -> String {
    const GET_NEXT_ID: libc::c_long = 11;
    const GET_FD_BY_ID: libc::c_long = 13;
    const GET_INFO_BY_FD: libc::c_long = 15;
    let bpf = |command: libc::c_long, attributes: &mut [u32; 4]| {
        // SAFETY: the kernel is told the size of `attributes`; what they point to lives through the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as u32) }
    };
    let (mut total, mut programs, mut id) = (0, 0, 0);
    loop {
        let mut next = [id, 0, 0, 0];
        if bpf(GET_NEXT_ID, &mut next).is_err() {
            break;
        }
        id = next[1];
        let Ok(fd) = bpf(GET_FD_BY_ID, &mut [id, 0, 0, 0]) else { continue };
        let mut info = [0_u64; 32];
        let address = info.as_mut_ptr() as u64;
        let length = size_of_val(&info) as u32;
        let asked = bpf(GET_INFO_BY_FD, &mut [fd, length, address as u32, (address >> 32) as u32]);
        // SAFETY: a descriptor that the kernel just gave us.
        unsafe { libc::close(fd as i32) };
        if asked.is_ok() {
            programs += 1;
            // `recursion_misses` of `struct bpf_prog_info`, since 5.12; older kernels leave it zero.
            total += info[26];
        }
    }
    format!("{total} runs of {programs} BPF programs skipped")
}
