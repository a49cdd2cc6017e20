//! What fdtrace was given by whoever started it, so that a command started by fdtrace is given the same.
//!
//! Between its first instruction and the moment it starts a command, fdtrace opens descriptors, blocks signals, and may
//! raise limits; the Rust runtime ignores SIGPIPE and opens `/dev/null` for missing standard descriptors before `main`
//! even begins. A descriptor tracer must not change what it measures, so the original state is recorded here and put
//! back in the child. This module only records and reads the record; nothing here changes the process.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// The state of a process at its start, as far as exec passes it on and we might change it.
pub struct Inherited {
    /// Open descriptors from 3 upwards, sorted.
    pub fds: Vec<RawFd>,
    /// Which of 0, 1 and 2 were open.
    pub stdio: [bool; 3],
    pub signal_mask: libc::sigset_t,
    /// Indexed by signal number. Everything else is at its default: handlers do not survive exec.
    pub ignored: [bool; SIGNALS],
    pub limits: Vec<(Resource, libc::rlimit)>,
}

/// One more than the highest signal number.
pub const SIGNALS: usize = 65;

/// How libc types the resource argument: glibc and musl differ.
#[cfg(target_env = "gnu")]
pub type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
pub type Resource = libc::c_int;

static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// Records the state. To be called first in `main`, before any thread, descriptor or signal handler exists.
pub fn remember_inherited() {
    inherited();
}

/// The record. Made now if it was not made before, which is right except for what changed in between.
pub fn inherited() -> &'static Inherited {
    INHERITED.get_or_init(|| {
        let early = EARLY.load(Ordering::Relaxed);
        let mut ignored = [false; SIGNALS];
        for (signal, ignored) in (1..).zip(&mut ignored[1..]) {
            *ignored = is_ignored(signal);
        }
        ignored[libc::SIGPIPE as usize] = early & EARLY_SIGPIPE_IGNORED != 0;
        Inherited {
            // Nothing that exec would close can have come through exec: such a descriptor is ours.
            fds: open_fds()
                .into_iter()
                .filter(|&fd| fd > 2 && fd_flags(fd).is_some_and(|flags| flags & libc::FD_CLOEXEC == 0))
                .collect(),
            stdio: [0, 1, 2].map(|fd| early & 1 << fd != 0),
            signal_mask: signal_mask(),
            ignored,
            limits: limits(),
        }
    })
}

/// Numbers of all open descriptors, sorted; empty without `/proc`.
pub fn open_fds() -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let listed: Vec<RawFd> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    // The list was read through a descriptor that is in it and closed by now.
    let mut fds: Vec<RawFd> = listed.into_iter().filter(|&fd| fd_flags(fd).is_some()).collect();
    fds.sort_unstable();
    fds
}

/// Bits 0 to 2: the standard descriptor is open. Bit 3: SIGPIPE is ignored.
static EARLY: AtomicU8 = AtomicU8::new(0);
const EARLY_SIGPIPE_IGNORED: u8 = 8;

/// Runs before the Rust runtime, which would hide what it records.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    let mut early = 0;
    for fd in 0..3 {
        if fd_flags(fd).is_some() {
            early |= 1 << fd;
        }
    }
    if is_ignored(libc::SIGPIPE) {
        early |= EARLY_SIGPIPE_IGNORED;
    }
    EARLY.store(early, Ordering::Relaxed);
}

fn fd_flags(fd: RawFd) -> Option<libc::c_int> {
    // SAFETY: asks about a number; harmless whether or not it is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    (flags >= 0).then_some(flags)
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only queries; the result is plain data, valid when zeroed.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

fn signal_mask() -> libc::sigset_t {
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: a null new set only queries; a zeroed set is a valid, empty one.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
        mask.assume_init()
    }
}

fn limits() -> Vec<(Resource, libc::rlimit)> {
    // The kernel has numbered its limits from 0 to 15 since 2.6.25, on every architecture.
    (0..16)
        .filter_map(|resource| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `limit` is ours to write.
            let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
            (result == 0).then_some((resource, limit))
        })
        .collect()
}

/// Puts the limits back. Async-signal-safe.
pub fn restore_limits(limits: &[(Resource, libc::rlimit)]) -> io::Result<()> {
    for (resource, limit) in limits {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both calls read or write one structure that is ours.
        let failed = unsafe {
            libc::getrlimit(*resource, &raw mut now) == 0
                && (now.rlim_cur, now.rlim_max) != (limit.rlim_cur, limit.rlim_max)
                && libc::setrlimit(*resource, limit) != 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_what_the_runtime_hides() {
        // The runtime has ignored SIGPIPE by now; whoever started the tests had, as a rule, not.
        assert!(is_ignored(libc::SIGPIPE));
        let early = EARLY.load(Ordering::Relaxed);
        assert_ne!(early & 7, 0, "the constructor did not run");
        assert_eq!(inherited().ignored[libc::SIGPIPE as usize], early & EARLY_SIGPIPE_IGNORED != 0);
    }

    #[test]
    fn lists_only_what_is_open() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        assert!(open_fds().contains(&fd));
        assert!(!inherited().fds.contains(&fd), "close-on-exec: ours");
    }
}
