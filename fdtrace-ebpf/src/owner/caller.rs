//! Who makes a call: a function of the C library, or the program itself.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;

use super::words::copy_words;
use crate::{
    kernel::returns_by_stack,
    maps::WALK,
    walk::{SEARCH_REGISTERS, STRIDE, WORDS, Walk, mode, peek},
};

/// The code of a C library is no longer than this. Of its functions that make system calls, `open` keeps the most on the
/// stack: it returns by the 16th word. None is longer than that.
const LIBRARY_SPAN: u64 = 2 << 20;
const WRAPPER: u64 = 4096;
const CALLER_WORDS: u32 = 24;

/// Does a function of the library that the call is in make it, `fopen` and not the program? Then where that library goes on
/// stands a little above the stack pointer. What else looks like it may be left from an earlier call, so only the answer no
/// is to be relied on.
#[inline(always)]
pub(super) unsafe fn is_library_s(walk: *mut Walk) -> bool {
    // SAFETY: `walk` is this processor's.
    unsafe {
        (*walk).by_library = 0;
        // A loader has no streams.
        let by_loader = (*walk).ip.wrapping_sub((*walk).loader) < (*walk).loader_len;
        if !returns_by_stack() || (&raw const (*walk).by_program).read_volatile() != 0 || by_loader {
            return false;
        }
        copy_words(walk);
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
