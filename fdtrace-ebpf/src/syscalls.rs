//! System calls: what is kept at their start, what is reported at their end.
//!
//! The start is not reported. It leaves in the thread's in-flight slot what the end cannot know any more: the ring
//! position (so that user space has the interval in which the call took effect) and the `struct file` behind a number
//! that is about to go.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, bpf_probe_read_user_str_bytes, generated};
use fdtrace_common::{
    class::{self, witness},
    wire::{
        Call, CallEpollCtl, CallEpollWait, CallFd, CallPair, CallPath, CallReceived, EPOLL_EVENTS_MAX, Header,
        Inflight, NOT_SEEN, PATH_MAX, RECEIVED_FILES, RECEIVED_MAX, Scratch, Watch, flag, kind, loss, shared,
        watch_key,
    },
};

use crate::{
    emit::{self, Subject},
    filter::{self, Task},
    kernel::{self, Files, describe_slot, member, offset},
    maps::{INFLIGHT, INFLIGHT_ENTRIES, SHARED, WATCHED},
    process,
};

const EBADF: i64 = -9;
const EFAULT: i64 = -14;
const ENFILE: i64 = -23;
const EMFILE: i64 = -24;
const F_DUPFD: u64 = 0;
const F_SETFD: u64 = 2;
const F_SETFL: u64 = 4;
const F_SETLK: u64 = 6;
const F_SETLKW: u64 = 7;
const F_DUPFD_CLOEXEC: u64 = 1030;
const PROT_EXEC: u64 = 4;
const FIONCLEX: u64 = 0x5450;
const FIOCLEX: u64 = 0x5451;

/// A call that took longer than this waited for something, nanoseconds.
const BLOCKED: u64 = 1_000_000;
const CLONE_PIDFD: u64 = 0x1000;
const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
const SCM_PIDFD: u32 = 4;
const SOCKETCALL_SOCKET: u64 = 1;
const SOCKETCALL_ACCEPT: u64 = 5;
const SOCKETCALL_SOCKETPAIR: u64 = 8;
const SOCKETCALL_RECVMSG: u64 = 17;
const SOCKETCALL_ACCEPT4: u64 = 18;
/// Control messages of one message that are looked at: the kernel writes at most a handful.
const CONTROLS: usize = 3;

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

/// Reads user memory; zero when that fails.
#[inline(always)]
fn user<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper checks the address and reports a fault.
    unsafe { bpf_probe_read_user(address as *const T) }.unwrap_or_default()
}

/// The arguments of a system call.
#[derive(Clone, Copy)]
struct Regs([u64; 6]);

impl Regs {
    /// Reads all of them at once, so that the two kinds of call differ here and nowhere else: the verifier would have to
    /// walk everything behind a difference twice.
    #[inline(always)]
    fn new(regs: *const c_void, compat: bool) -> Self {
        // SAFETY: `regs` is typed as `struct pt_regs *` by the tracepoint; the offsets come from BTF.
        unsafe {
            if compat {
                Self([
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[0]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[1]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[2]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[3]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[4]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[5]))),
                ])
            } else {
                Self([arg(regs, 0), arg(regs, 1), arg(regs, 2), arg(regs, 3), arg(regs, 4), arg(regs, 5)])
            }
        }
    }

    /// An argument of the call; `i` is a constant.
    #[inline(always)]
    fn arg(self, i: usize) -> u64 {
        self.0[i]
    }
}

/// `sys_enter(struct pt_regs *regs, long id)`. `true`: the call is ours and the task is traced.
#[inline(always)]
pub fn enter(regs: *const c_void, nr: u64) -> bool {
    let compat = kernel::in_compat_call();
    let class = filter::class(nr, compat);
    if class == class::NONE {
        return false;
    }
    let Some(task) = filter::current() else { return false };
    let regs = Regs::new(regs, compat);
    let Some(slot) = inflight(task.tid) else { return false };
    let files = Files::of_current();
    let before = match class {
        class::CLOSE => files.file(regs.arg(0)),
        class::DUP2 => files.file(regs.arg(1)),
        class::EPOLL_CTL => files.file(regs.arg(2)),
        class if filter::uses(class) => watched(task.tgid, regs.arg(0), files),
        _ => 0,
    };
    // SAFETY: `slot` is a live element of an array map. Only this thread writes it, or one with the same low bits of
    // tid: that one is found out by its tid.
    unsafe {
        (*slot).tid = task.tid;
        (*slot).nr = nr as u32;
        (*slot).time = emit::now();
        (*slot).table = files.files;
        (*slot).before = before;
        (*slot).pos = emit::position();
    }
    true
}

/// `sys_exit(struct pt_regs *regs, long ret)`.
#[inline(always)]
pub fn exit(regs: *const c_void, ret: i64) {
    // SAFETY: `regs` is typed as `struct pt_regs *` by the tracepoint; the offset comes from BTF.
    let nr = u64::from(unsafe { member::<u32>(regs, offset!(regs_nr)) });
    let compat = kernel::in_compat_call();
    let class = filter::class(nr, compat);
    if ret != EBADF && (class == class::NONE || class == class::CLONE) {
        return;
    }
    let uses = filter::uses(class);
    let worth_telling = uses && worth_telling(nr);
    if ret != EBADF && class == class::USE && !worth_telling {
        return;
    }
    let Some(task) = filter::current() else { return };
    let regs = Regs::new(regs, compat);
    let done = Done::new(regs, nr, ret, class, task);
    // Watched, or it blocked; and if nobody else can change the table, that it blocked tells nothing.
    if uses && done.start.before != 0 {
        told(watch_key(task.tgid, regs.arg(0) as u32), task.tgid, ret);
        told(done.start.before, task.tgid, ret);
        done.plain();
    } else if uses && (ret == EBADF || (worth_telling && done.files.users() > 1)) {
        done.plain();
    }
    // One place for all, because the verifier walks it for each.
    let message = match class {
        // A call that failed with EFAULT may have installed what it received.
        class::RECVMSG if ret >= 0 || ret == EFAULT => regs.arg(1),
        class::RECVMMSG if ret > 0 => regs.arg(1),
        class::SOCKETCALL if ret >= 0 && regs.arg(0) == SOCKETCALL_RECVMSG => u64::from(user::<u32>(regs.arg(1) + 4)),
        _ => 0,
    };
    if message != 0 {
        done.received(message);
    }
    match class {
        class::CLOSE => done.plain(),
        class::CLOSE_RANGE | class::UNSHARE if done.has_new_table() => {
            done.plain();
            // Nobody else has this table yet, so a walk over it is exact.
            process::walk(done.subject(), task.process);
        }
        class::CLOSE_RANGE => done.plain(),
        class::RETURNS_FD => done.new_fd(),
        class::OPEN_PATH0 => done.opened(0),
        class::OPEN_PATH1 => done.opened(1),
        class::DUP2 if ret >= 0 => done.with_file(ret as u64),
        class::PAIR_AT0 if ret == 0 => done.pair(regs.arg(0)),
        class::PAIR_AT3 if ret == 0 => done.pair(regs.arg(3)),
        class::FCNTL if ret >= 0 => match regs.arg(1) & 0xffff_ffff {
            F_DUPFD | F_DUPFD_CLOEXEC => done.with_file(ret as u64),
            F_SETFD | F_SETFL | F_SETLK | F_SETLKW => done.plain(),
            _ => {}
        },
        class::IOCTL if ret >= 0 => match regs.arg(1) & 0xffff_ffff {
            FIOCLEX | FIONCLEX => done.plain(),
            command if makes_descriptor(command) => done.with_file(ret as u64),
            _ => {}
        },
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
        class::URING if ret >= 0 => done.plain(),
        class::EPOLL_CTL => done.epoll_ctl(),
        class::REPORT => done.plain(),
        // A wait of no length that found nothing is a poll: loops do it all the time, and it tells nothing.
        class::EPOLL_WAIT if ret != 0 || regs.arg(3) != 0 => done.epoll_wait(),
        _ if !uses && matches!(ret, EBADF | EMFILE | ENFILE) => done.plain(),
        _ => {}
    }
}

/// Is a stack to be taken when this call begins, or who holds its number?
#[inline(always)]
pub fn wants_at_enter(nr: u64) -> bool {
    // A 32-bit program has its own numbers, and stacks that nobody here can read.
    let wants = if kernel::in_compat_call() { 0 } else { filter::witnesses(nr) };
    wants & !(witness::AT_EXIT | witness::MAPS | witness::ON_FAILURE) != 0
}

/// Is a stack to be taken before this call's record?
#[inline(always)]
pub fn wants_at_exit(regs: *const c_void, ret: i64) -> bool {
    // SAFETY: `regs` is typed as `struct pt_regs *` by the tracepoint; the offset comes from BTF.
    let nr: u64 = unsafe { member(regs, offset!(regs_nr)) };
    let wants = if kernel::in_compat_call() { 0 } else { filter::witnesses(nr) };
    if ret < 0 {
        // What has one since its beginning needs no second.
        return ret == EBADF && wants != 0 && wants & witness::AT_ENTER == 0;
    }
    match filter::class(nr, false) {
        class::FCNTL => matches!(arg(regs, 1) & 0xffff_ffff, F_DUPFD | F_DUPFD_CLOEXEC),
        _ if wants & witness::MAPS != 0 => arg(regs, 2) & PROT_EXEC != 0 && arg(regs, 4) as i32 >= 0,
        _ => wants & witness::AT_EXIT != 0,
    }
}

/// Is the end of a call that only used its descriptor worth a record? Asked of every read and write of the machine: for a
/// thread that is not traced the in-flight slot has another thread's id, or none.
#[inline(always)]
fn worth_telling(nr: u64) -> bool {
    let tid = bpf_get_current_pid_tgid() as u32;
    let Some(slot) = inflight(tid) else { return false };
    // SAFETY: a live element of an array map.
    let seen = unsafe { *slot };
    seen.tid == tid && seen.nr == nr as u32 && (seen.before != 0 || emit::now() - seen.time > BLOCKED)
}

/// The file behind a number whose use user space has asked for; 0: it has not.
#[inline(always)]
fn watched(tgid: u32, fd: u64, files: Files) -> u64 {
    let numbers = SHARED.get(shared::WATCHED_NUMBERS).map_or(0, |word| *word);
    if numbers >> (fd & 63) & 1 == 0 {
        return 0;
    }
    let file = files.file(fd);
    if file != 0 && (wanted(watch_key(tgid, fd as u32), tgid) || wanted(file, tgid)) { file } else { 0 }
}

#[inline(always)]
fn wanted(key: u64, tgid: u32) -> bool {
    let Some(watch) = WATCHED.get_ptr(&key) else { return false };
    // SAFETY: a live element of a hash map.
    unsafe { (*watch).left > 0 && (*watch).last != tgid }
}

/// A use that was asked for is about to be told. Two threads at once may count one for two: it is a budget.
#[inline(always)]
fn told(key: u64, tgid: u32, ret: i64) {
    let Some(watch) = WATCHED.get_ptr_mut(&key) else { return };
    // SAFETY: a live element of a hash map.
    unsafe {
        if (*watch).left > 0 {
            (*watch).left -= 1;
        }
        // Who got nothing has not had his turn.
        if ret > 0 && (*watch).last != Watch::EVERY {
            (*watch).last = tgid;
        }
    }
}

/// The start of the call that the current thread is in, for hooks that fire inside it.
#[inline(always)]
pub fn started(tid: u32) -> Inflight {
    if let Some(slot) = inflight(tid) {
        // SAFETY: a live element of an array map.
        let seen = unsafe { *slot };
        if seen.tid == tid {
            return seen;
        }
    }
    Inflight { tid, nr: 0, time: 0, pos: NOT_SEEN, before: 0, table: 0 }
}

/// A finished call.
struct Done {
    regs: Regs,
    ret: i64,
    nr: u32,
    class: u8,
    start: Inflight,
    files: Files,
    task: Task,
}

impl Done {
    #[inline(always)]
    fn new(regs: Regs, nr: u64, ret: i64, class: u8, task: Task) -> Self {
        let mut start = Inflight { tid: 0, nr: 0, time: 0, pos: NOT_SEEN, before: 0, table: 0 };
        if let Some(slot) = inflight(task.tid) {
            // SAFETY: a live element of an array map.
            let seen = unsafe { *slot };
            if seen.tid == task.tid && seen.nr == nr as u32 {
                start = seen;
            } else if seen.tid != 0 && seen.tid != task.tid && class != class::NONE {
                emit::count_degraded(loss::INFLIGHT);
            }
            // SAFETY: as above. The call is over.
            unsafe { (*slot).tid = 0 };
        }
        Self { regs, ret, nr: nr as u32, class, start, files: Files::of_current(), task }
    }

    /// The call gave the thread a table of its own.
    #[inline(always)]
    fn has_new_table(&self) -> bool {
        self.start.table != 0 && self.files.files != self.start.table
    }

    #[inline(always)]
    fn subject(&self) -> Subject {
        Subject { tgid: self.task.tgid, tid: self.task.tid, table: self.files.files }
    }

    /// Writes the part that all calls have.
    ///
    /// # Safety
    /// `call` is valid for writes.
    #[inline(always)]
    unsafe fn fill(&self, call: *mut Call, kind: u16, flags: u16) {
        // SAFETY: by the caller's promise.
        unsafe {
            let flags = if kernel::in_compat_call() { flags | flag::COMPAT } else { flags };
            emit::fill_header(&raw mut (*call).header, kind, flags, self.subject());
            (*call).enter_time = self.start.time;
            (*call).enter_pos = self.start.pos;
            (*call).ret = self.ret;
            (*call).args[0] = self.regs.arg(0);
            (*call).args[1] = self.regs.arg(1);
            (*call).args[2] = self.regs.arg(2);
            (*call).args[3] = self.regs.arg(3);
            (*call).args[4] = self.regs.arg(4);
            (*call).args[5] = self.regs.arg(5);
            (*call).before = self.start.before;
            (*call).after = match self.class {
                class::CLOSE => self.files.file(self.regs.arg(0)),
                class::DUP2 => self.files.file(self.regs.arg(1)),
                class::USE | class::RECVMSG | class::RECVMMSG | class::GETSOCKOPT if self.start.before != 0 => {
                    self.files.file(self.regs.arg(0))
                }
                class::FCNTL if matches!(self.regs.arg(1), F_SETLK | F_SETLKW) => {
                    u64::from(bpf_probe_read_user(self.regs.arg(2) as *const u16).unwrap_or(u16::MAX))
                }
                _ => 0,
            };
            (*call).enter_table = self.start.table;
            (*call).nr = self.nr;
            (*call).class = u32::from(self.class);
        }
    }

    #[inline(always)]
    fn plain(&self) {
        emit::fixed::<Call>(loss::RING_CALL, self.task.process, |call| {
            // SAFETY: the reserved record.
            unsafe { self.fill(call, kind::CALL, 0) };
        });
    }

    #[inline(always)]
    fn with_file(&self, fd: u64) {
        emit::fixed::<CallFd>(loss::RING_CALL, self.task.process, |record| {
            // SAFETY: the reserved record.
            unsafe {
                self.fill(&raw mut (*record).call, kind::CALL_FD, 0);
                describe_slot(self.files, fd, &raw mut (*record).file);
                (*record).fd = fd as i32;
                (*record).reserved = 0;
            }
        });
    }

    #[inline(always)]
    fn new_fd(&self) {
        if self.ret >= 0 {
            self.with_file(self.ret as u64);
        } else if matches!(self.ret, EBADF | EMFILE | ENFILE) || self.blocked() {
            self.plain();
        }
    }

    /// It waited, in a table that others can change.
    #[inline(always)]
    fn blocked(&self) -> bool {
        self.start.time != 0 && emit::now() - self.start.time > BLOCKED && self.files.users() > 1
    }

    #[inline(always)]
    fn pair(&self, pointer: u64) {
        // SAFETY: the helper checks the address and reports a fault.
        let Ok(fds) = (unsafe { bpf_probe_read_user(pointer as *const [i32; 2]) }) else {
            emit::missing(loss::USER_READ, self.task.process);
            return;
        };
        emit::fixed::<CallPair>(loss::RING_CALL, self.task.process, |record| {
            // SAFETY: the reserved record.
            unsafe {
                self.fill(&raw mut (*record).call, kind::CALL_PAIR, 0);
                (*record).fds = fds;
                describe_slot(self.files, fds[0] as u64, &raw mut (*record).files[0]);
                describe_slot(self.files, fds[1] as u64, &raw mut (*record).files[1]);
            }
        });
    }

    /// The call stored a descriptor in user memory.
    #[inline(always)]
    fn at(&self, pointer: u64) {
        self.with_file(u64::from(user::<u32>(pointer)));
    }

    /// Descriptors that came with the control data of the message header at `header`, as the kernel has rewritten it.
    #[inline(always)]
    fn received(&self, header: u64) {
        let compat = kernel::in_compat_call();
        let (mut at, len) = if compat {
            (u64::from(user::<u32>(header + 16)), u64::from(user::<u32>(header + 20)))
        } else {
            (user::<u64>(header + 32), user::<u64>(header + 40))
        };
        if at == 0 || len < 12 {
            return;
        }
        let end = at + len;
        let head = if compat { 12 } else { 16 };
        let (mut first, mut count, mut pidfd) = (0, 0, 0);
        for _ in 0..CONTROLS {
            if at + head > end {
                break;
            }
            // `struct cmsghdr`: length, level, type.
            let size = if compat { u64::from(user::<u32>(at)) } else { user::<u64>(at) };
            let level = user::<u32>(at + head - 8);
            let kind = user::<u32>(at + head - 4);
            if size < head {
                break;
            }
            // The kernel puts all descriptors into one control message.
            if level == SOL_SOCKET && kind == SCM_RIGHTS {
                first = at + head;
                count = (size - head) / 4;
            }
            if level == SOL_SOCKET && kind == SCM_PIDFD {
                pidfd = at + head;
            }
            let align = if compat { 4 } else { 8 };
            at += (size + align - 1) & !(align - 1);
        }
        if count > 0 {
            self.report_received(first, count);
        }
        if pidfd != 0 {
            self.at(pidfd);
        }
    }

    /// The numbers of `count` descriptors, which stand at `first`, and the files behind the first of them. What each file
    /// is, is told by the table it came from, or found when this one is read.
    #[inline(always)]
    fn report_received(&self, first: u64, count: u64) {
        let Some(scratch) = emit::scratch() else { return };
        let record = scratch.cast::<CallReceived>();
        let array = self.files.array();
        let count = if count > RECEIVED_MAX as u64 { RECEIVED_MAX as u64 } else { count };
        let size = (count as u32 & 0xff) * size_of::<i32>() as u32;
        // SAFETY: the scratch buffer has room for the record and `RECEIVED_MAX` numbers, and is ours alone. Both helpers
        // check the addresses that they read from.
        unsafe {
            let numbers = scratch.cast::<u8>().add(size_of::<CallReceived>());
            if generated::bpf_probe_read_user(numbers.cast(), size, first as *const c_void) != 0 {
                emit::missing(loss::USER_READ, self.task.process);
                return;
            }
            self.fill(&raw mut (*record).call, kind::CALL_RECEIVED, 0);
            (*record).call.after = emit::position();
            // All of them, read or not: a loop that can end anywhere is walked from every end by the verifier.
            for i in 0..RECEIVED_FILES {
                let fd = numbers.cast::<u32>().add(i).read_volatile();
                (*record).files[i] = kernel::read::<u64>(array + u64::from(fd) * 8);
            }
            (*record).count = count as u32;
            (*record).reserved = 0;
        }
        emit::variable(scratch, size_of::<CallReceived>() + size as usize, loss::RING_CALL, self.task.process);
    }

    /// An open. The path is read at the end of the call, when the kernel has just brought it into memory.
    #[inline(always)]
    fn opened(&self, path_arg: usize) {
        if self.ret < 0 {
            if matches!(self.ret, EBADF | EMFILE | ENFILE) {
                self.plain();
            }
            return;
        }
        let Some(scratch) = emit::scratch() else { return };
        let record = scratch.cast::<CallPath>();
        let head = size_of::<CallPath>();
        // SAFETY: the scratch buffer has room for the record and `PATH_MAX` bytes behind it, and is ours alone: the
        // program cannot be interrupted by another one on this processor.
        unsafe {
            let tail = core::slice::from_raw_parts_mut(scratch.cast::<u8>().add(head), PATH_MAX);
            let (mut len, mut flags) = (0, 0);
            match bpf_probe_read_user_str_bytes(self.regs.arg(path_arg) as *const u8, tail) {
                Ok(path) => len = path.len(),
                Err(_) => flags = flag::UNREADABLE,
            }
            if len >= PATH_MAX - 1 {
                len = PATH_MAX - 1;
                flags = flag::TRUNCATED;
            }
            self.fill(&raw mut (*record).call, kind::CALL_PATH, flags);
            (*record).call.after = emit::position();
            describe_slot(self.files, self.ret as u64, &raw mut (*record).file);
            (*record).path_len = len as u32;
            (*record).reserved = 0;
            emit::variable(scratch, head + len, loss::RING_CALL, self.task.process);
        }
    }

    #[inline(always)]
    fn epoll_ctl(&self) {
        // The event is packed on x86-64: 4 bytes of mask, then 8 of data. A null pointer (DEL) reads as zeros.
        let event: [u32; 3] =
            // SAFETY: the helper checks the address and reports a fault.
            unsafe { bpf_probe_read_user(self.regs.arg(3) as *const [u32; 3]) }.unwrap_or_default();
        emit::fixed::<CallEpollCtl>(loss::RING_CALL, self.task.process, |record| {
            // SAFETY: the reserved record.
            unsafe {
                self.fill(&raw mut (*record).call, kind::CALL_EPOLL_CTL, 0);
                describe_slot(self.files, self.regs.arg(0), &raw mut (*record).epoll);
                (*record).target = self.files.file(self.regs.arg(2));
                (*record).events = event[0];
                (*record).data = u64::from(event[1]) | u64::from(event[2]) << 32;
                (*record).reserved = 0;
            }
        });
    }

    #[inline(always)]
    fn epoll_wait(&self) {
        let pointer = self.regs.arg(1);
        emit::fixed::<CallEpollWait>(loss::RING_CALL, self.task.process, |record| {
            // SAFETY: the reserved record.
            unsafe {
                self.fill(&raw mut (*record).call, kind::CALL_EPOLL_WAIT, 0);
                (*record).epoll = self.files.file(self.regs.arg(0));
                (*record).count = self.ret as u32;
                (*record).reserved = 0;
                for i in 0..EPOLL_EVENTS_MAX {
                    let mut event = [0u32; 3];
                    if (i as i64) < self.ret {
                        let at = pointer + (i as u64) * size_of::<[u32; 3]>() as u64;
                        event = bpf_probe_read_user(at as *const [u32; 3]).unwrap_or_default();
                    }
                    (*record).events[i].events = event[0];
                    (*record).events[i].data = u64::from(event[1]) | u64::from(event[2]) << 32;
                    (*record).events[i].reserved = 0;
                }
            }
        });
    }
}

#[inline(always)]
fn inflight(tid: u32) -> Option<*mut Inflight> {
    INFLIGHT.get_ptr_mut(tid & (INFLIGHT_ENTRIES - 1))
}

/// An argument of the call; `i` is a constant.
#[inline(always)]
pub fn arg(regs: *const c_void, i: usize) -> u64 {
    // SAFETY: `regs` is typed as `struct pt_regs *` by the tracepoint; the offset comes from BTF.
    unsafe { member(regs, offset!(regs_arg[i])) }
}

const _: () = assert!(size_of::<CallPath>() + PATH_MAX <= Scratch::SIZE && size_of::<Header>() == 32);
