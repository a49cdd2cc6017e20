//! Opens, by every syscall there is, and memory files.

use core::ffi::CStr;

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Open;
use crate::sys::Arg;

pub const OPS: &[Op] = &[
    #[cfg(target_arch = "x86_64")]
    op("open", Open, 8, |a| open_by(a, nr::OPEN)),
    op("openat", Open, 12, |a| open_by(a, nr::OPENAT)),
    op("openat2", Open, 6, |a| open_by(a, nr::OPENAT2)),
    #[cfg(target_arch = "x86_64")]
    op("creat", Open, 3, creat),
    op("openat dirfd", Open, 4, openat_relative),
    op("openat closed dirfd", Open, 2, openat_closed),
    op("open refused", Open, 3, open_refused),
    op("open cloexec file", Open, 4, |a| open(a, nr::OPENAT, c"f1", libc::O_RDWR | libc::O_CLOEXEC, Kind::File)),
    op("memfd_create", Open, 4, memfd_create),
];

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Files of the scratch directory, which is the working directory of every task.
pub const FILES: [&CStr; 6] = [c"f0", c"f1", c"f2", c"f3", c"f4", c"f5"];

/// One open; enters what it made.
pub fn open(a: &Agent, number: i64, path: &CStr, flags: i32, kind: Kind) -> i64 {
    open_from(a, number, libc::AT_FDCWD, path, flags, kind)
}

fn open_from(a: &Agent, number: i64, dirfd: i32, path: &CStr, flags: i32, kind: Kind) -> i64 {
    let mode = 0o600;
    let note = path.to_bytes();
    let ret = match number {
        nr::OPEN => a.call_noted(number, &[path.into(), flags.into(), mode.into()], note),
        nr::OPENAT2 => {
            let creates = flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE;
            let how = OpenHow { flags: flags as u32 as u64, mode: if creates { mode as u64 } else { 0 }, resolve: 0 };
            let size = size_of::<OpenHow>();
            a.call_noted(number, &[dirfd.into(), path.into(), Arg::read(&how), size.into()], note)
        }
        _ => a.call_noted(number, &[dirfd.into(), path.into(), flags.into(), mode.into()], note),
    };
    a.made(ret, kind, flags & libc::O_CLOEXEC != 0)
}

fn cloexec(a: &mut Agent) -> i32 {
    if a.rng.chance(40) { libc::O_CLOEXEC } else { 0 }
}

fn open_by(a: &mut Agent, number: i64) -> i64 {
    let file = FILES[a.rng.below(FILES.len())];
    let (path, flags, kind) = match a.rng.below(10) {
        0..4 => (file, libc::O_RDWR | libc::O_CREAT, Kind::File),
        4 => (file, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND, Kind::File),
        5 => (c"/dev/null", libc::O_RDWR, Kind::Char),
        6 => (c"/dev/zero", libc::O_RDONLY, Kind::Char),
        7 => (c".", libc::O_RDONLY | libc::O_DIRECTORY, Kind::Dir),
        8 => (file, libc::O_PATH, Kind::Path),
        _ => (c".", libc::O_RDWR | libc::O_TMPFILE, Kind::File),
    };
    let flags = flags | cloexec(a);
    open(a, number, path, flags, kind)
}

#[cfg(target_arch = "x86_64")]
fn creat(a: &mut Agent) -> i64 {
    let file = FILES[a.rng.below(FILES.len())];
    let ret = a.call_noted(nr::CREAT, &[file.into(), 0o600.into()], file.to_bytes());
    a.made(ret, Kind::File, false)
}

fn openat_relative(a: &mut Agent) -> i64 {
    let Some(dir) = a.live_of(Kind::Dir) else { return SKIP };
    let flags = libc::O_RDWR | libc::O_CREAT | cloexec(a);
    let number = if a.rng.chance(50) { nr::OPENAT } else { nr::OPENAT2 };
    let file = FILES[a.rng.below(FILES.len())];
    open_from(a, number, dir, file, flags, Kind::File)
}

fn openat_closed(a: &mut Agent) -> i64 {
    let closed = a.closed_fd();
    // An absolute path does not need the directory: the first succeeds, the second does not.
    if a.rng.chance(30) {
        return open_from(a, nr::OPENAT, closed, c"/dev/null", libc::O_RDONLY, Kind::Char);
    }
    open_from(a, nr::OPENAT, closed, c"f0", libc::O_RDONLY, Kind::File)
}

fn open_refused(a: &mut Agent) -> i64 {
    let (path, flags) = match a.rng.below(4) {
        0 => (c"missing/file", libc::O_RDONLY),
        1 => (c"f0", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL),
        2 => (c".", libc::O_RDWR),
        _ => (c"f0", libc::O_RDONLY | libc::O_DIRECTORY),
    };
    open(a, nr::OPENAT, path, flags, Kind::File)
}

fn memfd_create(a: &mut Agent) -> i64 {
    let cloexec = a.rng.chance(50);
    let flags = if cloexec { libc::MFD_CLOEXEC } else { 0 };
    let ret = a.call(nr::MEMFD_CREATE, &[c"exercise".into(), flags.into()]);
    a.made(ret, Kind::Memfd, cloexec)
}
