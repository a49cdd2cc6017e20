//! Programs that have begun just now. What user space would ask for once it knows them may be over by then: most programs
//! are short. So of numbers that a new program closes and is given again the first uses are told unasked.
//!
//! First of all its loader opens libraries, one after the other under one number, and closes them. That is nobody's
//! mistake: those uses are not told, and nobody asks from where it calls.

use core::ffi::c_void;

use fdtrace_common::wire::{TracedProcess, traced};

use crate::{
    emit,
    filter::{self, Task},
    gate,
    kernel::{Files, member, offset},
};

/// A process begins with a program. Of an interpreter, user space is told by other means.
#[inline(always)]
pub fn began(process: *mut TracedProcess, tgid: u32, is_python: bool) {
    gate::mark(tgid, gate::NEW, !is_python);
    // SAFETY: a live element of a hash map; the process is alone now.
    unsafe {
        (*process).closed = 0;
        (*process).run = 0;
        if is_python {
            (*process).flags &= !traced::NEW;
            return;
        }
        (*process).flags |= traced::NEW;
        (*process).new_until = emit::now() + TracedProcess::NEW;
        (*process).uses_left = TracedProcess::USES;
    }
}

/// A process begins as a copy of one whose program is new.
#[inline(always)]
pub fn forked(parent: *const TracedProcess, child: *mut TracedProcess, child_tgid: u32) {
    gate::mark(child_tgid, gate::NEW, true);
    gate::mark(child_tgid, gate::FRESH, true);
    // SAFETY: live elements of a hash map; the child has not run yet.
    unsafe {
        (*child).new_until = (*parent).new_until;
        (*child).closed = (*parent).closed;
        (*child).uses_left = TracedProcess::USES;
    }
}

/// Does its loader make the call, of a program in which nobody else was seen to call?
#[inline(always)]
pub fn is_loading(tgid: u32, regs: *const c_void) -> bool {
    if !gate::is_starting(tgid) {
        return false;
    }
    let is_loading = filter::process(tgid).is_some_and(|process| is_by_loader(process, regs));
    if !is_loading {
        gate::mark(tgid, gate::NEW, true);
    }
    is_loading
}

/// Does its loader make the call?
#[inline(always)]
fn is_by_loader(process: *const TracedProcess, regs: *const c_void) -> bool {
    // SAFETY: a live element of a hash map; `regs` is typed by the tracepoint, and the offset comes from BTF.
    unsafe {
        (*process).flags & traced::OWN_LOADER != 0
            && member::<u64>(regs, offset!(regs_ip)).wrapping_sub((*process).loader) < (*process).loader_len
    }
}

/// A number was closed.
#[inline(always)]
pub fn closed(regs: *const c_void, task: &Task, fd: u64) {
    if !gate::is_marked(task.tgid, gate::NEW) {
        return;
    }
    let Some(process) = filter::process(task.tgid) else { return };
    // SAFETY: a live element of a hash map. Two threads at once may lose one of two numbers.
    unsafe {
        if (*process).flags & traced::NEW == 0 || fd >= 64 {
            return;
        }
        if (*process).uses_left == 0 || emit::now() > (*process).new_until {
            (*process).flags &= !traced::NEW;
            gate::mark(task.tgid, gate::NEW, false);
            return;
        }
        if is_by_loader(process, regs) {
            return;
        }
        (*process).closed |= 1 << (fd & 63);
        (*process).run = 0;
    }
    gate::mark(task.tgid, gate::FRESH, true);
}

/// The file behind a number that was closed and is in use again, if that is to be told; else 0.
#[inline(always)]
pub fn used_again(regs: *const c_void, task: &Task, fd: u64, files: Files) -> u64 {
    if !gate::is_marked(task.tgid, gate::FRESH) {
        return 0;
    }
    let Some(process) = filter::process(task.tgid) else { return 0 };
    // SAFETY: a live element of a hash map. Two threads at once may count one for two: it is a budget.
    unsafe {
        let closed = (*process).closed;
        if closed == 0 {
            gate::mark(task.tgid, gate::FRESH, false);
            return 0;
        }
        // User space has asked for what it wants to know by then.
        if emit::now() > (*process).new_until + TracedProcess::ASKED {
            (*process).closed = 0;
            gate::mark(task.tgid, gate::FRESH, false);
            return 0;
        }
        if fd >= 64 || closed >> (fd & 63) & 1 == 0 || is_by_loader(process, regs) {
            return 0;
        }
        let file = files.file(fd);
        if file == 0 {
            return 0;
        }
        let left = (*process).uses_left;
        if left == 0 {
            (*process).closed = 0;
            return 0;
        }
        (*process).uses_left = left - 1;
        let run = (*process).run;
        let run = if run >> 16 == fd as u32 { run + 1 } else { (fd as u32) << 16 | 1 };
        (*process).run = run;
        if run & 0xffff >= TracedProcess::RUN {
            (*process).closed = closed & !(1 << (fd & 63));
        }
        file
    }
}
