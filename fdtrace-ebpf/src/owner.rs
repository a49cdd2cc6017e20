//! The objects that own descriptors: found in the registers and near the top of the stack of a thread that makes a call.
//!
//! A value there is a candidate if it points to something that owns descriptors: each runtime has a file that says what
//! its objects look like ([`crate::classes`] for Python's, [`crate::stdio`] for C's). Nothing is concluded here: user
//! space knows which object was bound to what.
//!
//! Searching is dear, so it is done when something can come of it. Who may come to hold a number is noted when the number
//! is given out: objects that hold none at that moment. When it is closed, they alone are looked at.

mod bind;
mod caller;
mod closing;
mod holders;
mod words;

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use fdtrace_common::witness::{CANDIDATES_MAX, Candidate, found, owns, shared_class};

use crate::{
    classes,
    kernel::{program_image, returns_by_stack, thread_pointer},
    maps::{STACK_ROOM, WALK},
    stdio,
    walk::{self, MET, POINTERS, SEARCH_REGISTERS, STRIDE, WORDS, Walk, has_python, mode, peek},
};

use bind::bind_one;
pub use bind::{bind, let_go};
use caller::is_library_s;
use closing::{closed, is_to_close, recall};
pub use holders::{asked, begun, foresee, is_settled, wanted};
use words::copy_words;

/// What points this little above the stack pointer points into the stack, if the thread's own data does not come before:
/// that stands at the end of its stack, and memory with objects in it may begin right behind.
const STACK_SPAN: u64 = 64 << 10;
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
        if (&raw const (*walk).pointer_count).read_volatile() == 0 {
            return;
        }
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
/// `walk` is this processor's, with the interpreter and the registers filled in, the number and why it is searched for.
#[inline(always)]
pub unsafe fn search(walk: *mut Walk) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*walk).pointer_count = 0;
        if (&raw const (*walk).library_only).read_volatile() != 0 && returns_by_stack() && !is_library_s(walk) {
            (*walk).candidates = 0;
            (*walk).by_itself = 1;
            return;
        }
        let is_decided = is_to_close(walk) && recall(walk);
        if !is_decided {
            copy_words(walk);
            collect(walk);
        }
        look_at_all(walk);
        if is_to_close(walk) {
            closed(walk);
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

const _: () = assert!(CANDIDATES_MAX.is_power_of_two());
