//! `FILE` of the GNU C library: recognised by what it is made of, because stripped and static programs have no symbols
//! that would lead to one.
//!
//! Every stream has a magic number in front and a table of functions whose first two entries are empty. While `fclose`
//! closes the number of a stream, the stream is no longer in the library's list and its flags say so; it forgets the number
//! only afterwards. Whoever else closes that number meets a stream that is still in the list.
//! <https://sourceware.org/git/?p=glibc.git;a=blob;f=libio/iofclose.c;hb=refs/tags/glibc-2.36#l33>

use fdtrace_common::witness::{owns, shared_class};

use crate::{
    owner::Seen,
    walk::{Walk, mode, peek},
};

/// `_IO_MAGIC`, in the upper half of `_flags`.
const MAGIC: u32 = 0xFBAD;
/// `_IO_LINKED` of `_flags`.
const LINKED: u32 = 0x80;
/// `_IO_FLAGS2_NOCLOSE` of `_flags2`: `freopen` is at work, and closes a number that the stream holds for a moment only.
const NO_CLOSE: u32 = 32;
/// `_fileno`, and behind it `_flags2`. Part of the ABI since 2.1, as the next.
const FILENO: u64 = 0x70;
/// Of `struct _IO_FILE_plus`.
const VTABLE: u64 = 0xd8;
/// The three that every process begins with are redirected by closing their numbers, which is no mistake.
const STANDARD: u32 = 2;

/// Does an object that begins with this word look like a stream?
#[inline(always)]
pub fn is_stream(front: u64) -> bool {
    front as u32 >> 16 == MAGIC
}

/// `fclose` is at work on it.
#[inline(always)]
pub fn is_closing(front: u64) -> bool {
    is_stream(front) && front as u32 & LINKED == 0
}

/// Fills [`Walk::seen`] with the stream, if it matters to the search. One that is about to close the number counts as
/// holding none, as the objects of other runtimes do at that moment.
#[inline(always)]
pub unsafe fn look(walk: *mut Walk, stream: u64, front: u64) -> bool {
    let Some(numbers) = peek::<u64>(stream.wrapping_add(FILENO)) else { return false };
    let (fd, more) = (numbers as i32, (numbers >> 32) as u32);
    let linked = front as u32 & LINKED != 0;
    if more & NO_CLOSE != 0 {
        return false;
    }
    // SAFETY: `walk` is this processor's.
    let (wanted, mode) = unsafe { ((*walk).wanted_fd, (*walk).mode) };
    let matters = match mode {
        mode::BEGUN => fd == -1 && linked,
        _ => fd as u32 == wanted && wanted > STANDARD,
    };
    if !matters {
        return false;
    }
    let Some(table) = peek::<u64>(stream.wrapping_add(VTABLE)) else { return false };
    let Some(entries) = peek::<[u64; 4]>(table) else { return false };
    if entries[0] != 0 || entries[1] != 0 || entries[2] == 0 || entries[3] == 0 {
        return false;
    }
    let fd = if linked { fd } else { -1 };
    // SAFETY: `walk` is this processor's.
    unsafe {
        (*walk).seen = Seen { class: shared_class::STREAM, fd, behind: front as u32, owns: owns::STREAM, reserved: 0 }
    };
    true
}
