//! Which files' code each process has in its memory, and where: told to user space, and kept as a number.
//!
//! Two processes whose [`TracedProcess::layout`] is the same number have the same code in their memory, and the same
//! distances between its pieces: what is known of the stacks of the one is true of the other's.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_task_btf, bpf_get_smp_processor_id,
    generated::{bpf_find_vma, bpf_probe_read_kernel, bpf_task_pt_regs},
};
use fdtrace_common::{
    class::witness,
    python::PyProcess,
    wire::{TracedProcess, traced},
    witness::{ImageKey, Mapped, PyEntry, PyImage, image, kind},
};

use crate::{
    emit::{self, Subject},
    filter::{self, Task},
    gate,
    kernel::{self, Files, member, offset, read},
    maps::{IMAGES, PYTHON, WALK},
    syscalls,
    turns::{self, Room},
    walk::stack_bytes,
};

/// What layouts are mixed with: no program can have itself taken for another one.
#[unsafe(no_mangle)]
static LAYOUT_KEY: u64 = 0;

/// The layout of a process that is like no other.
#[inline(always)]
fn anew() -> u64 {
    // SAFETY: the helper asks for nothing.
    TracedProcess::made(emit::now(), unsafe { bpf_get_smp_processor_id() })
}

/// Puts one more word into a layout. A step is a permutation: what differs in one word stays different.
#[inline(always)]
fn mix(layout: u64, word: u64) -> u64 {
    // The finish of splitmix64, <https://prng.di.unimi.it/splitmix64.c>.
    let mut mixed = layout ^ word;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Puts a file into a layout, as it is now: what is written into it later, or comes to have its number, is another one.
#[inline(always)]
fn mix_file(layout: u64, file: u64) -> u64 {
    let inode = inode_of(file);
    let key = key_of_inode(inode);
    let generation = read::<u32>(inode + offset!(inode_i_generation) as u64);
    let seconds = read::<u64>(inode + offset!(inode_ctime_sec) as u64);
    // The uppermost bit tells since 6.13 whether somebody has asked.
    // <https://github.com/torvalds/linux/blob/v6.13/include/linux/fs.h#L1603>
    let nanoseconds = read::<u32>(inode + offset!(inode_ctime_nsec) as u64) & 0x7fff_ffff;
    let layout = mix(mix(layout, key.inode), u64::from(key.dev) << 32 | u64::from(generation));
    mix(layout, seconds << 30 ^ u64::from(nanoseconds))
}

/// A new program, after [`executed`]: the same number for all processes that run this one with this loader.
#[inline(always)]
pub fn laid_out(bprm: *const c_void) {
    let (tgid, tid) = filter::ids();
    let Some(process) = filter::process(tgid) else { return };
    let mut loader = Loader { file: 0, start: 0, end: 0, page: 0 };
    // SAFETY: typed by the tracepoint; the offsets come from BTF. The callback is given what lives until it is over.
    unsafe {
        let task = bpf_get_current_task_btf();
        let regs = bpf_task_pt_regs(task) as *const c_void;
        let entry: u64 = member(regs, offset!(regs_ip));
        bpf_find_vma(task, entry, loader_step as *mut c_void, (&raw mut loader).cast(), 0);
        if loader.file == 0 {
            return;
        }
        let (start, end) = kernel::program_image();
        if entry.wrapping_sub(start) >= end.wrapping_sub(start) {
            (*process).loader = loader.start;
            (*process).loader_len = loader.end.wrapping_sub(loader.start);
            if is_only_a_loader(loader.file) {
                (*process).flags |= traced::OWN_LOADER;
                gate::starts(tgid);
            }
        }
        if stack_bytes(false) == 0 {
            return;
        }
        let program: u64 = member(bprm, offset!(bprm_file));
        let key = (&raw const LAYOUT_KEY).read_volatile();
        let layout = mix_file(mix_file(key, program), loader.file);
        let layout = mix(layout, entry.wrapping_sub(kernel::mmap_base()));
        (*process).layout = layout | TracedProcess::SHARED;
    }
    let files = Files::of_current();
    let room = [loader.end.wrapping_sub(loader.start), loader.page << 12];
    mapped(Subject { tgid, tid, table: files.files }, loader.file, loader.start, room, Mapped::LOADER);
}

/// `ld-linux-x86-64.so.2` and its like are. musl's loader is its C library, called `ld-musl-x86_64.so.1` or `libc.so`.
#[inline(always)]
fn is_only_a_loader(file: u64) -> bool {
    const NAME: u64 = u64::from_le_bytes(*b"ld-\0\0\0\0\0");
    const MUSL: u64 = u64::from_le_bytes(*b"ld-musl\0");
    let dentry = read::<u64>(file + offset!(file_f_path_dentry) as u64);
    let name = u64::from_le(read::<u64>(read::<u64>(dentry + offset!(dentry_d_name) as u64)));
    name & 0xff_ffff == NAME && name & 0xff_ffff_ffff_ffff != MUSL
}

/// The memory in which a program begins: its loader's, or its own if it has none.
struct Loader {
    file: u64,
    start: u64,
    end: u64,
    page: u64,
}

unsafe extern "C" fn loader_step(_task: *mut c_void, vma: *mut c_void, loader: *mut c_void) -> i64 {
    // SAFETY: the helper gives a typed pointer, whose offsets come from BTF, and what it was given.
    unsafe {
        let loader = &mut *loader.cast::<Loader>();
        loader.file = member(vma, offset!(vma_vm_file));
        loader.start = member(vma, offset!(vma_vm_start));
        loader.end = member(vma, offset!(vma_vm_end));
        loader.page = member(vma, offset!(vma_vm_pgoff));
    }
    0
}

/// Code of a file, or of nobody knows where, is in the memory of a process from now on. `room`: its length and its offset
/// in the file.
#[inline(always)]
unsafe fn changes(process: *mut TracedProcess, file: u64, start: u64, room: [u64; 2]) {
    // SAFETY: a live element of a hash map.
    unsafe {
        let layout = (*process).layout;
        (*process).layout = if layout & TracedProcess::SHARED == 0 || file == 0 {
            anew()
        } else {
            let layout = mix(mix(mix_file(layout, file), room[0]), room[1]);
            mix(layout, start.wrapping_sub(kernel::mmap_base())) | TracedProcess::SHARED
        };
    }
}

/// A new program: what is known of its file is what the process begins with.
#[inline(always)]
pub fn executed(process: *mut TracedProcess, tgid: u32, bprm: *const c_void) {
    // SAFETY: a live element of a hash map; `bprm` is typed by the tracepoint.
    unsafe {
        (*process).execs = (*process).execs.wrapping_add(1);
        (*process).layout = anew();
        (*process).loader_len = 0;
        (*process).flags &= !traced::OWN_LOADER;
        gate::loses(tgid);
        let _ = PYTHON.remove(&tgid);
        let file: u64 = member(bprm, offset!(bprm_file));
        let Some(image) = image_of(file) else { return };
        let bias = match (*image).form {
            image::FIXED => 0,
            image::PROGRAM => kernel::start_code().wrapping_sub((*image).code_address),
            _ => return,
        };
        // Else user space finds it.
        if turns::take(Room::Stack) {
            install(tgid, (*process).execs, image, bias);
            turns::give_back(Room::Stack);
        }
    }
}

/// Is it known that the process runs an interpreter?
#[inline(always)]
pub fn runs_python(tgid: u32) -> bool {
    PYTHON.get_ptr(&tgid).is_some()
}

/// A new program: where its code is.
#[inline(always)]
pub fn program(who: Subject, bprm: *const c_void) {
    if stack_bytes(false) == 0 {
        return;
    }
    // SAFETY: typed by the tracepoint; the offset comes from BTF.
    let file: u64 = unsafe { member(bprm, offset!(bprm_file)) };
    mapped(who, file, kernel::start_code(), [0, 0], Mapped::PROGRAM);
}

/// Code of a file is in the memory of a process from now on. `room`: its length and its offset in the file.
#[inline(always)]
fn mapped(who: Subject, file: u64, start: u64, room: [u64; 2], fd: i32) {
    let key = key_of(file);
    emit::witness::<Mapped>(|record| {
        // SAFETY: the reserved record.
        unsafe {
            emit::fill_header(&raw mut (*record).header, kind::MAPPED, 0, who);
            (*record).start = start;
            (*record).len = room[0];
            (*record).offset = room[1];
            (*record).inode = key.inode;
            (*record).dev = key.dev;
            (*record).fd = fd;
        }
    });
}

/// Code of a file was mapped: is it an interpreter's?
///
/// # Safety
/// `regs` is typed by the tracepoint.
#[inline(always)]
pub unsafe fn library(task: &Task, regs: *const c_void, at: u64) {
    const PROT_EXEC: u64 = 4;
    // SAFETY: live elements of maps; by the caller's promise.
    unsafe {
        if syscalls::arg(regs, 2) & PROT_EXEC == 0 {
            return;
        }
        let files = Files::of_current();
        let file = files.file(syscalls::arg(regs, 4));
        let room = [syscalls::arg(regs, 1), syscalls::arg(regs, 5)];
        if let Some(process) = filter::process(task.tgid) {
            changes(process, file, at, room);
        }
        if stack_bytes(false) != 0 {
            let who = Subject { tgid: task.tgid, tid: task.tid, table: files.files };
            mapped(who, file, at, room, syscalls::arg(regs, 4) as i32);
        }
        if PYTHON.get_ptr(&task.tgid).is_some() {
            return;
        }
        let Some(image) = image_of(file) else { return };
        if (*image).form != image::LIBRARY || (*image).code_offset & !0xfff != syscalls::arg(regs, 5) {
            return;
        }
        install(task.tgid, task.execs, image, at.wrapping_sub((*image).code_address & !0xfff));
    }
}

/// A call has returned and there is no room to look at it. If it has mapped something, nobody knows any more what is where.
#[inline(always)]
pub fn missed(regs: *const c_void) {
    // SAFETY: typed by the tracepoint; the offset comes from BTF. A live element of a hash map.
    unsafe {
        let nr: u64 = member(regs, offset!(regs_nr));
        if filter::witnesses(nr) & witness::MAPS != 0
            && let Some(process) = filter::process(filter::ids().0)
        {
            (*process).layout = anew();
        }
    }
}

#[inline(always)]
fn image_of(file: u64) -> Option<*const PyImage> {
    IMAGES.get_ptr(&key_of(file))
}

#[inline(always)]
fn key_of(file: u64) -> ImageKey {
    key_of_inode(inode_of(file))
}

#[inline(always)]
fn inode_of(file: u64) -> u64 {
    read(file + offset!(file_f_inode) as u64)
}

#[inline(always)]
fn key_of_inode(inode: u64) -> ImageKey {
    let sb = read::<u64>(inode + offset!(inode_i_sb) as u64);
    ImageKey {
        inode: read::<u64>(inode + offset!(inode_i_ino) as u64),
        dev: read::<u32>(sb + offset!(sb_s_dev) as u64),
        reserved: 0,
    }
}

#[inline(always)]
unsafe fn install(tgid: u32, execs: u32, image: *const PyImage, bias: u64) {
    let Some(walk) = WALK.get_ptr_mut(0) else { return };
    // SAFETY: this processor's room, and live elements of maps.
    unsafe {
        let python = &raw mut (*walk).python;
        if bpf_probe_read_kernel(python.cast(), size_of::<PyProcess>() as u32, image.cast()) != 0 {
            return;
        }
        (*python).runtime = (*python).runtime.wrapping_add(bias);
        (*python).code_type = (*python).code_type.wrapping_add(bias);
        (*python).type_type = (*python).type_type.wrapping_add(bias);
        (*python).unicode_type = (*python).unicode_type.wrapping_add(bias);
        (*python).long_type = (*python).long_type.wrapping_add(bias);
        (*python).builtin_type = (*python).builtin_type.wrapping_add(bias);
        (*walk).python_execs = execs;
        (*walk).python_reserved = 0;
        gate::mark(tgid, gate::PYTHON, true);
        // If there is no room, the process goes without.
        let _ = PYTHON.insert(&tgid, &*python.cast::<PyEntry>(), 0);
    }
}

/// A child that is a process of its own has its parent's interpreter, at the same addresses. It has run as many
/// programs as its parent, for what that is compared with, and has its code where that has it.
#[inline(always)]
pub fn forked(parent: *const TracedProcess, tgid: u32, child: u32) {
    if let Some(child) = filter::process(child) {
        // SAFETY: live elements of a hash map; the child has not run yet.
        unsafe {
            (*child).execs = (*parent).execs;
            (*child).layout = (*parent).layout;
            (*child).loader = (*parent).loader;
            (*child).loader_len = (*parent).loader_len;
        }
    }
    if let Some(known) = PYTHON.get_ptr(&tgid) {
        gate::mark(child, gate::PYTHON, true);
        // SAFETY: a live element of a hash map. If there is no room, the child goes without.
        let _ = PYTHON.insert(&child, unsafe { &*known }, 0);
    }
}

#[inline(always)]
pub fn gone(tgid: u32) {
    let _ = PYTHON.remove(&tgid);
}
