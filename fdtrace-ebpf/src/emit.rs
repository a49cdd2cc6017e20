//! Puts records into the ring and counts those that do not fit.
//!
//! Every attempt adds one to `produced` and, when there is no room, one to `lost` of its class and one to the global
//! epoch that every later record carries: so user space knows how much is missing, and where.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_PROD_POS},
    helpers::bpf_ktime_get_boot_ns,
};
use fdtrace_common::wire::{Header, PerCpu, Plain, Scratch, loss};

use crate::{
    maps::{EVENTS, PER_CPU, SCRATCH},
    shared::{ARMED, LOST_EPOCH, add_one},
    turns::{self, Room},
};

#[unsafe(no_mangle)]
static RING_BYTES: u32 = 0;

/// The size of the ring.
#[inline(always)]
fn ring_bytes() -> u64 {
    // SAFETY: one word; volatile because user space replaces it before load.
    u64::from(unsafe { (&raw const RING_BYTES).read_volatile() })
}

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
    unsafe { fill_header_at(now(), header, kind, flags, who) };
}

/// The same, by who has asked for the time: the clock is dear.
///
/// # Safety
/// As above.
#[inline(always)]
pub unsafe fn fill_header_at(time: u64, header: *mut Header, kind: u16, flags: u16, who: Subject) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*header).kind = kind;
        (*header).flags = flags;
        (*header).lost_epoch = LOST_EPOCH.get() as u32;
        (*header).tgid = who.tgid;
        (*header).tid = who.tid;
        (*header).time = time;
        (*header).table = who.table;
    }
}

/// Reserves a record of fixed size, has it filled, and publishes it. `fill` writes every byte.
#[inline(always)]
pub fn fixed<T: Plain>(loss_class: usize, fill: impl FnOnce(*mut T)) {
    let Some(counters) = counters() else { return };
    // SAFETY: a live element of a per-CPU map.
    unsafe { add_one(&raw mut (*counters).produced) };
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count_lost(counters, loss_class);
        return;
    };
    fill(MaybeUninit::as_mut_ptr(&mut entry));
    entry.submit(wakeup());
}

/// Publishes the first `len` bytes of the scratch buffer.
#[inline(always)]
pub fn variable(scratch: *const Scratch, len: usize, loss_class: usize) {
    let Some(counters) = counters() else { return };
    // SAFETY: a live element of a per-CPU map.
    unsafe { add_one(&raw mut (*counters).produced) };
    let len = if len > Scratch::SIZE { Scratch::SIZE } else { len };
    // SAFETY: the scratch buffer is `Scratch::SIZE` bytes long and initialised; `len` does not exceed it.
    let bytes = unsafe { core::slice::from_raw_parts(scratch.cast::<u8>(), len) };
    if EVENTS.output::<[u8]>(bytes, wakeup()).is_err() {
        count_lost(counters, loss_class);
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
    ring_is_below(3)
}

/// Copies of stacks do not take more than half, nor do the rows of a snapshot, which can wait.
#[inline(always)]
pub fn is_half_empty() -> bool {
    ring_is_below(2)
}

/// Less than so many quarters of the ring are taken.
#[inline(always)]
fn ring_is_below(quarters: u64) -> bool {
    EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) * 4 < ring_bytes() * quarters
}

/// This processor's room for a record of variable length, until `turns::give_back`. `None`: it is taken, and the record is
/// lost.
#[inline(always)]
pub fn take_scratch(loss_class: usize) -> Option<*mut Scratch> {
    if turns::take(Room::Scratch) {
        return scratch();
    }
    missing(loss_class);
    None
}

/// The same, by who has taken it.
#[inline(always)]
pub fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}

/// Wakes the reader only if it said that it is going to sleep: under load it comes by itself.
#[inline(always)]
fn wakeup() -> u64 {
    if ARMED.get() == 0 {
        return u64::from(BPF_RB_NO_WAKEUP);
    }
    ARMED.set(0);
    u64::from(BPF_RB_FORCE_WAKEUP)
}

/// This processor's counters. There always are some; the verifier does not know.
#[inline(always)]
fn counters() -> Option<*mut PerCpu> {
    PER_CPU.get_ptr_mut(0)
}

#[inline(always)]
fn count_produced() {
    if let Some(counters) = counters() {
        // SAFETY: a live element of a per-CPU map.
        unsafe { add_one(&raw mut (*counters).produced) };
    }
}

/// Counts a record that could not even be made.
#[inline(always)]
pub fn missing(class: usize) {
    if let Some(counters) = counters() {
        // SAFETY: a live element of a per-CPU map.
        unsafe { add_one(&raw mut (*counters).produced) };
        count_lost(counters, class);
    }
}

/// Counts a loss.
#[inline(always)]
fn count_lost(counters: *mut PerCpu, class: usize) {
    // SAFETY: live elements of maps; `class` is one of the constants in `wire::loss`.
    unsafe {
        add_one((&raw mut (*counters).lost).cast::<u64>().add(class));
        LOST_EPOCH.add_one();
    }
}

/// Counts something that costs precision but not a record.
#[inline(always)]
pub fn count_degraded(class: usize) {
    if let Some(counters) = counters() {
        // SAFETY: a live element of a per-CPU map; `class` is one of the constants in `wire::loss`.
        unsafe { add_one((&raw mut (*counters).lost).cast::<u64>().add(class)) };
    }
}
