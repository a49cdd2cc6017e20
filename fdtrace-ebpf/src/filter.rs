//! Is this task ours? Asked on every system call of the machine, so the answer must cost next to nothing.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use fdtrace_common::{
    globals::SYSCALLS,
    wire::{TracedProcess, traced},
};

use crate::{gate, maps::TRACED, waits};

#[unsafe(no_mangle)]
static CLASSES: [u8; SYSCALLS] = [0; SYSCALLS];
#[unsafe(no_mangle)]
static CLASSES_COMPAT: [u8; SYSCALLS] = [0; SYSCALLS];

#[unsafe(no_mangle)]
static HOOKED: [u8; SYSCALLS] = [0; SYSCALLS];

/// What the hooks have to do with a system call of this number: bits of `class::hook`.
#[inline(always)]
pub fn hooks(nr: u64) -> u8 {
    if nr >= SYSCALLS as u64 {
        return 0;
    }
    // SAFETY: as in `class`.
    unsafe { core::ptr::read_volatile((&raw const HOOKED).cast::<u8>().add(index(nr))) }
}

/// The class of a system call.
#[inline(always)]
pub fn class(nr: u64, compat: bool) -> u8 {
    if nr >= SYSCALLS as u64 {
        return fdtrace_common::class::NONE;
    }
    let table = if compat { (&raw const CLASSES_COMPAT).cast::<u8>() } else { (&raw const CLASSES).cast::<u8>() };
    // SAFETY: `nr` was checked against the table's length; volatile because user space replaces the table before load.
    unsafe { core::ptr::read_volatile(table.add(index(nr))) }
}

/// A number as an index that 6.1's verifier can follow: the compiler knows that the mask does nothing, and drops it.
#[inline(always)]
fn index(nr: u64) -> usize {
    core::hint::black_box(nr) as usize & (SYSCALLS - 1)
}

#[unsafe(no_mangle)]
static WITNESSES: [u8; SYSCALLS] = [0; SYSCALLS];

/// The witnesses that a native system call wants: bits of `class::witness`. Zero where the kernel has no room for them.
#[inline(always)]
pub fn witnesses(nr: u64) -> u8 {
    if nr >= SYSCALLS as u64 {
        return 0;
    }
    // SAFETY: as in `class`.
    unsafe { core::ptr::read_volatile((&raw const WITNESSES).cast::<u8>().add(index(nr))) }
}

/// Does a call of this class do something with the descriptor in argument 0 that can be asked for?
#[inline(always)]
pub fn uses(class: u8) -> bool {
    use fdtrace_common::class;
    matches!(class, class::USE | class::RECVMSG | class::RECVMMSG | class::GETSOCKOPT)
}

/// A traced task.
#[derive(Clone, Copy)]
pub struct Task {
    pub tgid: u32,
    pub tid: u32,
    /// Programs that its process has run since it is traced.
    pub execs: u32,
}

/// The current task, if its process is traced and past its exec.
#[inline(always)]
pub fn current() -> Option<Task> {
    let (tgid, tid) = ids();
    let execs = match gate::found(tgid) {
        Some(execs) => execs,
        None => {
            let process = process(tgid)?;
            // SAFETY: a live element of a hash map.
            let (flags, execs) = unsafe { ((*process).flags, (*process).execs) };
            if flags & traced::WAIT_EXEC != 0 {
                return None;
            }
            gate::finds(tgid, execs);
            execs
        }
    };
    Some(Task { tgid, tid, execs })
}

/// Process and thread id of the current task.
#[inline(always)]
pub fn ids() -> (u32, u32) {
    let pid_tgid = bpf_get_current_pid_tgid();
    ((pid_tgid >> 32) as u32, pid_tgid as u32)
}

/// The entry of a traced process.
#[inline(always)]
pub fn process(tgid: u32) -> Option<*mut TracedProcess> {
    if gate::is_marked(tgid, gate::TRACED) { TRACED.get_ptr_mut(tgid) } else { None }
}

/// The coarse filter alone, of the current task.
#[inline(always)]
pub fn may_be_traced() -> bool {
    gate::is_marked(ids().0, gate::TRACED)
}

/// Begins to trace a process. `false`: the set is full.
#[inline(always)]
pub fn adopt(tgid: u32, flags: u32) -> bool {
    let process = TracedProcess {
        flags,
        execs: 0,
        new_until: 0,
        closed: 0,
        uses_left: 0,
        run: 0,
        layout: 0,
        loader: 0,
        loader_len: 0,
    };
    if TRACED.insert(tgid, process, 0).is_err() {
        return false;
    }
    gate::traces(tgid);
    waits::look(tgid);
    true
}

#[inline(always)]
pub fn release(tgid: u32) {
    gate::loses(tgid);
    // The entry may be gone already: nothing to do then.
    let _ = TRACED.remove(tgid);
}
