//! What the exercising tasks did, read from the shared log.

use std::fmt;
use std::sync::atomic::Ordering::SeqCst;

use crate::nr;
use crate::ops;
use crate::shared::{COMPAT, Entry, LOG, PENDING, Region};

/// One syscall of an exercising task.
#[derive(Clone, Debug)]
pub struct Step {
    /// Place in the order in which the calls of all tasks began.
    pub begin: u64,
    /// How many had begun when it returned.
    pub end: u64,
    pub pid: u32,
    pub tid: u32,
    /// The operation it was part of.
    pub op: &'static str,
    pub number: u32,
    pub args: [u64; 4],
    /// `None`: it had not returned.
    pub ret: Option<i64>,
    /// The end of the path, where there is one.
    pub note: String,
}

impl Step {
    /// The syscall's name.
    pub fn name(&self) -> &'static str {
        if self.number & COMPAT != 0 {
            return match self.number & !COMPAT {
                5 => "open (32-bit)",
                6 => "close (32-bit)",
                8 => "creat (32-bit)",
                41 => "dup (32-bit)",
                42 => "pipe (32-bit)",
                63 => "dup2 (32-bit)",
                221 => "fcntl64 (32-bit)",
                295 => "openat (32-bit)",
                328 => "eventfd2 (32-bit)",
                329 => "epoll_create1 (32-bit)",
                330 => "dup3 (32-bit)",
                359 => "socket (32-bit)",
                436 => "close_range (32-bit)",
                _ => "syscall (32-bit)",
            };
        }
        nr::name(i64::from(self.number))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7} pid {} tid {} [{}] {}(", self.begin, self.pid, self.tid, self.op, self.name())?;
        for (index, arg) in self.args.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            // Small numbers are descriptors and flags, the rest addresses.
            match *arg as i64 {
                small @ -4096..=65535 => write!(f, "{small}")?,
                _ => write!(f, "{arg:#x}")?,
            }
        }
        f.write_str(")")?;
        if !self.note.is_empty() {
            write!(f, " \"{}\"", self.note.escape_debug())?;
        }
        match self.ret {
            None => f.write_str(" = ? (did not return)"),
            Some(error @ -4095..0) => {
                let text = std::io::Error::from_raw_os_error(-error as i32).to_string();
                write!(f, " = {error} ({})", text.split(" (os").next().unwrap_or_default())
            }
            Some(ret) => write!(f, " = {ret}"),
        }?;
        if self.end > self.begin + 1 { write!(f, "   (until {})", self.end) } else { Ok(()) }
    }
}

/// The steps that the log still has, oldest first.
pub fn read(region: &Region) -> Vec<Step> {
    let mut steps: Vec<_> = region.log.iter().take(LOG).filter_map(step).collect();
    steps.sort_by_key(|step| step.begin);
    steps
}

fn step(entry: &Entry) -> Option<Step> {
    let begin = entry.begin.load(SeqCst).checked_sub(1)?;
    let ret = entry.ret.load(SeqCst);
    let note: Vec<u8> = entry.note.iter().flat_map(|word| word.load(SeqCst).to_le_bytes()).collect();
    Some(Step {
        begin,
        end: entry.end.load(SeqCst),
        pid: entry.pid.load(SeqCst),
        tid: entry.tid.load(SeqCst),
        op: ops::all().nth(entry.op.load(SeqCst) as usize).map_or("?", |op| op.name),
        number: entry.nr.load(SeqCst),
        args: std::array::from_fn(|index| entry.args[index].load(SeqCst)),
        ret: (ret != PENDING).then_some(ret as i64),
        note: String::from_utf8_lossy(&note).trim_end_matches('\0').to_owned(),
    })
}

/// How often an operation was done.
#[derive(Clone, Debug, Default)]
pub struct OpCount {
    pub name: &'static str,
    pub ok: u64,
    pub failed: u64,
    /// Errno of the latest failure.
    pub errno: u32,
}

/// Counters of all operations.
pub fn counts(region: &Region) -> Vec<OpCount> {
    ops::all()
        .zip(&region.counts)
        .map(|(op, count)| OpCount {
            name: op.name,
            ok: count.ok.load(SeqCst),
            failed: count.failed.load(SeqCst),
            errno: count.errno.load(SeqCst),
        })
        .collect()
}
