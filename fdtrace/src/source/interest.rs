//! The entries of an epoll instance, as `/proc/PID/fdinfo` shows them: those made through io_uring or before the trace
//! are known from nowhere else.
//!
//! The list is read twice and the numbers looked at in between, so that of an entry which both have it is known what its
//! number was while it existed. Nothing here is atomic, and an entry that one list lacks is left out.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use fdtrace_common::wire::EpollRow;

/// Entries that are looked at; an instance with more is not worth the time.
const ROWS: usize = 4096;

/// `None`: there is no such process or number, or it is no epoll instance.
pub fn read(root: &Path, pid: u32, fd: i32) -> Option<Vec<EpollRow>> {
    let process = root.join(pid.to_string());
    let list: PathBuf = process.join("fdinfo").join(fd.to_string());
    let first = parse(&std::fs::read_to_string(&list).ok()?);
    let looked: Vec<EpollRow> = first
        .into_iter()
        .map(|row| {
            // Follows the link, so this is the file itself, of whatever kind.
            let found = std::fs::metadata(process.join("fd").join(row.fd.to_string()));
            EpollRow { open_inode: found.map_or(0, |found| found.ino()), ..row }
        })
        .collect();
    let second = parse(&std::fs::read_to_string(&list).ok()?);
    let same = |a: &EpollRow, b: &EpollRow| (a.fd, a.inode, a.data) == (b.fd, b.inode, b.data);
    Some(looked.into_iter().filter(|row| second.iter().any(|other| same(row, other))).collect())
}

/// Lines like `tfd:  5 events:  19 data:  5  pos:0 ino:3a2 sdev:e`; all but the number are hexadecimal.
/// <https://github.com/torvalds/linux/blob/v6.12/fs/eventpoll.c#L977>
fn parse(text: &str) -> Vec<EpollRow> {
    text.lines().filter(|line| line.starts_with("tfd:")).take(ROWS).filter_map(row).collect()
}

fn row(line: &str) -> Option<EpollRow> {
    let value = |key: &str| {
        let at = line.find(key)? + key.len();
        line.get(at..)?.split_whitespace().next()
    };
    let hex = |key| u64::from_str_radix(value(key)?, 16).ok();
    Some(EpollRow {
        data: hex("data:")?,
        inode: hex("ino:")?,
        open_inode: 0,
        fd: value("tfd:")?.parse().ok()?,
        events: u32::try_from(hex("events:")?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let text = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\n\
                    tfd:       21 events:       19 data:               15  pos:0 ino:61af sdev:7\ntfd: x\n";
        let rows = parse(text);
        assert_eq!(rows.len(), 1);
        let EpollRow { data, inode, fd, events, .. } = rows[0];
        assert_eq!((data, inode, fd, events), (0x15, 0x61af, 21, 0x19));
    }
}
