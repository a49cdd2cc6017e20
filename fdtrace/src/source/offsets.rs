//! Finds where the running kernel keeps the structure members that the BPF programs read.
//!
//! Nothing is compiled in: a member that moved is found, a member that is gone is an error that names it, before
//! anything is loaded. This module does not load or read memory through these offsets.

use fdtrace_common::globals::Offsets;

use super::btf::{self, Btf, BtfError, MissingMember};

/// Architectures whose `pt_regs` are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The architecture that this binary runs on, if it is one of them.
    pub const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }
}

/// Why the offsets of the running kernel cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    #[error(transparent)]
    Btf(#[from] BtfError),
    #[error(transparent)]
    Missing(#[from] MissingMember),
    #[error("fdtrace does not know the registers of this architecture (it knows x86_64 and aarch64)")]
    Architecture,
}

/// The offsets of the running kernel.
pub fn of_running_kernel() -> Result<Offsets, OffsetsError> {
    let arch = Arch::native().ok_or(OffsetsError::Architecture)?;
    let bytes = btf::read_kernel()?;
    Ok(resolve(&Btf::parse(&bytes)?, arch)?)
}

/// Every offset the BPF object needs.
pub fn resolve(btf: &Btf<'_>, arch: Arch) -> Result<Offsets, MissingMember> {
    let registers = registers(btf, arch)?;
    // Since 6.13 a file counts those that hold it beside the first:
    // <https://github.com/torvalds/linux/blob/v6.13/include/linux/file_ref.h#L11>.
    let (file_count, file_count_of_one) = match btf.offset("file", "f_ref") {
        Ok(at) => (at, 0),
        Err(_) => (btf.offset("file", "f_count")?, 1),
    };
    let (inode_ctime_sec, inode_ctime_nsec) = changed(btf)?;
    Ok(Offsets {
        task_tgid: btf.offset("task_struct", "tgid")?,
        task_pid: btf.offset("task_struct", "pid")?,
        task_files: btf.offset("task_struct", "files")?,
        task_mm: btf.offset("task_struct", "mm")?,
        task_signal: btf.offset("task_struct", "signal")?,
        task_comm: btf.offset("task_struct", "comm")?,
        task_exit_code: btf.offset("task_struct", "exit_code")?,
        task_start_boottime: btf.offset("task_struct", "start_boottime")?,
        task_thread_pid: btf.offset("task_struct", "thread_pid")?,
        pid_level: btf.offset("pid", "level")?,
        pid_numbers: btf.offset("pid", "numbers")?,
        upid_nr: btf.offset("upid", "nr")?,
        upid_size: btf.size("upid")?,
        task_group_leader: btf.offset("task_struct", "group_leader")?,
        signal_live: btf.offset("signal_struct", "live")?,
        files_count: btf.offset("files_struct", "count")?,
        files_fdt: btf.offset("files_struct", "fdt")?,
        fdt_max_fds: btf.offset("fdtable", "max_fds")?,
        fdt_fd: btf.offset("fdtable", "fd")?,
        fdt_open_fds: btf.offset("fdtable", "open_fds")?,
        fdt_close_on_exec: btf.offset("fdtable", "close_on_exec")?,
        file_f_inode: btf.offset("file", "f_inode")?,
        file_f_flags: btf.offset("file", "f_flags")?,
        // Since 5.11; before, every file had a list of its own, which may be empty.
        file_f_ep: btf.offset("file", "f_ep").unwrap_or(0),
        file_count,
        file_count_of_one,
        file_f_mode: btf.offset("file", "f_mode")?,
        file_f_op: btf.offset("file", "f_op")?,
        file_private_data: btf.offset("file", "private_data")?,
        inode_i_ino: btf.offset("inode", "i_ino")?,
        inode_i_mode: btf.offset("inode", "i_mode")?,
        inode_i_rdev: btf.offset("inode", "i_rdev")?,
        inode_i_sb: btf.offset("inode", "i_sb")?,
        sb_s_dev: btf.offset("super_block", "s_dev")?,
        socket_sk: btf.offset("socket", "sk")?,
        socket_type: btf.offset("socket", "type")?,
        sock_family: btf.offset("sock", "__sk_common.skc_family")?,
        mm_arg_start: btf.offset("mm_struct", "arg_start")?,
        mm_arg_end: btf.offset("mm_struct", "arg_end")?,
        bprm_filename: btf.offset("linux_binprm", "filename")?,
        regs_nr: registers.nr,
        regs_arg: registers.arg,
        regs_ip: registers.ip,
        regs_sp: registers.sp,
        regs_bp: registers.bp,
        regs_saved: registers.saved,
        task_thread_pointer: match arch {
            Arch::X86_64 => btf.offset("task_struct", "thread.fsbase")?,
            Arch::Aarch64 => btf.offset("task_struct", "thread.uw.tp_value")?,
        },
        mm_start_code: btf.offset("mm_struct", "start_code")?,
        mm_end_data: btf.offset("mm_struct", "end_data")?,
        mm_start_stack: btf.offset("mm_struct", "start_stack")?,
        bprm_file: btf.offset("linux_binprm", "file")?,
        regs_arg_compat: registers.arg_compat,
        task_status: registers.status,
        compat_bit: registers.compat_bit,
        task_nvcsw: btf.offset("task_struct", "nvcsw")?,
        mm_mmap_base: btf.offset("mm_struct", "mmap_base")?,
        vma_vm_file: btf.offset("vm_area_struct", "vm_file")?,
        vma_vm_start: btf.offset("vm_area_struct", "vm_start")?,
        vma_vm_end: btf.offset("vm_area_struct", "vm_end")?,
        vma_vm_pgoff: btf.offset("vm_area_struct", "vm_pgoff")?,
        inode_i_generation: btf.offset("inode", "i_generation")?,
        inode_ctime_sec,
        inode_ctime_nsec,
        file_f_path_dentry: btf.offset("file", "f_path.dentry")?,
        dentry_d_name: btf.offset("dentry", "d_name.name")?,
        reserved: [0; 1],
    })
}

/// When an inode was changed last. Since 6.11 the members have the number itself, since 6.6 another name.
/// <https://github.com/torvalds/linux/blob/v6.11/include/linux/fs.h#L664>
fn changed(btf: &Btf<'_>) -> Result<(u32, u32), MissingMember> {
    let names = [("i_ctime_sec", "i_ctime_nsec"), ("__i_ctime.tv_sec", "__i_ctime.tv_nsec")];
    let both = |(sec, nsec)| Ok((btf.offset("inode", sec)?, btf.offset("inode", nsec)?));
    let found = names.into_iter().find_map(|names| both(names).ok());
    found.map_or_else(|| both(("i_ctime.tv_sec", "i_ctime.tv_nsec")), Ok)
}

/// Offsets of further members, in the order of `members`: pairs of structure and member path.
pub fn resolve_more(btf: &Btf<'_>, members: &[(&str, &str)]) -> Result<Vec<u32>, MissingMember> {
    members.iter().map(|&(structure, member)| btf.offset(structure, member)).collect()
}

/// Set while a task is in a 32-bit system call.
/// <https://github.com/torvalds/linux/blob/v6.12/arch/x86/include/asm/thread_info.h#L190>
const TS_COMPAT: u32 = 2;

struct Registers {
    nr: u32,
    arg: [u32; 6],
    /// The arguments of a 32-bit call, and the bit of the task's status that marks one (0: there are none).
    arg_compat: [u32; 6],
    status: u32,
    compat_bit: u32,
    ip: u32,
    sp: u32,
    bp: u32,
    saved: [u32; 5],
}

fn registers(btf: &Btf<'_>, arch: Arch) -> Result<Registers, MissingMember> {
    let at = |member| btf.offset("pt_regs", member);
    match arch {
        Arch::X86_64 => Ok(Registers {
            nr: at("orig_ax")?,
            arg: [at("di")?, at("si")?, at("dx")?, at("r10")?, at("r8")?, at("r9")?],
            arg_compat: [at("bx")?, at("cx")?, at("dx")?, at("si")?, at("di")?, at("bp")?],
            status: btf.offset("task_struct", "thread_info.status")?,
            compat_bit: TS_COMPAT,
            ip: at("ip")?,
            sp: at("sp")?,
            bp: at("bp")?,
            saved: [at("bx")?, at("r12")?, at("r13")?, at("r14")?, at("r15")?],
        }),
        // `regs[0]` holds the result at exit; `orig_x0` keeps the first argument.
        // `syscallno` is 32 bits wide, `orig_ax` 64: the lower 32 bits at the offset are the number on both.
        Arch::Aarch64 => {
            let x = at("regs")?;
            Ok(Registers {
                nr: at("syscallno")?,
                arg: [at("orig_x0")?, x + 8, x + 16, x + 24, x + 32, x + 40],
                arg_compat: [0; 6],
                status: 0,
                compat_bit: 0,
                ip: at("pc")?,
                sp: at("sp")?,
                bp: x + 29 * 8,
                saved: [x + 19 * 8, x + 20 * 8, x + 21 * 8, x + 22 * 8, x + 23 * 8],
            })
        }
    }
}

#[cfg(test)]
mod tests;
