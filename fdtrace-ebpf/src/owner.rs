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
    wire::watch_key,
    witness::{
        Bind, CANDIDATES_MAX, CLOSEFD, Candidate, ClassKey, Holder, MAYBE_MAX, SlotKey, found, kind, owns, shared_class,
    },
};

use crate::{
    classes,
    emit::{self, Subject},
    filter,
    gate::{self, Hands},
    kernel::{Files, program_image, returns_by_stack, thread_pointer},
    maps::{HELD, HOLDERS, STACK_ROOM, WALK, WATCHED},
    stdio,
    walk::{self, MET, POINTERS, SEARCH_REGISTERS, STRIDE, WORDS, Walk, has_python, mode, peek},
    watch,
};

/// How often the holder of a number is searched for.
const SEARCHES: u32 = 8;
/// Uses of a number that are told after its generation was closed behind its owner's back.
const STALE_USES: u32 = 64;
/// What points this little above the stack pointer points into the stack, if the thread's own data does not come before:
/// that stands at the end of its stack, and memory with objects in it may begin right behind.
const STACK_SPAN: u64 = 64 << 10;
/// The code of a C library is no longer than this. Of its functions that make system calls, `open` keeps the most on the
/// stack: it returns by the 16th word. None is longer than that.
const LIBRARY_SPAN: u64 = 2 << 20;
const WRAPPER: u64 = 4096;
const CALLER_WORDS: u32 = 24;
/// Where user space has its objects: aligned like this, and between these.
const ALIGNED: u64 = 16;
const ADDRESSES: core::ops::Range<u64> = 1 << 16..1 << 47;

/// An object that owns a descriptor, as it is now.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Seen {
    pub class: u64,
    /// The number it holds; -1: none, or it is about to close it.
    pub fd: i32,
    pub behind: u32,
    /// One of [`owns`].
    pub owns: u32,
    pub reserved: u32,
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
        let to_thread = thread_pointer().wrapping_sub((*walk).sp);
        (*walk).stack_span = if to_thread < STACK_SPAN { to_thread } else { STACK_SPAN };
        // Python allocates its objects; what its program is made of are types and functions.
        let (start, end) = program_image();
        (*walk).image = start;
        (*walk).image_len = if has_python(walk) { end.wrapping_sub(start) } else { 0 };
        (*walk).search = (*walk).search.wrapping_add(1);
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
        let (sp, span) = ((*walk).sp, (*walk).stack_span);
        let (image, image_len) = ((*walk).image, (*walk).image_len);
        for i in 0..STRIDE {
            let at = index * STRIDE + i;
            if at >= (*walk).word_count {
                return 1;
            }
            let object = words.add(at as usize & (WORDS - 1)).read_volatile();
            if object & (ALIGNED - 1) == 0
                && ADDRESSES.contains(&object)
                && object.wrapping_sub(sp) >= span
                && object.wrapping_sub(image) >= image_len
                && is_new(walk, object)
            {
                let place = if at < SEARCH_REGISTERS as u32 { at } else { at + found::STACK - SEARCH_REGISTERS as u32 };
                push(walk, object, place);
            }
        }
    }
    0
}

/// Was the pointer not met before in this search? A false yes costs a second look.
#[inline(always)]
unsafe fn is_new(walk: *mut Walk, object: u64) -> bool {
    // SAFETY: `walk` is this processor's; the mask keeps the index inside.
    unsafe {
        let index = (object >> 4 ^ object >> 10) as usize & (MET - 1);
        let met = (&raw mut (*walk).met).cast::<u64>().add(index);
        let met_in = (&raw mut (*walk).met_in).cast::<u32>().add(index);
        if met.read_volatile() == object && met_in.read_volatile() == (*walk).search {
            return false;
        }
        met.write_volatile(object);
        met_in.write_volatile((*walk).search);
        true
    }
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
        if !recognise(walk, object) {
            return 0;
        }
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
        (*out).class = (*walk).seen.class;
        (*out).fd = (*walk).seen.fd;
        (*out).behind = (*walk).seen.behind;
        (*out).found = place;
        (*out).owns = (*walk).seen.owns;
        (*walk).candidates = count + 1;
    }
    0
}

/// Fills [`Walk::seen`] with what the object is, if it owns descriptors and matters to the search.
#[inline(always)]
unsafe fn recognise(walk: *mut Walk, object: u64) -> bool {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let Some(front) = walk::front(walk, object) else { return false };
        if stdio::is_stream(front[0]) {
            return stdio::look(walk, object, front[0]);
        }
        has_python(walk) && classes::look(walk, front)
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

/// Searches for objects that hold the number, or none; [`mode::CLOSE`] looks at those first that are known to.
///
/// # Safety
/// `walk` is this processor's, with the interpreter, the registers and the stack words filled in, the number and why it is
/// searched for.
#[inline(always)]
pub unsafe fn search(walk: *mut Walk) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*walk).pointer_count = 0;
        if (&raw const (*walk).library_only).read_volatile() != 0 && returns_by_stack() && !is_library_s(walk) {
            (*walk).candidates = 0;
            return;
        }
        if closing(walk) {
            recall(walk);
        }
        collect(walk);
        look_at_all(walk);
        if closing(walk) {
            closed(walk);
        }
    }
}

/// Does a function of the library that the call is in make it, `fopen` and not the program? Then where that library goes on
/// stands a little above the stack pointer. What else looks like it may be left from an earlier call, so only the answer no
/// is to be relied on.
#[inline(always)]
unsafe fn is_library_s(walk: *mut Walk) -> bool {
    // SAFETY: `walk` is this processor's.
    unsafe {
        (*walk).by_library = 0;
        if !returns_by_stack() {
            return false;
        }
        bpf_loop(CALLER_WORDS / STRIDE, caller_step as *mut c_void, core::ptr::null_mut(), 0);
        (&raw const (*walk).by_library).read_volatile() != 0
    }
}

/// Some words of the stack.
unsafe extern "C" fn caller_step(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    // SAFETY: this processor's room; the mask keeps the index inside.
    unsafe {
        if (*walk).by_library != 0 {
            return 1;
        }
        let words = (&raw const (*walk).words).cast::<u64>();
        let ip = (*walk).ip;
        // Below the place that `open` returns to much is left from earlier calls; but whoever makes a stream calls it straight,
        // where others may end in a jump to what makes the call.
        let is_open = (*walk).mode == mode::BEGUN;
        for i in 0..STRIDE {
            let at = SEARCH_REGISTERS as u32 + index * STRIDE + i;
            if at >= (*walk).word_count {
                return 1;
            }
            let word = words.add(at as usize & (WORDS - 1)).read_volatile();
            if word.wrapping_sub(ip.wrapping_sub(LIBRARY_SPAN)) < 2 * LIBRARY_SPAN
                && let Some(code) = peek::<u64>(word.wrapping_sub(8))
                && ends_in_call(code)
                && (!is_open || ip.wrapping_sub(word.wrapping_add((code >> 32) as i32 as u64)) < WRAPPER)
            {
                (*walk).by_library = 1;
                return 1;
            }
        }
    }
    0
}

/// Does code, eight bytes of it, end in an instruction that calls? x86-64: 0xe8 and a distance, or 0xff with 2 in its
/// middle bits and an operand of any form.
#[inline(always)]
fn ends_in_call(code: u64) -> bool {
    let byte = |from_end: u32| code >> (64 - 8 * from_end) & 0xff;
    let indirect =
        |from_end: u32, mask: u64, operand: u64| byte(from_end) == 0xff && byte(from_end - 1) & mask == operand;
    byte(5) == 0xe8
        || indirect(2, 0xf8, 0xd0)
        || indirect(2, 0xf8, 0x10)
        || indirect(3, 0xf8, 0x50)
        || indirect(4, 0xff, 0x54)
        || indirect(6, 0xf8, 0x90)
        || indirect(6, 0xff, 0x15)
        || indirect(7, 0xff, 0x94)
}

/// Is the search made because the number is about to be closed?
#[inline(always)]
unsafe fn closing(walk: *const Walk) -> bool {
    // SAFETY: `walk` is this processor's. Volatile: see `walk::planned`.
    unsafe { (&raw const (*walk).mode).read_volatile() == mode::CLOSE }
}

/// Copies word by word: a structure is copied by a loop over bytes here.
#[inline(always)]
unsafe fn keep(to: *mut Holder, from: *const Holder) {
    for word in 0..size_of::<Holder>() / 8 {
        // SAFETY: by the caller's promise that both are valid; they consist of whole words, as asserted below.
        unsafe { to.cast::<u64>().add(word).write_volatile(from.cast::<u64>().add(word).read_volatile()) };
    }
}

/// Makes it [`Holder::NOBODY`]. As above.
#[inline(always)]
unsafe fn nobody(to: *mut Holder) {
    for word in 0..size_of::<Holder>() / 8 {
        // SAFETY: as above.
        unsafe { to.cast::<u64>().add(word).write_volatile(0) };
    }
}

const fn slot_key(tgid: u32, execs: u32, fd: u32) -> SlotKey {
    SlotKey { tgid, execs, fd, reserved: 0 }
}

/// The slot of the number that is searched for.
#[inline(always)]
unsafe fn wanted_slot(walk: *const Walk) -> SlotKey {
    // SAFETY: `walk` is this processor's.
    unsafe { slot_key((*walk).tgid, (*walk).execs, (*walk).wanted_fd) }
}

/// A number is about to be closed: who is known to hold it is looked at first, or alone where that decides it. The bond is
/// forgotten, for the number is anybody's from here on.
#[inline(always)]
unsafe fn recall(walk: *mut Walk) {
    // SAFETY: `walk` is this processor's; a live element of a hash map.
    unsafe {
        let key = wanted_slot(walk);
        nobody(&raw mut (*walk).known);
        if let Some(holder) = HOLDERS.get(&key) {
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
        if is_decided(walk) {
            (*walk).word_count = 0;
        }
    }
}

/// Tells of who may close the number.
#[inline(always)]
unsafe fn closed(walk: *mut Walk) {
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

/// One candidate.
#[inline(always)]
fn candidate(index: u32) -> Option<*mut Candidate> {
    let room = STACK_ROOM.get_ptr_mut(0)?;
    // SAFETY: this processor's room; the mask keeps the index inside.
    Some(unsafe { (&raw mut (*room).stack.candidate).cast::<Candidate>().add(index as usize & (CANDIDATES_MAX - 1)) })
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
            // Somebody was left behind with this number, and may close it: a stream by `fclose`, see `wanted`.
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
        // The number and a lock, then the size of the buffer.
        let Some(front) = peek::<[u64; 2]>(object) else { return };
        if front[0] as u32 != fd || front[1] != size {
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

/// Is it worth searching for who holds this number? `always`: even if somebody is known to.
///
/// Of numbers that were given out before our eyes a stream is met when the C library makes a call for it, and not before.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn wanted(walk: *mut Walk, fd: u32, always: bool) -> bool {
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
            (*walk).library_only = (*known).begun & ((*walk).has_python ^ 1);
            always || ((*known).object == 0 && (*known).searches <= SEARCHES)
        },
    }
}

/// Is it known who holds this number, or has been searched for in vain often enough?
#[inline(always)]
pub fn is_settled(tgid: u32, fd: u32) -> bool {
    if gate::is_settled(tgid, fd) {
        return true;
    }
    let Some(process) = filter::process(tgid) else { return true };
    // SAFETY: a live element of a hash map.
    let execs = unsafe { (*process).execs };
    let Some(known) = HOLDERS.get_ptr(&slot_key(tgid, execs, fd)) else { return false };
    // SAFETY: as above.
    let settled = unsafe { (*known).object != 0 || (*known).searches > SEARCHES };
    if settled {
        gate::settle(tgid, fd);
    }
    settled
}

/// A number was given out: nobody is known to hold it yet. If a search was made, what it found may come to hold it.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn begun(walk: *mut Walk) {
    // SAFETY: by the caller's promise.
    unsafe {
        maybes(walk);
        (*walk).known.begun = 1;
        let _ = HOLDERS.insert(&wanted_slot(walk), &(*walk).known, 0);
        gate::unsettle((*walk).tgid, (*walk).wanted_fd);
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
pub unsafe fn foresee(walk: *mut Walk) {
    // SAFETY: by the caller's promise; a live element of a hash map.
    unsafe {
        let Some(known) = HOLDERS.get_ptr_mut(&wanted_slot(walk)) else { return };
        if (*known).object == 0 && (*known).maybe[0] == 0 {
            maybes(walk);
            (*known).owns = (*walk).known.owns;
            (*known).maybe = (*walk).known.maybe;
        }
    }
}

/// Makes [`Walk::known`] of the first candidates that hold nothing.
#[inline(always)]
unsafe fn maybes(walk: *mut Walk) {
    // SAFETY: `walk` is this processor's.
    unsafe {
        nobody(&raw mut (*walk).known);
        (*walk).maybe_count = 0;
        bpf_loop((*walk).candidates, maybe_step as *mut c_void, core::ptr::null_mut(), 0);
    }
}

unsafe extern "C" fn maybe_step(index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(candidate) = candidate(index) else { return 1 };
    // SAFETY: this processor's rooms.
    unsafe {
        // A file asks about its number as soon as it has one.
        if (*candidate).fd > 0 || (*candidate).owns == owns::FILE {
            return 0;
        }
        if (*walk).maybe_count == 0 {
            (*walk).known.owns = (*candidate).owns;
        }
        let count = (&raw const (*walk).maybe_count).read_volatile() as usize & (MAYBE_MAX - 1);
        (&raw mut (*walk).known.maybe).cast::<u64>().add(count).write_volatile((*candidate).object);
        (*walk).maybe_count += 1;
        i64::from((*walk).maybe_count >= MAYBE_MAX as u32)
    }
}

/// Tells user space of candidates that hold the number, each object once for each number.
///
/// # Safety
/// As [`search`], which has run.
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

const _: () = assert!(CANDIDATES_MAX.is_power_of_two() && MAYBE_MAX.is_power_of_two());
const _: () = assert!(size_of::<Holder>().is_multiple_of(8) && align_of::<Holder>() == 8);
