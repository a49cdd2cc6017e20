//! What `/proc` says of a process, as a record. All of it may be missing: the process may be gone.

use std::{
    collections::HashMap,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use fdtrace_common::wire::{
    ARGV_MAX, EpollEntry, Header, Namespaced, PATH_MAX, ProcessInfo, Thread, bytes_of, flag, kind,
};

use super::{clock, procfs};

/// A [`Thread`] record for each thread that has not ended.
pub fn threads(tgid: u32) -> Vec<Vec<u8>> {
    let root = Path::new(procfs::ROOT);
    let header = |tid| Header { kind: kind::THREAD, tgid, tid, time: clock::boot_ns(), ..Header::default() };
    // Only the first one is kept after its end, until all are gone.
    let has_ended = |tid| tid == tgid && procfs::stat(root, tid).is_ok_and(|stat| stat.has_ended());
    let tids = procfs::tids(root, tgid).into_iter().filter(|tid| !has_ended(*tid));
    tids.map(|tid| bytes_of(&Thread { header: header(tid) }).to_vec()).collect()
}

/// An [`EpollEntry`] record for each entry of an epoll instance in the table of tasks of which some may be gone.
pub fn epoll_entries(tids: &[u32], epoll: i32) -> Vec<Vec<u8>> {
    let list = |tid: &u32| {
        let root = format!("{}/{tid}", procfs::ROOT);
        // What has the number of a task that is gone may have another file there.
        let link = std::fs::read_link(format!("{root}/fd/{epoll}")).ok()?;
        let text = std::fs::read_to_string(format!("{root}/fdinfo/{epoll}")).ok()?;
        (link.as_os_str() == "anon_inode:[eventpoll]").then_some((*tid, text))
    };
    let Some((tid, text)) = tids.iter().find_map(list) else { return Vec::new() };
    let header = Header { kind: kind::EPOLL_ENTRY, tid, time: clock::boot_ns(), ..Header::default() };
    let mark = |fd| EpollEntry { header, epoll, fd, ..EpollEntry::default() };
    // Several entries can have one number: the kernel counts them in the order in which it lists them.
    let mut nth = HashMap::new();
    let mut others = None;
    let entries = text.lines().filter_map(|line| {
        let mut entry = epoll_entry(line, epoll, header)?;
        let count = nth.entry(entry.fd).or_insert(0u32);
        let slot = [epoll.cast_unsigned(), entry.fd.cast_unsigned(), *count];
        let means = means(tid, entry.fd, slot);
        entry.header.flags = match means {
            Some(true) => flag::SAME_FILE,
            Some(false) => 0,
            None => flag::UNREADABLE,
        };
        *count += 1;
        let mut record = bytes_of(&entry).to_vec();
        if means == Some(false) {
            let others = others.get_or_insert_with(|| inodes(tid));
            let held =
                others.iter().find(|(fd, inode)| *inode == entry.inode && self::means(tid, *fd, slot) == Some(true));
            record.extend_from_slice(&held.map_or(-1, |(fd, _)| *fd).to_ne_bytes());
        }
        Some(record)
    });
    let mark = |fd| bytes_of(&mark(fd)).to_vec();
    std::iter::once(mark(EpollEntry::BEGIN)).chain(entries).chain([mark(EpollEntry::END)]).collect()
}

/// Numbers that are looked at for the file of a registration whose own number means another.
const NUMBERS: usize = 4096;

/// What a task has open: numbers, and the inodes behind them.
fn inodes(tid: u32) -> Vec<(i32, u64)> {
    let Ok(entries) = std::fs::read_dir(format!("{}/{tid}/fd", procfs::ROOT)) else { return Vec::new() };
    let known = |entry: std::fs::DirEntry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        // Follows the link, so this is the file itself, of whatever kind.
        Some((fd, std::fs::metadata(entry.path()).ok()?.ino()))
    };
    entries.take(NUMBERS).filter_map(|entry| known(entry.ok()?)).collect()
}

/// Does a number mean the file of an entry? `slot`: epoll, the entry's number, and which of those with that number, as
/// `struct kcmp_epoll_slot` has them. `None`: the kernel would not tell.
fn means(tid: u32, fd: i32, slot: [u32; 3]) -> Option<bool> {
    const KCMP_EPOLL_TFD: libc::c_int = 7;
    // SAFETY: plain numbers and a pointer to a live array of the shape that this comparison takes.
    match unsafe { libc::syscall(libc::SYS_kcmp, tid, tid, KCMP_EPOLL_TFD, fd, slot.as_ptr()) } {
        0 => Some(true),
        1..=3 => Some(false),
        // The number is closed: it means nothing at all.
        _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::EBADF) => Some(false),
        _ => None,
    }
}

/// `tfd: 4 events: 19 data: 4  pos:0 ino:1f8e sdev:9`: the number is decimal, all else hexadecimal.
/// <https://github.com/torvalds/linux/blob/v6.12/fs/eventpoll.c#L898>
fn epoll_entry(line: &str, epoll: i32, header: Header) -> Option<EpollEntry> {
    let rest = line.strip_prefix("tfd:")?;
    let value = |key: &str| {
        let at = rest.find(key)? + key.len();
        rest[at..].split_ascii_whitespace().next()
    };
    let hex = |key: &str| u64::from_str_radix(value(key)?, 16).ok();
    Some(EpollEntry {
        header,
        epoll,
        fd: rest.split_ascii_whitespace().next()?.parse().ok()?,
        data: hex("data:")?,
        inode: hex("ino:")?,
        dev: u32::try_from(hex("sdev:")?).ok()?,
        events: u32::try_from(hex("events:")?).ok()?,
    })
}

/// A [`Namespaced`] record, if the process is in a pid namespace below ours.
pub fn namespaced(tgid: u32) -> Option<Vec<u8>> {
    let status = procfs::status(Path::new(procfs::ROOT), tgid).ok()?;
    let [_, .., inside] = status.ns_pids.as_slice() else { return None };
    let header = Header { kind: kind::NAMESPACED, tgid, tid: tgid, time: clock::boot_ns(), ..Header::default() };
    let level = u32::try_from(status.ns_pids.len() - 1).unwrap_or(u32::MAX);
    Some(bytes_of(&Namespaced { header, inside: *inside, level }).to_vec())
}

/// A [`ProcessInfo`] record.
pub fn record(tgid: u32) -> Vec<u8> {
    let root = Path::new(procfs::ROOT);
    let mut comm = [0; 16];
    let name = procfs::comm(root, tgid).unwrap_or_default();
    let len = name.len().min(15);
    comm[..len].copy_from_slice(&name[..len]);
    let exe = procfs::exe(root, tgid).unwrap_or_default();
    let exe = exe.as_os_str().as_bytes();
    let exe = &exe[..exe.len().min(PATH_MAX)];
    let argv = procfs::argv(root, tgid).unwrap_or_default().join(&0);
    let argv = &argv[..argv.len().min(ARGV_MAX)];
    let start = procfs::stat(root, tgid).map_or(0, |stat| procfs::ticks_to_ns(stat.start_ticks));
    let header = Header { kind: kind::PROCESS, tgid, tid: tgid, time: clock::boot_ns(), ..Header::default() };
    let lens = (u32::try_from(exe.len()).unwrap_or(0), u32::try_from(argv.len()).unwrap_or(0));
    let record = ProcessInfo { header, start, comm, exe_len: lens.0, argv_len: lens.1 };
    [bytes_of(&record), exe, argv].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_as_the_kernel_prints_it() {
        let line = "tfd:       17 events: 80000019 data: 7f0000000011  pos:0 ino:4ebb0b sdev:9";
        let entry = epoll_entry(line, 3, Header::default()).expect("an entry");
        assert_eq!((entry.epoll, entry.fd, entry.events, entry.data), (3, 17, 0x8000_0019, 0x7f00_0000_0011));
        assert_eq!((entry.inode, entry.dev), (0x004e_bb0b, 9));
        for line in ["pos: 0", "tfd:", "tfd: x", "tfd: 3 events: zz data: 1 ino:1 sdev:1"] {
            assert!(epoll_entry(line, 3, Header::default()).is_none(), "{line}");
        }
    }
}
