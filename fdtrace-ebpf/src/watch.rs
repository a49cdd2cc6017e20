//! Uses that are told only because somebody asked: of a slot, or of a file.

use fdtrace_common::wire::{Watch, watch_key};

use crate::{
    gate::{self, Hands},
    kernel::{Files, has_one_hand, has_turns},
    maps::WATCHED,
    shared::WATCHED_NUMBERS,
};

/// The file behind a number whose use user space has asked for; 0: it has not.
#[inline(always)]
pub fn watched(tgid: u32, fd: u64, files: Files) -> u64 {
    let hands = watches(tgid, fd as u32);
    if hands == Hands::None {
        return 0;
    }
    let file = files.file(fd);
    // Of a file that nobody else has any more nobody waits for his turn.
    if hands == Hands::Several && file != 0 && has_one_hand(file) {
        return 0;
    }
    if file != 0 && (wanted(watch_key(tgid, fd as u32), tgid) || wanted(file, tgid)) { file } else { 0 }
}

/// Does anybody watch a number like this one, and from which hands?
#[inline(always)]
pub fn watches(tgid: u32, fd: u32) -> Hands {
    if WATCHED_NUMBERS.get() >> (fd & 63) & 1 != 0 { Hands::Any } else { gate::watched(tgid, fd) }
}

#[inline(always)]
fn wanted(key: u64, tgid: u32) -> bool {
    let Some(watch) = WATCHED.get_ptr(&key) else { return false };
    // SAFETY: a live element of a hash map.
    unsafe { (*watch).left > 0 && ((*watch).every > 0 || (*watch).last != tgid) }
}

/// If there is no room, what could have been told is not.
#[inline(always)]
fn ask(key: u64, left: u32, every: u32) {
    let _ = WATCHED.insert(key, Watch { left, every, last: 0, reserved: 0 }, 0);
}

/// Has the next uses of a number told: user space would ask for them too late.
#[inline(always)]
pub fn number(tgid: u32, fd: u32, times: u32) {
    ask(watch_key(tgid, fd), times, times);
    gate::watches(tgid, fd, Hands::Any);
}

/// The same of a file that is behind `fd` and that a fork has given a second hand to: the next `every` uses, and then
/// whenever it changes hands.
#[inline(always)]
pub fn shared(file: u64, fd: u32, processes: [u32; 2], times: u32, every: u32) {
    ask(file, times, every);
    for tgid in processes {
        gate::watches(tgid, fd, Hands::Several);
    }
}

/// An open got a standard number: a program that is started with it may be through before user space has read of that.
/// Told of files that stray output spoils, whenever they change hands.
#[inline(always)]
pub fn standard(tgid: u32, file: u64, fd: u32) {
    if fd <= 2 && file != 0 && has_turns(file) {
        ask(file, Watch::TURNS, 0);
        gate::watches(tgid, fd, Hands::Any);
    }
}

/// A use that was asked for is about to be told. Two threads at once may count one for two: it is a budget.
#[inline(always)]
pub fn told(key: u64, tgid: u32, ret: i64) {
    let Some(watch) = WATCHED.get_ptr_mut(&key) else { return };
    // SAFETY: a live element of a hash map.
    unsafe {
        if (*watch).left > 0 {
            (*watch).left -= 1;
        }
        if (*watch).every > 0 {
            (*watch).every -= 1;
        }
        // Who got nothing has not had his turn.
        if ret > 0 {
            (*watch).last = tgid;
        }
    }
}
