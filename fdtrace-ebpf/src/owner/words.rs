//! The words that are searched: registers, and the front of the stack.

use fdtrace_common::witness::STACK_STEP;

use crate::walk::{SEARCH_REGISTERS, SEARCH_WORDS_NATIVE, Walk, copy, has_python};

/// Copies those of the stack, if that was not done yet.
#[inline(always)]
pub(super) unsafe fn copy_words(walk: *mut Walk) {
    // SAFETY: the room has that many words.
    unsafe {
        if (&raw const (*walk).word_count).read_volatile() != 0 {
            return;
        }
        let words = (&raw mut (*walk).words).cast::<u64>().add(SEARCH_REGISTERS).cast::<u8>();
        let sp = (*walk).sp;
        let step = STACK_STEP as u32;
        (*walk).word_count = SEARCH_REGISTERS as u32;
        if !has_python(walk) {
            if copy(words, SEARCH_WORDS_NATIVE as u32 * 8, sp) {
                (*walk).word_count += SEARCH_WORDS_NATIVE as u32;
            }
        } else if copy(words, step, sp) {
            (*walk).word_count += step / 8;
            if copy(words.add(STACK_STEP), step, sp.wrapping_add(u64::from(step))) {
                (*walk).word_count += step / 8;
            }
        }
    }
}
