//! Processes: who is traced, and what table each starts with.
//!
//! The fork hook fires when the child has its table and has not run yet, the exec hook when the close-on-exec slots are
//! gone: a walk over the table is exact at both moments.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_probe_read_kernel_str_bytes, bpf_probe_read_user_buf, generated::bpf_probe_read_kernel,
};
use fdtrace_common::wire::{
    ARGV_MAX, Exec, Exit, Fork, Namespaced, PATH_MAX, TABLE_ROWS, TABLE_WALK_MAX, Table, flag, kind, loss, traced,
};

use crate::{
    emit::{self, Subject},
    filter, fresh, gate,
    kernel::{Files, member, offset, read},
    loaded, syscalls,
    turns::{self, Room},
    waits,
};

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`.
#[inline(always)]
pub fn fork(parent: *const c_void, child: *const c_void) {
    // SAFETY: both pointers are typed by the tracepoint; the offsets come from BTF.
    let (tgid, tid, table): (u32, u32, u64) = unsafe {
        (member(parent, offset!(task_tgid)), member(parent, offset!(task_pid)), member(parent, offset!(task_files)))
    };
    let Some(process) = filter::process(tgid) else { return };
    // SAFETY: as above.
    let (child_tgid, child_tid, child_table, child_start): (u32, u32, u64, u64) = unsafe {
        (
            member(child, offset!(task_tgid)),
            member(child, offset!(task_pid)),
            member(child, offset!(task_files)),
            member(child, offset!(task_start_boottime)),
        )
    };
    // SAFETY: a live element of a hash map.
    let flags = unsafe { (*process).flags };
    // Its id may have been another thread's, which died in a call.
    syscalls::forget(child_tid);
    if child_tgid != tgid && !filter::adopt(child_tgid, flags) {
        emit::missing(loss::PROCESSES_FULL);
        return;
    }
    if flags & traced::WAIT_EXEC != 0 {
        return;
    }
    if child_tgid != tgid {
        loaded::forked(process, tgid, child_tgid);
        gate::inherits_watches(tgid, child_tgid);
        // What the one adds to a shared list, the other is told of.
        waits::look(tgid);
        if flags & traced::NEW != 0
            && let Some(child) = filter::process(child_tgid)
        {
            fresh::forked(process, child, child_tgid);
        }
    }
    let start = syscalls::started(tid);
    emit::fixed::<Fork>(loss::RING_PROCESS, |record| {
        // SAFETY: the reserved record.
        unsafe {
            emit::fill_header(&raw mut (*record).header, kind::FORK, 0, Subject { tgid, tid, table });
            (*record).enter_time = start.time;
            (*record).enter_pos = start.pos;
            (*record).child_tgid = child_tgid;
            (*record).child_tid = child_tid;
            (*record).child_table = child_table;
            (*record).child_start = child_start;
            (*record).comm = bpf_get_current_comm().unwrap_or_default();
        }
    });
    if child_tgid != tgid {
        namespaced(child, Subject { tgid: child_tgid, tid: child_tid, table: child_table });
    }
    if child_table != table {
        walk(Subject { tgid: child_tgid, tid: child_tid, table: child_table });
    }
}

/// Tells by what number a new process goes in its own pid namespace, if that is not the initial one.
#[inline(always)]
fn namespaced(child: *const c_void, who: Subject) {
    // Read as a number: older verifiers let nobody count from a typed pointer.
    let pid = read::<u64>(child as u64 + offset!(task_thread_pid) as u64);
    let level = read::<u32>(pid + offset!(pid_level) as u64);
    if level == 0 {
        return;
    }
    let number = pid + offset!(pid_numbers) as u64 + u64::from(level) * offset!(upid_size) as u64;
    let inside = read::<u32>(number + offset!(upid_nr) as u64);
    emit::fixed::<Namespaced>(loss::RING_PROCESS, |record| {
        // SAFETY: the reserved record.
        unsafe {
            emit::fill_header(&raw mut (*record).header, kind::NAMESPACED, 0, who);
            (*record).inside = inside;
            (*record).level = level;
        }
    });
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, in the context of `p`.
#[inline(always)]
pub fn exec(old_tid: u32, bprm: *const c_void) {
    let (tgid, tid) = filter::ids();
    let Some(process) = filter::process(tgid) else { return };
    // SAFETY: a live element of a hash map; the process is alone now and waits for nobody.
    unsafe { (*process).flags &= !traced::WAIT_EXEC };
    loaded::executed(process, tgid, bprm);
    waits::look(tgid);
    gate::unsettle_all(tgid);
    fresh::began(process, tgid, loaded::runs_python(tgid));
    let files = Files::of_current();
    let who = Subject { tgid, tid, table: files.files };
    // The call began under the old thread id.
    let start = syscalls::started(old_tid);
    if old_tid != tid {
        // The thread that had this id is dead.
        syscalls::forget(tid);
    }
    if let Some(scratch) = emit::take_scratch(loss::RING_PROCESS) {
        let record = scratch.cast::<Exec>();
        let head = size_of::<Exec>();
        // SAFETY: the scratch buffer has room for the record and `PATH_MAX` bytes behind it, and is ours alone. `bprm`
        // is typed by the tracepoint.
        unsafe {
            let base = scratch.cast::<u8>();
            let filename: u64 = member(bprm, offset!(bprm_filename));
            let tail = core::slice::from_raw_parts_mut(base.add(head), PATH_MAX - ARGV_MAX);
            let path = bpf_probe_read_kernel_str_bytes(filename as *const u8, tail).map_or(0, <[u8]>::len);
            let path = if path > PATH_MAX - ARGV_MAX { 0 } else { path };
            let (arg_start, arg_end) = arguments();
            let want = arg_end.wrapping_sub(arg_start);
            let argv = if want > ARGV_MAX as u64 { ARGV_MAX } else { want as usize };
            let room = core::slice::from_raw_parts_mut(base.add(head + path), argv);
            let argv = if argv > 0 && bpf_probe_read_user_buf(arg_start as *const u8, room).is_ok() { argv } else { 0 };
            let flags = if want > ARGV_MAX as u64 { flag::TRUNCATED } else { 0 };
            emit::fill_header(&raw mut (*record).header, kind::EXEC, flags, who);
            (*record).enter_time = start.time;
            (*record).enter_pos = start.pos;
            (*record).old_tid = old_tid;
            (*record).path_len = path as u32;
            (*record).argv_len = argv as u32;
            (*record).reserved = 0;
            (*record).comm = bpf_get_current_comm().unwrap_or_default();
            emit::variable(scratch, head + path + argv, loss::RING_PROCESS);
        }
        turns::give_back(Room::Scratch);
    }
    loaded::program(who, bprm);
    walk(who);
}

/// `sched_process_exit(struct task_struct *p, …)`, in the context of `p`, before it lets go of its table.
#[inline(always)]
pub fn exit(task: *const c_void) {
    let (tgid, tid) = filter::ids();
    let Some(process) = filter::process(tgid) else { return };
    // SAFETY: typed by the tracepoint; the offsets come from BTF.
    let (code, signal): (i32, *const c_void) =
        unsafe { (member(task, offset!(task_exit_code)), member(task, offset!(task_signal))) };
    // The count of live threads was lowered before this hook, so the last one reads zero.
    let dead = read::<i32>(signal as u64 + offset!(signal_live) as u64) == 0;
    let files = Files::of_current();
    let who = Subject { tgid, tid, table: files.files };
    // SAFETY: a live element of a hash map.
    if unsafe { (*process).flags } & traced::WAIT_EXEC == 0 {
        emit::fixed::<Exit>(loss::RING_PROCESS, |record| {
            // SAFETY: the reserved record.
            unsafe {
                let flags = if dead { flag::GROUP_DEAD } else { 0 };
                emit::fill_header(&raw mut (*record).header, kind::EXIT, flags, who);
                (*record).code = code;
                (*record).table_users = files.users();
            }
        });
    }
    if dead {
        loaded::gone(tgid);
        filter::release(tgid);
    }
}

/// The command line's place in user memory.
#[inline(always)]
fn arguments() -> (u64, u64) {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { aya_ebpf::helpers::bpf_get_current_task() };
    let mm = read::<u64>(task + offset!(task_mm) as u64);
    (read::<u64>(mm + offset!(mm_arg_start) as u64), read::<u64>(mm + offset!(mm_arg_end) as u64))
}

const WORDS: u64 = (TABLE_WALK_MAX / 64) as u64;

/// Reports every descriptor of a table that nothing can change meanwhile, 64 numbers a record. Bits and pointers are
/// copied whole and taken apart in user space: a loop over them would cost the verifier a million steps.
#[inline(always)]
pub fn walk(who: Subject) {
    let files = Files::at(who.table);
    let max_fds = files.max_fds();
    let last = if max_fds > TABLE_WALK_MAX { WORDS } else { u64::from(max_fds) / 64 };
    for word in 0..WORDS {
        if word >= last {
            break;
        }
        let more = word + 1 < last;
        let open = files.open_word(word);
        // An empty word in the middle says nothing; the last record is always sent, for it ends the table.
        if open == 0 && more {
            continue;
        }
        let mut flags = if more { flag::MORE } else { 0 };
        if !more && max_fds > TABLE_WALK_MAX {
            flags |= flag::BEYOND_WALK;
        }
        emit::fixed::<Table>(loss::RING_TABLE, |record| {
            // SAFETY: the reserved record; the kernel read is checked by its helper.
            unsafe {
                emit::fill_header(&raw mut (*record).header, kind::TABLE, flags, who);
                (*record).first = (word * 64) as u32;
                (*record).max_fds = max_fds;
                (*record).open = open;
                (*record).cloexec = files.cloexec_word(word);
                let room = (&raw mut (*record).files).cast::<c_void>();
                let size = size_of::<[u64; TABLE_ROWS]>() as u32;
                // What cannot be read comes back as zeros.
                bpf_probe_read_kernel(room, size, (files.array() + word * 512) as *const c_void);
            }
        });
    }
}
