//! The call that each thread is in: what its end cannot know any more.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use fdtrace_common::wire::{Inflight, NOT_SEEN};

use crate::{
    emit, filter,
    kernel::{self, Files},
    maps::{INFLIGHT, INFLIGHT_ENTRIES},
};

/// A call that took longer than this waited for something, nanoseconds.
pub const BLOCKED: u64 = 1_000_000;

/// What is known of a call whose start was not seen.
pub const UNSEEN: Inflight =
    Inflight { tid: 0, nr: 0, time: 0, ticks: 0, pos: NOT_SEEN, before: 0, table: 0, switches: 0 };

#[unsafe(no_mangle)]
static TICK: u64 = 0;

/// Nanoseconds since a moment that is known in jiffies.
#[inline(always)]
fn since(ticks: u64) -> u64 {
    // SAFETY: a read of an initialised static, replaced by user space before load.
    let tick = unsafe { (&raw const TICK).read_volatile() };
    jiffies().wrapping_sub(ticks) * tick
}

#[inline(always)]
fn jiffies() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() }
}

#[inline(always)]
pub fn slot(tid: u32) -> Option<*mut Inflight> {
    INFLIGHT.get_ptr_mut(tid & (INFLIGHT_ENTRIES - 1))
}

/// How exactly it is known when a call began.
pub enum Clock {
    Exact,
    /// To a tick: the clock is dear, and is asked at the end of the call if what is told of it needs its time.
    Ticks,
}

/// A call begins. `pos`: a position of the ring before the look at what the call met, so that whatever was done by calls with
/// records below it was in there. `before`: what it met.
#[inline(always)]
pub fn open(slot: *mut Inflight, tid: u32, nr: u64, files: Files, pos: u64, before: u64, clock: Clock) {
    let (time, ticks) = match clock {
        Clock::Exact => (emit::now(), 0),
        Clock::Ticks => (0, jiffies()),
    };
    let switches = kernel::switches();
    let call = Inflight { tid, nr: nr as u32, time, ticks, table: files.files, before, pos, switches };
    // SAFETY: a live element of an array map. Only this thread writes it, or one with the same low bits of tid: that one is
    // found out by its tid.
    unsafe { slot.write(call) };
}

/// Has the current thread's call not been told yet?
#[inline(always)]
pub fn is_open() -> bool {
    let (_, tid) = filter::ids();
    // SAFETY: a live element of an array map.
    slot(tid).is_some_and(|slot| unsafe { (*slot).tid } == tid)
}

/// The current thread's call is over.
#[inline(always)]
pub fn close() {
    forget(filter::ids().1);
}

/// A thread is in no call that we know of.
#[inline(always)]
pub fn forget(tid: u32) {
    if let Some(slot) = slot(tid) {
        // SAFETY: a live element of an array map; another thread's call is left alone.
        unsafe {
            if (*slot).tid == tid {
                (*slot).tid = 0;
            }
        }
    }
}

/// The start of the call that the current thread is in, for hooks that fire inside it.
#[inline(always)]
pub fn started(tid: u32) -> Inflight {
    if let Some(slot) = slot(tid) {
        // SAFETY: a live element of an array map.
        let seen = unsafe { *slot };
        if seen.tid == tid {
            return seen;
        }
    }
    Inflight { tid, ..UNSEEN }
}

/// Is the end of a call that only used its descriptor worth a record? Asked of every read and write of the machine: for a
/// thread that is not traced the in-flight slot has another thread's id, or none.
#[inline(always)]
pub fn worth_telling(nr: u64) -> bool {
    let (_, tid) = filter::ids();
    let Some(slot) = slot(tid) else { return false };
    // SAFETY: a live element of an array map.
    let seen = unsafe { *slot };
    if seen.tid != tid || seen.nr != nr as u32 {
        return false;
    }
    // The clock is dear, and is asked only where the call has waited for something.
    let blocked = || {
        let waited = if seen.ticks != 0 { since(seen.ticks) } else { emit::now() - seen.time };
        kernel::switches() != seen.switches && waited > BLOCKED
    };
    seen.before != 0 || blocked()
}

/// What is told of the call needs its time.
#[inline(always)]
pub fn settle() {
    let (_, tid) = filter::ids();
    let Some(slot) = slot(tid) else { return };
    // SAFETY: a live element of an array map.
    unsafe {
        if (*slot).tid == tid && (*slot).ticks != 0 {
            (*slot).time = emit::now() - since((*slot).ticks);
            (*slot).ticks = 0;
        }
    }
}

/// Has it waited, in a table that others can change?
#[inline(always)]
pub fn waited_long(start: &Inflight) -> bool {
    kernel::switches() != start.switches && Files::of_current().users() > 1 && emit::now() - start.time > BLOCKED
}
