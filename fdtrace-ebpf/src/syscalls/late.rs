//! Starts that are looked at when the call is over.
//!
//! A hook on the start of every system call is paid for by every process of the machine, and nearly all that it is for is
//! what somebody else may do to the table while a call waits. While no traced process shares its table with anybody, user
//! space takes it away: what a call met when it began is then still there when it ends. What it does away with itself, the
//! file behind a number or the flags of a file, has to be seen before, so such calls have hooks of their own.
//!
//! When a table comes to be shared, user space needs a moment to put the hook back. Calls that begin in that moment have
//! no start, and are treated like those that began before anything was traced.

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_RB_FORCE_WAKEUP, helpers::bpf_get_current_pid_tgid};
use fdtrace_common::{
    class::{self, hook},
    wire::{Inflight, NOT_SEEN, gate, orders, starts},
};

use super::{Turn, arg, begin, inflight, light, maps_code, number, tells_by_itself};
use crate::{
    emit,
    filter::{self, Task},
    kernel::{self, Files},
    maps::{NEEDS, SHARING},
    owner,
    shared::{NEEDS_STARTS, order},
    waits,
};

#[unsafe(no_mangle)]
static MAY_BE_LATE: u32 = 0;

/// A constant to the verifier.
#[inline(always)]
fn may_be() -> bool {
    // SAFETY: a read of an initialised static, replaced by user space before load.
    unsafe { core::ptr::read_volatile(&raw const MAY_BE_LATE) != 0 }
}

/// Starts are looked at late now: the hook on all of them has nothing to do.
#[inline(always)]
pub fn is_on() -> bool {
    may_be() && order::<{ orders::STARTS }>() == starts::LATE
}

/// They are, or were.
#[inline(always)]
fn has_been_on() -> bool {
    may_be() && order::<{ orders::STARTS }>() != starts::HOOKED
}

/// The start of such a call has a hook of its own, once starts have been late. That one has its place behind the hook on all
/// starts then, so of the two that see the change while a call begins one looks at it; and from then on it alone does.
#[inline(always)]
pub fn is_elsewhere(hooks: u8) -> bool {
    hooks & hook::EARLY != 0 && has_been_on() && !kernel::in_compat_call()
}

/// Tells user space that the hook is needed.
#[inline(always)]
fn ask_for_hook() {
    if is_on() && NEEDS_STARTS.get() == 0 {
        NEEDS_STARTS.set(1);
        // If there is no room, somebody is being woken.
        let _ = NEEDS.output::<u64>(&1, u64::from(BPF_RB_FORCE_WAKEUP));
    }
}

/// More than one task has the table of these processes from now on.
#[inline(always)]
pub fn shares(parent: u32, child: u32) {
    if !may_be() {
        return;
    }
    // If there is no room, whoever has the table now is still seen at the end of each call.
    let _ = SHARING.insert(parent, 1, 0);
    if child != parent {
        let _ = SHARING.insert(child, 1, 0);
    }
    ask_for_hook();
}

/// The process has a table of its own, or is gone.
#[inline(always)]
pub fn is_alone(tgid: u32) {
    if may_be() {
        // Most never shared theirs.
        let _ = SHARING.remove(tgid);
    }
}

/// Nobody knows what a call met whose start was not seen: others may have had the table then.
#[inline(always)]
pub fn is_unknown(tgid: u32) -> bool {
    has_been_on() && SHARING.get_ptr(tgid).is_some()
}

/// The start of the call that a task is in, for hooks that fire inside it.
#[inline(always)]
pub fn started(tgid: u32, tid: u32) -> Inflight {
    let seen = inflight::started(tid);
    if seen.pos != NOT_SEEN || !has_been_on() || is_unknown(tgid) || kernel::in_compat_call() {
        return seen;
    }
    Inflight { pos: since(tgid), time: emit::now(), ..seen }
}

/// The position before which a call of the process did not begin, as far as is known. Not the present one: what the call did
/// it has done, and who else has the file or the interest list may have seen it and been told of meanwhile.
#[inline(always)]
fn since(tgid: u32) -> u64 {
    let word = filter::word(tgid, gate::SINCE);
    if word >> gate::SINCE_BITS == u64::from(tgid) { word & SINCE_MASK } else { NOT_SEEN }
}

const SINCE_MASK: u64 = (1 << gate::SINCE_BITS) - 1;

/// What there was to be told of a process until now has been told: its next call begins after that.
#[inline(always)]
pub fn passed(tgid: u32) {
    let position = emit::position();
    // While the process is alone its calls come one after the other, and nobody asks when it is not.
    if may_be() && position <= SINCE_MASK {
        filter::set_word(tgid, gate::SINCE, u64::from(tgid) << gate::SINCE_BITS | position);
    }
}

/// The same of the current process, if it may be traced.
#[inline(always)]
pub fn ended() {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if filter::may_be(tgid) {
        passed(tgid);
    }
}

/// What is to be done about the start of a call that ends.
pub enum Start {
    /// Nothing: it was seen, or cannot be any more.
    Past,
    /// It has to be looked at now, by the program for that.
    Due,
    /// Neither of its start nor of its end there is anything to tell.
    Dull,
}

/// The end of a call of a process that may be traced.
#[inline(always)]
pub fn look(regs: *const c_void, ret: i64, turn: Turn) -> Start {
    if !has_been_on() || turn == Turn::Second {
        return Start::Past;
    }
    let nr = number(regs);
    let hooks = filter::hooks(nr);
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let may_be_open = hooks & hook::LIGHT == 0 || filter::may_have_kept(tgid);
    if hooks == 0 || hooks & hook::EARLY != 0 || may_be_open && inflight::is_open() {
        return Start::Past;
    }
    let files = Files::of_current();
    let compat = kernel::in_compat_call();
    let alone = files.users() == 1 && !compat;
    // Others have the low bits of its id as well: the tracer itself is let through, and has threads.
    if !alone && is_on() && filter::current().is_some() {
        ask_for_hook();
    }
    if compat {
        return Start::Past;
    }
    if hooks & hook::LIGHT == 0 {
        return if alone && is_dull_wait(regs, ret, nr, tgid) { Start::Dull } else { Start::Due };
    }
    if !light::tells_nothing(regs, hooks, tgid, files) {
        return Start::Due;
    }
    let has_end = tells_by_itself(ret) || hooks & hook::MAPS != 0 && maps_code(regs);
    if alone && !has_end { Start::Dull } else { Start::Past }
}

/// A wait for events of which nothing is to be told: most that a server makes.
#[inline(always)]
fn is_dull_wait(regs: *const c_void, ret: i64, nr: u64, tgid: u32) -> bool {
    filter::class(nr, false) == class::EPOLL_WAIT
        && ret > 0
        && !waits::is_due(tgid, emit::now())
        && (!filter::may_run_python(tgid) || owner::is_settled(tgid, arg(regs, 0) as u32))
}

/// Looks at the start of a call that [`look`] says is due. As `enter`; where others had the table what it met is not known,
/// but who holds the number still is.
#[inline(always)]
pub fn begin_now(regs: *const c_void) -> Option<(Task, bool)> {
    let task = filter::current()?;
    if Files::of_current().users() != 1 || is_unknown(task.tgid) {
        return Some((task, false));
    }
    let begun = begin(regs, number(regs), task, Turn::First)?;
    if let Some(slot) = inflight::slot(task.tid) {
        // SAFETY: a live element of an array map, which this thread has just filled.
        unsafe { (*slot).pos = since(task.tgid) };
    }
    Some(begun)
}

/// The start of a call that has a hook of its own. As `enter`.
#[inline(always)]
pub fn begin_early(regs: *const c_void) -> Option<(Task, bool)> {
    let nr = number(regs);
    if !is_elsewhere(filter::hooks(nr)) {
        return None;
    }
    begin(regs, nr, filter::current()?, Turn::First)
}
