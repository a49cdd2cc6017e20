//! Names and shapes of the constants that user space writes into the BPF object before it is loaded.
//!
//! The kernel freezes them, so the verifier sees constants and dead branches vanish. What is left is a load for each use.

/// Byte offsets of kernel structure members, from the BTF of the running kernel.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    pub task_tgid: u32,
    pub task_pid: u32,
    // What most calls need, on one line of the cache where the section begins 8 bytes before one.
    /// `pt_regs`: the system call's number at exit, then its six arguments.
    pub regs_nr: u32,
    pub regs_arg: [u32; 6],
    /// `thread_info`: the word that tells 32-bit calls, and the bit that does (0: there are none).
    pub task_status: u32,
    pub compat_bit: u32,
    pub task_files: u32,
    pub files_count: u32,
    pub files_fdt: u32,
    pub fdt_max_fds: u32,
    pub fdt_fd: u32,
    pub task_nvcsw: u32,
    // The rest.
    pub task_mm: u32,
    pub task_signal: u32,
    pub task_comm: u32,
    pub task_exit_code: u32,
    pub task_start_boottime: u32,
    pub task_thread_pid: u32,
    pub pid_level: u32,
    pub pid_numbers: u32,
    pub upid_nr: u32,
    pub upid_size: u32,
    pub task_group_leader: u32,
    pub signal_live: u32,
    pub fdt_open_fds: u32,
    pub fdt_close_on_exec: u32,
    pub file_f_inode: u32,
    pub file_f_flags: u32,
    /// Nonzero where the file is in an interest list; 0: the kernel has none such.
    pub file_f_ep: u32,
    /// How many hold the file, and what is there if it is one.
    pub file_count: u32,
    pub file_count_of_one: u32,
    pub file_f_mode: u32,
    pub file_f_op: u32,
    pub file_private_data: u32,
    pub inode_i_ino: u32,
    pub inode_i_mode: u32,
    pub inode_i_rdev: u32,
    pub inode_i_sb: u32,
    pub sb_s_dev: u32,
    pub socket_sk: u32,
    pub socket_type: u32,
    pub sock_family: u32,
    pub mm_arg_start: u32,
    pub mm_arg_end: u32,
    pub bprm_filename: u32,
    /// `pt_regs`: instruction, stack and frame pointer of the user program.
    pub regs_ip: u32,
    pub regs_sp: u32,
    pub regs_bp: u32,
    /// `pt_regs`: the callee-saved registers beside the frame pointer.
    pub regs_saved: [u32; 5],
    /// The thread pointer of the user program.
    pub task_thread_pointer: u32,
    pub mm_start_code: u32,
    pub mm_end_data: u32,
    /// Where the first thread's stack begins: above are the program's arguments and environment.
    pub mm_start_stack: u32,
    pub bprm_file: u32,
    /// The arguments of a 32-bit call.
    pub regs_arg_compat: [u32; 6],
    pub mm_mmap_base: u32,
    pub vma_vm_file: u32,
    pub vma_vm_start: u32,
    pub vma_vm_end: u32,
    pub vma_vm_pgoff: u32,
    pub inode_i_generation: u32,
    /// When the file or what is known of it was changed last: seconds, nanoseconds.
    pub inode_ctime_sec: u32,
    pub inode_ctime_nsec: u32,
    pub file_f_path_dentry: u32,
    pub dentry_d_name: u32,
    pub reserved: [u32; 1],
}

const WORDS: usize = 80;
const _: () = assert!(size_of::<Offsets>() == WORDS * 4);

impl Offsets {
    /// All of them, in order, as the loader wants them.
    pub fn words(&self) -> &[u32] {
        // SAFETY: the structure is nothing but `WORDS` numbers of 32 bits, as asserted above.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast::<u32>(), WORDS) }
    }
}

/// Global of type [`Offsets`].
pub const OFFSETS: &str = "OFFSETS";
/// Global of type `[u8; SYSCALLS]`: the class of each native system call.
pub const CLASSES: &str = "CLASSES";
/// Global of type `[u8; SYSCALLS]`: the class of each 32-bit system call.
pub const CLASSES_COMPAT: &str = "CLASSES_COMPAT";
/// Global of type `[u8; SYSCALLS]`: what the hooks have to do with a number, see [`crate::class::hook`].
pub const HOOKED: &str = "HOOKED";
/// Global of type `u32`: nonzero when `bpf_get_current_task_btf` exists (5.11 and later).
pub const HAVE_TASK_BTF: &str = "HAVE_TASK_BTF";
/// Global of type `u32`: nonzero when the kernel preempts programs.
pub const PREEMPTIBLE: &str = "PREEMPTIBLE";
/// Global of type `u32`: nonzero to send kernel-side diagnostics through aya-log.
pub const DEBUG: &str = "DEBUG";

/// Global of type `[u8; SYSCALLS]`: what of [`crate::class::witness`] each system call wants.
pub const WITNESSES: &str = "WITNESSES";
/// Global of type `u32`: bytes of user stack to copy, for a process with a known interpreter and for any other.
pub const STACK_BYTES: &str = "STACK_BYTES";
/// Global of type `u32`: witnesses are called only for numbers from here on.
pub const ARM_AT: &str = "ARM_AT";

/// Global of type `u32`: the size of the ring, bytes.
pub const RING_BYTES: &str = "RING_BYTES";

/// Global of type `u64`: how long the kernel's jiffies are, nanoseconds.
pub const TICK: &str = "TICK";
/// Global of type `u64`: a number that nobody can guess.
pub const LAYOUT_KEY: &str = "LAYOUT_KEY";
/// Global of type `u32`: nonzero where a call leaves on the stack where it returns to.
pub const RETURNS_BY_STACK: &str = "RETURNS_BY_STACK";

/// Size of the class table; system call numbers above it are never ours.
pub const SYSCALLS: usize = 512;
