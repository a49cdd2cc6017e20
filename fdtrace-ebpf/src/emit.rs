//! Puts records into the ring and counts those that do not fit.
//!
//! Every attempt adds one to `produced` and, when there is no room, one to `lost` of its class and one to the global
//! epoch that every later record carries: so user space knows how much is missing, and where.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
};

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_PROD_POS},
    helpers::bpf_ktime_get_boot_ns,
};
use fdtrace_common::wire::{Header, Plain, Scratch, TracedProcess, loss, shared};

use crate::maps::{EVENTS, PER_CPU, SCRATCH, SHARED};

/// Bytes reserved in the ring so far: the position of the next record.
#[inline(always)]
pub fn position() -> u64 {
    EVENTS.query(u64::from(BPF_RB_PROD_POS))
}

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Who a record is about.
#[derive(Clone, Copy)]
pub struct Subject {
    pub tgid: u32,
    pub tid: u32,
    pub table: u64,
}

/// Writes a record's header.
///
/// # Safety
/// `header` is valid for writes.
#[inline(always)]
pub unsafe fn fill_header(header: *mut Header, kind: u16, flags: u16, who: Subject) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*header).kind = kind;
        (*header).flags = flags;
        (*header).lost_epoch = SHARED.get(shared::LOST_EPOCH).map_or(0, |word| *word as u32);
        (*header).tgid = who.tgid;
        (*header).tid = who.tid;
        (*header).time = now();
        (*header).table = who.table;
    }
}

/// Reserves a record of fixed size, has it filled, and publishes it. `fill` writes every byte.
#[inline(always)]
pub fn fixed<T: Plain>(loss_class: usize, process: *mut TracedProcess, fill: impl FnOnce(*mut T)) {
    count_produced();
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count_lost(loss_class, process);
        return;
    };
    fill(MaybeUninit::as_mut_ptr(&mut entry));
    entry.submit(wakeup());
}

/// Publishes the first `len` bytes of the scratch buffer.
#[inline(always)]
pub fn variable(scratch: *const Scratch, len: usize, loss_class: usize, process: *mut TracedProcess) {
    count_produced();
    let len = if len > Scratch::SIZE { Scratch::SIZE } else { len };
    // SAFETY: the scratch buffer is `Scratch::SIZE` bytes long and initialised; `len` does not exceed it.
    let bytes = unsafe { core::slice::from_raw_parts(scratch.cast::<u8>(), len) };
    if EVENTS.output::<[u8]>(bytes, wakeup()).is_err() {
        count_lost(loss_class, process);
    }
}

/// Publishes a record of a witness of fixed size. One that does not fit costs an answer, and is no lost record.
#[inline(always)]
pub fn witness<T: Plain>(fill: impl FnOnce(*mut T)) {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count_degraded(loss::RING_STACK);
        return;
    };
    count_produced();
    fill(MaybeUninit::as_mut_ptr(&mut entry));
    entry.submit(wakeup());
}

/// Publishes a record of a witness. `false`: there was no room.
#[inline(always)]
pub fn bytes(record: &[u8], loss_class: usize) -> bool {
    if !room_for_witness() || EVENTS.output::<[u8]>(record, wakeup()).is_err() {
        count_degraded(loss_class);
        return false;
    }
    count_produced();
    true
}

/// A record of a witness never takes the last quarter of the ring: what happened matters more than who did it.
#[inline(always)]
pub fn room_for_witness() -> bool {
    crate::stack::ring_is_below(3)
}

/// Copies of stacks do not take more than half.
#[inline(always)]
pub fn room_for_stack() -> bool {
    crate::stack::ring_is_below(2)
}

/// This processor's room for a record of variable length.
#[inline(always)]
pub fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}

/// Wakes the reader only if it said that it is going to sleep: under load it comes by itself.
#[inline(always)]
fn wakeup() -> u64 {
    if let Some(armed) = SHARED.get_ptr_mut(shared::ARMED) {
        // SAFETY: a live element of an array map.
        unsafe {
            if *armed != 0 {
                *armed = 0;
                return u64::from(BPF_RB_FORCE_WAKEUP);
            }
        }
    }
    u64::from(BPF_RB_NO_WAKEUP)
}

#[inline(always)]
fn count_produced() {
    if let Some(counters) = PER_CPU.get_ptr_mut(0) {
        // SAFETY: a live element of a per-CPU map.
        unsafe { add(&raw mut (*counters).produced) };
    }
}

/// Counts a record that could not even be made.
#[inline(always)]
pub fn missing(class: usize, process: *mut TracedProcess) {
    count_produced();
    count_lost(class, process);
}

/// Counts a loss. `process` may be null.
#[inline(always)]
fn count_lost(class: usize, process: *mut TracedProcess) {
    count_degraded(class);
    if let Some(epoch) = SHARED.get_ptr_mut(shared::LOST_EPOCH) {
        // SAFETY: a live element of an array map.
        unsafe { add(epoch) };
    }
    if !process.is_null() {
        // SAFETY: a live element of a hash map; the counter is only ever added to.
        unsafe { add(&raw mut (*process).lost) };
    }
}

/// Counts something that costs precision but not a record.
#[inline(always)]
pub fn count_degraded(class: usize) {
    if let Some(counters) = PER_CPU.get_ptr_mut(0) {
        // SAFETY: a live element of a per-CPU map; `class` is one of the constants in `wire::loss`.
        unsafe { add((&raw mut (*counters).lost).cast::<u64>().add(class)) };
    }
}

/// Adds one without fetching, which every kernel has. Atomic because an iterator program can be preempted.
///
/// # Safety
/// `word` is valid and aligned.
#[inline(always)]
unsafe fn add(word: *mut u64) {
    // The old value is not used, so this compiles to the plain atomic add of 4.x kernels. `AtomicU64::fetch_add` does not
    // exist for this target.
    // SAFETY: by the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, 1) };
}
