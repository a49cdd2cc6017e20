//! How a process ended, and how to end the same way.

use std::io;
use std::mem::MaybeUninit;

/// How a command ended, as its parent sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

impl Ended {
    fn from_wait(status: libc::c_int) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Code(libc::WEXITSTATUS(status))
        }
    }

    /// Ends this process the way the command ended. Buffered output must have been written before.
    pub fn imitate(self) -> ! {
        match self {
            Self::Code(code) => std::process::exit(code),
            Self::Signal(signal) => die_like(signal),
        }
    }
}

/// Dies by `signal`, so that the shell above sees what it would have seen without fdtrace.
///
/// Leaves no core: the command has left its own, and ours would only overwrite or accompany it.
pub fn die_like(signal: i32) -> ! {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: plain system calls on values that are ours; the process has nothing left to lose.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        // A core that is piped to a program ignores the limit, but not this.
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        libc::signal(signal, libc::SIG_DFL);
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
        libc::raise(signal);
    }
    // The signal does not kill (it was no signal, or is ignored by default): say it the way shells do.
    std::process::exit(128 + signal)
}

/// Waits for a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Block,
    Poll,
}

/// Reaps the child `pid`; `None` while it runs.
pub fn reap(pid: u32, wait: Wait) -> io::Result<Option<Ended>> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let options = match wait {
        Wait::Block => 0,
        Wait::Poll => libc::WNOHANG,
    };
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours to write.
        let result = unsafe { libc::waitpid(pid, &raw mut status, options) };
        if result > 0 {
            return Ok(Some(Ended::from_wait(status)));
        }
        if result == 0 {
            return Ok(None);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
