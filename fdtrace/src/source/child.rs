//! What a started command does between fork and exec.
//!
//! The parent may have other threads, so everything here is async-signal-safe: system calls on memory that was prepared
//! before the fork. No allocation, no lock, no formatting, no panic, and no way back out of [`run`].

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::RawFd;

use super::inherited::{Inherited, restore_limits};
use super::recipe::Recipe;
use super::users::Identity;

/// How far the child came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Held: everything is set up, the command can be released.
    Ready,
    Limits,
    Groups,
    Group,
    User,
    Exec,
}

impl Stage {
    pub const ALL: [Self; 6] = [Self::Ready, Self::Limits, Self::Groups, Self::Group, Self::User, Self::Exec];
}

/// What the child says on the control socket: the stage, then an error number.
pub type Report = [u8; 8];

/// Exit status of a child that was never released, or could not say what went wrong. Nobody should see it.
const GAVE_UP: libc::c_int = 125;

/// Sets the child up, waits for the word on `control`, and becomes the command.
///
/// # Safety
/// Only in a child just made by fork, with all signals blocked.
pub unsafe fn run(recipe: &mut Recipe, inherited: &Inherited, control: RawFd) -> ! {
    if let Err((stage, error)) = set_up(recipe, inherited) {
        say(control, stage, error.raw_os_error().unwrap_or(0));
        exit();
    }
    // A signal that arrived since the fork is delivered here, and does what it would do to the command.
    // SAFETY: the mask was recorded from this process.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const inherited.signal_mask, std::ptr::null_mut()) };
    say(control, Stage::Ready, 0);
    if !told_to_go(control) {
        exit();
    }
    let error = exec(recipe);
    say(control, Stage::Exec, error);
    exit()
}

fn set_up(recipe: &Recipe, inherited: &Inherited) -> Result<(), (Stage, io::Error)> {
    restore_dispositions(inherited);
    close_ours(recipe, inherited);
    restore_limits(&inherited.limits).map_err(|error| (Stage::Limits, error))?;
    if let Some(Identity { uid, gid, groups }) = &recipe.identity {
        // Straight to the kernel: libc's own functions first ask every thread it believes to exist.
        // The user goes last, because it takes the right to do the others with it.
        // SAFETY: the kernel reads `groups`, which is as long as said.
        check(Stage::Groups, unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
        // SAFETY: plain numbers.
        check(Stage::Group, unsafe { libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) })?;
        // SAFETY: plain numbers.
        check(Stage::User, unsafe { libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) })?;
    }
    Ok(())
}

fn check(stage: Stage, result: libc::c_long) -> Result<(), (Stage, io::Error)> {
    if result == 0 { Ok(()) } else { Err((stage, io::Error::last_os_error())) }
}

fn restore_dispositions(inherited: &Inherited) {
    for (signal, &ignored) in (1..).zip(&inherited.ignored[1..]) {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a zeroed action is valid. The kernel refuses for SIGKILL, SIGSTOP and libc's own: nothing to restore.
        unsafe {
            (*action.as_mut_ptr()).sa_sigaction = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
            libc::sigaction(signal, action.as_ptr(), std::ptr::null_mut());
        }
    }
}

/// Closes what fdtrace opened. Close-on-exec would do for the command; closing now also keeps a held child from
/// keeping maps and programs alive after fdtrace was killed.
fn close_ours(recipe: &Recipe, inherited: &Inherited) {
    for (fd, was_open) in (0..).zip(inherited.stdio) {
        if !was_open {
            // SAFETY: the runtime opened it in place of a missing one; nothing in this child uses it.
            unsafe { libc::close(fd) };
        }
    }
    for &(first, last) in &recipe.close {
        // SAFETY: closes descriptors of a child that does nothing but exec.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
            continue;
        }
        // Some sandboxes do not know the call.
        for fd in first..=last.min(recipe.highest_fd) {
            // SAFETY: as above.
            unsafe { libc::close(fd.cast_signed()) };
        }
    }
}

/// Tries the candidates as execvp would and gives the error that says most.
fn exec(recipe: &mut Recipe) -> libc::c_int {
    let mut denied = false;
    let mut error = libc::ENOENT;
    for candidate in &recipe.candidates {
        // SAFETY: all strings end in NUL, both vectors in a null pointer, and all of them outlive the call.
        unsafe { libc::execv(candidate.as_ptr(), recipe.argv.pointers.as_ptr()) };
        error = errno();
        match error {
            libc::ENOEXEC => {
                recipe.shell_argv.pointers[1] = candidate.as_ptr();
                // SAFETY: as above.
                unsafe {
                    libc::execv(recipe.shell_argv.pointers[0], recipe.shell_argv.pointers.as_ptr());
                }
                return error;
            }
            libc::EACCES => denied = true,
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            _ => return error,
        }
    }
    if denied { libc::EACCES } else { error }
}

/// Waits for one byte. The end of the stream means that fdtrace is gone.
fn told_to_go(control: RawFd) -> bool {
    let mut word = 0_u8;
    loop {
        // SAFETY: one byte that is ours.
        let got = unsafe { libc::recv(control, (&raw mut word).cast(), 1, 0) };
        if got == 1 {
            return true;
        }
        if got == 0 || errno() != libc::EINTR {
            return false;
        }
    }
}

fn say(control: RawFd, stage: Stage, error: libc::c_int) {
    let mut report: Report = [0; size_of::<Report>()];
    report[..4].copy_from_slice(&(stage as u32).to_ne_bytes());
    report[4..].copy_from_slice(&error.to_ne_bytes());
    // SAFETY: the kernel reads the report; without the flag a vanished parent would kill us by SIGPIPE.
    unsafe { libc::send(control, report.as_ptr().cast(), report.len(), libc::MSG_NOSIGNAL) };
}

fn exit() -> ! {
    // SAFETY: ends the process without running the parent's exit handlers a second time.
    unsafe { libc::_exit(GAVE_UP) }
}

fn errno() -> libc::c_int {
    // SAFETY: the address of the calling thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}
