//! Starts a command so that it can be traced from its first instruction.
//!
//! [`Launch::prepare`] forks a child that has already become the right user, has our descriptors closed and its signals
//! and limits as fdtrace found them, and waits. The caller arms the tracer for [`Held::pid`]; [`Held::release`] lets the
//! child exec and says whether that worked. If fdtrace dies first, the child sees the end of its control socket and exits.
//!
//! The command stays in fdtrace's process group: keys such as Ctrl-C reach it directly, as without fdtrace. Therefore
//! fdtrace must neither forward SIGINT and SIGQUIT nor die of them while the command runs; the pipeline sees to that.
//! This module sets no environment, no directory, no umask and no terminal: the command keeps all of fdtrace's.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::child::{self, Report, Stage};
use super::ending::{Ended, Wait, reap};
use super::inherited::inherited;
use super::recipe::{Recipe, candidates};
use super::target::open_pidfd;
use super::users::{self, BadUser, RunAs};
use crate::escape::escape_os;

/// A command to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub user: RunAs,
}

/// Why a command did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot start `{program}`: {}", not_found(.looked_in))]
    NotFound { program: String, looked_in: Looked },
    #[error("cannot start `{program}`: {error}")]
    NotExecutable { program: String, error: io::Error },
    #[error("cannot start the command: an argument contains a NUL byte")]
    Nul,
    #[error(transparent)]
    User(#[from] BadUser),
    #[error("cannot {what} for the command")]
    SetUp {
        what: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("the command's process ended before it was set up ({0:?})")]
    EndedEarly(Ended),
}

/// Where a program was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It was given with a slash, and is not there.
    Place,
    /// It is there, but what shall run it (`#!` line or dynamic loader) is not.
    PlaceButNoInterpreter,
    Path,
    /// sudo has replaced PATH.
    SudoPath,
}

fn not_found(looked: &Looked) -> &'static str {
    match looked {
        Looked::Place => "no such file",
        Looked::PlaceButNoInterpreter => {
            "the file exists, but the interpreter that its first line names, or its dynamic loader, does not"
        }
        Looked::Path => "not found in PATH",
        Looked::SudoPath => "not found in PATH, which sudo replaces by its own: give the full path",
    }
}

impl LaunchError {
    /// The exit status that env(1) would give.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Nul | Self::User(_) | Self::SetUp { .. } | Self::EndedEarly(_) => 125,
        }
    }
}

impl Launch {
    /// Makes the child, up to the point where only the exec is left.
    pub fn prepare(&self) -> Result<Held, LaunchError> {
        let set_up = |what| move |error| LaunchError::SetUp { what, error };
        let inherited = inherited();
        keep_children().map_err(set_up("wait"))?;
        let (ours, theirs) = control_pair().map_err(set_up("create a control socket"))?;
        let identity = users::identity(&self.user)?;
        let control = theirs.as_raw_fd();
        let mut recipe =
            Recipe::new(&self.program, &self.args, identity, &inherited.fds, control).map_err(|_| LaunchError::Nul)?;

        // A handler of ours must not run in the child: tokio's would write into a pipe that the parent reads.
        let mask = block_signals();
        // SAFETY: the child calls nothing but `child::run`, which is async-signal-safe and never returns.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                child::run(&mut recipe, inherited, control);
            }
            pid
        };
        let error = io::Error::last_os_error();
        // SAFETY: puts back the mask that `block_signals` took from this thread.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut()) };
        drop(theirs);
        let Ok(pid @ 1..) = u32::try_from(pid) else {
            return Err(set_up("fork a process")(error));
        };
        let mut held = Held { pid, program: self.program.clone(), control: ours, pidfd: None };
        held.pidfd = Some(open_pidfd(pid).map_err(set_up("open a pidfd"))?);
        match hear(&held.control) {
            Some((Stage::Ready, _)) => Ok(held),
            Some((stage, error)) => Err(setup_failed(stage, error)),
            None => Err(held.ended_early()),
        }
    }
}

/// A child that waits to become the command. Dropped without [`release`](Held::release), it is killed.
#[derive(Debug)]
pub struct Held {
    pid: u32,
    program: OsString,
    control: OwnedFd,
    /// Taken when the child was released or reaped.
    pidfd: Option<OwnedFd>,
}

impl Held {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets the child exec, and waits until it did or could not.
    pub fn release(mut self) -> Result<Running, LaunchError> {
        // SAFETY: one byte to a socket that we own. If the child is gone, its end tells below.
        unsafe { libc::send(self.control.as_raw_fd(), [1_u8].as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
        match hear(&self.control) {
            // The child's socket is close-on-exec: silence is success, or a death that `try_wait` will tell.
            None => match self.pidfd.take() {
                Some(pidfd) => Ok(Running { pid: self.pid, pidfd, ended: None }),
                None => Err(self.ended_early()),
            },
            Some((Stage::Exec, error)) => Err(exec_failed(&self.program, error)),
            Some((stage, error)) => Err(setup_failed(stage, error)),
        }
    }

    fn ended_early(&mut self) -> LaunchError {
        self.pidfd = None;
        match reap(self.pid, Wait::Block) {
            Ok(Some(ended)) => LaunchError::EndedEarly(ended),
            Ok(None) => LaunchError::EndedEarly(Ended::Code(0)),
            Err(error) => LaunchError::SetUp { what: "wait", error },
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.take() else {
            return;
        };
        // SAFETY: the descriptor names our child, which nobody else reaps; a null siginfo is allowed.
        unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, std::ptr::null::<u8>(), 0);
        }
        if let Err(error) = reap(self.pid, Wait::Block) {
            log::debug!("cannot reap held process {}: {error}", self.pid);
        }
    }
}

/// The command, running. Dropping it leaves the command alone.
#[derive(Debug)]
pub struct Running {
    pid: u32,
    pidfd: OwnedFd,
    ended: Option<Ended>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A close-on-exec descriptor that becomes readable when the command has ended.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// How the command ended; `None` while it runs. Reaps it.
    pub fn try_wait(&mut self) -> io::Result<Option<Ended>> {
        self.wait_with(Wait::Poll)
    }

    /// Blocks until the command has ended.
    pub fn wait(&mut self) -> io::Result<Ended> {
        self.wait_with(Wait::Block)?.ok_or_else(|| io::Error::other("a blocking wait returned without a process"))
    }

    fn wait_with(&mut self, wait: Wait) -> io::Result<Option<Ended>> {
        if self.ended.is_none() {
            self.ended = reap(self.pid, wait)?;
        }
        Ok(self.ended)
    }
}

/// With SIGCHLD ignored, which is inherited, the kernel would throw the command's exit status away.
fn keep_children() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: queries, then sets, one action that is ours; a zeroed one is valid and means the default.
    unsafe {
        if libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let action = action.assume_init_mut();
        if action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0 {
            if action.sa_sigaction == libc::SIG_IGN {
                action.sa_sigaction = libc::SIG_DFL;
            }
            action.sa_flags &= !libc::SA_NOCLDWAIT;
            if libc::sigaction(libc::SIGCHLD, action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Sockets keep messages apart, tell when the other end is gone, and can be written without a risk of SIGPIPE.
fn control_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the call fills two descriptors in.
    if unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are new and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

fn block_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets are ours; zeroed ones are valid.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

/// The child's next report; `None` when there will be none.
fn hear(control: &OwnedFd) -> Option<(Stage, i32)> {
    let mut report: Report = Default::default();
    loop {
        // SAFETY: the buffer is ours and as long as said.
        let got = unsafe { libc::recv(control.as_raw_fd(), report.as_mut_ptr().cast(), report.len(), 0) };
        if got < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        if usize::try_from(got) != Ok(report.len()) {
            return None;
        }
        let [a, b, c, d, e, f, g, h] = report;
        let stage = u32::from_ne_bytes([a, b, c, d]) as usize;
        return Some((*Stage::ALL.get(stage)?, i32::from_ne_bytes([e, f, g, h])));
    }
}

fn setup_failed(stage: Stage, error: i32) -> LaunchError {
    let what = match stage {
        Stage::Ready | Stage::Exec => "prepare",
        Stage::Limits => "restore the resource limits",
        Stage::Groups => "set the groups (needs root)",
        Stage::Group => "set the group id (needs root)",
        Stage::User => "set the user id (needs root)",
    };
    LaunchError::SetUp { what, error: io::Error::from_raw_os_error(error) }
}

fn exec_failed(program: &OsStr, error: i32) -> LaunchError {
    let name = escape_os(program);
    let path = std::env::var_os("PATH");
    let in_path = !program.as_bytes().contains(&b'/');
    let exists = candidates(program, path.as_deref()).iter().any(|candidate| Path::new(candidate).exists());
    let missing = match error {
        libc::ENOENT | libc::ENOTDIR => true,
        // One forbidden directory in PATH (root's own, under sudo) makes every misspelt command "permission denied".
        libc::EACCES => in_path && !exists,
        _ => false,
    };
    if !missing {
        return LaunchError::NotExecutable { program: name, error: io::Error::from_raw_os_error(error) };
    }
    let looked_in = match (exists, in_path) {
        (true, _) => Looked::PlaceButNoInterpreter,
        (false, false) => Looked::Place,
        (false, true) if std::env::var_os("SUDO_UID").is_some() => Looked::SudoPath,
        (false, true) => Looked::Path,
    };
    LaunchError::NotFound { program: name, looked_in }
}

#[cfg(test)]
mod tests;
