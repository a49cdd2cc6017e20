//! What both sides share through maps, not through the ring.

use super::{CallPath, PATH_MAX, loss, plain};

/// Flags of a traced process, the value of the `TRACED` map.
pub mod traced {
    /// Traced.
    pub const ON: u32 = 1;
    /// Started by us and not yet in its own program: nothing but its exec is reported.
    pub const WAIT_EXEC: u32 = 2;
    /// It runs a program that began so lately that user space may not know it yet.
    pub const NEW: u32 = 4;
    /// Its loader is no C library as well: what is called from there, the loader does for itself.
    pub const OWN_LOADER: u32 = 8;
}

/// Value of the set of traced processes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TracedProcess {
    /// [`traced`].
    pub flags: u32,
    /// Programs it has run since it is traced.
    pub execs: u32,
    /// Until when its program is new, nanoseconds of `CLOCK_BOOTTIME`.
    pub new_until: u64,
    /// A bit for each number below 64 that the new program has closed: who uses it then is told.
    pub closed: u64,
    /// How many of those uses will be told.
    pub uses_left: u32,
    /// The number whose use was told last, and how often in a row, in the lower half.
    pub run: u32,
    /// A number for what code it has where: the same in children that have mapped none since they were forked, and with
    /// [`Self::SHARED`] in all processes that have the same, whatever is random about their addresses.
    pub layout: u64,
    /// Where the code of its loader begins, and how long it is; 0: it has none, or that is not known.
    pub loader: u64,
    pub loader_len: u64,
}

impl TracedProcess {
    /// How long a program is new, nanoseconds; by then user space has seen what it did first.
    pub const NEW: u64 = 50_000_000;
    /// How much later all that was asked for because of it is known, nanoseconds.
    pub const ASKED: u64 = 1_000_000_000;
    /// Uses that are told of a new program, beside those by its loader, and of one number in a row.
    pub const USES: u32 = 16;
    pub const RUN: u32 = 4;

    /// Set in a layout that has been computed since the process began its program.
    pub const SHARED: u64 = 1 << 63;

    /// The layout of a process that is traced from now on.
    pub const fn found(tgid: u32) -> u64 {
        tgid as u64
    }

    /// One that is new now, nanoseconds of `CLOCK_BOOTTIME`, on a processor. With more than 512 processors two may be the
    /// same.
    pub const fn made(now: u64, processor: u32) -> u64 {
        (now << 9 | (processor & 0x1ff) as u64) & !Self::SHARED
    }
}

/// The call that a thread is in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Inflight {
    /// 0: none. Another thread's id means that the slot was taken over.
    pub tid: u32,
    pub nr: u32,
    /// When it began; 0: in [`Self::ticks`] alone, which cost next to nothing.
    pub time: u64,
    /// The same in jiffies; 0: not kept.
    pub ticks: u64,
    pub pos: u64,
    /// See [`super::Call::before`]; of a call that only uses its descriptor it is kept for watched slots alone.
    pub before: u64,
    pub table: u64,
    /// How often the thread had given up its processor of its own accord: what is the same at the end did not wait.
    pub switches: u64,
}

/// Value of the `WATCHED` map: whose uses are to be reported.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// How many more.
    pub left: u32,
    /// The next so many are reported whoever makes them; then only a change of hands is of interest.
    pub every: u32,
    /// The process that used it last.
    pub last: u32,
    pub reserved: u32,
}

impl Watch {
    /// Uses of a file in turns that are told before nobody is of interest any more.
    pub const TURNS: u32 = 64;
    /// The first of them, behind a fork, that are told even if they are the same process's: who asks before the other one
    /// has had its answer shows there.
    pub const OPENING: u32 = 24;
    /// Files of one fork of which that is told: a server has thousands.
    pub const OPENINGS: u32 = 64;
    /// Uses of a number over which a file was put that are told.
    pub const CLOBBERED: u32 = 16;
}

/// Key of the `WATCHED` map: a slot by process and number. The other kind of key is the address of a `struct file`, which no
/// slot is taken for.
pub const fn watch_key(tgid: u32, fd: u32) -> u64 {
    (tgid as u64) << 32 | fd as u64
}

/// Counters of one processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PerCpu {
    /// Records that there should be: those in the ring and those that were lost.
    pub produced: u64,
    pub lost: [u64; loss::CLASSES],
}

/// Room to build one record of variable length.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Scratch(pub [u8; Scratch::SIZE]);

impl Scratch {
    /// The largest record is an open with its path.
    pub const SIZE: usize = size_of::<CallPath>() + PATH_MAX;
}

/// Words that both sides read and write, each a map of one value of 8 bytes: their names.
pub mod shared {
    /// How many records were lost so far.
    pub const LOST_EPOCH: &str = ".data.lost";
    /// Nonzero: the reader sleeps; wake it with the next record, once.
    pub const ARMED: &str = ".data.armed";
    /// The lower half: the snapshot iterator looks at this tgid only; 0: at all that are traced. The upper half: which
    /// snapshot it is.
    pub const SNAPSHOT: &str = ".data.snapshot";
    /// One bit for each value of the low six bits of a number: user space watches such a number, see the `WATCHED` map.
    pub const WATCHED_NUMBERS: &str = ".data.watched";
    /// What is left out, one of [`super::shed`].
    pub const SHED: &str = ".data.shed";
}

/// The words of the `GATES` map, of which each value of the low bits of a tgid has [`gate::WORDS`]: what most calls of a
/// process are asked. Both sides store single words and never change part of one, so that nobody undoes what another does.
pub mod gate {
    /// Values of the low bits of a tgid. What is said of one process is said of all that share them, so it is only a filter,
    /// or a budget.
    pub const PROCESSES: u32 = 8192;
    pub const WORDS: u32 = 8;

    /// Nonzero: one may be traced. For good, so a false negative is impossible.
    pub const TRACED: u32 = 0;
    /// Nonzero: an interpreter is known in one, or was. For good.
    pub const PYTHON: u32 = 1;
    /// Nonzero: starts of calls that only use a number were kept, or are. For good.
    pub const KEPT: u32 = 2;
    /// Nonzero: one runs a new program that has closed a number. Nothing depends on it but what is told unasked.
    pub const FRESH: u32 = 3;
    /// Nonzero: the program of one is new. As above.
    pub const NEW: u32 = 4;
    /// How many waits for events will be told whatever they bring; then one in a while is enough.
    pub const WAITS_LEFT: u32 = 5;
    /// When the last one began that was told after those, nanoseconds of `CLOCK_BOOTTIME`.
    pub const WAITED: u32 = 6;
    /// Who was looked up last in the `TRACED` map and is past its exec: the tgid above, and how many programs it has run.
    pub const FOUND: u32 = 7;

    /// Waits that are told from when a process begins, forks, or closes a number that is in an interest list: an entry that
    /// outlives its number, or that somebody else adds, shows there.
    pub const WAITS: u64 = 256;
    /// Time between two that are told afterwards, nanoseconds.
    pub const WAITS_APART: u64 = 1_000_000;

    /// Where a word of a process is.
    pub const fn index(tgid: u32, word: u32) -> u32 {
        tgid % PROCESSES * WORDS + word
    }
}

/// What is left out when fdtrace needs more than it may; each with all that is before it. What happened is told as long as
/// there is room.
pub mod shed {
    pub const NOTHING: u64 = 0;
    /// Copies of stacks, and so native frames.
    pub const COPIES: u64 = 1;
    /// All that tells who makes a call.
    pub const STACKS: u64 = 2;
    /// Paths of what is opened.
    pub const PATHS: u64 = 3;
}

plain! {
    TracedProcess = 56,
    Watch = 16,
    Inflight = 56,
    PerCpu = 72,
}
