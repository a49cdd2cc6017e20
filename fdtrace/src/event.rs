//! What happened, in the words of the kernel: one call, one process event or one observation.
//!
//! An event says nothing about generations or owners; that is the model's business.

use std::rc::Rc;

use fdtrace_common::{
    wire::{FileInfo, loss},
    witness::{Candidate, PyFrame},
};

use crate::syscalls::Syscall;

/// Address of a `files_struct`. The kernel recycles it; the model gives tables names of their own.
pub type TableAddr = u64;

/// A moment: time for people, position for order. See `fdtrace_common::wire` on positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub time: u64,
    pub pos: u64,
}

/// A call's effect lies somewhere between these two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// `None`: the call began before we looked.
    pub enter: Option<Moment>,
    pub exit: Moment,
}

impl Interval {
    /// Every record below this position was there when the call began; every other one came later.
    pub fn start(&self) -> u64 {
        self.enter.map_or(0, |enter| enter.pos)
    }

    /// Had the call begun when the record at `pos` was made?
    pub fn began_before(&self, pos: u64) -> bool {
        self.start() <= pos
    }
}

#[derive(Clone, Debug)]
pub struct Event {
    pub at: Interval,
    pub tgid: u32,
    pub tid: u32,
    pub table: TableAddr,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Call(Call),
    /// The event's task made another one.
    Fork {
        tgid: u32,
        tid: u32,
        table: TableAddr,
        start: u64,
        comm: [u8; 16],
    },
    /// The process goes by this number in its own pid namespace.
    Namespaced {
        inside: u32,
    },
    Exec {
        old_tid: u32,
        path: Rc<[u8]>,
        argv: Rc<[u8]>,
        comm: [u8; 16],
    },
    Exit {
        code: i32,
        group_dead: bool,
        table_users: u32,
    },
    /// Part of the listing that follows a fork (of the child's table) or an exec.
    Table {
        rows: Vec<TableRow>,
        more: bool,
        beyond_walk: bool,
    },
    /// The slot held `file` at some moment after `since`.
    Row {
        fd: i32,
        file: FileInfo,
        cloexec: bool,
        since: u64,
        /// A recording's snapshot knows it, the kernel's does not.
        path: Option<Path>,
    },
    /// A snapshot of the process `tgid`, or of all if that is 0, begins; its rows and its end follow.
    /// `reading`: which one; `None`: a recording that does not tell them apart.
    /// `threads`: all threads that there are follow as well, because the end of some may have been lost.
    SnapshotBegin {
        reading: Option<u64>,
        threads: bool,
    },
    SnapshotEnd {
        reading: u64,
    },
    /// The entries of the epoll instance behind `fd`, as the kernel has them.
    EpollList {
        fd: i32,
        rows: Vec<EpollListed>,
    },
    Lost {
        since: u64,
        by_class: [u64; loss::CLASSES],
    },
    FopKind {
        fop: u64,
        name: [u8; 24],
    },
    Process {
        start: u64,
        comm: [u8; 16],
        exe: Rc<[u8]>,
        argv: Rc<[u8]>,
    },
    /// An entry that was in an epoll instance when it was looked at. `inode` and `dev`: of the file it is about.
    /// `current`: the number still means that very file; `None`: the kernel would not tell.
    EpollEntry {
        epoll: i32,
        fd: i32,
        events: u32,
        data: u64,
        inode: u64,
        dev: u32,
        current: Option<bool>,
        /// A task with a number that means the entry's file, where its own does not.
        held: Option<(u32, i32)>,
    },
    /// The event's task exists.
    Thread,
    /// Nothing, up to this moment.
    Tick,
    /// Who makes the call that this thread reports next.
    Stack(Box<StackSeen>),
    /// What a Python code object says of itself.
    Code(CodeSeen),
    /// The objects of a type own descriptors.
    OwnerType {
        class: u64,
        name: Rc<[u8]>,
    },
    /// An object was seen to hold a number. `other`: another one that was bound to it before, and still holds it.
    Bind {
        fd: i32,
        file: u64,
        object: u64,
        class: u64,
        other: Option<u64>,
    },
}

/// A stack as it was captured: addresses, no names. The copy of the program's memory that came with it is not in here:
/// see [`crate::who::native`].
#[derive(Clone, Debug)]
pub struct StackSeen {
    /// Start of the call it belongs to.
    pub call_time: u64,
    pub nr: u32,
    pub python: Option<PythonStack>,
    /// Objects that may own what the call is about. `None`: not looked for.
    pub candidates: Option<Vec<Candidate>>,
    /// One of [`fdtrace_common::witness::caller`].
    pub caller: u32,
    /// A number for the native frames behind the call.
    pub site: Option<u64>,
    /// Address of the static variable that keeps the number.
    pub variable: Option<u64>,
    /// Where the result goes is known.
    pub followed: bool,
    /// Taken when the call had returned.
    pub at_exit: bool,
}

#[derive(Clone, Debug)]
pub struct PythonStack {
    /// Innermost first.
    pub frames: Vec<PyFrame>,
    /// Outer frames are missing.
    pub cut: bool,
    /// Name of the running asyncio task.
    pub task: Option<Rc<[u8]>>,
}

#[derive(Clone, Debug)]
pub struct CodeSeen {
    pub code: u64,
    pub checksum: u32,
    pub code_version: u32,
    pub fingerprint: u32,
    /// `major << 8 | minor` of the interpreter.
    pub python: u32,
    pub first_line: u32,
    pub file: Rc<[u8]>,
    pub name: Rc<[u8]>,
    pub table: Rc<[u8]>,
    /// The end of the table is missing, or all of it: it was too long, or could not be read.
    pub table_cut: bool,
}

/// One entry of an epoll instance, as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollListed {
    pub fd: i32,
    pub events: u32,
    pub data: u64,
    /// The file that is watched.
    pub inode: u64,
    /// The file that the number was at that time; 0: closed.
    pub open_inode: u64,
}

/// One open slot in a listing of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRow {
    pub fd: i32,
    pub file: u64,
    pub cloexec: bool,
}

/// A system call that returned.
#[derive(Clone, Debug)]
pub struct Call {
    pub sys: &'static Syscall,
    pub args: [u64; 6],
    pub ret: i64,
    /// Table when the call began, where that was seen: if it is not the event's, the thread has a copy of its own now.
    pub enter_table: Option<TableAddr>,
    pub effect: Effect,
}

impl Call {
    /// The error number, if it failed.
    pub fn errno(&self) -> Option<i32> {
        (-4095..0).contains(&self.ret).then_some(self.ret.unsigned_abs() as i32)
    }
}

/// A new occupant of a slot.
#[derive(Clone, Debug)]
pub struct Install {
    pub fd: i32,
    /// As seen when the call returned: another thread may have replaced it by then.
    pub file: FileInfo,
    pub cloexec: bool,
    pub source: Source,
    pub path: Option<Path>,
    /// What calls that returned before this ring position did to the slot is in `file`.
    pub looked: u64,
}

/// Where an occupant comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A description that did not exist before.
    New,
    /// Another number of the same table.
    Duplicated(i32),
    /// Another table: passed in a message, or taken through a pidfd.
    Received,
}

/// A path as it was given to open.
#[derive(Clone, Debug)]
pub struct Path {
    pub bytes: Rc<[u8]>,
    pub truncated: bool,
}

/// What a call did to its table.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Nothing: it failed, or it only used its descriptors.
    None,
    Install(Install),
    /// Boxed, because events are moved about, and pairs are few.
    Pair(Box<[Install; 2]>),
    /// What came with a message: number and address of each; whatever they are was open elsewhere.
    Receive {
        files: Vec<(i32, u64)>,
        cloexec: bool,
        /// As [`Install::looked`].
        looked: u64,
    },
    /// `dup2`: the slot's old occupant goes and the new one comes in one step. `before`: who was there when the call
    /// began (0: nobody).
    Replace {
        install: Install,
        before: u64,
    },
    /// The slot is free, whatever the call returned. `before` and `after`: its occupant when the call began and
    /// returned; 0: nobody, or not seen.
    Remove {
        fd: i32,
        before: u64,
        after: u64,
    },
    RemoveRange {
        first: u32,
        last: u32,
    },
    /// Status flags of the description. `before`: those that it had; `None`: they were not looked at.
    SetFlags {
        fd: i32,
        flags: u32,
        before: Option<u32>,
    },
    /// A record lock of the process: taken or, with `unlock`, given back.
    Lock {
        fd: i32,
        unlock: bool,
    },
    SetCloexec {
        fd: i32,
        on: bool,
    },
    CloexecRange {
        first: u32,
        last: u32,
    },
    EpollCtl(EpollCtl),
    /// Nothing: `dup2` of a number to itself.
    Itself {
        fd: i32,
    },
    /// Nothing, and it is worth a report: the call blocked while others could change the table, or was asked for.
    Used {
        fd: i32,
    },
    EpollWait {
        epoll: i32,
        file: u64,
        count: u32,
        data: Vec<(u32, u64)>,
    },
}

impl Effect {
    /// It changes what is in the table.
    pub fn is_on_table(&self) -> bool {
        match self {
            Self::Install(_)
            | Self::Pair(_)
            | Self::Receive { .. }
            | Self::Replace { .. }
            | Self::Remove { .. }
            | Self::RemoveRange { .. }
            | Self::SetCloexec { .. }
            | Self::CloexecRange { .. } => true,
            Self::None
            | Self::SetFlags { .. }
            | Self::Lock { .. }
            | Self::EpollCtl(_)
            | Self::Itself { .. }
            | Self::Used { .. }
            | Self::EpollWait { .. } => false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct EpollCtl {
    pub epoll: i32,
    pub epoll_file: FileInfo,
    pub op: EpollOp,
    pub fd: i32,
    /// `struct file` behind `fd` when the call began and when it returned.
    pub target: [u64; 2],
    pub events: u32,
    pub data: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpollOp {
    Add,
    Del,
    Mod,
    Unknown(u32),
}
