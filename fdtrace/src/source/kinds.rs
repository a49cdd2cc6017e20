//! One descriptor of each kind that has no inode type of its own: what the iterator sees behind them tells which file
//! operations mean which kind, without kallsyms.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

pub struct Example {
    name: &'static str,
    fd: OwnedFd,
}

/// Opens what can be opened here; a kind that this kernel lacks cannot be met either.
pub fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut add = |name, fd: libc::c_long| {
        if let Ok(fd) = i32::try_from(fd)
            && fd >= 0
        {
            // SAFETY: a descriptor that was just made and that nobody else knows.
            examples.push(Example { name, fd: unsafe { OwnedFd::from_raw_fd(fd) } });
        }
    };
    // SAFETY: each call makes a descriptor from plain numbers and pointers to live locals; all are close-on-exec.
    unsafe {
        add("eventpoll", libc::epoll_create1(libc::EPOLL_CLOEXEC).into());
        add("eventfd", libc::eventfd(0, libc::EFD_CLOEXEC).into());
        add("timerfd", libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC).into());
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        add("signalfd", libc::signalfd(-1, &raw const mask, libc::SFD_CLOEXEC).into());
        add("inotify", libc::inotify_init1(libc::IN_CLOEXEC).into());
        add("fanotify", libc::syscall(libc::SYS_fanotify_init, 1, 0));
        add("pidfd", libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0));
        add("userfaultfd", libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | 1));
        add("namespace", libc::open(c"/proc/self/ns/uts".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC).into());
        let mut params = [0u8; 120];
        add("io_uring", libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()));
        // A software clock on this thread, counting nothing: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY.
        let mut attributes = [0u64; 16];
        attributes[0] = 1 | 128 << 32;
        attributes[1] = 9;
        add("perf_event", libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 8));
    }
    examples
}

/// The name of the example with this number, NUL-padded.
pub fn name_of(examples: &[Example], fd: i32) -> Option<[u8; 24]> {
    let example = examples.iter().find(|example| example.fd.as_raw_fd() == fd)?;
    let mut name = [0; 24];
    name[..example.name.len()].copy_from_slice(example.name.as_bytes());
    debug_assert!(CStr::from_bytes_until_nul(&name).is_ok());
    Some(name)
}
