//! Calls that do nothing but use their descriptor: most calls of a server.
//!
//! Of their end nothing is told unless it was asked for, or says that the number is wrong, or the call has waited for so
//! long that somebody else may have changed the table meanwhile. Where nobody else can, nothing needs to be kept of their
//! start; and where somebody can, what costs next to nothing.

use core::ffi::c_void;

use fdtrace_common::class::hook;

use super::{
    AT_EMPTY_PATH,
    args::arg,
    inflight::{self, Clock},
};
use crate::{
    emit, filter, gate,
    kernel::{self, Files},
    owner, turns, watch,
};

/// The start of a call: is that all there is to do about it?
#[inline(always)]
pub fn begins(regs: *const c_void, nr: u64, hooks: u8) -> bool {
    // A second copy of the hook has to know whether the first one has run.
    if hooks & hook::LIGHT == 0 || turns::preemptible() {
        return false;
    }
    let (tgid, tid) = filter::ids();
    if !gate::is_marked(tgid, gate::TRACED) {
        return true;
    }
    let fd = arg(regs, 0);
    let files = Files::of_current();
    if gate::is_marked(tgid, gate::FRESH) || kernel::in_compat_call() || watch::watched(tgid, fd, files) != 0 {
        return false;
    }
    if hooks & hook::EMPTY_PATH != 0 && arg(regs, 3) & AT_EMPTY_PATH != 0 && !gate::is_own(tgid, fd as u32) {
        return false;
    }
    if hooks & hook::SEARCHED != 0 && gate::is_marked(tgid, gate::PYTHON) && !owner::is_settled(tgid, fd as u32) {
        return false;
    }
    files.users() == 1 || keep(tgid, tid, nr, files)
}

/// Others can change the table while the call waits. `false`: there is more to do, for the end of the last call was not
/// seen.
#[inline(always)]
fn keep(tgid: u32, tid: u32, nr: u64, files: Files) -> bool {
    let Some(slot) = inflight::slot(tid) else { return false };
    // SAFETY: a live element of an array map.
    if unsafe { (*slot).tid } == tid {
        return false;
    }
    gate::mark(tgid, gate::KEPT, true);
    inflight::open(slot, tid, nr, files, emit::position(), 0, Clock::Ticks);
    true
}

/// The end of a call that is told for what it says about its number. If nothing was kept of its start, nobody else could
/// change the table, so the start was as good as now.
#[inline(always)]
pub fn ends(nr: u64, hooks: u8) {
    inflight::settle();
    if hooks & hook::LIGHT == 0 || turns::preemptible() || inflight::is_open() {
        return;
    }
    let Some(task) = filter::current() else { return };
    let files = Files::of_current();
    let Some(slot) = inflight::slot(task.tid) else { return };
    if files.users() != 1 || kernel::in_compat_call() {
        return;
    }
    inflight::open(slot, task.tid, nr, files, emit::position(), 0, Clock::Exact);
}
