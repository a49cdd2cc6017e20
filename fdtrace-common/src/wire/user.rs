//! Records that user space makes: what the kernel side does not know, in the same stream.

use super::{Header, loss, plain};

/// A snapshot is about to be taken. `header.tgid` is the process, 0: all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapBegin {
    pub header: Header,
    /// Which one it is: the end of another, whose records come late, does not end it.
    pub reading: u64,
}

/// What was lost between two moments, by class.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    pub header: Header,
    /// The last moment at which nothing was missing; `header.time` is the first at which something was.
    pub since: u64,
    pub by_class: [u64; loss::CLASSES],
}

/// File operations at this address mean this kind ([`FopKind::name`], NUL-padded).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FopKind {
    pub header: Header,
    pub fop: u64,
    pub name: [u8; 24],
}

/// What user space knows of a process it attached to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessInfo {
    pub header: Header,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub start: u64,
    pub comm: [u8; 16],
    pub exe_len: u32,
    pub argv_len: u32,
}

/// A thread, `header.tid`, of a process that was attached to, or after a loss. Its table is its process's unless it shows
/// otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Thread {
    pub header: Header,
}

/// The entries of an epoll instance as `/proc` shows them. `header.tgid` is the process whose number `fd` is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EpollList {
    pub header: Header,
    pub fd: i32,
    pub rows: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EpollRow {
    pub data: u64,
    /// The file that is watched.
    pub inode: u64,
    /// What the number was in the process, between two looks at the list that both had this entry; 0: closed.
    pub open_inode: u64,
    pub fd: i32,
    pub events: u32,
}

/// An entry of an epoll instance in the table of task `header.tid`, as `/proc` shows it. If its number means another file by
/// now, an `i32` follows: the number under which a task holds the entry's file, -1: none is known to. And then a `u32`: that
/// task, who is `header.tid` if the record ends before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EpollEntry {
    pub header: Header,
    pub epoll: i32,
    pub fd: i32,
    pub data: u64,
    pub inode: u64,
    pub dev: u32,
    pub events: u32,
}

impl EpollEntry {
    /// [`EpollEntry::fd`] of the record before the first entry of an instance, and of the one after the last.
    pub const BEGIN: i32 = -1;
    pub const END: i32 = -2;
}

/// Nothing happened up to `header.time`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Tick {
    pub header: Header,
}

plain! {
    SnapBegin = 40,
    Lost = 104,
    FopKind = 64,
    ProcessInfo = 64,
    Thread = 32,
    EpollList = 40,
    EpollRow = 32,
    EpollEntry = 64,
    Tick = 32,
}
