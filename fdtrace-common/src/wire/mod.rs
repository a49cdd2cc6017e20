//! The records. Each begins with a [`Header`]; [`kind`] says what follows.
//!
//! Records reach user space in the order in which their space in the ring was reserved, across all processors.
//! That order is consistent with happens-before, and it is the clock of fdtrace: the *position* of a record is the
//! number of ring bytes reserved before it.

mod maps;
mod user;

pub use maps::*;
pub use user::*;

/// Version of everything in this module.
pub const VERSION: u16 = 1;

/// Longest path carried by an open, including the terminating NUL (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// Longest part of a command line carried by an exec.
pub const ARGV_MAX: usize = 1024;
/// Most descriptors that one message can carry (`SCM_MAX_FD`).
pub const RECEIVED_MAX: usize = 253;
/// Of how many of them the file is told; of others it is found when the table is read.
pub const RECEIVED_FILES: usize = 32;
/// Most epoll events carried by one wait.
pub const EPOLL_EVENTS_MAX: usize = 8;
/// Slots in one [`Table`] record.
pub const TABLE_ROWS: usize = 64;
/// Descriptors the kernel side lists at fork and exec; what lies above is copied by the model and marked.
pub const TABLE_WALK_MAX: u32 = 1024;
/// [`Call::enter_pos`] of a call whose start was not seen.
pub const NOT_SEEN: u64 = u64::MAX;

/// Values of [`Header::kind`].
pub mod kind {
    /// [`super::Call`].
    pub const CALL: u16 = 1;
    /// [`super::CallFd`].
    pub const CALL_FD: u16 = 2;
    /// [`super::CallPair`].
    pub const CALL_PAIR: u16 = 3;
    /// [`super::CallPath`], then the path's bytes.
    pub const CALL_PATH: u16 = 4;
    /// [`super::CallEpollCtl`].
    pub const CALL_EPOLL_CTL: u16 = 5;
    /// [`super::CallEpollWait`].
    pub const CALL_EPOLL_WAIT: u16 = 6;
    /// [`super::CallReceived`], then the numbers.
    pub const CALL_RECEIVED: u16 = 7;
    /// [`super::Fork`].
    pub const FORK: u16 = 16;
    /// [`super::Exec`], then the path and the arguments.
    pub const EXEC: u16 = 17;
    /// [`super::Exit`].
    pub const EXIT: u16 = 18;
    /// [`super::Table`].
    pub const TABLE: u16 = 19;
    /// [`super::Namespaced`].
    pub const NAMESPACED: u16 = 20;
    /// [`super::SnapRow`], then the path's bytes.
    pub const SNAP_ROW: u16 = 32;
    /// [`super::SnapEnd`].
    pub const SNAP_END: u16 = 33;

    // Made by user space, in the same stream.
    /// [`super::Lost`].
    pub const LOST: u16 = 48;
    /// [`super::FopKind`].
    pub const FOP_KIND: u16 = 49;
    /// [`super::ProcessInfo`], then its strings.
    pub const PROCESS: u16 = 50;
    /// [`super::Tick`].
    pub const TICK: u16 = 51;
    /// [`super::SnapBegin`].
    pub const SNAP_BEGIN: u16 = 52;
    /// [`super::Thread`].
    pub const THREAD: u16 = 53;
    /// [`super::EpollList`], then its [`super::EpollRow`]s.
    pub const EPOLL_LIST: u16 = 54;
    /// [`super::EpollEntry`].
    pub const EPOLL_ENTRY: u16 = 56;
}

/// In [`Call::before`] of a call that sets status flags: the low half holds those that the file had.
pub const FLAGS_KNOWN: u64 = 1 << 63;

/// Classes of loss, counted per processor.
pub mod loss {
    /// No room in the ring for a system call's record.
    pub const RING_CALL: usize = 0;
    /// No room for a fork, exec or exit.
    pub const RING_PROCESS: usize = 1;
    /// No room for a table row or snapshot row.
    pub const RING_TABLE: usize = 2;
    /// The set of traced processes is full: a child goes untraced.
    pub const PROCESSES_FULL: usize = 3;
    /// Two threads shared one in-flight slot: the start of a call was overwritten. Costs precision, not an event.
    pub const INFLIGHT: usize = 4;
    /// User memory that should hold descriptors (pipe, socketpair) could not be read.
    pub const USER_READ: usize = 5;
    /// A stack, the copy of one, a definition or a path was left out: there was no room, or fdtrace may take no more. Costs
    /// the answer to who did it, not what happened.
    pub const RING_STACK: usize = 6;
    /// The kernel skipped a program because it was running on that processor already. Counted by the kernel.
    pub const SKIPPED: usize = 7;
    pub const CLASSES: usize = 8;

    pub const NAMES: [&str; CLASSES] = [
        "ring full: call",
        "ring full: process",
        "ring full: table",
        "process set full",
        "in-flight slot",
        "user memory",
        "stack",
        "program skipped",
    ];

    /// Records that should have come and did not: all classes but those that cost no event.
    #[must_use]
    pub fn records(by_class: &[u64; CLASSES]) -> u64 {
        let classes = by_class.iter().enumerate();
        classes.filter(|(class, _)| !matches!(*class, INFLIGHT | RING_STACK)).map(|(_, count)| count).sum()
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    pub kind: u16,
    pub flags: u16,
    /// Records lost anywhere before this one was reserved: a step tells user space where the gap is.
    pub lost_epoch: u32,
    pub tgid: u32,
    pub tid: u32,
    /// `CLOCK_BOOTTIME` in nanoseconds, read just before the record was reserved.
    pub time: u64,
    /// Address of the task's `files_struct`; 0 when unknown.
    pub table: u64,
}

/// Flags of [`Header::flags`].
pub mod flag {
    /// A string was cut at its limit.
    pub const TRUNCATED: u16 = 1;
    /// A string could not be read.
    pub const UNREADABLE: u16 = 2;
    /// [`super::Exit`]: the last thread of its process.
    pub const GROUP_DEAD: u16 = 4;
    /// [`super::Table`]: more records of this table follow.
    pub const MORE: u16 = 8;
    /// [`super::Table`]: the table has descriptors at and above `TABLE_WALK_MAX` that are not listed.
    pub const BEYOND_WALK: u16 = 16;
    /// [`super::FileInfo`] and [`super::SnapRow`]: close-on-exec.
    pub const CLOEXEC: u16 = 32;
    /// [`super::EpollEntry`]: what the number means in that table is the very file of the entry.
    pub const SAME_FILE: u16 = 128;
    /// [`super::SnapBegin`]: the threads that there are of all traced processes follow, each as a [`super::Thread`].
    pub const THREADS: u16 = 256;
    /// 32-bit system call on a 64-bit kernel.
    pub const COMPAT: u16 = 64;
}

/// What a `struct file` is, as far as a few reads tell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileInfo {
    /// Address of the `struct file`; 0: the slot was empty. The kernel recycles addresses within microseconds.
    pub file: u64,
    pub inode: u64,
    /// Address of the file operations: the only type that anonymous inodes have.
    pub fop: u64,
    /// `private_data`: the eventpoll, the socket, …
    pub private: u64,
    /// Device as the kernel packs it: `major << 20 | minor`.
    pub dev: u32,
    pub rdev: u32,
    /// `i_mode`.
    pub mode: u32,
    /// `f_flags`: access mode and status flags as given to open.
    pub flags: u32,
    /// Sockets: address family and type.
    pub family: u16,
    pub sock_type: u16,
    /// [`flag::CLOEXEC`] of the slot it was found in.
    pub slot_flags: u32,
}

/// A system call that has returned.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    pub header: Header,
    /// When it began; 0 when not seen.
    pub enter_time: u64,
    /// Ring position when it began, [`NOT_SEEN`] otherwise. Every record below this position happened before it.
    pub enter_pos: u64,
    pub ret: i64,
    pub args: [u64; 6],
    /// `struct file` at enter in the slot that the call is about to change (`close`: a0, `dup2`: a1, `epoll_ctl`: a2).
    pub before: u64,
    /// `struct file` in that slot at exit: a close that lost a race finds its successor there. Of `fcntl(F_SETLK)` the
    /// type of the lock. Of [`CallPath`] and [`CallReceived`], which are put together before they have a place in the
    /// ring, the position when their slots were looked at; 0 in old recordings.
    pub after: u64,
    /// `files_struct` at enter.
    pub enter_table: u64,
    pub nr: u32,
    pub class: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CallFd {
    pub call: Call,
    pub file: FileInfo,
    /// The slot it is in.
    pub fd: i32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CallPair {
    pub call: Call,
    pub fds: [i32; 2],
    pub files: [FileInfo; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CallPath {
    pub call: Call,
    pub file: FileInfo,
    /// Bytes of path that follow, without NUL.
    pub path_len: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CallEpollCtl {
    pub call: Call,
    /// `struct file` in the epoll's slot, at exit.
    pub epoll: FileInfo,
    /// `struct file` in the target's slot, at exit.
    pub target: u64,
    pub data: u64,
    pub events: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EpollEvent {
    pub data: u64,
    pub events: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CallEpollWait {
    pub call: Call,
    /// `struct file` of the epoll instance, at exit.
    pub epoll: u64,
    pub count: u32,
    pub reserved: u32,
    pub events: [EpollEvent; EPOLL_EVENTS_MAX],
}

/// Descriptors that came with a message. Their numbers follow, `count` of 32 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CallReceived {
    pub call: Call,
    pub count: u32,
    pub reserved: u32,
    /// `struct file` of the first of them.
    pub files: [u64; RECEIVED_FILES],
}

/// A new task. The header is the parent's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Fork {
    pub header: Header,
    pub enter_time: u64,
    pub enter_pos: u64,
    pub child_tgid: u32,
    pub child_tid: u32,
    pub child_table: u64,
    /// The child's start, nanoseconds of `CLOCK_BOOTTIME`.
    pub child_start: u64,
    pub comm: [u8; 16],
}

/// A process runs a new program. Rows of its table follow as [`Table`] records.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Exec {
    pub header: Header,
    pub enter_time: u64,
    pub enter_pos: u64,
    /// The thread that called exec; it takes over the process's id.
    pub old_tid: u32,
    /// Bytes of the program's path, then of the arguments (NUL-separated), that follow.
    pub path_len: u32,
    pub argv_len: u32,
    pub reserved: u32,
    pub comm: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Exit {
    pub header: Header,
    /// As `wait` reports it: status `<< 8` or signal.
    pub code: i32,
    /// Tasks that hold the table, this one included.
    pub table_users: u32,
}

/// A process, `header.tgid`, lives in a pid namespace below the initial one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Namespaced {
    pub header: Header,
    /// Its number in its own namespace.
    pub inside: u32,
    /// How far below the initial namespace that is.
    pub level: u32,
}

/// 64 consecutive slots of one table at a moment when nothing can change it. `header.tgid` is the owner.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub header: Header,
    /// Number of the first slot.
    pub first: u32,
    pub max_fds: u32,
    /// One bit for each slot that is open or reserved.
    pub open: u64,
    pub cloexec: u64,
    /// `struct file` of each slot; what is 0 is not open, and what has no bit in `open` is left over.
    pub files: [u64; TABLE_ROWS],
}

impl Default for Table {
    fn default() -> Self {
        let header = Header::default();
        Self { header, first: 0, max_fds: 0, open: 0, cloexec: 0, files: [0; TABLE_ROWS] }
    }
}

/// One descriptor seen by the snapshot iterator. `header.tid` is the thread that was looked at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapRow {
    pub header: Header,
    /// The slot held this file at some moment after this ring position.
    pub pos: u64,
    pub file: FileInfo,
    pub fd: i32,
    /// Bytes of path that follow; the kernel side knows none.
    pub path_len: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapEnd {
    pub header: Header,
    /// That of the [`SnapBegin`].
    pub reading: u64,
}

/// Types that may be read from, and written as, plain bytes.
///
/// # Safety
/// `repr(C)`, no padding, every bit pattern valid.
pub unsafe trait Plain: Copy + Default + 'static {}

macro_rules! plain {
    ($($t:ty = $size:expr),+ $(,)?) => { $(
        const _: () = assert!(size_of::<$t>() == $size && align_of::<$t>() <= 8);
        // SAFETY: integers and arrays of them; the asserted size leaves no room for padding.
        unsafe impl $crate::wire::Plain for $t {}
    )+ };
}
pub(crate) use plain;

plain! {
    Header = 32,
    FileInfo = 56,
    Call = 136,
    CallFd = 200,
    CallPair = 256,
    CallPath = 200,
    CallReceived = 400,
    CallEpollCtl = 216,
    EpollEvent = 16,
    CallEpollWait = 280,
    Fork = 88,
    Exec = 80,
    Exit = 40,
    Namespaced = 40,
    Table = 568,
    SnapRow = 104,
    SnapEnd = 40,
}

/// Reads a record from the front of `bytes`; the rest is its tail.
pub fn read<T: Plain>(bytes: &[u8]) -> Option<(T, &[u8])> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    let (head, tail) = bytes.split_at(size_of::<T>());
    // SAFETY: `head` is exactly as long as `T`, whose every bit pattern is valid; the read is unaligned.
    Some((unsafe { head.as_ptr().cast::<T>().read_unaligned() }, tail))
}

/// The bytes of a record.
pub fn bytes_of<T: Plain>(record: &T) -> &[u8] {
    // SAFETY: `T` is plain data without padding, so all of its bytes are initialised.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(record).cast::<u8>(), size_of::<T>()) }
}
