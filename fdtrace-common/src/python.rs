//! What a walker of CPython's frames must know of one interpreter: addresses, and byte offsets into its structures.
//!
//! User space fills [`PyProcess`] from the interpreter's ELF file and hands it to the kernel side; both sides walk by
//! it. Nothing here reads memory or knows a version: the differences between versions are all in the numbers.
//! Only 64-bit builds with the global interpreter lock are described.

/// Value of an offset whose field does not exist in this version. Not 0: many fields stand at the front.
pub const NONE: u32 = u32::MAX;

/// How a thread state leads to its innermost frame: [`PyOffsets::layout`].
pub mod layout {
    /// Up to 3.10: `tstate.frame` is a `PyFrameObject`, whose position is an index of instructions.
    pub const FRAME_OBJECT: u32 = 1;
    /// 3.11 and 3.12: `tstate.cframe`, then its `current_frame`, a `_PyInterpreterFrame`.
    pub const CFRAME: u32 = 2;
    /// 3.13 and later: `tstate.current_frame`, a `_PyInterpreterFrame`.
    pub const CURRENT_FRAME: u32 = 3;
}

/// Bits of [`PyOffsets::flags`].
pub mod flag {
    /// Names of tasks may be an `int` N until somebody asks for them; it stands for `Task-N` (3.12 and later).
    pub const LAZY_TASK_NAMES: u32 = 1;
    /// [`super::PyOffsets::tstate_running_task`] holds the running asyncio task, so no frame needs to be searched
    /// (3.14 and later).
    pub const RUNNING_TASK: u32 = 2;
}

/// Byte offsets. [`NONE`] where a version has no such field.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PyOffsets {
    /// `major << 8 | minor`.
    pub version: u32,
    /// One of [`layout`].
    pub layout: u32,
    /// Bits of [`flag`].
    pub flags: u32,

    // The list of interpreters and their threads, from `PyProcess::runtime`.
    pub runtime_interpreters_head: u32,
    /// The `u32` key of the thread-specific slot that holds the thread state, from `PyProcess::runtime`.
    pub runtime_tss_key: u32,
    pub interp_next: u32,
    pub interp_threads_head: u32,
    pub tstate_next: u32,
    /// `pthread_self()`: on x86-64 glibc and musl the thread pointer.
    pub tstate_thread_id: u32,
    /// The kernel's thread id (3.11 and later). Of a forked child's main thread it may still be the parent's.
    pub tstate_native_thread_id: u32,
    /// `frame`, `cframe` or `current_frame`, as [`PyOffsets::layout`] says.
    pub tstate_frame: u32,
    pub cframe_current_frame: u32,

    // One frame.
    /// `f_back` or `previous`.
    pub frame_back: u32,
    /// `f_code` or `f_executable`; the low three bits are tags.
    pub frame_code: u32,
    /// [`layout::FRAME_OBJECT`]: the `i32` `f_lasti`. Otherwise the pointer `prev_instr` or `instr_ptr`.
    pub frame_instr: u32,
    /// Bytes of code per unit of `f_lasti`: 1, or 2 in 3.10. Always 1 when `frame_instr` is a pointer.
    pub frame_instr_unit: u32,
    /// A `u8`.
    pub frame_owner: u32,
    /// The value of `owner` that marks a frame of the interpreter itself with a valid code object (3.12).
    pub frame_owner_skip: u32,
    /// The first local variable: a method's `self`. From 3.14 on the low three bits are tags.
    pub frame_localsplus: u32,
    /// Pointer to the top of the value stack, valid during calls (3.14 and later).
    pub frame_stackpointer: u32,
    /// Bytes from the frame's start that hold every field above, except `frame_localsplus` and, of a
    /// [`layout::FRAME_OBJECT`], `frame_instr`.
    pub frame_bytes: u32,

    // One code object.
    pub code_argcount: u32,
    pub code_kwonlyargcount: u32,
    pub code_flags: u32,
    pub code_firstlineno: u32,
    /// A `u32` that tells code objects apart that share an address (3.12 and later).
    pub code_version: u32,
    pub code_filename: u32,
    pub code_name: u32,
    /// `co_qualname` (3.11 and later), otherwise the same as `code_name`.
    pub code_qualname: u32,
    /// `co_lnotab` up to 3.9, then `co_linetable`: a `bytes` object.
    pub code_linetable: u32,
    /// `co_code_adaptive`: where the instructions begin. [`NONE`] for [`layout::FRAME_OBJECT`].
    pub code_instructions: u32,
    /// Bytes from the code object's start that hold the type, the counts, the flags, the first line and the version.
    pub code_bytes: u32,

    // Objects.
    pub object_type: u32,
    pub bytes_size: u32,
    pub bytes_data: u32,
    pub unicode_length: u32,
    /// `u32`: kind in bits 2 to 4, compact in bit 5, ASCII in bit 6.
    pub unicode_state: u32,
    /// Where the characters of a compact ASCII string begin.
    pub unicode_ascii_data: u32,
    /// Where the characters of any other compact string begin.
    pub unicode_compact_data: u32,
    /// Size and sign: [`flag::LAZY_TASK_NAMES`] implies the form of 3.12 and later, number of digits `<< 3`.
    pub long_tag: u32,
    /// `u32` digits of 30 bits.
    pub long_digits: u32,
    pub type_name: u32,
    pub type_basicsize: u32,
    pub type_flags: u32,
    pub type_base: u32,
    /// Where `_io.FileIO`, `_socket.socket` and `select.epoll` keep their descriptor, an `i32`.
    pub owner_fd: u32,

    // asyncio.
    pub handle_callback: u32,
    /// The task inside a `TaskStepMethWrapper` or `TaskWakeupMethWrapper`.
    pub wrapper_task: u32,
    /// Pointer to the `PyMethodDef` of a builtin method, which begins with the pointer to its name.
    pub builtin_def: u32,
    pub builtin_self: u32,
    /// `str`, or `int` with [`flag::LAZY_TASK_NAMES`]. [`NONE`] before 3.8: tasks had no names.
    pub task_name: u32,
    /// With [`flag::RUNNING_TASK`]: pointer to the task that this thread runs.
    pub tstate_running_task: u32,
}

/// One interpreter in one process. Addresses are absolute once [`PyProcess::at`] has been applied, before that they are
/// those of the ELF file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PyProcess {
    /// `_PyRuntime`; in 3.6 the list head itself.
    pub runtime: u64,
    pub code_type: u64,
    pub type_type: u64,
    pub unicode_type: u64,
    pub long_type: u64,
    pub builtin_type: u64,
    pub offsets: PyOffsets,
}

const _: () = assert!(size_of::<PyOffsets>() == 52 * 4 && align_of::<PyOffsets>() == 4);
const _: () = assert!(size_of::<PyProcess>() == 6 * 8 + 52 * 4 && align_of::<PyProcess>() == 8);

impl PyProcess {
    /// The same interpreter, loaded `bias` bytes above its file's addresses.
    #[must_use]
    pub const fn at(mut self, bias: u64) -> Self {
        self.runtime = self.runtime.wrapping_add(bias);
        self.code_type = self.code_type.wrapping_add(bias);
        self.type_type = self.type_type.wrapping_add(bias);
        self.unicode_type = self.unicode_type.wrapping_add(bias);
        self.long_type = self.long_type.wrapping_add(bias);
        self.builtin_type = self.builtin_type.wrapping_add(bias);
        self
    }
}

/// Bits of a `str`'s state word.
pub mod unicode {
    pub const KIND_SHIFT: u32 = 2;
    pub const KIND_MASK: u32 = 7;
    pub const COMPACT: u32 = 1 << 5;
    pub const ASCII: u32 = 1 << 6;
}

/// Clears the tag bits that 3.14 and later keep in references; no object's address has them.
#[must_use]
pub const fn untag(reference: u64) -> u64 {
    reference & !7
}

/// Tells code objects apart that were given the same address one after the other. Both sides must compute it alike.
#[must_use]
pub const fn checksum(argcount: u32, kwonlyargcount: u32, flags: u32, firstlineno: u32) -> u32 {
    (argcount << 25).wrapping_add(kwonlyargcount << 18).wrapping_add(flags << 10).wrapping_add(firstlineno)
}
