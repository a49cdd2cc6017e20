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
    /// Capture who makes the calls.
    pub stacks: bool,
    /// Bytes of user stack to copy: where Python frames are known too, and elsewhere.
    pub stack_bytes: [u32; 2],
    /// Capture who makes the calls only for numbers from here on: a table with fewer open descriptors has none of those.
    pub arm_at: u32,
    /// What we may take: of one processor, where 1 is all of it, and bytes of memory.
    pub max_cpu: Option<f64>,
    pub max_memory: Option<u64>,
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
    /// SARIF 2.1.0.
    pub sarif: Option<PathBuf>,
    /// JUnit's XML.
    pub junit: Option<PathBuf>,
    /// Annotations for GitHub on the standard output.
    pub github: bool,
    /// Files of findings that are not to be told.
    pub suppressions: Vec<PathBuf>,
    /// Where to write suppressions for all that is told.
    pub gen_suppressions: Option<PathBuf>,
    /// The run in other forms, lifetimes included.
    pub exports: Vec<ExportFile>,
    /// Tell lives that are alike one by one there.
    pub every: bool,
    /// The run itself, to be looked at again later.
    pub record: Option<Record>,
    /// Replace a file that exists.
    pub force: bool,
    /// Tell also incidents that are nothing but notes.
    pub notes: bool,
}

/// Where a recording goes, and when it goes on in another file.
#[derive(Clone, Debug)]
pub struct Record {
    pub path: PathBuf,
    pub rotate_bytes: Option<u64>,
    pub rotate_time: Option<Duration>,
}

/// What to do with a recording.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Files of one recording, in order; `-` is the standard input.
    pub files: Vec<PathBuf>,
    pub range: Range,
    /// No progress bar, and no remarks.
    pub quiet: bool,
}

/// A part of a recording.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    pub from: Option<Point>,
    pub to: Option<Point>,
}

/// A moment, as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Since the recording began.
    After(Duration),
    /// Nanoseconds since 1970.
    Wall(i128),
}

#[derive(Clone, Debug)]
pub struct ReportPlan {
    pub reading: Reading,
    pub output: Output,
    /// Losing events is an error.
    pub require_complete: bool,
    /// Exit status when there are findings at least this sure.
    pub findings_exit: Option<(Level, i32)>,
}

/// Which descriptors.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub pids: Vec<u32>,
    pub fds: Vec<i32>,
    /// Part of the path, or of what else the descriptor is called.
    pub path: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub struct TimelinePlan {
    pub reading: Reading,
    pub filter: Filter,
    /// Columns; `None`: those of the terminal.
    pub width: Option<usize>,
}

#[derive(Clone, Debug)]
pub struct ExportPlan {
    pub reading: Reading,
    pub filter: Filter,
    pub file: ExportFile,
    /// Tell lives that are alike one by one.
    pub every: bool,
    pub force: bool,
}

/// A form, and where it goes; `-` is the standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFile {
    pub format: Format,
    pub path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    JsonLines,
    Csv(Table),
    Sqlite,
    Perfetto,
    Html,
    /// One table, like CSV.
    Parquet(Table),
}

/// What the rows of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Lifetimes,
    Findings,
}
