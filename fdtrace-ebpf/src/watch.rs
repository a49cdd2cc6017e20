//! Uses that are told only because somebody asked: of a slot, or of a file.

use fdtrace_common::wire::{Watch, watch_key};

use crate::{
    kernel::{Files, has_turns},
    maps::WATCHED,
    shared::{watch_number, watches_number},
};

/// The file behind a number whose use user space has asked for; 0: it has not.
#[inline(always)]
pub fn watched(tgid: u32, fd: u64, files: Files) -> u64 {
    if !watches_number(fd) {
        return 0;
    }
    let file = files.file(fd);
    if file != 0 && (wanted(watch_key(tgid, fd as u32), tgid) || wanted(file, tgid)) { file } else { 0 }
}

#[inline(always)]
fn wanted(key: u64, tgid: u32) -> bool {
    let Some(watch) = WATCHED.get_ptr(&key) else { return false };
    // SAFETY: a live element of a hash map.
    unsafe { (*watch).left > 0 && ((*watch).every > 0 || (*watch).last != tgid) }
}

/// Has the next uses of a number told: user space would ask for them too late.
#[inline(always)]
pub fn number(tgid: u32, fd: u32, times: u32) {
    let _ = WATCHED.insert(watch_key(tgid, fd), Watch { left: times, every: times, last: 0, reserved: 0 }, 0);
    watch_number(u64::from(fd));
}

/// The same of a file that is behind `fd`: the next `every` uses, and then whenever it changes hands.
#[inline(always)]
pub fn file(file: u64, fd: u32, times: u32, every: u32) {
    let _ = WATCHED.insert(file, Watch { left: times, every, last: 0, reserved: 0 }, 0);
    watch_number(u64::from(fd));
}

/// An open got a standard number: a program that is started with it may be through before user space has read of that.
/// Told of files that stray output spoils, whenever they change hands.
#[inline(always)]
pub fn standard(file: u64, fd: u32) {
    if fd <= 2 && file != 0 && has_turns(file) {
        self::file(file, fd, Watch::TURNS, 0);
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
