//! Records and maps of the witnesses: stacks, code objects, owners. See [`crate::wire`] for the rest.
//!
//! A [`Stack`] precedes the record of the call it belongs to, with nothing of the same thread in between: it is built
//! first, at the call's start or at its return. [`Stack::call_time`] is the call's `enter_time`: if one of the two is
//! lost, the other is not attached to a stranger.

use crate::{python::PyProcess, wire::Header};

/// Values of [`Header::kind`], continued.
pub mod kind {
    /// [`super::Stack`], then frames, then bytes of the user stack.
    pub const STACK: u16 = 64;
    /// [`super::Code`], then the line table.
    pub const CODE: u16 = 65;
    /// [`super::Bind`].
    pub const BIND: u16 = 66;
    /// [`super::TypeDef`].
    pub const TYPE: u16 = 67;
    /// [`super::Mapped`].
    pub const MAPPED: u16 = 68;
}

/// Python frames in one stack; the rest is marked as missing.
pub const FRAMES_MAX: usize = 64;
/// Objects of owner types found in the registers and near the top of the stack.
pub const CANDIDATES_MAX: usize = 8;
/// Bytes of a task's name, as Python keeps its characters.
pub const TASK_NAME_MAX: usize = 64;
/// Bytes of user stack in one record, at most: a per-CPU map has no elements above 32 KiB.
pub const STACK_MAX: usize = 24 << 10;
/// The user stack is read in steps of this many bytes: a read that crosses the end of the stack fails as a whole.
pub const STACK_STEP: usize = 512;
/// Bytes of a line table in a [`Code`] record.
pub const TABLE_MAX: usize = (16 << 10) - 1;
/// Bytes of a file name in a [`Code`] record, as Python keeps its characters.
pub const FILE_MAX: usize = 255;
/// The same for a function's qualified name.
pub const NAME_MAX: usize = 127;

/// Bits of [`Stack::notes`].
pub mod note {
    /// The process has a known interpreter, and the thread has a state in it.
    pub const PYTHON: u32 = 1;
    /// Outer Python frames are missing: there were too many, or memory could not be read.
    pub const FRAMES_CUT: u32 = 2;
    /// The name is a number: `Task-N`, in the first 8 bytes of the name.
    pub const TASK_NUMBER: u32 = 4;
    /// Taken when the call returned, not when it began.
    pub const AT_EXIT: u32 = 8;
    /// The interpreter's threads were searched and this one is not among them.
    pub const NO_THREAD_STATE: u32 = 16;
    /// No bytes of the user stack because the reader is behind.
    pub const STACK_OMITTED: u32 = 32;
    /// The user stack could not be read to its wanted length.
    pub const STACK_CUT: u32 = 64;
    /// The search for owners was made.
    pub const SEARCHED: u32 = 128;
    /// User space unwound the copy of the stack, and left [`Stack::left`]`[0]` as the place that the call comes from.
    pub const SITE: u32 = 256;
    /// User space left [`Stack::left`]`[1]` as the address of the static variable that keeps the number: the call's
    /// result with [`AT_EXIT`], else the number that the call was given.
    pub const VARIABLE: u32 = 512;
    /// User space has followed the call's result: without [`VARIABLE`] no static variable keeps it.
    pub const FOLLOWED: u32 = 1024;
    /// No bytes of the user stack because it is the [`super::KnownStack`] whose number is [`Stack::left`]`[0]`.
    pub const KNOWN: u32 = 2048;
}

/// Who called the function that makes the system call: [`Stack::caller`].
pub mod caller {
    pub const UNKNOWN: u32 = 0;
    /// Not the C library.
    pub const PROGRAM: u32 = 1;
    /// The C library itself, but for its streams: `closedir`, and calls of its own.
    pub const LIBRARY: u32 = 2;
    /// A stream of the C library.
    pub const STREAM: u32 = 3;
}

/// Where a candidate was found: [`Candidate::found`].
pub mod found {
    /// From here on the index of a word of the stack; below, of a register.
    pub const STACK: u32 = 16;
    /// The object that was last bound to the number that the call names, looked at again.
    pub const BOUND: u32 = 0xffff;
    /// The object was bound to the number, or was there when the number was given out.
    pub const KNOWN: u32 = 1 << 16;
    /// The bits that tell the place.
    pub const PLACE: u32 = 0xffff;
}

/// Classes that are the same in every process: [`Candidate::class`] of objects that have no type of their own.
pub mod shared_class {
    /// `FILE` of the C library.
    pub const STREAM: u64 = 1;
    /// `DIR`.
    pub const DIRECTORY: u64 = 2;
}

/// What an object of an owner type owns: [`TypeDef::owns`], and the values of the map of types.
pub mod owns {
    pub const NOTHING: u32 = 0;
    pub const FILE: u32 = 1;
    pub const SOCKET: u32 = 2;
    pub const EPOLL: u32 = 3;
    /// Of the C library.
    pub const STREAM: u32 = 4;
    pub const DIRECTORY: u32 = 5;
    /// A static variable, which is no type: [`TypeDef::class`] is its own address.
    pub const VARIABLE: u32 = 6;
}

/// `_io.FileIO` keeps this bit behind its number: it closes the number.
pub const CLOSEFD: u32 = 1 << 6;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidate {
    pub object: u64,
    pub class: u64,
    /// The object's descriptor.
    pub fd: i32,
    /// The four bytes behind it.
    pub behind: u32,
    pub found: u32,
    /// One of [`owns`].
    pub owns: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PyFrame {
    /// Address of the code object.
    pub code: u64,
    /// Position in its instructions, bytes; -1: before the first.
    pub offset: i32,
    pub checksum: u32,
    pub code_version: u32,
    /// Tells apart what the checksum does not: see [`Code::fingerprint`].
    pub fingerprint: u32,
}

/// Who is about to do, or has just done, what the next call of this thread reports.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    pub header: Header,
    /// `enter_time` of the call.
    pub call_time: u64,
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
    /// With [`note::SITE`] the first is a number for the native frames behind the call: equal for calls that come the same
    /// way through the same program. With [`note::VARIABLE`] the second is an address. Before user space has looked at it
    /// they are: the number of [`note::KNOWN`] or else [`StackKey::below`]; [`crate::wire::TracedProcess::layout`]; the two
    /// [`base`]s of the process; and [`StackKey::place`].
    pub left: [u64; 5],
    /// Address of the running asyncio task; 0: none, or not known.
    pub task: u64,
    pub nr: u32,
    pub frames: u32,
    pub candidates: u32,
    pub notes: u32,
    pub task_name_len: u32,
    /// Bytes per character of the name.
    pub task_name_width: u32,
    pub stack_len: u32,
    /// One of [`caller`]: user space fills it in where it matters, from the copy of the stack, which nobody keeps.
    pub caller: u32,
    pub candidate: [Candidate; CANDIDATES_MAX],
    pub task_name: [u8; TASK_NAME_MAX],
}

impl Stack {
    /// What a record has at least: one that ends there has no candidates, no frames, no name of a task and no copy. Most of
    /// those that the kernel side makes do.
    pub const HEAD: usize = core::mem::offset_of!(Self, candidate);

    /// A record's head, and what comes behind it.
    pub fn read(record: &[u8]) -> Option<(Self, &[u8])> {
        if record.len() != Self::HEAD {
            return crate::wire::read(record);
        }
        let mut whole = [0; size_of::<Self>()];
        whole[..Self::HEAD].copy_from_slice(record);
        let (head, _) = crate::wire::read::<Self>(&whole)?;
        Some((Self { frames: 0, candidates: 0, task_name_len: 0, stack_len: 0, ..head }, &[]))
    }
}

/// A code object, on first sight. Its strings are cut at their limits; [`crate::wire::flag::TRUNCATED`] says so.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Code {
    pub header: Header,
    pub code: u64,
    pub checksum: u32,
    pub code_version: u32,
    pub first_line: u32,
    /// `PyOffsets::version`: the form of the line table.
    pub python: u32,
    /// Bytes and bytes per character.
    pub file_len: u32,
    pub file_width: u32,
    pub name_len: u32,
    pub name_width: u32,
    /// Bytes that follow, and bytes that there are.
    pub table_len: u32,
    pub table_total: u32,
    /// Of the addresses of its parts and the front of its line table. Modules are freed once they have run, and the
    /// next one is given the same address; all modules have the same checksum.
    pub fingerprint: u32,
    pub reserved: u32,
    pub file: [u8; FILE_MAX + 1],
    pub name: [u8; NAME_MAX + 1],
}

/// An object was seen to hold the number that a successful-to-be call uses. `header.table` is the table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Bind {
    pub header: Header,
    pub object: u64,
    pub class: u64,
    /// `struct file` in the slot.
    pub file: u64,
    pub fd: i32,
    pub owns: u32,
    /// Another object that was bound to the number before and still holds it; 0: none.
    pub other: u64,
}

/// Code of a file became part of a process: a library was mapped, or a program began. Whoever dies before its mappings
/// can be read from `/proc` is still explained.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Mapped {
    pub header: Header,
    /// First address; of a program, `mm_struct.start_code`: that of its first executable segment.
    pub start: u64,
    /// Bytes; of a program, not told.
    pub len: u64,
    /// In the file; not told for a program.
    pub offset: u64,
    pub inode: u64,
    /// `major << 20 | minor`.
    pub dev: u32,
    /// The number through which it was mapped; [`Self::PROGRAM`], [`Self::LOADER`]: the kernel did it.
    pub fd: i32,
}

impl Mapped {
    /// The program itself.
    pub const PROGRAM: i32 = -1;
    /// What loads it, or itself once more if nothing does.
    pub const LOADER: i32 = -2;
}

/// A type whose objects own descriptors, or a static variable that keeps one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TypeDef {
    pub header: Header,
    pub class: u64,
    pub owns: u32,
    pub name_len: u32,
    pub name: [u8; 64],
}

crate::wire::plain! {
    Mapped = 32 + 40,
    Candidate = 32,
    PyFrame = 24,
    Stack = 32 + 32 + 40 + 8 + 32 + 256 + 64,
    Code = 32 + 8 + 48 + 256 + 128,
    Bind = 72,
    TypeDef = 112,
    CodeKey = 32,
    ClassKey = 16,
    SlotKey = 16,
    Holder = 48,
    ImageKey = 16,
    PyProcess = 256,
    PyEntry = 264,
    PyImage = 280,
    StackKey = 32,
    KnownStack = 24 + 12 * KNOWN_WORDS,
}

macro_rules! zeroed_default {
    ($($t:ty),+) => { $(
        impl Default for $t {
            fn default() -> Self {
                // SAFETY: nothing but integers, for which zero is a value.
                unsafe { core::mem::zeroed() }
            }
        }
    )+ };
}
zeroed_default!(Stack, Code, TypeDef, KnownStack);

// What follows is shared through maps.

/// Room for one [`Stack`] with all that follows it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct StackRoom {
    pub stack: Stack,
    /// Frames, then bytes of the user stack, of which no more than a page is copied at once.
    pub tail: [u8; FRAMES_MAX * size_of::<PyFrame>() + STACK_MAX + 4096],
}

/// Room for one [`Code`] with its table.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct CodeRoom {
    pub code: Code,
    pub table: [u8; TABLE_MAX + 1],
}

/// Words by which a stack is recognised, at most.
pub const KNOWN_WORDS: usize = 48;
/// They are not further from `sp` than this, bytes; a power of two.
pub const KNOWN_SPAN: u32 = 8 << 10;
/// Stacks with the same [`StackKey::ip`] and [`StackKey::sp`], at most.
pub const STACK_VARIANTS: u32 = 4;
/// Stacks that are known at a time.
pub const KNOWN_STACKS: u32 = 4096;

/// What words of a stack are relative to: [`KnownStack::offsets`].
pub mod base {
    /// Nothing.
    pub const NONE: u32 = 0;
    /// `mm_struct.mmap_base`: below it are loader and libraries.
    pub const MAPPED: u32 = 1;
    /// `mm_struct.start_code`, where the program is.
    pub const PROGRAM: u32 = 2;
    /// The stack pointer.
    pub const STACK: u32 = 3;
}

/// Where a stack that was unwound before is to be met again, in whatever process of its layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackKey {
    /// The instruction pointer, relative to [`base::PROGRAM`] if it is in the program, else to [`base::MAPPED`].
    pub place: u64,
    /// How far below the end of the stack the stack pointer is.
    pub below: u64,
    /// See [`crate::wire::TracedProcess::layout`]: processes that have the same have their stacks in common.
    pub layout: u64,
    /// Counts those that agree in all of the above.
    pub variant: u32,
    pub reserved: u32,
}

/// What has to be on a stack, and where, for its native frames to be those of one that user space has unwound.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KnownStack {
    /// Never 0.
    pub number: u64,
    /// Nonzero: no function of the C library makes the call for itself, or it is an open and makes no stream.
    pub by_program: u32,
    pub count: u32,
    pub reserved: u32,
    /// They end there, bytes from `sp`.
    pub span: u32,
    pub words: [u64; KNOWN_WORDS],
    /// Where each of them is, bytes from `sp`, a multiple of 8, or [`Self::BP`]: it is the frame pointer; and one of
    /// [`base`], shifted by [`Self::BASE`].
    pub offsets: [u32; KNOWN_WORDS],
}

impl KnownStack {
    pub const BP: u32 = 1 << 31;
    pub const BASE: u32 = 16;
}

/// A code object that was defined.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CodeKey {
    pub code: u64,
    pub tgid: u32,
    /// How many programs the process has run: addresses mean nothing beyond an exec.
    pub execs: u32,
    pub checksum: u32,
    pub code_version: u32,
    pub fingerprint: u32,
    pub reserved: u32,
}

/// A type, or an object, of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassKey {
    pub address: u64,
    pub tgid: u32,
    pub execs: u32,
}

/// A number of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SlotKey {
    pub tgid: u32,
    pub execs: u32,
    pub fd: u32,
    pub reserved: u32,
}

/// The object last bound to a number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Holder {
    /// 0: none yet.
    pub object: u64,
    pub class: u64,
    /// How often it was searched for.
    pub searches: u32,
    pub owns: u32,
    /// Objects that held nothing when the number was given out, and may come to hold it; 0: none.
    pub maybe: [u64; MAYBE_MAX],
    /// Nonzero: the number was given out before our eyes.
    pub begun: u32,
    pub reserved: u32,
}

/// Objects of which one may come to hold a number.
pub const MAYBE_MAX: usize = 2;

impl Holder {
    pub const NOBODY: Self =
        Self { object: 0, class: 0, searches: 0, owns: 0, maybe: [0; MAYBE_MAX], begun: 0, reserved: 0 };
}

/// The interpreter of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PyEntry {
    pub process: PyProcess,
    /// The program it belongs to: see [`CodeKey::execs`].
    pub execs: u32,
    pub reserved: u32,
}

/// Which file, as the kernel numbers them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageKey {
    pub inode: u64,
    /// `major << 20 | minor`.
    pub dev: u32,
    pub reserved: u32,
}

/// A file that contains an interpreter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PyImage {
    /// In the file's own addresses.
    pub process: PyProcess,
    /// Address of the first executable segment, and its offset in the file.
    pub code_address: u64,
    pub code_offset: u64,
    /// One of [`image`].
    pub form: u64,
}

/// Values of [`PyImage::form`].
pub mod image {
    /// A program with fixed addresses.
    pub const FIXED: u64 = 1;
    /// A program that is loaded anywhere.
    pub const PROGRAM: u64 = 2;
    pub const LIBRARY: u64 = 3;
}
