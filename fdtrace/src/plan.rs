//! What is to be done, resolved: the command line without clap, defaults filled in, contradictions gone. Plain data.

use std::{ffi::OsString, path::PathBuf, time::Duration};

#[derive(Clone, Debug)]
pub struct Plan {
    pub target: Target,
    pub output: Output,
    /// Bytes of ring buffer.
    pub ring_size: u32,
    /// Stop after this long.
    pub duration: Option<Duration>,
    /// Kernel-side diagnostics.
    pub debug: bool,
    /// Losing events is an error.
    pub require_complete: bool,
    /// Exit status when there are findings at least this sure.
    pub findings_exit: Option<(Level, i32)>,
}

#[derive(Clone, Debug)]
pub enum Target {
    Command { program: OsString, args: Vec<OsString>, user: User },
    Pids(Vec<u32>),
    Name { name: OsString, several: Several, wait: bool },
}

/// Who runs a started command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// Whoever called sudo; ourselves without sudo.
    Caller,
    Root,
    Named(OsString),
}

/// What to do when a name fits several processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Several {
    Refuse,
    All,
    Newest,
}

/// How sure a finding must be to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Possible,
    Likely,
    Proven,
}

#[derive(Clone, Debug, Default)]
pub struct Output {
    /// JSON lines.
    pub json: Option<PathBuf>,
    /// Replace a file that exists.
    pub force: bool,
    /// Tell also incidents that are nothing but notes.
    pub notes: bool,
}
