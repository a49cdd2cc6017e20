//! Reads what `/proc` says about one process.
//!
//! A process can end, and its pid can be given to another, between any two reads: callers must hold a pidfd or compare
//! start times. Command lines and names belong to the process and are taken as bytes, of limited length. Every function
//! takes the root, so that tests can bring their own.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where it all is.
pub const ROOT: &str = "/proc";

/// More of a command line than anyone will look at; the kernel allows megabytes.
const CMDLINE_MAX: u64 = 128 << 10;

/// `/proc/PID/stat`, as far as needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub comm: Vec<u8>,
    pub state: u8,
    pub parent: u32,
    pub kernel_thread: bool,
    /// Clock ticks from boot to the start of the process. With the pid, this is its identity.
    pub start_ticks: u64,
}

impl Stat {
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// `/proc/PID/status`, as far as needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub tgid: u32,
    pub effective_uid: u32,
    /// The pid in each namespace, from that of this `/proc` inwards.
    pub ns_pids: Vec<u32>,
}

/// Pids of all processes, in no order. Threads are not listed.
pub fn pids(root: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

pub fn stat(root: &Path, pid: u32) -> io::Result<Stat> {
    let text = read_some(&file(root, pid, "stat"), 4096)?;
    parse_stat(&text).ok_or_else(|| malformed("stat"))
}

/// The threads of a process.
pub fn tids(root: &Path, pid: u32) -> Vec<u32> {
    pids(&file(root, pid, "task"))
}

pub fn status(root: &Path, pid: u32) -> io::Result<Status> {
    let text = read_some(&file(root, pid, "status"), 64 << 10)?;
    parse_status(&text).ok_or_else(|| malformed("status"))
}

/// The kernel's name of the main thread, without the escaping that it has in `stat`.
pub fn comm(root: &Path, pid: u32) -> io::Result<Vec<u8>> {
    let mut comm = read_some(&file(root, pid, "comm"), 64)?;
    comm.pop_if(|last| *last == b'\n');
    Ok(comm)
}

/// The arguments. Empty ones at the end, the padding of rewritten command lines, are left out.
pub fn argv(root: &Path, pid: u32) -> io::Result<Vec<Vec<u8>>> {
    let text = read_some(&file(root, pid, "cmdline"), CMDLINE_MAX)?;
    let mut argv: Vec<Vec<u8>> = text.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
    while argv.pop_if(|last| last.is_empty()).is_some() {}
    Ok(argv)
}

/// The executable as the kernel names it; ` (deleted)` at the end may be part of the name, or not.
pub fn exe(root: &Path, pid: u32) -> io::Result<PathBuf> {
    std::fs::read_link(file(root, pid, "exe"))
}

/// How many descriptors are open.
pub fn count_fds(root: &Path, pid: u32) -> io::Result<usize> {
    Ok(std::fs::read_dir(file(root, pid, "fd"))?.count())
}

/// Nanoseconds of `CLOCK_BOOTTIME`, rounded down to a tick.
pub fn ticks_to_ns(ticks: u64) -> u64 {
    // SAFETY: asks for a constant.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let per_second = u64::try_from(per_second).ok().filter(|&n| n > 0).unwrap_or(100);
    ticks.saturating_mul(1_000_000_000 / per_second)
}

fn file(root: &Path, pid: u32, name: &str) -> PathBuf {
    let mut path = root.join(pid.to_string());
    path.push(name);
    path
}

fn read_some(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn malformed(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected content of `{file}` in /proc"))
}

/// The name is in parentheses and may contain any of `) (`, so it ends at the last one.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let comm = text.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Numbered as in proc(5), where the state is field 3.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        comm,
        state: *field(3)?.as_bytes().first()?,
        parent: field(4)?.parse().ok()?,
        kernel_thread: field(9)?.parse::<u64>().ok()? & PF_KTHREAD != 0,
        start_ticks: field(22)?.parse().ok()?,
    })
}

fn parse_status(text: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    let mut complete = 0;
    for line in text.split(|&byte| byte == b'\n') {
        // The name at the top may be in any encoding; all other lines are ASCII.
        let Some((key, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else {
            continue;
        };
        let mut numbers = value.split_ascii_whitespace().map_while(|word| word.parse().ok());
        match key {
            "Tgid" => {
                status.tgid = numbers.next()?;
                complete += 1;
            }
            // Real, effective, saved, file system.
            "Uid" => {
                status.effective_uid = numbers.nth(1)?;
                complete += 1;
            }
            "NSpid" => status.ns_pids = numbers.collect(),
            _ => {}
        }
    }
    (complete == 2).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_contain_anything() {
        let line = b"42 (a) S 1 (x\n) \xff) R 7 0 0 0 0 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987 0 0\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!(stat.comm, b"a) S 1 (x\n) \xff");
        assert_eq!((stat.state, stat.parent, stat.start_ticks), (b'R', 7, 987));
        assert!(!stat.kernel_thread && !stat.has_ended());
        for length in 0..line.len() - 6 {
            assert_eq!(parse_stat(&line[..length]).filter(|stat| stat.start_ticks == 987), None);
        }
        assert_eq!(parse_stat(b")("), None);
    }

    #[test]
    fn reads_status() {
        let text = b"Name:\tUid:\xff\nTgid:\t42\nPid:\t42\nUid:\t1\t2\t3\t4\nNSpid:\t42\t7\t1\n";
        let expected = Status { tgid: 42, effective_uid: 2, ns_pids: vec![42, 7, 1] };
        assert_eq!(parse_status(text), Some(expected));
        assert_eq!(parse_status(b"Tgid:\tx\n"), None);
        assert_eq!(parse_status(b""), None);
    }

    #[test]
    fn reads_this_process() {
        let (root, pid) = (Path::new(ROOT), std::process::id());
        let stat = stat(root, pid).unwrap();
        let age = super::super::clock::boot_ns() - ticks_to_ns(stat.start_ticks);
        assert!(age < 3_600_000_000_000, "{age}");
        assert_eq!(comm(root, pid).unwrap(), stat.comm);
        assert_eq!(status(root, pid).unwrap().tgid, pid);
        assert_eq!(exe(root, pid).unwrap(), std::env::current_exe().unwrap());
        assert_eq!(argv(root, pid).unwrap().len(), std::env::args_os().count());
        assert!(count_fds(root, pid).unwrap() >= 3);
        assert!(pids(root).contains(&pid));
    }
}
