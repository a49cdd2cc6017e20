//! Is this task ours? Asked on every system call of the machine, so the answer must cost next to nothing.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use fdtrace_common::{
    globals::SYSCALLS,
    wire::{TracedProcess, gate, hands, traced},
};

use crate::maps::{GATES, TRACED};

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
    pub process: *mut TracedProcess,
}

/// The current task, if its process is traced and past its exec.
#[inline(always)]
pub fn current() -> Option<Task> {
    let task = current_any()?;
    // SAFETY: `process` points to a live element of a hash map.
    if unsafe { (*task.process).flags } & traced::WAIT_EXEC != 0 { None } else { Some(task) }
}

/// The current task, if its process is traced, even when it still waits for its exec.
#[inline(always)]
pub fn current_any() -> Option<Task> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((pid_tgid >> 32) as u32, pid_tgid as u32);
    let process = process(tgid)?;
    Some(Task { tgid, tid, process })
}

/// The entry of a traced process.
#[inline(always)]
pub fn process(tgid: u32) -> Option<*mut TracedProcess> {
    if may_be(tgid) { TRACED.get_ptr_mut(tgid) } else { None }
}

/// The coarse filter alone, of the current task.
#[inline(always)]
pub fn may_be_traced() -> bool {
    may_be((bpf_get_current_pid_tgid() >> 32) as u32)
}

#[inline(always)]
pub fn may_be(tgid: u32) -> bool {
    word(tgid, gate::KNOWN) != 0
}

/// A word of a process, or of another one with the same low bits.
#[inline(always)]
pub fn word(tgid: u32, word: u32) -> u64 {
    GATES.get(gate::index(tgid, word)).copied().unwrap_or(0)
}

#[inline(always)]
pub fn set_word(tgid: u32, word: u32, value: u64) {
    if let Some(place) = GATES.get_ptr_mut(gate::index(tgid, word)) {
        // SAFETY: a live element of an array map.
        unsafe { *place = value };
    }
}

/// Is an interpreter known in the process, or was one?
#[inline(always)]
pub fn may_run_python(tgid: u32) -> bool {
    word(tgid, gate::KNOWN) & gate::PYTHON != 0
}

/// An interpreter is known.
#[inline(always)]
pub fn runs_python(tgid: u32) {
    set_word(tgid, gate::KNOWN, gate::TRACED | gate::PYTHON);
}

/// May a start be kept of a call that does nothing but use a number?
#[inline(always)]
pub fn may_have_kept(tgid: u32) -> bool {
    word(tgid, gate::KEPT) != 0
}

/// One is about to be.
#[inline(always)]
pub fn keeps(tgid: u32) {
    if !may_have_kept(tgid) {
        set_word(tgid, gate::KEPT, 1);
    }
}

/// May the process have begun just now, and closed a number? See `fresh`.
#[inline(always)]
pub fn may_be_fresh(tgid: u32) -> bool {
    word(tgid, gate::FRESH) != 0
}

/// Who has the same word may lose or win it, of which nothing depends but what is told unasked.
#[inline(always)]
pub fn set_fresh(tgid: u32, fresh: bool) {
    set_word(tgid, gate::FRESH, u64::from(fresh));
}

/// Is it known that there is nobody to be searched for who holds this number?
#[inline(always)]
pub fn is_settled(tgid: u32, fd: u32) -> bool {
    fd < gate::SETTLED_NUMBERS && settled(tgid) >> (fd & 63) & 1 != 0
}

/// From now on. Two threads at once may lose one of two numbers, which costs a search.
#[inline(always)]
pub fn settle(tgid: u32, fd: u32) {
    if fd < gate::SETTLED_NUMBERS {
        let whose = u64::from(tgid) << gate::SETTLED_NUMBERS;
        set_word(tgid, gate::SETTLED, whose | settled(tgid) | 1 << (fd & 63));
    }
}

/// Not any more.
#[inline(always)]
pub fn unsettle(tgid: u32, fd: u32) {
    if is_settled(tgid, fd) {
        let whose = u64::from(tgid) << gate::SETTLED_NUMBERS;
        set_word(tgid, gate::SETTLED, whose | settled(tgid) & !(1 << (fd & 63)));
    }
}

/// None of its numbers.
#[inline(always)]
pub fn unsettle_all(tgid: u32) {
    set_word(tgid, gate::SETTLED, 0);
}

#[inline(always)]
fn settled(tgid: u32) -> u64 {
    let word = word(tgid, gate::SETTLED);
    if (word >> gate::SETTLED_NUMBERS) as u32 == tgid { word & ((1 << gate::SETTLED_NUMBERS) - 1) } else { 0 }
}

/// Does anybody on this side watch a number like this one of a process, and from which hands?
#[inline(always)]
pub fn watched(tgid: u32, fd: u64) -> u8 {
    // SAFETY: a live element of an array map, of eight bytes.
    watches_of(tgid, fd).map_or(hands::NONE, |hands| unsafe { *hands })
}

/// From now on.
#[inline(always)]
pub fn watches(tgid: u32, fd: u32, hands: u8) {
    if watched(tgid, u64::from(fd)) < hands
        && let Some(word) = watches_of(tgid, u64::from(fd))
    {
        // SAFETY: as above.
        unsafe { *word = hands };
    }
}

#[inline(always)]
fn watches_of(tgid: u32, fd: u64) -> Option<*mut u8> {
    // Where the compiler knows that a number is small it leaves masks away, and the verifier of 6.1 does not know it.
    let fd = core::hint::black_box(fd as u32);
    let word = GATES.get_ptr_mut(gate::index(tgid, gate::WATCHED + (fd >> 3 & 7)))?;
    // SAFETY: inside of the word.
    Some(unsafe { word.cast::<u8>().add((fd & 7) as usize) })
}

/// A child has the numbers of its parent.
#[inline(always)]
pub fn inherits_watches(parent: u32, child: u32) {
    for at in gate::WATCHED..gate::WATCHED + 8 {
        set_word(child, at, word(parent, at));
    }
}

/// Begins to trace a process. `false`: the set is full.
#[inline(always)]
pub fn adopt(tgid: u32, flags: u32) -> bool {
    let process = TracedProcess { flags, execs: 0, lost: 0, new_until: 0, closed: 0, uses_left: 0, run: 0 };
    if TRACED.insert(tgid, process, 0).is_err() {
        return false;
    }
    if !may_be(tgid) {
        set_word(tgid, gate::KNOWN, gate::TRACED);
    }
    set_fresh(tgid, false);
    // Another process may have had the id before.
    unsettle_all(tgid);
    set_word(tgid, gate::WAITS_LEFT, gate::WAITS);
    true
}

#[inline(always)]
pub fn release(tgid: u32) {
    // The entry may be gone already: nothing to do then.
    let _ = TRACED.remove(tgid);
}
