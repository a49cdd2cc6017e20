//! Who makes the call: registers, Python frames, owner candidates and a copy of the stack, as one record.
//!
//! These programs are reached from the hooks on system calls by tail call, where the kernel accepted them; where it did
//! not, the hooks do without. The record precedes the call's own.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_loop, generated::bpf_probe_read_kernel};
use fdtrace_common::{
    class::{self, witness},
    python::PyProcess,
    wire::{kind as wire_kind, loss, shed},
    witness::{FRAMES_MAX, PyEntry, PyFrame, STACK_MAX, STACK_STEP, Stack, StackRoom, base, caller, kind, note},
};

use crate::{
    emit::{self, Subject},
    filter::{self, Task},
    gate,
    kernel::{self, Files, member, offset},
    known, loaded,
    maps::{PYTHON, STACK_ROOM, WALK},
    owner, python,
    shared::SHED,
    syscalls,
    turns::{self, Room},
    walk::{SEARCH_WORDS, Walk, copy, has_python, mode, plan, planned, stack_bytes},
};

/// The stack is copied in pieces of this size at most, none across a page: a read of memory that is not there fails as a
/// whole.
const BLOCK: u32 = 2048;

/// The call begins.
#[inline(always)]
pub fn at_enter(regs: *const c_void, nr: u64) {
    if turns::take(Room::Stack) {
        enter(regs, nr);
        turns::give_back(Room::Stack);
    } else {
        emit::count_degraded(loss::RING_STACK);
    }
}

#[inline(always)]
fn enter(regs: *const c_void, nr: u64) {
    let Some(task) = filter::current() else { return };
    let start = syscalls::started(task.tid);
    let Some(walk) = prepare(&task, start.time) else { return };
    plan_at_enter(walk, &task, regs, nr, start.before);
    // SAFETY: `walk` is this processor's room, and prepared.
    unsafe { carry_out(walk, regs, nr, start.time) };
}

/// What a call that begins is to be answered with.
#[inline(always)]
fn plan_at_enter(walk: *mut Walk, task: &Task, regs: *const c_void, nr: u64, before: u64) {
    let wants = filter::witnesses(nr);
    let class = filter::class(nr, false);
    // SAFETY: `walk` is this processor's room, and prepared.
    unsafe {
        let fd = syscalls::arg(regs, 0) as u32;
        (*walk).wanted_fd = fd;
        if wants & witness::AT_ENTER != 0 {
            interpreter(walk, task);
            (*walk).mode = match class {
                class::CLOSE => mode::CLOSE,
                class::CLOSE_RANGE => mode::ANY,
                _ => mode::USE,
            };
            (*walk).plan = plan::TELL;
            if class == class::CLOSE || has_python(walk) {
                (*walk).notes = note::SEARCHED;
                (*walk).plan = plan::TELL | plan::SEARCH | plan::LET_GO;
            }
            if class == class::EPOLL_CTL && has_python(walk) {
                (*walk).plan |= plan::BIND;
            }
            return;
        }
        // What is known of it is not needed by most, which end here.
        (*walk).has_python = u32::from(known(walk, task).is_some());
        // A number that an object still holds, though its generation is gone: who uses it now?
        let watched = filter::uses(class) && before != 0;
        let always = watched
            || wants & witness::BIND != 0
            || (wants & witness::BIND_EMPTY_PATH != 0 && syscalls::arg(regs, 3) & syscalls::AT_EMPTY_PATH != 0);
        if wants & witness::BIND_EMPTY_PATH != 0 && !always {
            return;
        }
        if wants & witness::DIRECTORY != 0 {
            owner::reads_directory(walk, fd, syscalls::arg(regs, 1), syscalls::arg(regs, 2));
        }
        if class == class::FCNTL && !has_python(walk) && syscalls::asks_for_flags(regs) {
            owner::asked(walk, fd);
        }
        // A stream asks about its number before it first uses it, so other calls need not be looked at.
        if (always || has_python(walk)) && owner::wanted(walk, fd, always) {
            (*walk).plan |= plan::SEARCH | plan::BIND | plan::FORESEE;
        }
        if watched {
            (*walk).notes = note::SEARCHED;
            (*walk).plan |= plan::TELL;
            (*walk).library_only = 0;
        }
        if (&raw const (*walk).plan).read_volatile() != 0 {
            interpreter(walk, task);
        }
    }
}

/// Does what is planned, one after the other.
#[inline(always)]
unsafe fn carry_out(walk: *mut Walk, regs: *const c_void, nr: u64, call_time: u64) {
    // SAFETY: `walk` is this processor's room, and prepared.
    unsafe {
        if (&raw const (*walk).plan).read_volatile() == 0 {
            return;
        }
        registers(walk, regs);
        if planned(walk, plan::TELL) {
            tell(walk, nr, call_time);
        }
        if planned(walk, plan::SEARCH) {
            owner::search(walk);
        }
        if planned(walk, plan::BIND) {
            owner::bind(walk);
        }
        if planned(walk, plan::FORESEE) {
            owner::foresee(walk);
        }
        if planned(walk, plan::LET_GO) {
            owner::let_go(walk);
        }
        if planned(walk, plan::TELL) {
            finish(walk);
        }
    }
}

/// Begins the record, with Python's frames and task.
#[inline(always)]
unsafe fn tell(walk: *mut Walk, nr: u64, call_time: u64) {
    // SAFETY: `walk` is this processor's room, and prepared.
    unsafe {
        begin(walk, nr, call_time);
        if has_python(walk) {
            (*walk).notes |= python::frames(walk);
            (*walk).notes |= python::task(walk);
        }
        measure(walk);
    }
}

/// The call has returned, and its record is to follow.
#[inline(always)]
pub fn at_exit(regs: *const c_void, ret: i64) {
    if turns::take(Room::Stack) {
        exit(regs, ret);
        turns::give_back(Room::Stack);
    } else {
        loaded::missed(regs);
        emit::count_degraded(loss::RING_STACK);
    }
}

#[inline(always)]
fn exit(regs: *const c_void, ret: i64) {
    // SAFETY: typed by the tracepoint; the offset comes from BTF.
    let nr: u64 = unsafe { member(regs, offset!(regs_nr)) };
    let wants = filter::witnesses(nr);
    let Some(task) = filter::current() else { return };
    let start = syscalls::started(task.tid);
    let Some(walk) = prepare(&task, emit::now()) else { return };
    // SAFETY: `walk` is this processor's room, and prepared.
    unsafe {
        if wants & witness::MAPS != 0 && ret > 0 {
            loaded::library(&task, regs, ret as u64);
            return;
        }
        interpreter(walk, &task);
        (*walk).notes = note::AT_EXIT;
        registers(walk, regs);
        tell(walk, nr, start.time);
        let class = filter::class(nr, false);
        if ret < 0 {
            (*walk).mode = mode::ANY;
            (*walk).wanted_fd = syscalls::arg(regs, 0) as u32;
            (*walk).notes |= note::SEARCHED;
            (*walk).plan = plan::SEARCH;
        } else {
            (*walk).mode = mode::BEGUN;
            (*walk).library_only = (*walk).has_python ^ 1;
            (*walk).wanted_fd = ret as u32;
            (*walk).plan =
                if matches!(class, class::PAIR_AT0 | class::PAIR_AT3) { plan::HIDE } else { plan::BEGUN | plan::HIDE };
            // Python's files ask about their number; streams, sockets and epolls may not.
            if has_python(walk) == (class == class::RETURNS_FD) {
                (*walk).plan |= plan::SEARCH;
            }
        }
        if planned(walk, plan::SEARCH) {
            owner::search(walk);
        }
        if planned(walk, plan::BEGUN) {
            owner::begun(walk);
        }
        if planned(walk, plan::HIDE) {
            (*walk).candidates = 0;
        }
        finish(walk);
    }
}

#[inline(always)]
fn prepare(task: &Task, now: u64) -> Option<*mut Walk> {
    let walk = WALK.get_ptr_mut(0)?;
    // SAFETY: this processor's room, and a live element of a hash map.
    unsafe {
        (*walk).now = now;
        (*walk).tgid = task.tgid;
        (*walk).tid = task.tid;
        (*walk).execs = task.execs;
        (*walk).frames = 0;
        (*walk).candidates = 0;
        (*walk).plan = 0;
        (*walk).mode = mode::USE;
        (*walk).notes = 0;
        (*walk).library_only = 0;
        (*walk).word_count = 0;
        (*walk).recognised = 0;
        (*walk).by_program = 0;
        (*walk).by_itself = 0;
        (*walk).loader_len = 0;
    }
    Some(walk)
}

/// What is known of the interpreter that the process runs now.
#[inline(always)]
unsafe fn known(walk: *const Walk, task: &Task) -> Option<*const PyEntry> {
    if !gate::is_marked(task.tgid, gate::PYTHON) {
        return None;
    }
    let known = PYTHON.get_ptr(&task.tgid)?;
    // SAFETY: a live element of a hash map, and this processor's room.
    unsafe { if (*known).execs == (*walk).execs { Some(known) } else { None } }
}

/// Copies what is known of the process's interpreter, if something is.
#[inline(always)]
unsafe fn interpreter(walk: *mut Walk, task: &Task) {
    // SAFETY: a live element of a hash map, and this processor's room.
    unsafe {
        (*walk).has_python = 0;
        let Some(known) = known(walk, task) else { return };
        let to = (&raw mut (*walk).python).cast::<c_void>();
        if bpf_probe_read_kernel(to, size_of::<PyProcess>() as u32, known.cast()) == 0 {
            (*walk).has_python = 1;
        }
    }
}

/// Takes the registers that may hold `self`, and the stack pointer.
#[inline(always)]
unsafe fn registers(walk: *mut Walk, regs: *const c_void) {
    // SAFETY: `regs` is typed by the tracepoint; the offsets come from BTF.
    unsafe {
        (*walk).ip = member(regs, offset!(regs_ip));
        (*walk).sp = member(regs, offset!(regs_sp));
        (*walk).words[0] = member(regs, offset!(regs_bp));
        (*walk).words[1] = member(regs, offset!(regs_saved[0]));
        (*walk).words[2] = member(regs, offset!(regs_saved[1]));
        (*walk).words[3] = member(regs, offset!(regs_saved[2]));
        (*walk).words[4] = member(regs, offset!(regs_saved[3]));
        (*walk).words[5] = member(regs, offset!(regs_saved[4]));
    }
}

/// Fills the head of the record, with the registers that were taken.
#[inline(always)]
unsafe fn begin(walk: *const Walk, nr: u64, call_time: u64) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms.
    unsafe {
        let stack = &raw mut (*room).stack;
        (*stack).call_time = call_time;
        (*stack).ip = (*walk).ip;
        (*stack).sp = (*walk).sp;
        (*stack).bp = (*walk).words[0];
        (*stack).left = [0; 5];
        (*stack).task = 0;
        (*stack).task_name_len = 0;
        (*stack).task_name_width = 1;
        (*stack).nr = nr as u32;
        (*stack).caller = caller::UNKNOWN;
    }
}

/// How much of the stack is to come behind the Python frames, and whether it is known.
#[inline(always)]
unsafe fn measure(walk: *mut Walk) {
    // SAFETY: `walk` is this processor's.
    unsafe {
        (*walk).tail = frames(walk) * size_of::<PyFrame>() as u32;
        (*walk).stack_want = stack_bytes(has_python(walk)) as u32;
        (*walk).stack_len = 0;
        if (*walk).stack_want > 0 {
            // What comes behind the end costs as much, and is none of our business.
            (*walk).below = to_the_end((*walk).sp);
            if (*walk).below < u64::from((*walk).stack_want) {
                (*walk).stack_want = (*walk).below as u32 & !7;
            }
            known::recognise(walk);
        }
    }
}

/// How many Python frames there are.
#[inline(always)]
unsafe fn frames(walk: *const Walk) -> u32 {
    // SAFETY: `walk` is this processor's.
    let frames = unsafe { (*walk).frames } & (2 * FRAMES_MAX as u32 - 1);
    if frames > FRAMES_MAX as u32 { FRAMES_MAX as u32 } else { frames }
}

/// Appends the copy of the stack and sends the record.
#[inline(always)]
unsafe fn finish(walk: *mut Walk) {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return };
    // SAFETY: this processor's rooms; the bounds of every write are checked.
    unsafe {
        let stack = &raw mut (*room).stack;
        let frames = frames(walk);
        let tail = frames as usize * size_of::<PyFrame>();
        if (*walk).stack_want > 0 {
            let number = (*walk).recognised;
            if number != 0 {
                (*walk).notes |= note::KNOWN;
            }
            (*stack).left[0] = if number != 0 { number } else { (*walk).below };
            (*stack).left[1] = (*walk).layout;
            (*stack).left[2] = (*walk).bases[base::MAPPED as usize];
            (*stack).left[3] = (*walk).bases[base::PROGRAM as usize];
            (*stack).left[4] = (*walk).place;
            let is_endangered = number == 0 && (SHED.get() >= shed::COPIES || !emit::is_half_empty());
            if is_endangered {
                emit::count_degraded(loss::RING_STACK);
                (*walk).notes |= note::STACK_OMITTED;
            }
            if number != 0 || is_endangered {
                (*walk).stack_want = 0;
                (*walk).stack_len = 0;
            }
        }
        if (&raw const (*walk).stack_want).read_volatile() != 0 {
            bpf_loop(STACK_MAX as u32 / BLOCK + 1, block_step as *mut c_void, core::ptr::null_mut(), 0);
        }
        let len = (&raw const (*walk).stack_len).read_volatile();
        if !has_python(walk) && len == 0 && (*walk).candidates == 0 && (*walk).notes & note::KNOWN == 0 {
            return;
        }
        (*stack).frames = frames;
        (*stack).candidates = (*walk).candidates;
        (*stack).stack_len = len;
        (*stack).notes = (*walk).notes;
        let files = Files::of_current();
        let who = Subject { tgid: (*walk).tgid, tid: (*walk).tid, table: files.files };
        emit::fill_header_at((*walk).now, &raw mut (*stack).header, kind::STACK, 0, who);
        let behind = tail + len as usize;
        let is_bare = behind == 0 && (*walk).candidates == 0 && (*stack).task_name_len == 0;
        let len = if is_bare { Stack::HEAD } else { size_of::<Stack>() + behind };
        let len = if len > size_of::<StackRoom>() { size_of::<StackRoom>() } else { len };
        emit::bytes(core::slice::from_raw_parts(room.cast::<u8>(), len), loss::RING_STACK);
    }
}

/// Copies the next piece of the stack.
unsafe extern "C" fn block_step(_index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return 1 };
    // SAFETY: this processor's rooms; the bounds of the write are checked.
    unsafe {
        let at = (&raw const (*walk).stack_len).read_volatile() as usize;
        let tail = (&raw const (*walk).tail).read_volatile() as usize;
        if at >= STACK_MAX || tail > FRAMES_MAX * size_of::<PyFrame>() {
            return 1;
        }
        let from = (*walk).sp.wrapping_add(at as u64);
        let rest = BLOCK - (from as u32 & (BLOCK - 1));
        let left = (*walk).stack_want.saturating_sub(at as u32);
        (*walk).piece = if rest < left { rest } else { left };
        // Read again, and with a mask that does nothing, so that all verifiers know how much it can be.
        let piece = (&raw const (*walk).piece).read_volatile() & (2 * BLOCK - 1);
        if piece == 0 {
            return 1;
        }
        if !copy((&raw mut (*room).tail).cast::<u8>().add(tail).add(at), piece, from) {
            (*walk).notes |= note::STACK_CUT;
            return 1;
        }
        (*walk).stack_len = at as u32 + piece;
    }
    0
}

/// How much there is of the stack. A program's first stack ends with its arguments and its environment, those of its threads
/// with the thread's own data.
#[inline(always)]
fn to_the_end(sp: u64) -> u64 {
    let (first, own) = (kernel::start_stack().wrapping_sub(sp), kernel::thread_pointer().wrapping_sub(sp));
    if first < own { first } else { own }
}

const _: () = assert!(SEARCH_WORDS * 8 == 2 * STACK_STEP && wire_kind::TICK < kind::STACK);
