//! The entries of epoll instances, as `/proc/PID/fdinfo` shows them: those made through io_uring or before the trace are
//! known from nowhere else.

use std::{
    cell::LazyCell,
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use fdtrace_common::wire::{EpollEntry, EpollRow, Header, bytes_of, flag, kind};

use super::{clock, procfs};

/// Entries that [`read`] looks at, once for each; an instance with more is not worth the time.
const ROWS: usize = 4096;
/// Numbers that are looked at for the files of entries whose own number means another: in the table of the instance, and in
/// all others together.
const NUMBERS: usize = 4096;

/// The list is read twice and the numbers looked at in between, so that of an entry which both have it is known what its
/// number was while it existed. Nothing here is atomic, and an entry that one list lacks is left out.
///
/// `None`: there is no such process or number, or it is no epoll instance.
pub fn read(root: &Path, pid: u32, fd: i32) -> Option<Vec<EpollRow>> {
    let process = root.join(pid.to_string());
    let list: PathBuf = process.join("fdinfo").join(fd.to_string());
    let first = std::fs::read_to_string(&list).ok()?;
    let looked: Vec<EpollRow> = parse(&first)
        .take(ROWS)
        .map(|Line { fd, events, data, inode, .. }| {
            // Follows the link, so this is the file itself, of whatever kind.
            let found = std::fs::metadata(process.join("fd").join(fd.to_string()));
            EpollRow { fd, events, data, inode, open_inode: found.map_or(0, |found| found.ino()) }
        })
        .collect();
    let second = std::fs::read_to_string(&list).ok()?;
    let second: Vec<Line> = parse(&second).take(ROWS).collect();
    let same = |a: &EpollRow, b: &Line| (a.fd, a.inode, a.data) == (b.fd, b.inode, b.data);
    Some(looked.into_iter().filter(|row| second.iter().any(|other| same(row, other))).collect())
}

/// A line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    fd: i32,
    events: u32,
    data: u64,
    inode: u64,
    dev: u32,
}

fn parse(text: &str) -> impl Iterator<Item = Line> {
    text.lines().filter_map(line)
}

/// `tfd: 4 events: 19 data: 4  pos:0 ino:1f8e sdev:9`: the number is decimal, all else hexadecimal.
/// <https://github.com/torvalds/linux/blob/v6.12/fs/eventpoll.c#L898>
fn line(text: &str) -> Option<Line> {
    let rest = text.strip_prefix("tfd:")?;
    let value = |key: &str| {
        let at = rest.find(key)? + key.len();
        rest[at..].split_ascii_whitespace().next()
    };
    let hex = |key: &str| u64::from_str_radix(value(key)?, 16).ok();
    Some(Line {
        fd: rest.split_ascii_whitespace().next()?.parse().ok()?,
        data: hex("data:")?,
        inode: hex("ino:")?,
        dev: u32::try_from(hex("sdev:")?).ok()?,
        events: u32::try_from(hex("events:")?).ok()?,
    })
}

/// An [`EpollEntry`] record for each entry of epoll instances, which tasks have under a number. Of the tasks that share one
/// some may be gone. `tables`: the tasks of all tables, where the files are looked for that the number of an entry does not
/// mean.
pub fn entries(wanted: &[(Vec<u32>, i32)], tables: &[Vec<u32>]) -> Vec<Vec<u8>> {
    let elsewhere = LazyCell::new(|| all_numbers(tables));
    let mut records = Vec::new();
    for (tids, epoll) in wanted {
        entries_of(tids, *epoll, &elsewhere, &mut records);
    }
    records
}

fn entries_of(
    tids: &[u32],
    epoll: i32,
    elsewhere: &LazyCell<Vec<Number>, impl FnOnce() -> Vec<Number>>,
    records: &mut Vec<Vec<u8>>,
) {
    let list = |tid: &u32| {
        let root = format!("{}/{tid}", procfs::ROOT);
        // What has the number of a task that is gone may have another file there.
        let link = std::fs::read_link(format!("{root}/fd/{epoll}")).ok()?;
        let text = std::fs::read_to_string(format!("{root}/fdinfo/{epoll}")).ok()?;
        (link.as_os_str() == "anon_inode:[eventpoll]").then_some((*tid, text))
    };
    let Some((tid, text)) = tids.iter().find_map(list) else { return };
    let header = Header { kind: kind::EPOLL_ENTRY, tid, time: clock::boot_ns(), ..Header::default() };
    let mark = |fd| bytes_of(&EpollEntry { header, epoll, fd, ..EpollEntry::default() }).to_vec();
    records.push(mark(EpollEntry::BEGIN));
    // Several entries can have one number: the kernel counts them in the order in which it lists them.
    let mut nth = HashMap::new();
    let own = LazyCell::new(|| numbers(tid, NUMBERS).unwrap_or_default());
    for Line { fd, events, data, inode, dev } in parse(&text) {
        let count = nth.entry(fd).or_insert(0u32);
        let slot = [epoll.cast_unsigned(), fd.cast_unsigned(), *count];
        *count += 1;
        let current = means((tid, fd), (tid, slot));
        let flags = match current {
            Some(true) => flag::SAME_FILE,
            Some(false) => 0,
            None => flag::UNREADABLE,
        };
        let header = Header { flags, ..header };
        let mut record = bytes_of(&EpollEntry { header, epoll, fd, data, inode, dev, events }).to_vec();
        if current == Some(false) {
            let is_it =
                |number: &&Number| number.inode == inode && means((number.tid, number.fd), (tid, slot)) == Some(true);
            let held =
                own.iter().find(is_it).or_else(|| elsewhere.iter().filter(|number| number.tid != tid).find(is_it));
            let (holder, number) = held.map_or((tid, -1), |held| (held.tid, held.fd));
            record.extend_from_slice(&number.to_ne_bytes());
            record.extend_from_slice(&holder.to_ne_bytes());
        }
        records.push(record);
    }
    records.push(mark(EpollEntry::END));
}

/// What a task has open.
#[derive(Clone, Copy, Debug)]
struct Number {
    tid: u32,
    fd: i32,
    inode: u64,
}

/// That of one task of each table: of the first that is still there.
fn all_numbers(tables: &[Vec<u32>]) -> Vec<Number> {
    let mut all: Vec<Number> = Vec::new();
    for tids in tables {
        let room = NUMBERS.saturating_sub(all.len());
        if room == 0 {
            break;
        }
        all.extend(tids.iter().find_map(|tid| numbers(*tid, room)).unwrap_or_default());
    }
    all
}

/// Of a task at most so many, in no order. `None`: it is gone.
fn numbers(tid: u32, most: usize) -> Option<Vec<Number>> {
    let entries = std::fs::read_dir(format!("{}/{tid}/fd", procfs::ROOT)).ok()?;
    let known = |entry: std::fs::DirEntry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        // Follows the link, so this is the file itself, of whatever kind.
        Some(Number { tid, fd, inode: std::fs::metadata(entry.path()).ok()?.ino() })
    };
    Some(entries.take(most).filter_map(|entry| known(entry.ok()?)).collect())
}

/// Does a task's number mean the file of an entry? `slot`: epoll, the entry's number, and which of those with that number,
/// as `struct kcmp_epoll_slot` has them, in the table of another task. `None`: the kernel would not tell.
fn means((tid, fd): (u32, i32), (watcher, slot): (u32, [u32; 3])) -> Option<bool> {
    const KCMP_EPOLL_TFD: libc::c_int = 7;
    // SAFETY: plain numbers and a pointer to a live array of the shape that this comparison takes.
    match unsafe { libc::syscall(libc::SYS_kcmp, tid, watcher, KCMP_EPOLL_TFD, fd, slot.as_ptr()) } {
        0 => Some(true),
        1..=3 => Some(false),
        // The number is closed: it means nothing at all.
        _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::EBADF) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let text = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\n\
                    tfd:       21 events:       19 data:               15  pos:0 ino:61af sdev:7\n\
                    tfd:       17 events: 80000019 data: 7f0000000011  pos:0 ino:4ebb0b sdev:9\n\
                    tfd:\ntfd: x\ntfd: 3 events: zz data: 1 ino:1 sdev:1\n";
        assert_eq!(
            parse(text).collect::<Vec<_>>(),
            [
                Line { fd: 21, events: 0x19, data: 0x15, inode: 0x61af, dev: 7 },
                Line { fd: 17, events: 0x8000_0019, data: 0x7f00_0000_0011, inode: 0x004e_bb0b, dev: 9 },
            ]
        );
    }

    /// What a listing leaves out the model takes for gone.
    #[test]
    fn no_entry_is_left_out_of_a_long_list() {
        let line = |fd| format!("tfd: {fd:8} events:       19 data: {fd:16x}  pos:0 ino:61af sdev:7\n");
        let text: String = (0..2 * ROWS).map(line).collect();
        assert_eq!(parse(&text).count(), 2 * ROWS);
    }
}
