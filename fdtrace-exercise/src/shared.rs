//! The memory that all exercising tasks and the harness share.
//!
//! A file mapped by path: no pipe, socket or eventfd of the instrument's own ever shows in a traced table between two
//! steps, and a program image that comes in by exec finds its place again. Everything is atomic, because any task may
//! be killed at any instant. Nothing here decides anything; see [`crate::agent`] and [`crate::driver`].

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Tasks that exercise at one time, at most.
pub const SLOTS: usize = 64;
/// Descriptor tables the exercising tasks keep their own account of.
pub const TABLES: usize = 160;
/// Descriptors per table that are kept account of; higher numbers are never made.
pub const FDS: usize = 2048;
/// Syscalls remembered.
pub const LOG: usize = 16384;
/// Room for counters, one per operation.
pub const OPS: usize = 256;
/// Longest path handed over.
pub const PATH: usize = 1024;

/// Value of [`Region::round`] that tells everybody to leave.
pub const FINISH: u32 = u32::MAX;
/// No slot.
pub const NOBODY: u32 = u32::MAX;
/// [`Entry::ret`] of a syscall that has not returned.
pub const PENDING: u64 = i64::MIN as u64;

/// What a slot's task is doing, in the top byte of [`Slot::state`]; the round is in the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Free,
    /// Claimed by the parent, not yet running.
    Starting,
    Running,
    /// Waits for the next round and touches no descriptor.
    Parked,
    /// About to be gone; not reusable until the harness has seen that it is.
    Dying,
    /// Gone for certain.
    Gone,
}

/// A phase, and the round that it belongs to.
pub fn state(phase: Phase, round: u32) -> u32 {
    (phase as u32) << 24 | round & 0x00ff_ffff
}

/// The phase in a state word.
pub fn phase(state: u32) -> Phase {
    match state >> 24 {
        1 => Phase::Starting,
        2 => Phase::Running,
        3 => Phase::Parked,
        4 => Phase::Dying,
        5 => Phase::Gone,
        _ => Phase::Free,
    }
}

/// One exercising task.
#[repr(C)]
pub struct Slot {
    pub state: AtomicU32,
    /// Futex on which the task waits for its turn.
    pub wake: AtomicU32,
    /// 0 until known.
    pub pid: AtomicU32,
    pub tid: AtomicU32,
    /// Index of the account of its table.
    pub table: AtomicU32,
    /// Who claimed the slot: a task that may be killed before it has made the new one.
    pub claimer_pid: AtomicU32,
    pub claimer_tid: AtomicU32,
    /// Steps left in this round, kept across exec.
    pub left: AtomicU32,
    /// State of the task's generator, kept across exec.
    pub rng: AtomicU64,
    /// 1 from before an exec until the new image has found its place.
    pub execing: AtomicU32,
    /// The operation that called exec.
    pub op: AtomicU32,
    /// Between a notified task and the one that answers it, see `ops::notify`.
    pub word: AtomicU32,
    /// 1 once a socket with this slot's name has been bound.
    pub mailbox: AtomicU32,
    /// 1 when it has announced the end of its whole process.
    pub exits_all: AtomicU32,
    pub reserved: AtomicU32,
}

/// The exercising tasks' own account of a descriptor table: exact in serial rounds, a good guess in parallel ones.
#[repr(C)]
pub struct Table {
    pub used: AtomicU32,
    /// No descriptor at or above this number.
    pub high: AtomicU32,
    pub fds: [AtomicU64; FDS],
}

/// One syscall.
#[repr(C)]
pub struct Entry {
    /// Place in the global order of beginnings, plus one.
    pub begin: AtomicU64,
    /// Value of the same clock when it returned.
    pub end: AtomicU64,
    pub pid: AtomicU32,
    pub tid: AtomicU32,
    /// Number, with [`COMPAT`] for a 32-bit call.
    pub nr: AtomicU32,
    pub op: AtomicU32,
    pub args: [AtomicU64; 4],
    pub ret: AtomicU64,
    /// The end of the path, where there is one.
    pub note: [AtomicU64; 2],
}

/// Bit of [`Entry::nr`]: a 32-bit call.
pub const COMPAT: u32 = 1 << 31;

/// How often an operation was tried, and with what outcome.
#[repr(C)]
pub struct Count {
    pub ok: AtomicU64,
    pub failed: AtomicU64,
    /// Errno of the latest failure.
    pub errno: AtomicU32,
    pub reserved: AtomicU32,
}

#[repr(C)]
pub struct Region {
    pub magic: AtomicU64,
    pub size: AtomicU64,

    // Set by the harness before the start.
    pub seed: AtomicU64,
    pub profile: AtomicU32,
    pub max_agents: AtomicU32,
    pub steps: AtomicU32,
    /// The harness's process; everybody leaves when it is gone.
    pub driver: AtomicU32,
    pub exe: [AtomicU8; PATH],
    pub control: [AtomicU8; PATH],
    pub scratch: [AtomicU8; PATH],

    // The rounds.
    /// Futex; bumped by the harness to start a round.
    pub round: AtomicU32,
    /// 1 when the round is serial: one task at a time, in an order given by the seed.
    pub serial: AtomicU32,
    /// The last serial round that ran out of steps.
    pub ended: AtomicU32,
    /// Slot whose turn it is.
    pub turn: AtomicU32,
    /// Steps left in a serial round.
    pub left: AtomicU32,
    pub root_pid: AtomicU32,
    pub capabilities: AtomicU32,
    pub reserved: AtomicU32,
    pub scheduler: AtomicU64,
    /// Tasks made so far: numbers the generators.
    pub births: AtomicU64,
    /// Slots claimed so far: lets the harness see that its look at the slots was not torn.
    pub claims: AtomicU64,
    pub descriptions: AtomicU64,
    /// Hash over everything done in serial rounds.
    pub digest: AtomicU64,
    /// Clock of the log.
    pub clock: AtomicU64,

    /// Not 0 when an exercising task gave up; the text says why.
    pub failed: AtomicU32,
    pub reserved2: AtomicU32,
    pub failure: [AtomicU8; PATH],

    pub slots: [Slot; SLOTS],
    pub counts: [Count; OPS],
    pub log: [Entry; LOG],
    pub tables: [Table; TABLES],
}

/// `fdtr-ex` and a layout version.
pub const MAGIC: u64 = u64::from_le_bytes(*b"fdtr-ex\x01");

impl Region {
    /// Stores text with a terminating NUL; what is too long is cut.
    pub fn put_text(field: &[AtomicU8; PATH], text: &[u8]) {
        let len = text.len().min(PATH - 1);
        for (cell, byte) in field.iter().zip(text[..len].iter().chain([&0])) {
            cell.store(*byte, SeqCst);
        }
    }

    /// The text, as a copy.
    pub fn text(field: &[AtomicU8; PATH]) -> Vec<u8> {
        field.iter().map(|cell| cell.load(SeqCst)).take_while(|byte| *byte != 0).collect()
    }

    /// Adds to the hash over what was done.
    pub fn digest(&self, value: u64) {
        let old = self.digest.load(SeqCst);
        self.digest.store((old ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23), SeqCst);
    }

    /// Slots that hold a task or will.
    pub fn occupied(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state.load(SeqCst) != 0).count()
    }

    /// Live tasks that use the account `table`.
    pub fn sharers(&self, table: usize) -> usize {
        self.slots.iter().filter(|slot| slot.is_live() && slot.table.load(SeqCst) as usize == table).count()
    }

    /// Takes a free account, if there is one.
    pub fn claim_table(&self) -> Option<usize> {
        self.tables.iter().position(|table| table.used.compare_exchange(0, 1, SeqCst, SeqCst).is_ok())
    }
}

impl Slot {
    pub fn phase(&self) -> Phase {
        phase(self.state.load(SeqCst))
    }

    /// The task exists and has not announced its end.
    pub fn is_live(&self) -> bool {
        matches!(self.phase(), Phase::Starting | Phase::Running | Phase::Parked)
    }
}

impl Table {
    /// Copies another account.
    pub fn copy_from(&self, other: &Self) {
        let high = other.high.load(SeqCst).max(self.high.load(SeqCst)) as usize;
        for (to, from) in self.fds.iter().zip(&other.fds).take(high) {
            to.store(from.load(SeqCst), SeqCst);
        }
        self.high.store(other.high.load(SeqCst), SeqCst);
    }
}
