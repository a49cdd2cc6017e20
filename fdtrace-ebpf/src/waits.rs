//! Waits for events: which of them are told. A server waits for each of its requests, and what it is told there is nearly
//! always what it asked for.
//!
//! What rules need to see is an entry that has outlived its number, or that another process made. So after whatever can
//! lead to that all are told for a while, and one a millisecond at any time.

use fdtrace_common::wire::{Inflight, TracedProcess};

use crate::kernel::{offset, read};

/// From now on there may be something to be seen.
#[inline(always)]
pub fn look(process: *mut TracedProcess) {
    // SAFETY: a live element of a hash map.
    unsafe { (*process).waits_left = TracedProcess::WAITS };
}

/// A number goes whose file this is.
#[inline(always)]
pub fn closes(process: *mut TracedProcess, file: u64) {
    if file == 0 {
        return;
    }
    let list = offset!(file_f_ep) as u64;
    // <https://github.com/torvalds/linux/blob/v6.12/fs/eventpoll.c#L794>: gone with the last entry.
    if list == 0 || read::<u64>(file + list) != 0 {
        look(process);
    }
}

/// Will [`is_due`] say so?
#[inline(always)]
pub fn will_be_due(process: *const TracedProcess, start: &Inflight) -> bool {
    // SAFETY: a live element of a hash map.
    unsafe { (*process).waits_left > 0 || start.time.wrapping_sub((*process).waited) >= TracedProcess::WAITS_APART }
}

/// Is a wait to be told that brought something?
#[inline(always)]
pub fn is_due(process: *mut TracedProcess, start: &Inflight) -> bool {
    // SAFETY: a live element of a hash map. Two threads at once may count one for two: it is a budget.
    unsafe {
        if (*process).waits_left > 0 {
            (*process).waits_left -= 1;
            return true;
        }
        if start.time.wrapping_sub((*process).waited) >= TracedProcess::WAITS_APART {
            (*process).waited = start.time;
            return true;
        }
    }
    false
}
