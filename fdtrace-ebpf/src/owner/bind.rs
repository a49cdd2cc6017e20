//! An object and the number that it holds, told to user space when it is met with it, and until it lets go of it.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use fdtrace_common::witness::{Bind, CLOSEFD, Candidate, ClassKey, Holder, kind, owns};

use super::{
    candidate,
    holders::{hold, slot_key},
    recognise,
};
use crate::{
    emit::{self, Subject},
    kernel::Files,
    maps::{HELD, HOLDERS, WALK},
    walk::Walk,
};

/// An object whose field has become -1 holds nothing any more.
///
/// # Safety
/// As [`super::search`], which has run.
#[inline(always)]
pub unsafe fn let_go(walk: *const Walk) {
    // SAFETY: by the caller's promise.
    unsafe { bpf_loop((*walk).candidates, let_go_step as *mut c_void, core::ptr::null_mut(), 0) };
}

unsafe extern "C" fn let_go_step(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(candidate) = candidate(index) else { return 1 };
    // SAFETY: this processor's rooms.
    unsafe {
        if (*candidate).fd == -1 {
            let key = ClassKey { address: (*candidate).object, tgid: (*walk).tgid, execs: (*walk).execs };
            let _ = HELD.remove(&key);
        }
    }
    0
}

/// Tells user space of candidates that hold the number, each object once for each number.
///
/// # Safety
/// As [`super::search`], which has run.
#[inline(always)]
pub unsafe fn bind(walk: *const Walk) {
    // SAFETY: by the caller's promise.
    unsafe { bpf_loop((*walk).candidates, bind_step as *mut c_void, core::ptr::null_mut(), 0) };
}

unsafe extern "C" fn bind_step(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(candidate) = candidate(index) else { return 1 };
    // SAFETY: this processor's rooms.
    unsafe {
        let fd = (*walk).wanted_fd;
        if (*candidate).fd as u32 == fd {
            let other = other_holder(walk, (*candidate).object, fd);
            bind_one(walk, candidate, fd, other);
        }
    }
    0
}

/// Another object that was bound to the number and still holds it; 0: none.
#[inline(always)]
unsafe fn other_holder(walk: *mut Walk, object: u64, fd: u32) -> u64 {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let Some(known) = HOLDERS.get(&slot_key((*walk).tgid, (*walk).execs, fd)) else { return 0 };
        let (other, class) = (known.object, known.class);
        if other == 0 || other == object {
            return 0;
        }
        if recognise(walk, other) && (*walk).seen.class == class && (*walk).seen.fd as u32 == fd { other } else { 0 }
    }
}

#[inline(always)]
pub(super) unsafe fn bind_one(walk: *mut Walk, candidate: *const Candidate, fd: u32, other: u64) {
    // SAFETY: `candidate` is one of this processor's.
    unsafe {
        if (*candidate).owns == owns::FILE && (*candidate).behind & CLOSEFD == 0 {
            return;
        }
        let (object, class, owned) = ((*candidate).object, (*candidate).class, (*candidate).owns);
        let key = ClassKey { address: object, tgid: (*walk).tgid, execs: (*walk).execs };
        if HELD.get(&key).is_some_and(|held| *held == fd) {
            return;
        }
        let files = Files::of_current();
        let who = Subject { tgid: (*walk).tgid, tid: (*walk).tid, table: files.files };
        let mut told = false;
        emit::witness::<Bind>(|record| {
            emit::fill_header(&raw mut (*record).header, kind::BIND, 0, who);
            (*record).object = object;
            (*record).class = class;
            (*record).file = files.file(u64::from(fd));
            (*record).fd = fd as i32;
            (*record).owns = owned;
            (*record).other = other;
            told = true;
        });
        if told {
            let _ = HELD.insert(&key, &fd, 0);
            let holder = Holder { object, class, owns: owned, begun: 1, ..Holder::NOBODY };
            hold(&slot_key((*walk).tgid, (*walk).execs, fd), &holder);
        }
    }
}
