//! Stacks that were unwound before. A program that makes many calls makes most of them in the same ways, and copies of its
//! stack are most of what is sent: user space tells which words the frames depend on, and where these are as they were the
//! copy is left out.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use fdtrace_common::witness::{
    FRAMES_MAX, KNOWN_SPAN, KNOWN_WORDS, KnownStack, PyFrame, STACK_VARIANTS, StackKey, base,
};

use crate::{
    filter, kernel,
    maps::{KNOWN, STACK_ROOM, WALK},
    walk::{Walk, copy},
};

/// Finds out whether the stack that the call is made from is known: [`Walk::recognised`]. The front of the stack may have
/// been copied afterwards.
///
/// # Safety
/// `walk` is this processor's, the registers were taken, and it is known how much is wanted and where it goes.
#[inline(always)]
pub unsafe fn recognise(walk: *mut Walk) {
    // SAFETY: by the caller's promise; a live element of a hash map.
    unsafe {
        let Some(process) = filter::process((*walk).tgid) else { return };
        (*walk).layout = (*process).layout;
        (*walk).loader = (*process).loader;
        (*walk).loader_len = (*process).loader_len;
        let (program, program_end) = kernel::program_image();
        let mapped = kernel::mmap_base();
        let ip = (*walk).ip;
        let in_program = ip.wrapping_sub(program) < program_end.wrapping_sub(program);
        (*walk).place = ip.wrapping_sub(if in_program { program } else { mapped });
        (*walk).bases[base::MAPPED as usize] = mapped;
        (*walk).bases[base::PROGRAM as usize] = program;
        (*walk).bases[base::STACK as usize] = (*walk).sp;
        bpf_loop(STACK_VARIANTS, variant_step as *mut c_void, core::ptr::null_mut(), 0);
    }
}

/// Compares with the next of those that have the same place and depth.
unsafe extern "C" fn variant_step(variant: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return 1 };
    // SAFETY: this processor's rooms, and an element of a hash map; the bounds of what is copied and read are checked.
    unsafe {
        let (place, below) = ((*walk).place, (*walk).below);
        let key = StackKey { place, below, layout: (*walk).layout, variant, reserved: 0 };
        let Some(known) = KNOWN.get_ptr(&key) else { return 1 };
        let number = (&raw const (*known).number).read_volatile();
        let tail = (&raw const (*walk).tail).read_volatile() as usize;
        if tail > FRAMES_MAX * size_of::<PyFrame>() {
            return 1;
        }
        let there = (&raw mut (*room).tail).cast::<u8>().add(tail);
        // With a mask that does nothing, so that all verifiers know how much it can be.
        let span = (&raw const (*known).span).read_volatile() & (2 * KNOWN_SPAN - 1);
        if span > (*walk).stack_want {
            return 0;
        }
        if span > (*walk).stack_len {
            if !copy(there, span, (*walk).sp) {
                return 1;
            }
            (*walk).stack_len = span;
        }
        let (count, by_program) = ((*known).count, (*known).by_program);
        for at in 0..KNOWN_WORDS {
            if at as u32 >= count {
                break;
            }
            let offset = (&raw const (*known).offsets[at]).read_volatile();
            let value = if offset & KnownStack::BP != 0 {
                (*walk).words[0]
            } else {
                there.add((offset & (KNOWN_SPAN - 8)) as usize).cast::<u64>().read_volatile()
            };
            let base = (*walk).bases[(offset >> KnownStack::BASE & 3) as usize];
            if value.wrapping_sub(base) != (*known).words[at] {
                return 0;
            }
        }
        // An element that user space takes away may be another stack's by now: its number is written before its words.
        if (&raw const (*known).number).read_volatile() == number {
            (*walk).recognised = number;
            (*walk).by_program = by_program;
        }
    }
    1
}
