//! What a walk through user memory needs beside the record it builds, and how that memory is read.
//!
//! Loops are callbacks of `bpf_loop`, and what they work on is in a per-CPU map and not on the stack, so that the
//! verifier sees each body once. What was decided on the way is there too, and is read again where it is needed: the
//! verifier does not follow values through a map, so what comes behind a branch is the same to it on either side, where it
//! would walk on once for each side if the values were in registers.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use fdtrace_common::{
    python::PyProcess,
    witness::{Holder, STACK_STEP},
};

use crate::owner::Seen;

#[unsafe(no_mangle)]
static STACK_BYTES: [u32; 2] = [0; 2];

/// Words of the stack that are searched for owners.
pub const SEARCH_WORDS: usize = 128;
/// Registers in front of them.
pub const SEARCH_REGISTERS: usize = 6;
pub const WORDS: usize = (SEARCH_REGISTERS + SEARCH_WORDS).next_power_of_two();
/// Of these, where no Python runs: C keeps its streams in registers, or saves them close by.
pub const SEARCH_WORDS_NATIVE: usize = 32;
/// Words looked at in one step.
pub const STRIDE: u32 = 8;
/// Words that may be pointers to objects.
pub const POINTERS: usize = 64;
/// Pointers of one search of which it is known that they were met before: the same object is often on the stack several
/// times.
pub const MET: usize = 64;
/// Size of the copies of a frame and of a code object.
pub const COPY: usize = 256;

/// State of one walk.
#[repr(C, align(8))]
pub struct Walk {
    pub python: PyProcess,
    /// Behind the interpreter, as in [`fdtrace_common::witness::PyEntry`].
    pub python_execs: u32,
    pub python_reserved: u32,
    pub frame: [u64; COPY / 8],
    pub code: [u64; COPY / 8],
    /// Registers, then words of the stack; a power of two, so that a masked index is inside.
    pub words: [u64; WORDS],
    pub text: [u64; 8],
    pub tgid: u32,
    pub tid: u32,
    pub execs: u32,
    pub frames: u32,
    /// The time.
    pub now: u64,
    /// The thread pointer.
    pub thread: u64,
    /// Next in the list of interpreters, and next thread state of the current one.
    pub interpreter: u64,
    pub state: u64,
    /// The thread's state, and one that has no frames.
    pub found: u64,
    pub idle: u64,
    /// The next frame.
    pub next: u64,
    /// The frame of the event loop that runs a task; 1: the search has ended without.
    pub handle_frame: u64,
    pub cut: u32,
    pub candidates: u32,
    pub sp: u64,
    /// Addresses from there that belong to the stack.
    pub stack_span: u64,
    /// The program's file in memory: its code and its data, but not what it allocates.
    pub image: u64,
    pub image_len: u64,
    pub process: u64,
    /// The number that the call is about, and why it is searched for: one of [`mode`].
    pub wanted_fd: u32,
    pub mode: u32,
    /// How many there are; 0: they were not copied yet.
    pub word_count: u32,
    /// Nonzero: the interpreter is known.
    pub has_python: u32,
    /// What was collected from the words, and where it was: see `fdtrace_common::witness::found`.
    pub pointers: [u64; POINTERS],
    pub places: [u32; POINTERS],
    pub pointer_count: u32,
    /// How many searches there were.
    pub search: u32,
    /// Pointers that were met lately, and in which search.
    pub met: [u64; MET],
    pub met_in: [u32; MET],
    /// What is to be done: bits of [`plan`].
    pub plan: u32,
    /// The notes to make in the stack record.
    pub notes: u32,
    /// Bytes of the stack that are wanted, and that were copied.
    pub stack_want: u32,
    pub stack_len: u32,
    /// Where they go, and how many come next.
    pub tail: u32,
    pub piece: u32,
    /// Objects in `known.maybe`, while it is filled.
    pub maybe_count: u32,
    /// Nonzero: what is searched for is there only if the C library makes the call for itself.
    pub library_only: u32,
    /// Nonzero: it does.
    pub by_library: u32,
    /// Nonzero: it was searched for, and does not: the program itself makes the call.
    pub by_itself: u32,
    /// Nonzero: `closedir` closes the number, which the object in [`Self::known`] holds.
    pub is_closedir: u32,
    /// Nonzero: the stack is known, and `fdtrace_common::witness::KnownStack::by_program`.
    pub by_program: u32,
    /// Of the process: see `fdtrace_common::wire::TracedProcess::layout`.
    pub layout: u64,
    /// Of the process: where its loader's code is, as far as it was looked up.
    pub loader: u64,
    pub loader_len: u64,
    /// Where the call is, and that relative to one of [`Self::bases`].
    pub ip: u64,
    pub place: u64,
    /// How far it is to the end of the stack.
    pub below: u64,
    /// What words may be relative to: see `fdtrace_common::witness::base`.
    pub bases: [u64; 4],
    /// The number of the known stack that it is made from; 0: none.
    pub recognised: u64,
    /// What is known of the number.
    pub known: Holder,
    /// What was recognised last.
    pub seen: Seen,
    /// Pages that could not be read a moment ago.
    pub holes: [Hole; HOLES],
}

/// Room for that many pages.
const HOLES: usize = 64;
/// How long a page is left alone, nanoseconds.
const HOLE_FOR: u64 = 10_000_000;

/// A page that could not be read. What looks like a pointer often is a size, a flag or a counter, and stays where it is
/// for many calls; and a read that faults costs as much as the call itself.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hole {
    page: u64,
    since: u64,
}

/// What a call is to be answered with.
pub mod plan {
    /// A record, with Python's frames where there are some.
    pub const TELL: u32 = 1;
    /// Search for owners of the number.
    pub const SEARCH: u32 = 2;
    /// Tell of those that hold it.
    pub const BIND: u32 = 4;
    /// Remember who may come to hold it.
    pub const FORESEE: u32 = 8;
    /// Forget what those held that hold nothing.
    pub const LET_GO: u32 = 16;
    /// Remember that the number was given out.
    pub const BEGUN: u32 = 32;
    /// What was found is not told.
    pub const HIDE: u32 = 64;
}

/// Is this part of the plan?
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn planned(walk: *const Walk, bits: u32) -> bool {
    // SAFETY: by the caller's promise. Volatile, or the compiler would follow the value where the verifier should not.
    unsafe { (&raw const (*walk).plan).read_volatile() & bits != 0 }
}

/// How much of the stack is wanted, a multiple of the step.
#[inline(always)]
pub fn stack_bytes(has_python: bool) -> usize {
    let which = (&raw const STACK_BYTES).cast::<u32>();
    // SAFETY: two words; volatile because user space replaces them before load.
    let bytes = unsafe { if has_python { which.read_volatile() } else { which.add(1).read_volatile() } };
    bytes as usize
}

/// Is the interpreter known? As above.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn has_python(walk: *const Walk) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { (&raw const (*walk).has_python).read_volatile() != 0 }
}

/// Why objects are searched for.
pub mod mode {
    /// A call uses the number.
    pub const USE: u32 = 0;
    /// The number has just been given out.
    pub const BEGUN: u32 = 1;
    /// Whatever number they hold.
    pub const ANY: u32 = 2;
    /// The number is about to be closed.
    pub const CLOSE: u32 = 3;
}

/// The size and alignment that a word in a copy at most has.
const WORD_MASK: u32 = (COPY as u32 - 1) & !7;
const INT_MASK: u32 = (COPY as u32 - 1) & !3;

/// The 8 bytes at `at` of a copy; offsets outside of it lead somewhere inside, and to nonsense.
#[inline(always)]
pub fn word(copy: *const u64, at: u32) -> u64 {
    // SAFETY: the mask keeps the read aligned and inside the copy.
    unsafe { copy.byte_add((at & WORD_MASK) as usize).read_volatile() }
}

#[inline(always)]
pub fn int(copy: *const u64, at: u32) -> u32 {
    // SAFETY: as above.
    unsafe { copy.byte_add((at & INT_MASK) as usize).cast::<u32>().read_volatile() }
}

#[inline(always)]
pub fn byte(copy: *const u64, at: u32) -> u8 {
    // SAFETY: as above.
    unsafe { copy.byte_add((at & (COPY as u32 - 1)) as usize).cast::<u8>().read_volatile() }
}

/// Reads user memory; `false`: it could not be read, and the copy is zeros.
///
/// # Safety
/// `to` has room for `size` bytes.
#[inline(always)]
pub unsafe fn copy(to: *mut u8, size: u32, from: u64) -> bool {
    // SAFETY: by the caller's promise; the helper checks the user address.
    unsafe { bpf_probe_read_user(to.cast::<c_void>(), size, from as *const c_void) == 0 }
}

/// Reads user memory; `None`: it cannot be read.
#[inline(always)]
pub fn peek<T: Copy>(at: u64) -> Option<T> {
    // Not zeros first: that is a loop over bytes here.
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: a local of that size, which is filled if the helper says so.
    unsafe { copy(value.as_mut_ptr().cast(), size_of::<T>() as u32, at).then(|| value.assume_init()) }
}

/// The front of what may be an object; `None`: there is nothing, or was nothing a moment ago.
///
/// # Safety
/// `walk` is this processor's.
#[inline(always)]
pub unsafe fn front(walk: *mut Walk, object: u64) -> Option<[u64; 3]> {
    // SAFETY: by the caller's promise; the mask keeps the index inside.
    unsafe {
        let page = object >> 12;
        let hole = (&raw mut (*walk).holes).cast::<Hole>().add((page ^ page >> 6 ^ page >> 18) as usize & (HOLES - 1));
        // Addresses have 47 bits, ids 22.
        let page = page | u64::from((*walk).tgid) << 36;
        let now = (*walk).now;
        if (*hole).page == page && now.wrapping_sub((*hole).since) < HOLE_FOR {
            return None;
        }
        let front = peek(object);
        if front.is_none() {
            (*hole).page = page;
            (*hole).since = now;
        }
        front
    }
}

const _: () = assert!(STACK_STEP == 512 && COPY.is_power_of_two());
