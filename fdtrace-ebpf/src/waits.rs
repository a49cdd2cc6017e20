//! Waits for events: which of them are told. A server waits for each of its requests, and what it is told there is nearly
//! always what it asked for.
//!
//! What rules need to see is an entry that has outlived its number, or that another process made. So after whatever can
//! lead to that all are told for a while, and one a millisecond at any time.

use fdtrace_common::wire::gate;

use crate::{
    gate::{set_word, word},
    kernel::{offset, read},
};

/// From now on there may be something to be seen.
#[inline(always)]
pub fn look(tgid: u32) {
    set_word(tgid, gate::WAITS_LEFT, gate::WAITS);
}

/// A number goes whose file this is.
#[inline(always)]
pub fn closes(tgid: u32, file: u64) {
    if file == 0 {
        return;
    }
    let list = offset!(file_f_ep) as u64;
    // <https://github.com/torvalds/linux/blob/v6.12/fs/eventpoll.c#L794>: gone with the last entry.
    if list == 0 || read::<u64>(file + list) != 0 {
        look(tgid);
    }
}

/// Is a wait to be told that brought something, and began then?
#[inline(always)]
pub fn is_due(tgid: u32, began: u64) -> bool {
    word(tgid, gate::WAITS_LEFT) > 0 || began.wrapping_sub(word(tgid, gate::WAITED)) >= gate::WAITS_APART
}

/// One is told that was due. Two threads at once may count one for two: it is a budget.
#[inline(always)]
pub fn told(tgid: u32, began: u64) {
    let left = word(tgid, gate::WAITS_LEFT);
    if left > 0 {
        set_word(tgid, gate::WAITS_LEFT, left - 1);
    } else {
        set_word(tgid, gate::WAITED, began);
    }
}
