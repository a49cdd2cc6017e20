//! Kernel truth: what a task's descriptor table holds, as the kernel itself tells it.
//!
//! Read from `/proc/ID/fd`, fdinfo and kcmp(2), never from a tracer. True only while the task makes no descriptor: at a
//! quiet point of the exerciser. `ID` may be any task: `/proc` and kcmp look at the task's own table, which in a process
//! that used `unshare` or `close_range` is not that of its other threads.

use std::collections::HashMap;
use std::io;

use anyhow::{Context as _, Result, bail};

use crate::kind::class_of;

/// One descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruthFd {
    pub fd: i32,
    pub ino: u64,
    /// Device of the file's superblock as the kernel packs it: `major << 20 | minor`.
    pub dev: u32,
    pub mode: u32,
    /// What the link under `/proc/ID/fd` says: a path, `pipe:[7]`, `anon_inode:[eventpoll]`, …
    pub link: String,
    /// One word, see [`class_of`].
    pub kind: String,
    /// As fdinfo has it; see [`cloexec_is_certain`].
    pub cloexec: bool,
    /// Access mode and status flags, without close-on-exec.
    pub flags: u32,
    pub pos: u64,
    /// Registrations, when it is an epoll.
    pub interest: Vec<Interest>,
}

/// A registration in an epoll, one `tfd:` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// The number under which it was registered; it may be closed by now, or another file's.
    pub fd: i32,
    pub events: u32,
    pub data: u64,
    pub ino: u64,
    pub dev: u32,
}

const O_CLOEXEC: u32 = libc::O_CLOEXEC as u32;

/// The table of task `id`, lowest number first.
pub fn table_of(id: u32) -> Result<Vec<TruthFd>> {
    let mounts = mounts_of(id);
    let dir = format!("/proc/{id}/fd");
    let mut table = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot list {dir}"))? {
        let name = entry.with_context(|| format!("cannot list {dir}"))?.file_name();
        let fd: i32 = name.to_str().and_then(|name| name.parse().ok()).with_context(|| format!("odd name in {dir}"))?;
        table.push(descriptor(id, fd, &mounts)?);
    }
    table.sort_by_key(|held| held.fd);
    Ok(table)
}

fn descriptor(id: u32, fd: i32, mounts: &HashMap<u32, u32>) -> Result<TruthFd> {
    let path = format!("/proc/{id}/fd/{fd}");
    let link = std::fs::read_link(&path).with_context(|| format!("cannot read {path}"))?;
    let link = link.to_string_lossy().into_owned();
    let (stat_ino, stat_dev, mode) = stat(&path)?;
    let text = std::fs::read(format!("/proc/{id}/fdinfo/{fd}"));
    let text = text.with_context(|| format!("cannot read fdinfo of {path}"))?;
    let info = parse_fdinfo(&String::from_utf8_lossy(&text));
    Ok(TruthFd {
        fd,
        // fdinfo (5.14) tells the inode of the file itself; stat may be answered by the layer below, as on overlayfs.
        ino: info.ino.unwrap_or(stat_ino),
        dev: info.mount.and_then(|mount| mounts.get(&mount).copied()).unwrap_or(stat_dev),
        mode,
        kind: class_of(mode, &link),
        link,
        cloexec: info.flags & O_CLOEXEC != 0,
        flags: info.flags & !O_CLOEXEC,
        pos: info.pos,
        interest: info.interest,
    })
}

fn stat(path: &str) -> Result<(u64, u32, u32)> {
    let name = std::ffi::CString::new(path).context("path with a NUL")?;
    // SAFETY: an all-zero `stat` is valid, and the call fills it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // The link is a magic one: it leads to the very file, also for sockets, deleted files and O_PATH.
    // SAFETY: both pointers are valid for the call.
    if unsafe { libc::fstatat(libc::AT_FDCWD, name.as_ptr(), &mut stat, 0) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot stat {path}"));
    }
    let dev = pack(libc::major(stat.st_dev), libc::minor(stat.st_dev));
    Ok((stat.st_ino, dev, stat.st_mode))
}

fn pack(major: u32, minor: u32) -> u32 {
    major << 20 | minor
}

/// Devices of the mounts that the task sees. What is not there (pipes, sockets, detached mounts) is told by stat.
fn mounts_of(id: u32) -> HashMap<u32, u32> {
    let text = std::fs::read(format!("/proc/{id}/mountinfo")).unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let mount = words.next()?.parse().ok()?;
        let (major, minor) = words.nth(1)?.split_once(':')?;
        Some((mount, pack(major.parse().ok()?, minor.parse().ok()?)))
    };
    String::from_utf8_lossy(&text).lines().filter_map(parse).collect()
}

#[derive(Default)]
struct Fdinfo {
    pos: u64,
    flags: u32,
    mount: Option<u32>,
    ino: Option<u64>,
    interest: Vec<Interest>,
}

fn parse_fdinfo(text: &str) -> Fdinfo {
    let mut info = Fdinfo::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key {
            "pos" => info.pos = value.parse::<i64>().unwrap_or(0) as u64,
            "flags" => info.flags = u32::from_str_radix(value, 8).unwrap_or(0),
            "mnt_id" => info.mount = value.parse().ok(),
            // The first one: inotify has `ino:` in its lines too.
            "ino" if info.ino.is_none() => info.ino = value.parse().ok(),
            "tfd" => info.interest.extend(parse_interest(value)),
            _ => {}
        }
    }
    info
}

/// `15 events: 19 data: f  pos:0 ino:2a sdev:d`; all but the number and the position are hexadecimal.
fn parse_interest(text: &str) -> Option<Interest> {
    let fd = text.split_whitespace().next()?.parse().ok()?;
    let field = |key: &str| {
        let rest = text.split_once(key)?.1.trim_start();
        let word = rest.split_whitespace().next()?;
        u64::from_str_radix(word, 16).ok()
    };
    Some(Interest {
        fd,
        events: field("events:")? as u32,
        data: field("data:")?,
        ino: field("ino:")?,
        dev: field("sdev:")? as u32,
    })
}

/// Whether fdinfo could tell that a descriptor which it shows as close-on-exec is not: a file whose own flags have the
/// bit, as those from TIOCGPTPEER and fanotify may, shows it always. Asks by taking a copy, without the mark.
pub fn cloexec_is_certain(id: u32, fd: i32) -> Result<bool> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

    const PIDFD_THREAD: i32 = libc::O_EXCL;
    let call = |number, one: i64, two: i64| {
        // SAFETY: neither call takes a pointer.
        let ret = unsafe { libc::syscall(number, one, two, 0) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(ret as i32) })
    };
    let open = |flags: i32| call(libc::SYS_pidfd_open, id.into(), flags.into());
    let pidfd = open(0).or_else(|_| open(PIDFD_THREAD)).with_context(|| format!("no pidfd of {id}"))?;
    let copy = call(libc::SYS_pidfd_getfd, pidfd.as_raw_fd().into(), fd.into());
    let copy = copy.with_context(|| format!("cannot copy fd {fd} of {id}"))?;
    // SAFETY: no pointers.
    unsafe { libc::fcntl(copy.as_raw_fd(), libc::F_SETFD, 0) };
    let path = format!("/proc/self/fdinfo/{}", copy.as_raw_fd());
    let text = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(parse_fdinfo(&String::from_utf8_lossy(&text)).flags & O_CLOEXEC == 0)
}

const KCMP_FILE: i32 = 0;
const KCMP_FILES: i32 = 2;
const KCMP_EPOLL_TFD: i32 = 7;

fn kcmp(one: u32, two: u32, kind: i32, first: u64, second: u64) -> Result<i64> {
    // SAFETY: the call reads memory only for KCMP_EPOLL_TFD, whose caller passes a valid slot.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, one, two, kind, first, second) };
    if ret < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("kcmp({one}, {two}, {kind}, {first}, {second}) failed"));
    }
    Ok(ret)
}

/// Whether two tasks use one table.
pub fn same_table(one: u32, two: u32) -> Result<bool> {
    Ok(kcmp(one, two, KCMP_FILES, 0, 0)? == 0)
}

/// Whether two slots, each a task and a number, hold one description.
pub fn same_file(one: (u32, i32), two: (u32, i32)) -> Result<bool> {
    Ok(kcmp(one.0, two.0, KCMP_FILE, one.1 as u64, two.1 as u64)? == 0)
}

/// Whether the `offset`-th registration of number `tfd` in an epoll is about the description in `slot`.
pub fn watches(epoll: (u32, i32), tfd: i32, offset: u32, slot: (u32, i32)) -> Result<bool> {
    let target = [epoll.1 as u32, tfd as u32, offset];
    Ok(kcmp(slot.0, epoll.0, KCMP_EPOLL_TFD, slot.1 as u64, target.as_ptr() as u64)? == 0)
}

/// Sorts slots into classes that hold one description each. Gives each slot's class: a number that is the same exactly
/// for slots of one class.
pub fn sharing_classes(slots: &[(u32, i32)]) -> Result<Vec<usize>> {
    classes(slots, |one, two| kcmp(one.0, two.0, KCMP_FILE, one.1 as u64, two.1 as u64))
}

/// The same for tasks and their tables.
pub fn table_classes(ids: &[u32]) -> Result<Vec<usize>> {
    classes(ids, |one, two| kcmp(one, two, KCMP_FILES, 0, 0))
}

/// Classes by an order as kcmp gives it: 0 equal, 1 less, 2 greater.
fn classes<T: Copy>(items: &[T], compare: impl Fn(T, T) -> Result<i64>) -> Result<Vec<usize>> {
    // One representative and the number of each class, in the kernel's order.
    let mut known: Vec<(T, usize)> = Vec::new();
    let mut result = Vec::with_capacity(items.len());
    for item in items {
        let (mut low, mut high) = (0, known.len());
        let mut found = None;
        while low < high {
            let middle = (low + high) / 2;
            match compare(*item, known[middle].0)? {
                0 => {
                    found = Some(known[middle].1);
                    break;
                }
                1 => high = middle,
                2 => low = middle + 1,
                other => bail!("kcmp gives no order ({other})"),
            }
        }
        let class = found.unwrap_or(known.len());
        if found.is_none() {
            known.insert(low, (*item, class));
        }
        result.push(class);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_of_an_epoll_is_understood() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1057\n\
                    tfd:       15 events:       19 data:                f  pos:0 ino:2a sdev:d\n";
        let info = parse_fdinfo(text);
        assert_eq!((info.flags & O_CLOEXEC != 0, info.mount, info.ino), (true, Some(15), Some(1057)));
        assert_eq!(info.interest, [Interest { fd: 15, events: 0x19, data: 15, ino: 0x2a, dev: 13 }]);
        assert!(parse_fdinfo("tfd: x\nflags\nino: -\n\u{fffd}:").interest.is_empty());
    }

    #[test]
    fn classes_follow_the_order() {
        let classes = classes(&[5, 3, 5, 9, 3], |one, two| {
            Ok(match one.cmp(&two) {
                std::cmp::Ordering::Equal => 0,
                std::cmp::Ordering::Less => 1,
                std::cmp::Ordering::Greater => 2,
            })
        });
        assert_eq!(classes.unwrap(), [0, 1, 0, 2, 1]);
    }

    #[test]
    fn this_process_is_described() {
        use std::os::fd::AsRawFd as _;
        let file = std::fs::File::open("/dev/null").unwrap();
        let copy = file.try_clone().unwrap();
        let (one, two) = (file.as_raw_fd(), copy.as_raw_fd());
        let id = std::process::id();
        let table = table_of(id).unwrap();
        let held = table.iter().find(|held| held.fd == one).unwrap();
        assert_eq!((held.kind.as_str(), held.cloexec, held.link.as_str()), ("char", true, "/dev/null"));
        assert_eq!(sharing_classes(&[(id, one), (id, two)]).unwrap(), [0, 0]);
        assert!(!same_file((id, one), (id, 0)).unwrap());
        assert!(same_table(id, id).unwrap());
    }
}
