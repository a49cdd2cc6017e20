//! What most calls of a process are asked: a word or two of memory that lie side by side, before anything is looked up.
//!
//! Processes with the same low bits of tgid share them. Most of it is a filter, which says yes for all of them if it would
//! for one; what is more says whose it is. Everything is stored as a whole, so nobody undoes what another processor does.

use fdtrace_common::wire::gate::{self, FOUND, PROCESSES};
pub use fdtrace_common::wire::gate::{FRESH, KEPT, NEW, PYTHON, TRACED};

use crate::maps::{GATES, NUMBERS};

/// Elements for the numbers of a process, each for those with the same low bits.
pub const NUMBERS_EACH: usize = 64;

/// What is asked of the numbers of a process.
#[derive(Clone, Copy)]
pub struct Number {
    /// Nonzero: the programs themselves watch such a number, see the `WATCHED` map. For good.
    watched: u8,
    /// The same, as long as others have the file as well. For good.
    watched_if_shared: u8,
    /// What is known of who holds the number (below [`NUMBERS_EACH`]). The high bits say whose it is; the low ones
    /// [`BEGUN`], [`OWN`], or that he is known or was searched for in vain, and how often that is believed before the map is
    /// asked again, which forgets what was not asked for long.
    held: u16,
}

const TRUST_BITS: u32 = 7;
/// It was given out before our eyes, and nobody is known who may come to hold it: the map says nothing.
const BEGUN: u16 = (1 << TRUST_BITS) - 1;
/// The same, and the program itself has opened it, no stream of the C library.
const OWN: u16 = BEGUN - 1;
const TRUST: u16 = OWN - 1;
// Ids end at 4194304: <https://github.com/torvalds/linux/blob/v6.12/include/linux/threads.h#L34>.
const _: () = assert!((1 << 22) / PROCESSES <= 1 << (16 - TRUST_BITS));

/// A word of `fdtrace_common::wire::gate`.
#[inline(always)]
pub fn word(tgid: u32, word: u32) -> u64 {
    GATES.get(gate::index(tgid, word)).copied().unwrap_or(0)
}

#[inline(always)]
pub fn set_word(tgid: u32, word: u32, value: u64) {
    if let Some(place) = GATES.get_ptr_mut(gate::index(tgid, word)) {
        // SAFETY: a live element of an array map.
        unsafe { *place = value };
    }
}

/// May it be so of the process what this word marks, one of [`FRESH`], [`KEPT`], [`NEW`], [`PYTHON`] and [`TRACED`]?
#[inline(always)]
pub fn is_marked(tgid: u32, mark: u32) -> bool {
    word(tgid, mark) != 0
}

/// Marks that, or that it is not so. Nearly always it is marked already, and processors share what nobody writes.
#[inline(always)]
pub fn mark(tgid: u32, mark: u32, on: bool) {
    let value = u64::from(on);
    if word(tgid, mark) != value {
        set_word(tgid, mark, value);
    }
}

/// What [`NEW`] says of a program in which nobody but its loader was seen to call.
const STARTING: u64 = 2;

/// Its loader begins.
#[inline(always)]
pub fn starts(tgid: u32) {
    if is_marked(tgid, NEW) {
        set_word(tgid, NEW, STARTING);
    }
}

/// May it be at work still?
#[inline(always)]
pub fn is_starting(tgid: u32) -> bool {
    word(tgid, NEW) == STARTING
}

/// The process is traced, and it is looked at as one that has just begun.
#[inline(always)]
pub fn traces(tgid: u32) {
    mark(tgid, TRACED, true);
    mark(tgid, FRESH, false);
    // Another process may have had the id before, and its end not have been seen.
    loses(tgid);
    unsettle_all(tgid);
}

/// How many programs the current process has run, if it was found to be traced and nobody else was since.
#[inline(always)]
pub fn found(tgid: u32) -> Option<u32> {
    let found = word(tgid, FOUND);
    if found != 0 && (found >> 32) as u32 == tgid { Some(found as u32) } else { None }
}

/// It is. Only for the current process: while it is in here it does not run another program.
#[inline(always)]
pub fn finds(tgid: u32, execs: u32) {
    set_word(tgid, FOUND, u64::from(tgid) << 32 | u64::from(execs));
}

/// It runs another program, or has ended.
#[inline(always)]
pub fn loses(tgid: u32) {
    mark(tgid, FOUND, false);
}

/// Is it known that there is nobody to be searched for who holds this number?
#[inline(always)]
pub fn is_settled(tgid: u32, fd: u32) -> bool {
    let Some(number) = element(tgid, fd) else { return false };
    // SAFETY: a live element of an array map. Who uses a number while another thread gives it away may bring back that it was
    // settled, until that has been believed often enough.
    unsafe {
        let held = (*number).held;
        if fd as usize >= NUMBERS_EACH || held >> TRUST_BITS != whose(tgid) || matches!(held & BEGUN, 0 | OWN..) {
            return false;
        }
        (*number).held = held - 1;
        true
    }
}

/// From now on.
#[inline(always)]
pub fn settle(tgid: u32, fd: u32) {
    if let Some(number) = element(tgid, fd)
        && (fd as usize) < NUMBERS_EACH
    {
        // SAFETY: a live element of an array map.
        unsafe { (*number).held = whose(tgid) << TRUST_BITS | TRUST };
    }
}

/// A number was given out, and nobody is known who may come to hold it; `own`: no stream will before it has asked for the
/// number's flags. `false`: there is no place to say so.
#[inline(always)]
pub fn begins(tgid: u32, fd: u32, own: bool) -> bool {
    let Some(number) = element(tgid, fd) else { return false };
    if fd as usize >= NUMBERS_EACH {
        return false;
    }
    // SAFETY: a live element of an array map.
    unsafe { (*number).held = whose(tgid) << TRUST_BITS | if own { OWN } else { BEGUN } };
    true
}

/// Is it still so?
#[inline(always)]
pub fn has_begun(tgid: u32, fd: u32) -> bool {
    held(tgid, fd) >= OWN
}

/// Is it so, and the number the program's own? An interpreter's objects may come to hold it all the same.
#[inline(always)]
pub fn is_own(tgid: u32, fd: u32) -> bool {
    held(tgid, fd) == OWN && !is_marked(tgid, PYTHON)
}

/// The low bits of [`Number::held`]; 0: nothing is known of this number of this process.
#[inline(always)]
fn held(tgid: u32, fd: u32) -> u16 {
    let Some(number) = element(tgid, fd) else { return 0 };
    // SAFETY: a live element of an array map.
    let held = unsafe { (*number).held };
    if (fd as usize) < NUMBERS_EACH && held >> TRUST_BITS == whose(tgid) { held & BEGUN } else { 0 }
}

/// Neither is.
#[inline(always)]
pub fn unsettle(tgid: u32, fd: u32) {
    if let Some(number) = element(tgid, fd) {
        // SAFETY: as above. One that is above is another's business, and costs him a look-up.
        unsafe {
            if (*number).held != 0 {
                (*number).held = 0;
            }
        }
    }
}

/// None of its numbers.
#[inline(always)]
pub fn unsettle_all(tgid: u32) {
    let Some(numbers) = NUMBERS.get_ptr_mut(tgid % PROCESSES) else { return };
    // SAFETY: a live element of an array map.
    for number in unsafe { &mut *numbers } {
        number.held = 0;
    }
}

/// The high bits of an id.
#[inline(always)]
fn whose(tgid: u32) -> u16 {
    (tgid / PROCESSES) as u16
}

/// From which hands a use of a number has to come for somebody on this side to watch it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hands {
    /// Nobody watches such a number.
    None,
    /// Those of a file that others have as well.
    Several,
    Any,
}

/// Does anybody on this side watch a number like this one of a process?
#[inline(always)]
pub fn watched(tgid: u32, fd: u32) -> Hands {
    let Some(number) = element(tgid, fd) else { return Hands::None };
    // SAFETY: a live element of an array map.
    match unsafe { *number } {
        Number { watched: 0, watched_if_shared: 0, .. } => Hands::None,
        Number { watched: 0, .. } => Hands::Several,
        _ => Hands::Any,
    }
}

/// From now on.
#[inline(always)]
pub fn watches(tgid: u32, fd: u32, hands: Hands) {
    let Some(number) = element(tgid, fd) else { return };
    // SAFETY: as above.
    unsafe {
        match hands {
            Hands::None => {}
            Hands::Several => (*number).watched_if_shared = 1,
            Hands::Any => (*number).watched = 1,
        }
    }
}

/// A child has the numbers of its parent.
#[inline(always)]
pub fn inherits_watches(parent: u32, child: u32) {
    let (from, to) = (NUMBERS.get_ptr(parent % PROCESSES), NUMBERS.get_ptr_mut(child % PROCESSES));
    let (Some(from), Some(to)) = (from, to) else { return };
    // SAFETY: live elements of an array map.
    for (from, to) in unsafe { (*from).iter().zip((*to).iter_mut()) } {
        to.watched |= from.watched;
        to.watched_if_shared |= from.watched_if_shared;
    }
}

#[inline(always)]
fn element(tgid: u32, fd: u32) -> Option<*mut Number> {
    let numbers = NUMBERS.get_ptr_mut(tgid % PROCESSES)?;
    // Where the compiler knows that a number is small it leaves the mask away, and the verifier of 6.1 does not know it.
    let at = core::hint::black_box(fd as usize) % NUMBERS_EACH;
    // SAFETY: inside of the element.
    Some(unsafe { numbers.cast::<Number>().add(at) })
}
