//! The traced side: runs the programs one after the other, each in a process of its own, and says when.

use std::{
    ffi::CString,
    io::Write as _,
    time::{Duration, Instant},
};

use super::{Case, Program, cases, part, sys};

/// What starts a line of the driver's on its standard error: name, which of the two, began and ended (nanoseconds of
/// `CLOCK_BOOTTIME`), status, and the last thing that the program said.
pub(super) const MARK: &str = "self-test:";
/// Longest that a program may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(2);
/// What takes effect late belongs to the program that did it, not to the next.
const PAUSE: Duration = Duration::from_millis(20);
/// What is read of a program's complaints.
const COMPLAINTS: usize = 4096;

/// Equal findings of programs with one name are told once. A program's name is the last part of the path that it was
/// started by, and that is a number here: of a descriptor, from this one on.
const NICKNAMES: i32 = 300;

/// What a driver is asked to do.
#[derive(Debug)]
pub enum Drive<'a> {
    /// To run these programs, or all.
    Run { only: &'a [String], python: Option<&'a str> },
    /// To be one of the programs, or a part of one.
    Part(&'a str),
}

pub fn drive(what: &Drive<'_>) -> i32 {
    match what {
        Drive::Part(name) => match part(name) {
            Some(part) => part(),
            None => return 2,
        },
        Drive::Run { only, python } => {
            // SAFETY: numbers only. Orphans become our children, so that their end is seen.
            unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
            let mut nickname = NICKNAMES;
            for case in cases().filter(|case| chosen(case, only)) {
                for (which, program) in [("bad", &case.bad), ("twin", &case.twin)] {
                    nickname += 1;
                    run(&case.name(), which, program, *python, nickname);
                }
            }
        }
    }
    0
}

pub(super) fn chosen(case: &Case, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|name| name == case.rule || *name == case.name())
}

/// Runs a program, and everything that it leaves behind, to the end.
fn run(name: &str, which: &str, program: &Program, python: Option<&str>, nickname: i32) {
    let Ok(part) = CString::new(format!("{name}:{which}")) else { return };
    if matches!(program, Program::Python(_)) && python.is_none() {
        say(&format!("{name} {which} 0 0 {}", sys::NOT_HERE), "no python3");
        return;
    }
    let (complaints, told) = sys::pipe();
    let began = boot_ns();
    let process = sys::fork(|| {
        // SAFETY: numbers only.
        unsafe { libc::setpgid(0, 0) };
        sys::dup2(told, 2);
        match program {
            Program::Calls(_) => sys::become_nicknamed_part(&part, nickname),
            Program::Python(script) => sys::become_python(python.unwrap_or_default(), script),
        }
    });
    sys::close(told);
    let status = wait_for_all(process);
    let ended = boot_ns();
    let complaint = sys::read_all(complaints, COMPLAINTS);
    sys::close(complaints);
    std::thread::sleep(PAUSE);
    let complaint = String::from_utf8_lossy(&complaint);
    say(&format!("{name} {which} {began} {ended} {status}"), complaint.lines().last().unwrap_or_default());
}

/// Waits until nobody is left; the status of `process`, as a shell has it.
fn wait_for_all(process: i32) -> i32 {
    let start = Instant::now();
    let mut result = 0;
    loop {
        let mut status = 0;
        // SAFETY: a status is there to be written.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if ended < 0 {
            return result;
        }
        if ended == process {
            result = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
        }
        if ended == 0 {
            if start.elapsed() > PATIENCE {
                // SAFETY: numbers only; the programs are a process group of their own.
                unsafe { libc::kill(-process, libc::SIGKILL) };
            }
            std::thread::sleep(POLL);
        }
    }
}

/// In one piece, for others write there too.
fn say(facts: &str, complaint: &str) {
    let line = format!("{MARK} {facts} {complaint}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// `CLOCK_BOOTTIME`, nanoseconds.
fn boot_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a time is there to be written.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
