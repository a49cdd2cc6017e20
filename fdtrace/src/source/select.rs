//! Finds the processes that a user means by a name.
//!
//! A name that means several processes is never resolved in silence. This module waits for nothing: `--wait` is a loop
//! of the pipeline around [`poll_once`]. Nothing is held on to: see [`Candidate::hold`].

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::clock;
use super::names::{By, names};
use super::procfs;
use super::target::{Target, TargetError};
use super::users;
use crate::escape::{columns as width_of, escape_terminal, shorten_middle};

/// A process that can be chosen. Everything but the numbers was written by the process itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub pid: u32,
    pub start_ticks: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME`, rounded down to a tick (10 ms).
    pub start_boot_ns: u64,
    pub uid: u32,
    /// Name of the effective user, its number where it has none; escaped.
    pub user: String,
    pub comm: Vec<u8>,
    pub exe: Option<PathBuf>,
    pub argv: Vec<Vec<u8>>,
    /// Open descriptors, where we may count them.
    pub fds: Option<usize>,
    /// The pid in each pid namespace, from ours inwards.
    pub ns_pids: Vec<u32>,
    /// What the name matched; `None` when nothing was asked for.
    pub by: Option<By>,
}

/// How to resolve a name that several processes go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    #[default]
    One,
    All,
    Newest,
}

/// Why a name did not lead to a process.
#[derive(Debug)]
pub enum SelectError {
    Ambiguous {
        name: String,
        candidates: Vec<Candidate>,
    },
    NoMatch {
        name: String,
        /// How many processes were looked at.
        looked_at: usize,
        /// Names that contain the one asked for, escaped.
        similar: Vec<String>,
        /// The name is the pid of a process.
        is_pid: bool,
    },
}

/// All processes that go by `name`, oldest first; fdtrace itself is never among them.
///
/// Nor are its parents (`sudo fdtrace -n NAME`): NAME is an argument there, and of arguments only an interpreter's
/// script or module counts.
pub fn by_name(name: &[u8], proc_root: &Path) -> Vec<Candidate> {
    oldest_first(look(proc_root).filter_map(|seen| {
        let by = seen.names().into_iter().find_map(|(by, candidate)| (candidate == name).then_some(by))?;
        seen.into_candidate(proc_root, Some(by))
    }))
}

/// All processes that can be attached to, oldest first.
pub fn list(proc_root: &Path) -> Vec<Candidate> {
    oldest_first(look(proc_root).filter_map(|seen| seen.into_candidate(proc_root, None)))
}

/// One round of waiting for a process to appear.
pub fn poll_once(name: &[u8]) -> Vec<Candidate> {
    by_name(name, Path::new(procfs::ROOT))
}

/// Resolves a name; the result is never empty.
pub fn choose(name: &[u8], choice: Choice) -> Result<Vec<Candidate>, SelectError> {
    choose_in(name, choice, Path::new(procfs::ROOT))
}

fn choose_in(name: &[u8], choice: Choice, root: &Path) -> Result<Vec<Candidate>, SelectError> {
    let mut found = by_name(name, root);
    match (found.len(), choice) {
        (0, _) => Err(no_match(name, root)),
        (1, _) | (_, Choice::All) => Ok(found),
        (count, Choice::Newest) => Ok(found.split_off(count - 1)),
        (_, Choice::One) => Err(SelectError::Ambiguous { name: escape_terminal(name), candidates: found }),
    }
}

impl Candidate {
    /// Holds the process, if it is still the one that was listed.
    pub fn hold(&self) -> Result<Target, TargetError> {
        Target::open(self.pid, Some(self.start_ticks))
    }

    /// The command line, escaped; the comm in brackets where there is none.
    pub fn command_line(&self) -> String {
        if self.argv.is_empty() {
            return format!("[{}]", escape_terminal(&self.comm));
        }
        escape_terminal(&self.argv.join(&b' '))
    }
}

/// What a name is looked for in.
struct Seen {
    pid: u32,
    start_ticks: u64,
    comm: Vec<u8>,
    exe: Option<PathBuf>,
    argv: Vec<Vec<u8>>,
}

/// All processes but fdtrace itself, kernel threads, and those that have ended.
fn look(root: &Path) -> impl Iterator<Item = Seen> {
    procfs::pids(root).into_iter().filter(|&pid| pid != std::process::id()).filter_map(move |pid| {
        let stat = procfs::stat(root, pid).ok()?;
        if stat.kernel_thread || stat.has_ended() {
            return None;
        }
        Some(Seen {
            pid,
            start_ticks: stat.start_ticks,
            comm: procfs::comm(root, pid).unwrap_or(stat.comm),
            // Without privileges, other users' executables cannot be read; the other names still count.
            exe: procfs::exe(root, pid).ok(),
            argv: procfs::argv(root, pid).unwrap_or_default(),
        })
    })
}

impl Seen {
    fn names(&self) -> Vec<(By, &[u8])> {
        let exe = self.exe.as_ref().map(|exe| exe.as_os_str().as_bytes());
        names(&self.comm, exe, &self.argv)
    }

    /// The rest, which costs more to find out. `None` when the process is gone by now.
    fn into_candidate(self, root: &Path, by: Option<By>) -> Option<Candidate> {
        let Self { pid, start_ticks, comm, exe, argv } = self;
        let status = procfs::status(root, pid).ok()?;
        let uid = status.effective_uid;
        Some(Candidate {
            pid,
            start_ticks,
            start_boot_ns: procfs::ticks_to_ns(start_ticks),
            uid,
            user: users::by_uid(uid).map_or_else(|| uid.to_string(), |user| escape_terminal(user.name.as_bytes())),
            comm,
            exe,
            argv,
            fds: procfs::count_fds(root, pid).ok(),
            ns_pids: status.ns_pids,
            by,
        })
    }
}

fn oldest_first(candidates: impl Iterator<Item = Candidate>) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = candidates.collect();
    candidates.sort_by_key(|candidate| (candidate.start_ticks, candidate.pid));
    candidates
}

fn no_match(name: &[u8], root: &Path) -> SelectError {
    const SIMILAR_MAX: usize = 5;
    // Shorter parts are in everything.
    const SIMILAR_FROM: usize = 3;
    let mut similar = Vec::new();
    let mut looked_at = 0;
    for seen in look(root) {
        looked_at += 1;
        // A path or title that contains the word somewhere is no help.
        let near = seen
            .names()
            .into_iter()
            .map(|(_, near)| near)
            .find(|near| !near.contains(&b'/') && !near.contains(&b' ') && contains(near, name));
        if let Some(near) = near.map(escape_terminal)
            && name.len() >= SIMILAR_FROM
            && similar.len() < SIMILAR_MAX
            && !similar.contains(&near)
        {
            similar.push(near);
        }
    }
    let pid = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    SelectError::NoMatch {
        name: escape_terminal(name),
        looked_at,
        similar,
        is_pid: pid.is_some_and(|pid| procfs::stat(root, pid).is_ok()),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

impl std::error::Error for SelectError {}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambiguous { name, candidates } => {
                writeln!(f, "{} processes go by the name `{name}`", candidates.len())?;
                writeln!(f, "{}", table(candidates, clock::boot_ns(), terminal_columns()))?;
                write!(
                    f,
                    "choose one with `-p PID`, or add `--newest` for the last in the list, `--all` for all of them"
                )
            }
            Self::NoMatch { name, looked_at, similar, is_pid } => {
                write!(
                    f,
                    "no process goes by the name `{name}` (looked at the command name, the executable, the first \
                     argument, and the script or module of interpreters, of {looked_at} processes)"
                )?;
                if *is_pid {
                    write!(f, "\n  hint: did you mean `-p {name}`?")?;
                }
                if !similar.is_empty() {
                    write!(f, "\nsimilar: {}", similar.join(", "))?;
                }
                write!(f, "\n  hint: add `--wait` to wait until there is one")
            }
        }
    }
}

/// The candidates as a table for people. No line is wider than `columns` unless that is very narrow.
pub fn table(candidates: &[Candidate], now_boot_ns: u64, columns: usize) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["PID", "USER", "STARTED", "FDS", "COMMAND"]);
    for column in [0, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let rows: Vec<[String; 4]> = candidates
        .iter()
        .map(|candidate| {
            [
                pid_text(candidate),
                shorten_middle(&candidate.user, 16),
                age(now_boot_ns.saturating_sub(candidate.start_boot_ns)),
                candidate.fds.map_or_else(|| "?".to_owned(), |fds| fds.to_string()),
            ]
        })
        .collect();
    let widest =
        |index: usize, header: &str| rows.iter().map(|row| width_of(&row[index])).max().unwrap_or(0).max(header.len());
    // Each of the five columns has a space on both sides.
    let taken = widest(0, "PID") + widest(1, "USER") + widest(2, "STARTED") + widest(3, "FDS") + 10;
    let room = columns.saturating_sub(taken).max(20);
    for ([pid, user, started, fds], candidate) in rows.into_iter().zip(candidates) {
        table.add_row([pid, user, started, fds, shorten_middle(&candidate.command_line(), room)]);
    }
    table.trim_fmt()
}

/// The pid, and what the process itself believes it to be where that differs.
fn pid_text(candidate: &Candidate) -> String {
    match candidate.ns_pids.as_slice() {
        [_, .., inner] => format!("{} ({inner} inside)", candidate.pid),
        _ => candidate.pid.to_string(),
    }
}

fn age(ns: u64) -> String {
    match ns / 1_000_000_000 {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7_200 => format!("{} min ago", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

/// Width of the terminal that errors go to; 100 where there is none.
fn terminal_columns() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call fills the structure or fails.
    let result = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match (result, size.ws_col) {
        (0, columns @ 1..) => usize::from(columns),
        _ => 100,
    }
}

#[cfg(test)]
mod tests;
