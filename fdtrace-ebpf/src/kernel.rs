//! Reads of kernel structures, at the offsets that user space took from the running kernel's BTF.
//!
//! Nothing in here knows a compiled-in offset. Pointers that came from a BTF tracepoint are loaded directly, and the
//! verifier rejects a wrong offset; everything behind an untyped pointer goes through `bpf_probe_read_kernel`.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::{bpf_get_current_task, bpf_get_current_task_btf, generated::bpf_probe_read_kernel};
use fdtrace_common::{
    globals::Offsets,
    wire::{FileInfo, flag},
};

// SAFETY: plain integers, for which zero is a value.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = unsafe { core::mem::zeroed() };
#[unsafe(no_mangle)]
static HAVE_TASK_BTF: u32 = 0;
#[unsafe(no_mangle)]
static RETURNS_BY_STACK: u32 = 0;

/// A call leaves on the stack where it returns to (x86-64), and not in a register.
#[inline(always)]
pub fn returns_by_stack() -> bool {
    // SAFETY: a read of an initialised static, replaced by user space before load.
    unsafe { core::ptr::read_volatile(&raw const RETURNS_BY_STACK) != 0 }
}

/// The offset of a member, a constant to the verifier.
macro_rules! offset {
    ($field:ident $([$i:expr])?) => {
        crate::kernel::constant(&crate::kernel::offsets().$field $([$i])?)
    };
}
pub(crate) use offset;

#[inline(always)]
pub fn offsets() -> &'static Offsets {
    &OFFSETS
}

#[inline(always)]
pub fn constant(offset: &u32) -> usize {
    // SAFETY: a read through a reference; volatile because user space replaces the value before load.
    unsafe { core::ptr::read_volatile(offset) as usize }
}

/// Loads a member through a pointer that the verifier knows the type of.
///
/// # Safety
/// `base` is such a pointer and `offset` lies inside the structure: the verifier checks both.
#[inline(always)]
pub unsafe fn member<T: Copy>(base: *const c_void, offset: usize) -> T {
    // SAFETY: by the caller's promise.
    unsafe { core::ptr::read_volatile(base.byte_add(offset).cast::<T>()) }
}

/// Reads kernel memory at an address that may be anything; 0 or empty when it cannot be read.
#[inline(always)]
pub fn read<T: Copy + Default>(address: u64) -> T {
    let mut value = T::default();
    // SAFETY: a local of that size; the helper checks the address. What it answers is not asked, because it leaves zeros when
    // it fails (since 5.5), and the verifier would have to walk all that follows once more.
    unsafe {
        bpf_probe_read_kernel((&raw mut value).cast::<c_void>(), size_of::<T>() as u32, address as *const c_void);
    }
    value
}

/// The kernel has a helper that returns a typed pointer to the current task.
#[inline(always)]
pub fn have_task_btf() -> bool {
    // SAFETY: a read of an initialised static, replaced by user space before load.
    unsafe { core::ptr::read_volatile(&raw const HAVE_TASK_BTF) != 0 }
}

/// Is the current task in a 32-bit system call?
#[inline(always)]
pub fn in_compat_call() -> bool {
    let bit = offset!(compat_bit) as u32;
    if bit == 0 {
        return false;
    }
    of_task::<u32>(offset!(task_status)) & bit != 0
}

/// How often the current task has given up its processor of its own accord: more often after a call that waited.
#[inline(always)]
pub fn switches() -> u64 {
    of_task(offset!(task_nvcsw))
}

/// A member of the current task.
#[inline(always)]
fn of_task<T: Copy + Default>(offset: usize) -> T {
    if have_task_btf() {
        // SAFETY: the helper returns a typed, trusted pointer to the running task; the offset comes from BTF.
        unsafe { member(bpf_get_current_task_btf().cast::<c_void>(), offset) }
    } else {
        // SAFETY: the helper has no preconditions.
        let task = unsafe { bpf_get_current_task() };
        read(task + offset as u64)
    }
}

/// The thread pointer of the current task: its own data, behind its stack if it is not the first thread.
#[inline(always)]
pub fn thread_pointer() -> u64 {
    of_task(offset!(task_thread_pointer))
}

/// Where the current program's first stack begins: its arguments and its environment lie above.
#[inline(always)]
pub fn start_stack() -> u64 {
    load(of_task(offset!(task_mm)), offset!(mm_start_stack))
}

/// Where the current program's code begins.
#[inline(always)]
pub fn start_code() -> u64 {
    load(of_task(offset!(task_mm)), offset!(mm_start_code))
}

/// Below it the kernel puts what the current process maps.
#[inline(always)]
pub fn mmap_base() -> u64 {
    load(of_task(offset!(task_mm)), offset!(mm_mmap_base))
}

/// Where the current program's code begins, and its data ends.
#[inline(always)]
pub fn program_image() -> (u64, u64) {
    let mm = of_task(offset!(task_mm));
    (load(mm, offset!(mm_start_code)), load(mm, offset!(mm_end_data)))
}

/// Loads a member of what a typed task leads to: directly where the verifier knows the types, which takes a nanosecond and
/// not the seven of a helper's read.
#[inline(always)]
fn load<T: Copy + Default>(base: u64, offset: usize) -> T {
    if have_task_btf() {
        // SAFETY: `base` came from a typed pointer by loads like this one. The verifier checks that the offset is a member's,
        // and the kernel makes a load at a bad address give zero.
        unsafe { member(base as *const c_void, offset) }
    } else {
        read(base + offset as u64)
    }
}

/// The `files_struct` of a task and its `fdtable`.
#[derive(Clone, Copy)]
pub struct Files {
    pub files: u64,
    fdt: u64,
}

impl Files {
    #[inline(always)]
    pub fn of_current() -> Self {
        Self::at(of_task(offset!(task_files)))
    }

    /// `files` is the member of a task that a hook was given, or of the current one.
    #[inline(always)]
    pub fn at(files: u64) -> Self {
        Self { files, fdt: load(files, offset!(files_fdt)) }
    }

    /// The `struct file` in a slot; 0 when it is empty or out of range.
    #[inline(always)]
    pub fn file(self, fd: u64) -> u64 {
        let fd = fd & 0xffff_ffff;
        if fd >= u64::from(self.max_fds()) {
            return 0;
        }
        read::<u64>(self.array() + fd * 8)
    }

    #[inline(always)]
    pub fn max_fds(self) -> u32 {
        load(self.fdt, offset!(fdt_max_fds))
    }

    /// 64 bits of the bitmap of open descriptors, or of close-on-exec ones.
    #[inline(always)]
    pub fn open_word(self, word: u64) -> u64 {
        read::<u64>(load::<u64>(self.fdt, offset!(fdt_open_fds)) + word * 8)
    }

    #[inline(always)]
    pub fn cloexec_word(self, word: u64) -> u64 {
        read::<u64>(load::<u64>(self.fdt, offset!(fdt_close_on_exec)) + word * 8)
    }

    /// Base of the array of `struct file` pointers.
    #[inline(always)]
    pub fn array(self) -> u64 {
        load(self.fdt, offset!(fdt_fd))
    }

    /// How many tasks hold this table.
    #[inline(always)]
    pub fn users(self) -> u32 {
        load(self.files, offset!(files_count))
    }
}

const S_IFMT: u32 = 0o170_000;
const S_IFSOCK: u32 = 0o140_000;
const S_IFREG: u32 = 0o100_000;
const O_APPEND: u32 = 0o2000;
const SOCK_STREAM: u16 = 1;
const SOCK_SEQPACKET: u16 = 5;

/// Fills `out` with what is in a slot.
///
/// # Safety
/// `out` is valid for writes.
#[inline(always)]
pub unsafe fn describe_slot(files: Files, fd: u64, out: *mut FileInfo) {
    // SAFETY: by the caller's promise.
    unsafe {
        describe(files.file(fd), out);
        let fd = fd & 0x7fff_ffff;
        if files.cloexec_word(fd / 64) >> (fd % 64) & 1 != 0 {
            (*out).slot_flags = u32::from(flag::CLOEXEC);
        }
    }
}

/// Status flags of a file (`f_flags`); 0: there is none.
#[inline(always)]
pub fn status_flags(file: u64) -> u32 {
    if file == 0 {
        return 0;
    }
    read::<u32>(file + offset!(file_f_flags) as u64)
}

/// Two processes that use this file at the same time are in each other's way: a stream socket, or a regular file that has
/// an offset.
#[inline(always)]
pub fn has_turns(file: u64) -> bool {
    let inode = read::<u64>(file + offset!(file_f_inode) as u64);
    match u32::from(read::<u16>(inode + offset!(inode_i_mode) as u64)) & S_IFMT {
        S_IFSOCK => {
            let socket = read::<u64>(file + offset!(file_private_data) as u64);
            matches!(read::<u16>(socket + offset!(socket_type) as u64), SOCK_STREAM | SOCK_SEQPACKET)
        }
        S_IFREG => status_flags(file) & O_APPEND == 0,
        _ => false,
    }
}

/// Nobody else has this file, in a table of his own or under another number.
#[inline(always)]
pub fn has_one_hand(file: u64) -> bool {
    read::<u64>(file + offset!(file_count) as u64) == offset!(file_count_of_one) as u64
}

/// Words of a structure that are read at once.
const WINDOW: usize = 5;

/// A part of a structure that was read as a whole: half of what the read of a member takes is the call of the helper.
struct Window<'a> {
    base: u64,
    /// Offset of the first byte, a multiple of 8.
    from: usize,
    words: &'a mut MaybeUninit<[u64; WINDOW]>,
}

impl<'a> Window<'a> {
    /// What is there from the member at `from` on. Zeros where it cannot be read, as [`read`].
    #[inline(always)]
    fn new(base: u64, from: usize, words: &'a mut MaybeUninit<[u64; WINDOW]>) -> Self {
        let from = from & !7;
        let address = base.wrapping_add(from as u64) as *const c_void;
        // SAFETY: memory of that size, which the helper fills whether the read succeeds or not.
        unsafe { bpf_probe_read_kernel(words.as_mut_ptr().cast::<c_void>(), (WINDOW * 8) as u32, address) };
        Self { base, from, words }
    }

    /// A member, by its offset in the structure; read by itself where the kernel has it elsewhere. The verifier knows which.
    #[inline(always)]
    fn member<T: Copy + Default>(&self, offset: usize) -> T {
        let at = offset.wrapping_sub(self.from);
        if at > WINDOW * 8 - size_of::<T>() {
            return read(self.base + offset as u64);
        }
        // SAFETY: inside of the words, all of which are filled; members lie at multiples of their size, as the words do.
        unsafe { self.words.as_ptr().byte_add(at).cast::<T>().read_volatile() }
    }
}

/// Fills `out` with what a `struct file` is.
///
/// # Safety
/// `out` is valid for writes.
// A function of its own, for it takes room on the stack of which callers with two files would take twice as much.
#[inline(never)]
pub unsafe fn describe(address: u64, out: *mut FileInfo) {
    let mut words = MaybeUninit::uninit();
    // SAFETY: `out` is valid for writes by the caller's promise.
    unsafe {
        (*out).file = address;
        (*out).slot_flags = 0;
        (*out).family = 0;
        (*out).sock_type = 0;
        let from = offset!(file_f_inode).min(offset!(file_f_op)).min(offset!(file_f_flags));
        let file = Window::new(address, from, &mut words);
        (*out).fop = file.member(offset!(file_f_op));
        (*out).flags = file.member(offset!(file_f_flags));
        let private = file.member::<u64>(offset!(file_private_data));
        (*out).private = private;
        let inode = file.member::<u64>(offset!(file_f_inode));
        let mode = u32::from(read::<u16>(inode + offset!(inode_i_mode) as u64));
        (*out).mode = mode;
        let inode = Window::new(inode, offset!(inode_i_sb), &mut words);
        (*out).inode = inode.member(offset!(inode_i_ino));
        (*out).rdev = inode.member(offset!(inode_i_rdev));
        let sb = inode.member::<u64>(offset!(inode_i_sb));
        (*out).dev = read(sb + offset!(sb_s_dev) as u64);
        if mode & S_IFMT == S_IFSOCK {
            let sk = read::<u64>(private + offset!(socket_sk) as u64);
            (*out).family = read(sk + offset!(sock_family) as u64);
            (*out).sock_type = read(private + offset!(socket_type) as u64);
        }
    }
}
