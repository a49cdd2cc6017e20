//! What a fork gives a second hand to: stream sockets, and files with an offset.
//!
//! From then on it is told whenever another process than the last one uses them. User space asks for the same when it has
//! read that there was a fork, which is too late for two processes that are through with each other in a millisecond.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use fdtrace_common::wire::{TABLE_WALK_MAX, Watch, traced};

use crate::{
    filter,
    kernel::{Files, has_turns, member, offset, read},
    watch,
};

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`, once the fork has been told.
#[inline(always)]
pub fn files(parent: *const c_void, child: *const c_void) {
    // SAFETY: both pointers are typed by the tracepoint; the offsets come from BTF.
    let (tgid, child_tgid, table): (u32, u32, u64) = unsafe {
        (member(parent, offset!(task_tgid)), member(child, offset!(task_tgid)), member(child, offset!(task_files)))
    };
    if child_tgid == tgid {
        return;
    }
    let Some(process) = filter::process(tgid) else { return };
    // SAFETY: a live element of a hash map.
    if unsafe { (*process).flags } & traced::WAIT_EXEC != 0 {
        return;
    }
    let files = Files::at(table);
    let max_fds = files.max_fds();
    let numbers = if max_fds > TABLE_WALK_MAX { TABLE_WALK_MAX } else { max_fds };
    let processes = [tgid, child_tgid];
    let mut walk = Walk { array: files.array(), openings: u64::from(Watch::OPENINGS), processes };
    // SAFETY: the callback is given what lives until the loop is over.
    unsafe { bpf_loop(numbers, step as *mut c_void, (&raw mut walk).cast(), 0) };
}

struct Walk {
    /// The table's pointers to files.
    array: u64,
    /// Files of which each use may be told yet.
    openings: u64,
    /// Parent and child.
    processes: [u32; 2],
}

/// One number of the child's table.
unsafe extern "C" fn step(fd: u32, walk: *mut c_void) -> i64 {
    // SAFETY: what the loop was begun with.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let file = read::<u64>(walk.array + u64::from(fd) * 8);
    // Standard streams are shared on purpose.
    if fd <= 2 || file == 0 || !has_turns(file) {
        return 0;
    }
    let every = if walk.openings > 0 {
        walk.openings -= 1;
        Watch::OPENING
    } else {
        0
    };
    watch::shared(file, fd, walk.processes, Watch::TURNS, every);
    0
}
