//! Words that both sides read and write while the programs run.
//!
//! Each is a section of its own, and so a map of one value. The programs have its address as a constant:
//! no look-up, and no null pointer for the verifier to walk past, which doubles what it has to walk.

use core::{
    cell::UnsafeCell,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

/// A word shared with user space.
#[repr(transparent)]
pub struct Word(UnsafeCell<u64>);

// SAFETY: every access is a volatile or atomic one of an aligned word.
unsafe impl Sync for Word {}

impl Word {
    const fn zero() -> Self {
        Self(UnsafeCell::new(0))
    }

    #[inline(always)]
    pub fn get(&self) -> u64 {
        // SAFETY: an aligned word of a map that lives as long as the program.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    pub fn set(&self, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.get().write_volatile(value) };
    }

    #[inline(always)]
    pub fn add_one(&self) {
        // SAFETY: as above.
        unsafe { add_one(self.0.get()) };
    }
}

/// Adds one without fetching, which every kernel has. Atomic because an iterator program can be preempted.
///
/// # Safety
/// `word` is valid and aligned.
#[inline(always)]
pub unsafe fn add_one(word: *mut u64) {
    // The old value is not used, so this compiles to the plain atomic add of 4.x kernels. `AtomicU64::fetch_add` does not
    // exist for this target.
    // SAFETY: by the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, 1) };
}

/// How many records were lost so far.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.lost")]
pub static LOST_EPOCH: Word = Word::zero();

/// Nonzero: the reader sleeps; wake it with the next record, once.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.armed")]
pub static ARMED: Word = Word::zero();

/// The lower half: the snapshot iterator looks at this tgid only; 0: at all that are traced. The upper half: which
/// snapshot it is.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.snapshot")]
pub static SNAPSHOT: Word = Word::zero();

/// What is left out, one of `fdtrace_common::wire::shed`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.shed")]
pub static SHED: Word = Word::zero();

/// One bit for each value of the low six bits of a number: user space watches such a number, see the `WATCHED` map.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.watched")]
pub static WATCHED_NUMBERS: Word = Word::zero();
