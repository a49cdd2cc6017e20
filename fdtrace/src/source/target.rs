//! Holds on to one process.
//!
//! A process is (pid, start time): a pid alone may belong to somebody else by the time it is used. A pidfd keeps the
//! kernel from being misunderstood, the start time says which process is meant in everything that only has a pid.
//! Holding does not stop the process from ending; it makes sure that nobody else is taken for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::procfs;

/// A process that is held: its pid cannot come to mean another one unnoticed.
#[derive(Debug)]
pub struct Target {
    pub pid: u32,
    pub start_ticks: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME`, rounded down to a tick (10 ms).
    pub start_boot_ns: u64,
    pidfd: OwnedFd,
}

/// Why a process cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("there is no process {0} (or /proc hides it from us)")]
    NotFound(u32),
    #[error("process {0} has ended")]
    Ended(u32),
    #[error("process {0} ended while fdtrace attached to it")]
    EndedMeanwhile(u32),
    #[error("pid {0} was recycled: the process that was meant has ended, and another one has its pid now")]
    Recycled(u32),
    #[error("{tid} is a thread of process {pid}: use `-p {pid}`")]
    Thread { tid: u32, pid: u32 },
    #[error("process {0} is a kernel thread, which has no descriptors")]
    KernelThread(u32),
    #[error("cannot hold process {pid}")]
    Io {
        pid: u32,
        #[source]
        error: io::Error,
    },
}

/// Holds the process that has this pid now.
pub fn by_pid(pid: u32) -> Result<Target, TargetError> {
    Target::open(pid, None)
}

impl Target {
    /// `expected` is the start that the pid must still stand for.
    pub(super) fn open(pid: u32, expected: Option<u64>) -> Result<Self, TargetError> {
        let root = Path::new(procfs::ROOT);
        let io = |error| TargetError::Io { pid, error };
        // Read before the pidfd and again after it: equal start times mean that both are the same process.
        let before = read_start(pid)?;
        let pidfd = match open_pidfd(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                return Err(TargetError::EndedMeanwhile(pid));
            }
            Err(error) => {
                // The kernel refuses threads, with an error that says nothing. /proc shows them when asked by number.
                return Err(match procfs::status(root, pid) {
                    Ok(status) if status.tgid != pid => TargetError::Thread { tid: pid, pid: status.tgid },
                    _ => io(error),
                });
            }
        };
        if expected.is_some_and(|expected| expected != before.start_ticks) {
            return Err(TargetError::Recycled(pid));
        }
        if before.kernel_thread {
            return Err(TargetError::KernelThread(pid));
        }
        let target = Self {
            pid,
            start_ticks: before.start_ticks,
            start_boot_ns: procfs::ticks_to_ns(before.start_ticks),
            pidfd,
        };
        target.still_same()?;
        Ok(target)
    }

    /// Becomes readable when the process has ended. Close-on-exec.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Checks that the process still lives, so that whatever was just done by pid was done to it.
    pub fn still_same(&self) -> Result<(), TargetError> {
        match read_start(self.pid) {
            Ok(now) if now.start_ticks != self.start_ticks => {
                return Err(TargetError::Recycled(self.pid));
            }
            Ok(_) => {}
            Err(TargetError::NotFound(pid) | TargetError::Ended(pid)) => return Err(TargetError::EndedMeanwhile(pid)),
            Err(error) => return Err(error),
        }
        // Two processes can start within one tick; only the pidfd cannot be fooled.
        let mut poll = libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure that is ours; a timeout of 0 never blocks.
        match unsafe { libc::poll(&raw mut poll, 1, 0) } {
            0 => Ok(()),
            1 => Err(TargetError::EndedMeanwhile(self.pid)),
            _ => Err(TargetError::Io { pid: self.pid, error: io::Error::last_os_error() }),
        }
    }
}

/// A descriptor for a process. The kernel makes it close-on-exec.
pub fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the result is a new descriptor or an error.
    match i32::try_from(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }) {
        // SAFETY: new, and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn read_start(pid: u32) -> Result<procfs::Stat, TargetError> {
    match procfs::stat(Path::new(procfs::ROOT), pid) {
        Ok(stat) if stat.has_ended() => Err(TargetError::Ended(pid)),
        Ok(stat) => Ok(stat),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            Err(TargetError::NotFound(pid))
        }
        Err(error) => Err(TargetError::Io { pid, error }),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn holds_a_real_process_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let target = by_pid(child.id()).unwrap();
        target.still_same().unwrap();
        child.kill().unwrap();
        // Not yet reaped: a zombie still has its pid.
        while target.still_same().is_ok() {
            std::thread::yield_now();
        }
        assert!(matches!(target.still_same(), Err(TargetError::EndedMeanwhile(_))));
        child.wait().unwrap();
        assert!(matches!(target.still_same(), Err(TargetError::EndedMeanwhile(_) | TargetError::Recycled(_))));
        assert!(matches!(by_pid(child.id()), Err(TargetError::NotFound(_))));
    }

    #[test]
    fn threads_and_kernel_threads_are_named() {
        // SAFETY: takes no arguments and cannot fail.
        let tid = unsafe { libc::gettid() }.cast_unsigned();
        match by_pid(tid) {
            Err(TargetError::Thread { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => assert!(tid == std::process::id(), "{other:?}"),
        }
        if procfs::stat(Path::new(procfs::ROOT), 2).is_ok_and(|stat| stat.kernel_thread) {
            assert!(matches!(by_pid(2), Err(TargetError::KernelThread(2))));
        }
        assert!(matches!(by_pid(u32::MAX), Err(TargetError::NotFound(_))));
    }
}
