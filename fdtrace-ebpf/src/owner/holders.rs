//! What is known of who holds a number, in the `HOLDERS` map: from when it is given out to when it is closed. Most numbers
//! are nobody's whom we know, from the first to the last: for them it is enough that the gate says so.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use fdtrace_common::witness::{Holder, MAYBE_MAX, SlotKey, owns};

use super::candidate;
use crate::{
    filter, gate,
    maps::{HOLDERS, WALK},
    walk::Walk,
};

/// How often the holder of a number is searched for.
const SEARCHES: u32 = 8;

/// Copies word by word: a structure is copied by a loop over bytes here.
#[inline(always)]
pub(super) unsafe fn keep(to: *mut Holder, from: *const Holder) {
    for word in 0..size_of::<Holder>() / 8 {
        // SAFETY: by the caller's promise that both are valid; they consist of whole words, as asserted below.
        unsafe { to.cast::<u64>().add(word).write_volatile(from.cast::<u64>().add(word).read_volatile()) };
    }
}

/// Makes it [`Holder::NOBODY`]. As above.
#[inline(always)]
pub(super) unsafe fn nobody(to: *mut Holder) {
    for word in 0..size_of::<Holder>() / 8 {
        // SAFETY: as above.
        unsafe { to.cast::<u64>().add(word).write_volatile(0) };
    }
}

pub(super) const fn slot_key(tgid: u32, execs: u32, fd: u32) -> SlotKey {
    SlotKey { tgid, execs, fd, reserved: 0 }
}

/// The slot of the number that is searched for.
#[inline(always)]
pub(super) unsafe fn wanted_slot(walk: *const Walk) -> SlotKey {
    // SAFETY: `walk` is this processor's.
    unsafe { slot_key((*walk).tgid, (*walk).execs, (*walk).wanted_fd) }
}

/// From now on this is known of a number.
#[inline(always)]
pub(super) fn hold(key: &SlotKey, holder: *const Holder) {
    // SAFETY: a valid holder. If there is no room, the longest unused goes.
    let _ = HOLDERS.insert(key, unsafe { &*holder }, 0);
    gate::unsettle(key.tgid, key.fd);
}

/// Is it worth searching for who holds this number? `always`: even if somebody is known to.
///
/// Of numbers that were given out before our eyes a stream is met when the C library makes a call for it, and not before.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn wanted(walk: *mut Walk, fd: u32, always: bool) -> bool {
    // SAFETY: by the caller's promise.
    let (tgid, key) = unsafe { ((*walk).tgid, slot_key((*walk).tgid, (*walk).execs, fd)) };
    if gate::has_begun(tgid, fd) {
        hold(&key, &Holder { searches: 1, begun: 1, ..Holder::NOBODY });
        // SAFETY: by the caller's promise.
        unsafe { (*walk).library_only = (*walk).has_python ^ 1 };
        return true;
    }
    match HOLDERS.get_ptr_mut(&key) {
        None => {
            let first = Holder { searches: 1, ..Holder::NOBODY };
            let _ = HOLDERS.insert(&key, &first, 0);
            true
        }
        // SAFETY: a live element of a hash map; only this process's threads write it, and a lost count does no harm.
        Some(known) => unsafe {
            (*known).searches = (*known).searches.wrapping_add(1);
            (*walk).library_only = (*known).begun & ((*walk).has_python ^ 1);
            always || ((*known).object == 0 && (*known).searches <= SEARCHES)
        },
    }
}

/// Is it known who holds this number, or has been searched for in vain often enough?
#[inline(always)]
pub fn is_settled(tgid: u32, fd: u32) -> bool {
    if gate::is_settled(tgid, fd) {
        return true;
    }
    if gate::has_begun(tgid, fd) {
        return false;
    }
    let Some(task) = filter::current() else { return true };
    let Some(known) = HOLDERS.get_ptr(&slot_key(tgid, task.execs, fd)) else { return false };
    // SAFETY: a live element of a hash map.
    let settled = unsafe { (*known).object != 0 || (*known).searches > SEARCHES };
    if settled {
        gate::settle(tgid, fd);
    }
    settled
}

/// A number was given out: nobody is known to hold it yet. If a search was made, what it found may come to hold it.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn begun(walk: *mut Walk) {
    // SAFETY: by the caller's promise.
    unsafe {
        maybes(walk);
        // The standard streams have their numbers without having asked for anything.
        let own = (*walk).by_itself != 0 && (*walk).wanted_fd > 2;
        if (*walk).known.maybe[0] == 0 && gate::begins((*walk).tgid, (*walk).wanted_fd, own) {
            let _ = HOLDERS.remove(&wanted_slot(walk));
            return;
        }
        (*walk).known.begun = 1;
        hold(&wanted_slot(walk), &raw const (*walk).known);
    }
}

/// Something is about to be made of the number, as `fdopen` does when it asks for its flags: nothing is decided any more.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn asked(walk: *const Walk, fd: u32) {
    // SAFETY: by the caller's promise; a live element of a hash map.
    unsafe {
        if gate::has_begun((*walk).tgid, fd) {
            gate::unsettle((*walk).tgid, fd);
        } else if let Some(known) = HOLDERS.get_ptr_mut(&slot_key((*walk).tgid, (*walk).execs, fd)) {
            (*known).begun = 0;
        }
    }
}

/// Nobody was found to hold the number that a call asks about: those that hold none may come to.
///
/// # Safety
/// As [`super::search`], which has run.
#[inline(always)]
pub unsafe fn foresee(walk: *mut Walk) {
    // SAFETY: by the caller's promise; a live element of a hash map.
    unsafe {
        let Some(known) = HOLDERS.get_ptr_mut(&wanted_slot(walk)) else { return };
        if (*known).object == 0 && (*known).maybe[0] == 0 {
            maybes(walk);
            (*known).owns = (*walk).known.owns;
            (*known).maybe = (*walk).known.maybe;
        }
    }
}

/// Makes [`Walk::known`] of the first candidates that hold nothing.
#[inline(always)]
unsafe fn maybes(walk: *mut Walk) {
    // SAFETY: `walk` is this processor's.
    unsafe {
        nobody(&raw mut (*walk).known);
        (*walk).maybe_count = 0;
        bpf_loop((*walk).candidates, maybe_step as *mut c_void, core::ptr::null_mut(), 0);
    }
}

unsafe extern "C" fn maybe_step(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(candidate) = candidate(index) else { return 1 };
    // SAFETY: this processor's rooms.
    unsafe {
        // A file asks about its number as soon as it has one.
        if (*candidate).fd > 0 || (*candidate).owns == owns::FILE {
            return 0;
        }
        if (*walk).maybe_count == 0 {
            (*walk).known.owns = (*candidate).owns;
        }
        let count = (&raw const (*walk).maybe_count).read_volatile() as usize & (MAYBE_MAX - 1);
        (&raw mut (*walk).known.maybe).cast::<u64>().add(count).write_volatile((*candidate).object);
        (*walk).maybe_count += 1;
        i64::from((*walk).maybe_count >= MAYBE_MAX as u32)
    }
}

const _: () = assert!(size_of::<Holder>().is_multiple_of(8) && align_of::<Holder>() == 8);
const _: () = assert!(MAYBE_MAX.is_power_of_two());
