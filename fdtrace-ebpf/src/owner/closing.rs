//! A number is about to be closed: who has a right to, or may be left behind with it?

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use fdtrace_common::{
    wire::watch_key,
    witness::{ClassKey, found, owns},
};

use super::{
    bind::bind_one,
    caller::is_library_s,
    candidate, directory,
    holders::{keep, nobody, wanted_slot},
    push,
};
use crate::{
    gate::{self, Hands},
    kernel::returns_by_stack,
    maps::{HELD, HOLDERS, WALK, WATCHED},
    stdio,
    walk::{Walk, has_python, mode, peek},
    watch,
};

/// Uses of a number that are told after its generation was closed behind its owner's back.
const STALE_USES: u32 = 64;

/// Is the search made because the number is about to be closed?
#[inline(always)]
pub(super) unsafe fn is_to_close(walk: *const Walk) -> bool {
    // SAFETY: `walk` is this processor's. Volatile: see `walk::planned`.
    unsafe { (&raw const (*walk).mode).read_volatile() == mode::CLOSE }
}

/// A number is about to be closed: who is known to hold it is looked at first, or alone where that decides it. The bond is
/// forgotten, for the number is anybody's from here on. `true`: it decides it.
#[inline(always)]
pub(super) unsafe fn recall(walk: *mut Walk) -> bool {
    // SAFETY: `walk` is this processor's; a live element of a hash map.
    unsafe {
        let key = wanted_slot(walk);
        nobody(&raw mut (*walk).known);
        if gate::has_begun((*walk).tgid, (*walk).wanted_fd) {
            (*walk).known.begun = 1;
            gate::unsettle((*walk).tgid, (*walk).wanted_fd);
        } else if let Some(holder) = HOLDERS.get(&key) {
            keep(&raw mut (*walk).known, holder);
            let _ = HOLDERS.remove(&key);
            gate::unsettle((*walk).tgid, (*walk).wanted_fd);
        }
        (*walk).is_closedir = 0;
        if (*walk).known.owns == owns::DIRECTORY {
            // It frees the object first, which may leave something else there.
            let freed = peek::<u32>((*walk).known.object).is_none_or(|fd| fd != (*walk).wanted_fd);
            (*walk).is_closedir = u32::from(freed || is_library_s(walk));
        }
        known_ones(walk);
        is_decided(walk)
    }
}

/// Tells of who may close the number.
#[inline(always)]
pub(super) unsafe fn closed(walk: *mut Walk) {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let object = (*walk).known.object;
        if (*walk).known.owns == owns::DIRECTORY && object != 0 {
            directory(walk, object, (*walk).wanted_fd);
            // If it is being closed, the next one is given the same address.
            let _ = HELD.remove(&ClassKey { address: object, tgid: (*walk).tgid, execs: (*walk).execs });
        }
        if (*walk).candidates != 0 {
            bpf_loop((*walk).candidates, close_step as *mut c_void, core::ptr::null_mut(), 0);
            // As it was before the search, whoever was bound to the number meanwhile.
            let _ = HOLDERS.remove(&wanted_slot(walk));
            gate::unsettle((*walk).tgid, (*walk).wanted_fd);
        }
    }
}

/// One candidate of a number that is about to be closed.
unsafe extern "C" fn close_step(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(candidate) = candidate(index) else { return 1 };
    // SAFETY: this processor's rooms.
    unsafe {
        let fd = (*walk).wanted_fd;
        // Nothing but `fclose` takes a stream out of the list: it is the one, whether it was met before or not.
        let closes = (*candidate).owns == owns::STREAM && (*candidate).fd == -1;
        if (*candidate).found & found::KNOWN == 0 && !closes {
            return 0;
        }
        let is_closedir = (*candidate).owns == owns::DIRECTORY && (*walk).is_closedir != 0;
        let holds = (*candidate).fd as u32 == fd && !is_closedir;
        let reached = (*candidate).found & found::PLACE != found::BOUND || closes;
        if holds {
            // It does not know, so what it does with the number from now on is worth telling.
            watch::number((*walk).tgid, fd, STALE_USES);
        }
        // One that might come to hold the number holds it now, or has just let go of it.
        if (*candidate).object != (*walk).known.object && (holds || reached) {
            bind_one(walk, candidate, fd, 0);
        }
    }
    0
}

/// What is known of the number tells who closes it, or that no object does: no search is needed.
#[inline(always)]
unsafe fn is_decided(walk: *mut Walk) -> bool {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let fd = (*walk).wanted_fd;
        let known = &raw const (*walk).known;
        if watch::watches((*walk).tgid, fd) == Hands::Any && WATCHED.get_ptr(watch_key((*walk).tgid, fd)).is_some() {
            // Somebody was left behind with this number, and may close it: a stream by `fclose`, see `holders::wanted`.
            let is_free = (*known).begun != 0 && (*known).object == 0 && (*known).maybe[0] == 0;
            return is_free && !has_python(walk) && returns_by_stack() && !is_library_s(walk);
        }
        let object = if (*known).object != 0 { (*known).object } else { (*known).maybe[0] };
        if object == 0 {
            return (*known).begun != 0;
        }
        let Some(front) = peek::<[u64; 3]>(object) else { return false };
        match (*known).owns {
            owns::STREAM => stdio::is_closing(front[0]),
            // A socket can let go of its number without closing it.
            owns::FILE | owns::EPOLL => (*known).object != 0 && front[1] == (*known).class && front[2] as i32 == -1,
            owns::DIRECTORY => (*walk).is_closedir != 0,
            _ => false,
        }
    }
}

#[inline(always)]
unsafe fn known_ones(walk: *mut Walk) {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let known = (*walk).known;
        for object in [known.object, known.maybe[0], known.maybe[1]] {
            if object != 0 {
                push(walk, object, found::KNOWN | found::BOUND);
            }
        }
    }
}
