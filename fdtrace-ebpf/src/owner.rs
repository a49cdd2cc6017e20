//! The objects that own descriptors: found in the registers and near the top of the stack of a thread that makes a call.
//!
//! A value there is a candidate if it points to something that owns descriptors: each runtime has a file that says what
//! its objects look like ([`crate::classes`] for Python's, [`crate::stdio`] for C's). Nothing is concluded here: user
//! space knows which object was bound to what.
//!
//! Searching is dear, so it is done when something can come of it. Who may come to hold a number is noted when the number
//! is given out: objects that hold none at that moment. When it is closed, they alone are looked at.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use fdtrace_common::{
    wire::{Watch, watch_key},
    witness::{
        Bind, CANDIDATES_MAX, CLOSEFD, Candidate, ClassKey, Holder, MAYBE_MAX, SlotKey, found, kind, owns, shared_class,
    },
};

use crate::{
    classes,
    emit::{self, Subject},
    kernel::Files,
    maps::{HELD, HOLDERS, STACK_ROOM, WALK, WATCHED},
    shared::WATCHED_NUMBERS,
    stdio,
    walk::{POINTERS, SEARCH_REGISTERS, STRIDE, WORDS, Walk, copy, mode},
};

/// How often the holder of a number is searched for.
const SEARCHES: u32 = 8;
/// Uses of a number that are told after its generation was closed behind its owner's back.
const STALE_USES: u32 = 64;
/// Above the stack pointer, what points there points into the stack.
const STACK_SPAN: u64 = 1 << 20;
/// Where user space has its objects: aligned like this, and between these.
const ALIGNED: u64 = 16;
const ADDRESSES: core::ops::Range<u64> = 1 << 16..1 << 47;

/// An object that owns a descriptor, as it is now.
#[derive(Clone, Copy)]
pub struct Seen {
    pub class: u64,
    /// The number it holds; -1: none, or it is about to close it.
    pub fd: i32,
    pub behind: u32,
    /// One of [`owns`].
    pub owns: u32,
}

/// Fills the stack record's candidates from what was collected.
///
/// # Safety
/// `walk` is this processor's, with [`Walk::wanted_fd`] and [`Walk::mode`] set.
#[inline(always)]
unsafe fn look_at_all(walk: *mut Walk) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*walk).candidates = 0;
        bpf_loop(POINTERS as u32, look_step as *mut c_void, core::ptr::null_mut(), 0);
    }
}

/// Collects what may be pointers to objects from the registers and the stack.
#[inline(always)]
unsafe fn collect(walk: *mut Walk) {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let steps = (*walk).word_count.div_ceil(STRIDE);
        bpf_loop(steps, collect_step as *mut c_void, core::ptr::null_mut(), 0);
    }
}

/// Some words. Reading what they point to costs a hundred times as much as looking at them.
unsafe extern "C" fn collect_step(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    // SAFETY: this processor's room.
    unsafe {
        let words = (&raw const (*walk).words).cast::<u64>();
        let sp = (*walk).sp;
        for i in 0..STRIDE {
            let at = index * STRIDE + i;
            if at >= (*walk).word_count {
                return 1;
            }
            let object = words.add(at as usize & (WORDS - 1)).read_volatile();
            if object & (ALIGNED - 1) == 0 && ADDRESSES.contains(&object) && object.wrapping_sub(sp) >= STACK_SPAN {
                let place = if at < SEARCH_REGISTERS as u32 { at } else { at + found::STACK - SEARCH_REGISTERS as u32 };
                push(walk, object, place);
            }
        }
    }
    0
}

#[inline(always)]
unsafe fn push(walk: *mut Walk, object: u64, place: u32) {
    // SAFETY: `walk` is this processor's; the mask keeps the index inside.
    unsafe {
        let count = (&raw const (*walk).pointer_count).read_volatile();
        if count >= POINTERS as u32 {
            return;
        }
        let index = count as usize & (POINTERS - 1);
        (&raw mut (*walk).pointers).cast::<u64>().add(index).write_volatile(object);
        (&raw mut (*walk).places).cast::<u32>().add(index).write_volatile(place);
        (*walk).pointer_count = count + 1;
    }
}

/// One pointer.
unsafe extern "C" fn look_step(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return 1 };
    // SAFETY: this processor's rooms; all reads of user memory are checked by their helper.
    unsafe {
        if index >= (*walk).pointer_count {
            return 1;
        }
        let object = (&raw const (*walk).pointers).cast::<u64>().add(index as usize & (POINTERS - 1)).read_volatile();
        let place = (&raw const (*walk).places).cast::<u32>().add(index as usize & (POINTERS - 1)).read_volatile();
        let Some(seen) = recognise(walk, object) else { return 0 };
        let count = (*walk).candidates;
        if count >= CANDIDATES_MAX as u32 {
            return 1;
        }
        let candidates = (&raw mut (*room).stack.candidate).cast::<Candidate>();
        for i in 0..CANDIDATES_MAX {
            if (i as u32) < count && (*candidates.add(i)).object == object {
                // Known before, and in reach as well.
                if (*candidates.add(i)).found & found::PLACE == found::BOUND {
                    (*candidates.add(i)).found = found::KNOWN | place;
                }
                return 0;
            }
        }
        // Read again: see `python::frame_step`.
        let index = (&raw const (*walk).candidates).read_volatile() & (CANDIDATES_MAX as u32 - 1);
        let out = candidates.add(index as usize);
        (*out).object = object;
        (*out).class = seen.class;
        (*out).fd = seen.fd;
        (*out).behind = seen.behind;
        (*out).found = place;
        (*out).owns = seen.owns;
        (*walk).candidates = count + 1;
    }
    0
}

/// What the object is, if it owns descriptors and matters to the search.
#[inline(always)]
unsafe fn recognise(walk: *mut Walk, object: u64) -> Option<Seen> {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let mut front = [0u64; 3];
        if !copy((&raw mut front).cast(), 24, object) {
            return None;
        }
        if stdio::is_stream(front[0]) {
            return stdio::look(walk, object, front[0]);
        }
        if (*walk).has_python == 0 {
            return None;
        }
        classes::look(walk, front)
    }
}

/// Does a number matter to the search?
#[inline(always)]
pub unsafe fn matters(walk: *const Walk, fd: i32) -> bool {
    // SAFETY: `walk` is this processor's.
    unsafe {
        match (*walk).mode {
            // `select.epoll` begins with zero.
            mode::BEGUN => fd == -1 || fd == 0,
            mode::ANY => true,
            _ => fd == -1 || fd as u32 == (*walk).wanted_fd,
        }
    }
}

/// Searches for objects that hold the number, or none.
///
/// # Safety
/// `walk` is this processor's, with the interpreter, the registers and the stack words filled in.
#[inline(always)]
pub unsafe fn search(walk: *mut Walk, fd: u32, mode: u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*walk).wanted_fd = fd;
        (*walk).mode = mode;
        (*walk).pointer_count = 0;
        collect(walk);
        look_at_all(walk);
    }
}

const fn slot_key(tgid: u32, execs: u32, fd: u32) -> SlotKey {
    SlotKey { tgid, execs, fd, reserved: 0 }
}

/// A number is about to be closed: finds who holds it and who may close it, and forgets the bond, for the number is
/// anybody's from here on.
///
/// # Safety
/// As [`search`].
#[inline(always)]
pub unsafe fn at_close(walk: *mut Walk, fd: u32) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms.
    unsafe {
        (*walk).wanted_fd = fd;
        (*walk).mode = mode::CLOSE;
        (*walk).pointer_count = 0;
        let key = slot_key((*walk).tgid, (*walk).execs, fd);
        let mut known = Holder::NOBODY;
        if let Some(holder) = HOLDERS.get(&key) {
            known = *holder;
            let _ = HOLDERS.remove(&key);
        }
        if !is_decided(walk, &known, fd) {
            known_ones(walk, &known);
            collect(walk);
        } else {
            known_ones(walk, &known);
        }
        look_at_all(walk);
        if known.owns == owns::DIRECTORY && known.object != 0 {
            directory(walk, known.object, fd);
            // If it is being closed, the next one is given the same address.
            let _ = HELD.remove(&ClassKey { address: known.object, tgid: (*walk).tgid, execs: (*walk).execs });
        }
        let candidates = (&raw mut (*room).stack.candidate).cast::<Candidate>();
        for i in 0..CANDIDATES_MAX {
            if i as u32 >= (*walk).candidates {
                break;
            }
            let candidate = candidates.add(i);
            // Nothing but `fclose` takes a stream out of the list: it is the one, whether it was met before or not.
            let closes = (*candidate).owns == owns::STREAM && (*candidate).fd == -1;
            if (*candidate).found & found::KNOWN == 0 && !closes {
                continue;
            }
            let holds = (*candidate).fd as u32 == fd;
            let reached = (*candidate).found & found::PLACE != found::BOUND || closes;
            // One that might come to hold the number holds it now, or has just let go of it.
            if (*candidate).object != known.object && (holds || reached) {
                bind_one(walk, candidate, fd, 0);
            }
            if holds {
                // It does not know, so what it does with the number from now on is worth telling.
                let watch = Watch { left: STALE_USES, last: Watch::EVERY };
                let _ = WATCHED.insert(watch_key((*walk).tgid, fd), watch, 0);
                WATCHED_NUMBERS.set(WATCHED_NUMBERS.get() | 1 << (fd & 63));
            }
        }
        let _ = HOLDERS.remove(&key);
    }
}

/// What is known of the number tells who closes it, or that no object does: no search is needed.
#[inline(always)]
unsafe fn is_decided(walk: *const Walk, known: &Holder, fd: u32) -> bool {
    let numbers = WATCHED_NUMBERS.get();
    // SAFETY: `walk` is this processor's.
    unsafe {
        // Somebody was left behind with this number, and may close it.
        if numbers >> (fd & 63) & 1 != 0 && WATCHED.get_ptr(watch_key((*walk).tgid, fd)).is_some() {
            return false;
        }
        let object = if known.object != 0 { known.object } else { known.maybe[0] };
        if object == 0 {
            return known.begun != 0;
        }
        let mut front = [0u64; 3];
        if !copy((&raw mut front).cast(), 24, object) {
            return false;
        }
        match known.owns {
            owns::STREAM => stdio::is_closing(front[0]),
            // A socket can let go of its number without closing it.
            owns::FILE | owns::EPOLL => known.object != 0 && front[1] == known.class && front[2] as i32 == -1,
            _ => false,
        }
    }
}

#[inline(always)]
unsafe fn known_ones(walk: *mut Walk, known: &Holder) {
    // SAFETY: `walk` is this processor's.
    unsafe {
        for object in [known.object, known.maybe[0], known.maybe[1]] {
            if object != 0 {
                push(walk, object, found::KNOWN | found::BOUND);
            }
        }
    }
}

/// An open directory: nothing in its memory tells whether it is being closed.
#[inline(always)]
unsafe fn directory(walk: *mut Walk, object: u64, fd: u32) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms.
    unsafe {
        let count = (*walk).candidates;
        if count >= CANDIDATES_MAX as u32 {
            return;
        }
        let index = (&raw const (*walk).candidates).read_volatile() & (CANDIDATES_MAX as u32 - 1);
        let out = (&raw mut (*room).stack.candidate).cast::<Candidate>().add(index as usize);
        (*out).object = object;
        (*out).class = shared_class::DIRECTORY;
        (*out).fd = fd as i32;
        (*out).behind = 0;
        (*out).found = found::KNOWN | found::BOUND;
        (*out).owns = owns::DIRECTORY;
        (*walk).candidates = count + 1;
    }
}

/// `readdir` fills its buffer, which lies in the `DIR` itself: then that holds the number.
/// <https://sourceware.org/git/?p=glibc.git;a=blob;f=sysdeps/unix/sysv/linux/dirstream.h;hb=refs/tags/glibc-2.36#l30>
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn reads_directory(walk: *mut Walk, fd: u32, buffer: u64, size: u64) {
    const DATA: u64 = 0x30;
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms, and a local of that size.
    unsafe {
        let object = buffer.wrapping_sub(DATA);
        let mut front = [0u64; 2];
        // The number and a lock, then the size of the buffer.
        if !copy((&raw mut front).cast(), 16, object) || front[0] as u32 != fd || front[1] != size {
            return;
        }
        (*walk).candidates = 0;
        directory(walk, object, fd);
        bind_one(walk, (&raw const (*room).stack.candidate).cast(), fd, 0);
        (*walk).candidates = 0;
    }
}

/// An object whose field has become -1 holds nothing any more.
///
/// # Safety
/// As [`search`], which has run.
#[inline(always)]
pub unsafe fn let_go(walk: *mut Walk) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms.
    unsafe {
        let candidates = (&raw const (*room).stack.candidate).cast::<Candidate>();
        for i in 0..CANDIDATES_MAX {
            if i as u32 >= (*walk).candidates {
                break;
            }
            let candidate = candidates.add(i);
            if (*candidate).fd == -1 {
                let key = ClassKey { address: (*candidate).object, tgid: (*walk).tgid, execs: (*walk).execs };
                let _ = HELD.remove(&key);
            }
        }
    }
}

/// Is it worth searching for who holds this number? `always`: even if somebody is known to.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn wanted(walk: *const Walk, fd: u32, always: bool) -> bool {
    // SAFETY: by the caller's promise.
    let key = unsafe { slot_key((*walk).tgid, (*walk).execs, fd) };
    match HOLDERS.get_ptr_mut(&key) {
        None => {
            let first = Holder { searches: 1, ..Holder::NOBODY };
            let _ = HOLDERS.insert(&key, &first, 0);
            true
        }
        // SAFETY: a live element of a hash map; only this process's threads write it, and a lost count does no harm.
        Some(known) => unsafe {
            (*known).searches = (*known).searches.wrapping_add(1);
            always || ((*known).object == 0 && (*known).searches <= SEARCHES)
        },
    }
}

/// A number was given out: nobody is known to hold it yet. If a search was made, what it found may come to hold it.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn begun(walk: *mut Walk, fd: u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut holder = Holder { begun: 1, ..Holder::NOBODY };
        maybes(walk, &mut holder);
        let _ = HOLDERS.insert(&slot_key((*walk).tgid, (*walk).execs, fd), &holder, 0);
    }
}

/// Something is about to be made of the number, as `fdopen` does when it asks for its flags: nothing is decided any more.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn asked(walk: *const Walk, fd: u32) {
    // SAFETY: by the caller's promise; a live element of a hash map.
    unsafe {
        if let Some(known) = HOLDERS.get_ptr_mut(&slot_key((*walk).tgid, (*walk).execs, fd)) {
            (*known).begun = 0;
        }
    }
}

/// Nobody was found to hold the number that a call asks about: those that hold none may come to.
///
/// # Safety
/// As [`search`], which has run.
#[inline(always)]
pub unsafe fn foresee(walk: *mut Walk, fd: u32) {
    // SAFETY: by the caller's promise; a live element of a hash map.
    unsafe {
        let Some(known) = HOLDERS.get_ptr_mut(&slot_key((*walk).tgid, (*walk).execs, fd)) else { return };
        if (*known).object == 0 && (*known).maybe[0] == 0 {
            maybes(walk, &mut *known);
        }
    }
}

/// The first of the candidates that hold nothing.
#[inline(always)]
unsafe fn maybes(walk: *mut Walk, holder: &mut Holder) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms.
    unsafe {
        let candidates = (&raw const (*room).stack.candidate).cast::<Candidate>();
        let mut count = 0;
        for i in 0..CANDIDATES_MAX {
            if i as u32 >= (*walk).candidates || count == MAYBE_MAX {
                break;
            }
            let candidate = candidates.add(i);
            // A file asks about its number as soon as it has one.
            if (*candidate).fd > 0 || (*candidate).owns == owns::FILE {
                continue;
            }
            if count == 0 {
                holder.maybe[0] = (*candidate).object;
                holder.owns = (*candidate).owns;
            } else {
                holder.maybe[1] = (*candidate).object;
            }
            count += 1;
        }
    }
}

/// Tells user space of candidates that hold the number, each object once for each number.
///
/// # Safety
/// As [`search`], which has run.
#[inline(always)]
pub unsafe fn bind(walk: *mut Walk, fd: u32) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms.
    unsafe {
        let candidates = (&raw const (*room).stack.candidate).cast::<Candidate>();
        for i in 0..CANDIDATES_MAX {
            if i as u32 >= (*walk).candidates {
                break;
            }
            let candidate = candidates.add(i);
            if (*candidate).fd as u32 == fd {
                let other = other_holder(walk, (*candidate).object, fd);
                bind_one(walk, candidate, fd, other);
            }
        }
    }
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
        match recognise(walk, other) {
            Some(seen) if seen.class == class && seen.fd as u32 == fd => other,
            _ => 0,
        }
    }
}

#[inline(always)]
unsafe fn bind_one(walk: *mut Walk, candidate: *const Candidate, fd: u32, other: u64) {
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
            let _ = HOLDERS.insert(&slot_key((*walk).tgid, (*walk).execs, fd), &holder, 0);
        }
    }
}
