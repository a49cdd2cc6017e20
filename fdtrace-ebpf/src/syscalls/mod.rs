//! System calls: what is kept at their start, what is reported at their end.
//!
//! The start is not reported. It leaves in the thread's in-flight slot what the end cannot know any more: the ring
//! position (so that user space has the interval in which the call took effect) and the `struct file` behind a number
//! that is about to go.
//!
//! The end is told by one of three programs, by the class of the call: so the kernel's verifier walks each kind of record
//! once, and not every kind behind every other.

mod args;
mod done;
mod inflight;
mod light;
mod received;

use core::ffi::c_void;

use fdtrace_common::{
    class::{self, hook, witness},
    next,
    wire::{loss, shed},
};

use crate::{
    emit,
    filter::{self, Task, witnesses},
    fresh, gate,
    kernel::{self, Files, member, offset},
    owner, process,
    shared::SHED,
    waits, watch,
};

pub use args::arg;
use args::{arg_of, user};
use done::Done;
use fdtrace_common::wire::FLAGS_KNOWN;
use inflight::{Clock, worth_telling};
pub use inflight::{forget, started};

/// Replaced by user space before load.
#[unsafe(no_mangle)]
static ARM_AT: u32 = 0;

const EBADF: i64 = -9;
const EFAULT: i64 = -14;
const ENOTSOCK: i64 = -88;
const ENFILE: i64 = -23;
const EMFILE: i64 = -24;
const F_DUPFD: u64 = 0;
const F_SETFD: u64 = 2;
const F_GETFL: u64 = 3;
const F_SETFL: u64 = 4;
const F_SETLK: u64 = 6;
const F_SETLKW: u64 = 7;
const F_DUPFD_CLOEXEC: u64 = 1030;
pub const AT_EMPTY_PATH: u64 = 0x1000;
const PROT_EXEC: u64 = 4;
const FIONCLEX: u64 = 0x5450;
const FIOCLEX: u64 = 0x5451;
/// x86-64 and aarch64: makes a file non-blocking, or blocking.
const FIONBIO: u64 = 0x5421;
const CLONE_PIDFD: u64 = 0x1000;
const SOL_SOCKET: u32 = 1;
const SOCKETCALL_SOCKET: u64 = 1;
const SOCKETCALL_ACCEPT: u64 = 5;
const SOCKETCALL_SOCKETPAIR: u64 = 8;
const SOCKETCALL_RECVMSG: u64 = 17;
const SOCKETCALL_ACCEPT4: u64 = 18;

/// `ioctl` commands that return a descriptor: KVM's, namespaces' and a pidfd's, a terminal's other side, userfaultfd,
/// a socket's network namespace. Others that put one into a structure are found when the table is read.
#[inline(always)]
fn makes_descriptor(command: u64) -> bool {
    matches!(command, 0xAE01 | 0xAE41 | 0xAECE | 0xB701 | 0xB702 | 0xFF01..=0xFF0A | 0x5441 | 0xAA00 | 0x894C)
}

/// `SOL_SOCKET`, `SO_PEERPIDFD` (6.5).
#[inline(always)]
fn is_peer_pidfd(level: u64, option: u64) -> bool {
    level as u32 == SOL_SOCKET && option as u32 == 77
}

/// Which copy of a hook is running: see `main::sys_enter_again`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    First,
    Second,
}

/// `sys_enter(struct pt_regs *regs, long id)`. If the call is ours and the task is traced: has somebody asked for this use?
#[inline(always)]
pub fn enter(regs: *const c_void, nr: u64, turn: Turn) -> Option<(Task, bool)> {
    let hooks = filter::hooks(nr);
    if hooks == 0 || light::begins(regs, nr, hooks) {
        return None;
    }
    let task = filter::current()?;
    let compat = kernel::in_compat_call();
    let class = filter::class(nr, compat);
    if class == class::NONE {
        return None;
    }
    let slot = inflight::slot(task.tid)?;
    // SAFETY: a live element of an array map. The end of every call that we look at takes the id away.
    if unsafe { (*slot).tid } == task.tid {
        if turn == Turn::Second {
            return None;
        }
        // So the end of the last one was not seen.
        emit::missing(loss::SKIPPED);
    }
    let pos = emit::position();
    let files = Files::of_current();
    let before = match class {
        class::CLOSE | class::DUP2 => {
            let file = files.file(arg_of(regs, compat, usize::from(class == class::DUP2)));
            waits::closes(task.tgid, file);
            file
        }
        class::EPOLL_CTL => files.file(arg_of(regs, compat, 2)),
        class::FCNTL if arg_of(regs, compat, 1) & 0xffff_ffff == F_SETFL => {
            flags_before(files, arg_of(regs, compat, 0))
        }
        class::IOCTL if arg_of(regs, compat, 1) & 0xffff_ffff == FIONBIO => {
            flags_before(files, arg_of(regs, compat, 0))
        }
        class if filter::uses(class) => {
            let fd = arg_of(regs, compat, 0);
            match fresh::used_again(regs, &task, fd, files) {
                0 => watch::watched(task.tgid, fd, files),
                file => file,
            }
        }
        _ => 0,
    };
    if hooks & hook::USES != 0 {
        gate::mark(task.tgid, gate::KEPT, true);
    }
    inflight::open(slot, task.tid, nr, files, pos, before, Clock::Exact);
    Some((task, filter::uses(class) && before != 0))
}

/// Status flags that a call is about to change, marked as known.
#[inline(always)]
fn flags_before(files: Files, fd: u64) -> u64 {
    FLAGS_KNOWN | u64::from(kernel::status_flags(files.file(fd)))
}

/// `sys_exit(struct pt_regs *regs, long ret)`: may it concern us? Asked of every call of the machine, so what most of them
/// differ in comes first.
#[inline(always)]
pub fn may_be_ours(regs: *const c_void, ret: i64, turn: Turn) -> bool {
    (ret == EBADF || filter::hooks(number(regs)) != 0)
        && filter::may_be_traced()
        && (turn == Turn::First || inflight::is_open())
}

/// The end of a call of which nothing is to be told: most ends that come here. What is told is prepared.
#[inline(always)]
pub fn tells_nothing(regs: *const c_void, ret: i64) -> bool {
    let nr = number(regs);
    let hooks = filter::hooks(nr);
    if tells_by_itself(ret) {
        light::ends(nr, hooks);
        return false;
    }
    if hooks & hook::USES != 0 && hooks & hook::MAPS == 0 && !gate::is_marked(filter::ids().0, gate::KEPT) {
        return true;
    }
    if kernel::in_compat_call() || hooks & hook::MAPS != 0 && maps_code(regs) {
        return false;
    }
    let over = if hooks & hook::USES != 0 {
        !worth_telling(nr)
    } else {
        filter::class(nr, false) == class::EPOLL_WAIT && waited_in_vain(regs, ret)
    };
    if over {
        inflight::close();
    } else if hooks & hook::LIGHT != 0 {
        inflight::settle();
    }
    over
}

/// A wait for events of which nothing is to be told: see [`waits`].
#[inline(always)]
fn waited_in_vain(regs: *const c_void, ret: i64) -> bool {
    if ret == 0 {
        // A wait of no length that found nothing is a poll: loops do it all the time, and it tells nothing.
        return arg(regs, 3) == 0;
    }
    let Some(task) = filter::current() else { return false };
    let start = started(task.tid);
    ret > 0 && start.time != 0 && !waits::is_due(task.tgid, start.time) && !inflight::waited_long(&start)
}

/// Is the end of this call to be told, and by which program?
#[inline(always)]
pub fn teller(regs: *const c_void, ret: i64) -> Option<u32> {
    let nr = number(regs);
    let class = filter::class(nr, kernel::in_compat_call());
    if !tells_by_itself(ret)
        && (matches!(class, class::NONE | class::CLONE) || class == class::USE && !worth_telling(nr))
    {
        inflight::close();
        return None;
    }
    Some(program_for(class))
}

/// Errors that say what is wrong with the number: it is closed, or no socket.
#[inline(always)]
fn tells_by_itself(ret: i64) -> bool {
    ret == EBADF || ret == ENOTSOCK
}

/// The program that tells of calls of a class.
#[inline(always)]
fn program_for(class: u8) -> u32 {
    match class {
        class::RECVMSG
        | class::RECVMMSG
        | class::SOCKETCALL
        | class::CLONE_FLAGS
        | class::CLONE3
        | class::GETSOCKOPT => next::EXIT_MEMORY,
        class::CLOSE_RANGE | class::UNSHARE => next::EXIT_TABLE,
        _ => next::EXIT_CALL,
    }
}

/// The number of the call that returns.
#[inline(always)]
fn number(regs: *const c_void) -> u64 {
    // SAFETY: `regs` is typed as `struct pt_regs *` by the tracepoint; the offset comes from BTF.
    u64::from(unsafe { member::<u32>(regs, offset!(regs_nr)) })
}

/// The end of a call about one or two numbers that its arguments or its result tell.
#[inline(always)]
pub fn tell_call(regs: *const c_void, ret: i64) {
    let Some(done) = Done::of_current(regs, ret) else { return };
    let (registers, regs) = (regs, done.regs);
    match done.class {
        class::USE => done.used(),
        class::CLOSE => done.closed(registers),
        class::RETURNS_FD => done.new_fd(),
        class::OPEN_PATH0 => done.opened(0),
        class::OPEN_PATH1 => done.opened(1),
        class::DUP2 if ret >= 0 => done.put_over(ret as u64),
        class::PAIR_AT0 if ret == 0 => done.pair(regs.arg(0)),
        class::PAIR_AT3 if ret == 0 => done.pair(regs.arg(3)),
        class::FCNTL if ret >= 0 => match regs.arg(1) & 0xffff_ffff {
            F_DUPFD | F_DUPFD_CLOEXEC => done.with_file(ret as u64),
            F_SETFD | F_SETFL | F_SETLK | F_SETLKW => done.plain(),
            _ => {}
        },
        class::IOCTL if ret >= 0 => match regs.arg(1) & 0xffff_ffff {
            FIOCLEX | FIONCLEX | FIONBIO => done.plain(),
            command if makes_descriptor(command) => done.with_file(ret as u64),
            _ => {}
        },
        class::URING if ret >= 0 => {
            // It may have closed numbers.
            waits::look(done.task.tgid);
            done.plain();
        }
        class::EPOLL_CTL => done.epoll_ctl(),
        class::REPORT => done.plain(),
        // A wait of no length that found nothing is a poll: loops do it all the time, and it tells nothing.
        class::EPOLL_WAIT if ret != 0 || regs.arg(3) != 0 => done.waited(),
        _ => done.failed(),
    }
    if (0..=2).contains(&ret) && matches!(done.class, class::RETURNS_FD | class::OPEN_PATH0 | class::OPEN_PATH1) {
        watch::standard(done.task.tgid, done.files.file(ret as u64), ret as u32);
    }
}

/// The end of a call that leaves descriptors in memory.
#[inline(always)]
pub fn tell_memory(regs: *const c_void, ret: i64) {
    let Some(done) = Done::of_current(regs, ret) else { return };
    let regs = done.regs;
    if filter::uses(done.class) {
        done.used();
    } else {
        done.failed();
    }
    // One place for all, because the verifier walks it for each.
    let message = match done.class {
        // A call that failed with EFAULT may have installed what it received.
        class::RECVMSG if ret >= 0 || ret == EFAULT => regs.arg(1),
        class::RECVMMSG if ret > 0 => regs.arg(1),
        class::SOCKETCALL if ret >= 0 && regs.arg(0) == SOCKETCALL_RECVMSG => u64::from(user::<u32>(regs.arg(1) + 4)),
        _ => 0,
    };
    if message != 0 {
        done.received(message);
    }
    match done.class {
        // What came with later messages is found when the table is read.
        class::RECVMMSG if ret > 1 => done.plain(),
        class::CLONE_FLAGS if ret > 0 && regs.arg(0) & CLONE_PIDFD != 0 => done.at(regs.arg(2)),
        class::CLONE3 if ret > 0 => {
            let flags = user::<u64>(regs.arg(0));
            if flags & CLONE_PIDFD != 0 {
                done.at(user::<u64>(regs.arg(0) + 8));
            }
        }
        class::SOCKETCALL if ret >= 0 => match regs.arg(0) {
            SOCKETCALL_SOCKET | SOCKETCALL_ACCEPT | SOCKETCALL_ACCEPT4 => done.with_file(ret as u64),
            SOCKETCALL_SOCKETPAIR => done.pair(u64::from(user::<u32>(regs.arg(1) + 12))),
            _ => {}
        },
        class::GETSOCKOPT if ret == 0 && is_peer_pidfd(regs.arg(1), regs.arg(2)) => done.at(regs.arg(3)),
        _ => {}
    }
}

/// The end of a call that may have given the thread another table.
#[inline(always)]
pub fn tell_table(regs: *const c_void, ret: i64) {
    let Some(done) = Done::of_current(regs, ret) else { return };
    waits::look(done.task.tgid);
    if done.has_new_table() {
        done.plain();
        // Nobody else has this table yet, so a walk over it is exact.
        process::walk(done.subject());
    } else if done.class == class::CLOSE_RANGE {
        done.plain();
    } else {
        done.failed();
    }
}

/// Is a stack to be taken when this call begins, or who holds its number?
#[inline(always)]
pub fn wants_at_enter(regs: *const c_void, nr: u64, task: &Task, watched: bool) -> bool {
    // A 32-bit program has its own numbers, and stacks that nobody here can read.
    let wants = if kernel::in_compat_call() { 0 } else { witnesses(nr) };
    // Most calls of all, and of an object that holds the number only Python's are asked then.
    if wants & !witness::ON_FAILURE == witness::BIND_ONCE && !watched && !may_find(regs, task) {
        return false;
    }
    // A stream asks about its number before it first uses it, and what the program has opened for itself is no stream's.
    if matches!(wants & !witness::ON_FAILURE, witness::BIND | witness::BIND_EMPTY_PATH)
        && !watched
        && gate::is_own(task.tgid, arg(regs, 0) as u32)
    {
        return false;
    }
    // Of a program without an interpreter nothing else is looked at when it calls `fcntl`.
    if filter::class(nr, false) == class::FCNTL && !asks_for_flags(regs) && !gate::is_marked(task.tgid, gate::PYTHON) {
        return false;
    }
    wants & !(witness::AT_EXIT | witness::MAPS | witness::ON_FAILURE) != 0
        && armed(regs, nr)
        && !fresh::is_loading(task.tgid, regs)
        && has_leave()
}

/// `fcntl` as `fdopen` and `fdopendir` of the GNU C library call it, to see whether the number is good for what they are to
/// make of it.
#[inline(always)]
pub fn asks_for_flags(regs: *const c_void) -> bool {
    arg(regs, 1) & 0xffff_ffff == F_GETFL
}

/// May there be an object of an interpreter that holds the number and is not known yet?
#[inline(always)]
fn may_find(regs: *const c_void, task: &Task) -> bool {
    gate::is_marked(task.tgid, gate::PYTHON) && !owner::is_settled(task.tgid, arg(regs, 0) as u32)
}

/// Witnesses may be called. Who is not, is counted.
#[inline(always)]
fn has_leave() -> bool {
    let leave = SHED.get() < shed::STACKS;
    if !leave {
        emit::count_degraded(loss::RING_STACK);
    }
    leave
}

/// Does the number in question lie where witnesses are called? Numbers are given out from below, so one of `ARM_AT` and
/// above means that so many were open.
#[inline(always)]
fn armed(regs: *const c_void, nr: u64) -> bool {
    let from = arm_at();
    if from == 0 {
        return true;
    }
    let which = if filter::class(nr, false) == class::DUP2 { 1 } else { 0 };
    arg(regs, which) as u32 >= from
}

#[inline(always)]
fn arm_at() -> u32 {
    // SAFETY: one word; volatile because user space replaces it before load.
    unsafe { (&raw const ARM_AT).read_volatile() }
}

/// `mmap` of code that is in a file.
#[inline(always)]
fn maps_code(regs: *const c_void) -> bool {
    arg(regs, 2) & PROT_EXEC != 0 && arg(regs, 4) as i32 >= 0
}

/// Is a stack to be taken before this call's record?
#[inline(always)]
pub fn wants_at_exit(regs: *const c_void, ret: i64) -> bool {
    let nr = number(regs);
    let wants = if kernel::in_compat_call() { 0 } else { witnesses(nr) };
    if ret < 0 {
        // What has one since its beginning needs no second.
        let wanted = tells_by_itself(ret) && wants != 0 && (wants & witness::AT_ENTER == 0 || !armed(regs, nr));
        return wanted && has_leave();
    }
    if wants & witness::MAPS != 0 {
        return maps_code(regs);
    }
    let wanted = match filter::class(nr, false) {
        class::FCNTL => {
            matches!(arg(regs, 1) & 0xffff_ffff, F_DUPFD | F_DUPFD_CLOEXEC) && ret as u64 >= u64::from(arm_at())
        }
        // A call that makes several numbers returns none of them.
        _ => wants & witness::AT_EXIT != 0 && (ret == 0 || ret as u64 >= u64::from(arm_at())),
    };
    wanted && !fresh::is_loading(filter::ids().0, regs) && has_leave()
}
