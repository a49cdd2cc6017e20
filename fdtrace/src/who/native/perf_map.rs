//! Names of code that a JIT compiler made, from the file `/tmp/perf-PID.map` that Node (`--perf-basic-prof`), Java
//! agents and others write.
//!
//! The file lies in the process's own `/tmp`, under the number by which the process knows itself. Anyone may have put a
//! file there:
//! it must belong to the user of the process, or to root. Names are hostile.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use crate::who::open::{self, Links};

/// Most text that is read of one file.
const TEXT_MAX: u64 = 256 << 20;
const ENTRIES_MAX: usize = 1 << 20;
const NAME_MAX: usize = 512;
const CHUNK: usize = 1 << 20;

#[derive(Debug)]
pub struct PerfMap {
    /// Kept open: it can be read after the process has died.
    file: File,
    /// Bytes of the file that have been parsed.
    parsed: u64,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    end: u64,
    name: Arc<str>,
}

impl PerfMap {
    /// `None` when there is no such file, or one that cannot be trusted.
    pub fn open(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        // The last number is that of the innermost namespace.
        let own_pid =
            field("NSpid:").and_then(|pids| pids.split_whitespace().next_back()).map_or(Ok(pid), str::parse).ok()?;
        let file = open::in_root(pid, format!("/tmp/perf-{own_pid}.map").as_bytes(), Links::Refuse).ok()?;
        let owner = file.metadata().ok()?.uid();
        let users = field("Uid:")?;
        let trusted = owner == 0 || users.split_whitespace().any(|uid| uid.parse() == Ok(owner));
        if !trusted {
            log::warn!("ignored /tmp/perf-{own_pid}.map of process {pid}: it belongs to user {owner}");
            return None;
        }
        Some(Self { file, parsed: 0, entries: BTreeMap::new() })
    }

    /// The name of the function at an address. Reads what was added to the file since the last time.
    pub fn name(&mut self, address: u64) -> Option<Arc<str>> {
        self.update();
        let (_, entry) = self.entries.range(..=address).next_back()?;
        (address < entry.end).then(|| Arc::clone(&entry.name))
    }

    fn update(&mut self) {
        let len = self.file.metadata().map_or(0, |meta| meta.size()).min(TEXT_MAX);
        if len < self.parsed {
            self.parsed = 0;
            self.entries.clear();
        }
        let mut chunk = vec![0; CHUNK.min((len - self.parsed) as usize)];
        while self.parsed < len {
            let Ok(read) = self.file.read_at(&mut chunk, self.parsed) else {
                return;
            };
            // A line may still be in the making.
            let Some(complete) = chunk[..read].iter().rposition(|&byte| byte == b'\n') else {
                // A line without an end is none.
                if read == CHUNK {
                    self.parsed += read as u64;
                    continue;
                }
                return;
            };
            self.add(&chunk[..complete]);
            self.parsed += complete as u64 + 1;
        }
    }

    fn add(&mut self, lines: &[u8]) {
        for line in lines.split(|&byte| byte == b'\n') {
            let Some((start, end, name)) = parse_line(line) else {
                continue;
            };
            // Memory of collected code is used again: what is written later holds.
            let overlapping: Vec<u64> = self
                .entries
                .range(..end)
                .rev()
                .take_while(|(_, entry)| entry.end > start)
                .map(|(&start, _)| start)
                .collect();
            for start in overlapping {
                self.entries.remove(&start);
            }
            if self.entries.len() < ENTRIES_MAX {
                let name = String::from_utf8_lossy(&name[..name.len().min(NAME_MAX)]);
                self.entries.insert(start, Entry { end, name: Arc::from(name) });
            }
        }
    }
}

/// `start size name`, the numbers hexadecimal, with or without `0x`.
fn parse_line(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut parts = line.splitn(3, |&byte| byte == b' ');
    let mut number = || {
        let digits = std::str::from_utf8(parts.next()?).ok()?;
        u64::from_str_radix(digits.strip_prefix("0x").unwrap_or(digits), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = parts.next()?.trim_ascii();
    let end = start.checked_add(size)?;
    (size > 0 && !name.is_empty()).then_some((start, end, name))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn map_of(text: &[u8]) -> (PerfMap, File) {
        let path = std::env::temp_dir().join(format!("fdtrace-map-{}-{:p}", std::process::id(), text));
        let mut file = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all(text).unwrap();
        (PerfMap { file: file.try_clone().unwrap(), parsed: 0, entries: BTreeMap::new() }, file)
    }

    #[test]
    fn later_lines_win_and_growth_is_seen() {
        let (mut map, mut file) =
            map_of(b"1000 100 JS:~a x.js:1:2\n1100 80 b\nnonsense\n1000 0 empty\n2000 ffffffffffffffff wraps\n");
        assert_eq!(map.name(0x10ff).as_deref(), Some("JS:~a x.js:1:2"));
        assert_eq!(map.name(0x1180), None);
        assert_eq!(map.name(0xfff), None);
        file.write_all(b"0x1080 0x10 c\n3000 10 unfinished").unwrap();
        assert_eq!(map.name(0x1088).as_deref(), Some("c"));
        assert_eq!(map.name(0x1000), None, "its memory has been used again");
        assert_eq!(map.name(0x3000), None);
        file.write_all(b" line\n").unwrap();
        assert_eq!(map.name(0x3000).as_deref(), Some("unfinished line"));
    }

    /// The process sees itself as 1, and has a `/tmp` of its own.
    #[test]
    fn in_other_namespaces() {
        let script = "mount -t tmpfs none /tmp && echo '1000 10 inside' > /tmp/perf-1.map && echo ready && sleep 100";
        let child = std::process::Command::new("unshare")
            .args(["-mpf", "--kill-child", "sh", "-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn();
        // SAFETY: takes no arguments and cannot fail.
        let Some(mut child) = child.ok().filter(|_| unsafe { libc::geteuid() } == 0) else {
            eprintln!("SKIPPED: this test needs root and unshare");
            return;
        };
        let mut ready = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let pid = child.id();
        let inner = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let map = PerfMap::open(inner.trim().parse().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(map.unwrap().name(0x1001).as_deref(), Some("inside"), "even when it is dead");
    }

    #[test]
    fn only_the_owners_file() {
        let pid = std::process::id();
        let path = format!("/tmp/perf-{pid}.map");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(PerfMap::open(pid).is_none(), "links are not followed");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "1000 10 mine\n").unwrap();
        let own = PerfMap::open(pid);
        let given_away = std::os::unix::fs::chown(&path, Some(12345), None).is_ok();
        let other = PerfMap::open(pid);
        fs::remove_file(&path).unwrap();
        assert_eq!(own.unwrap().name(0x1001).as_deref(), Some("mine"));
        assert!(!given_away || other.is_none(), "it belongs to somebody else");
        assert!(PerfMap::open(pid).is_none());
    }
}
