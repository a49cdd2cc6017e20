//! What the end of a call tells: one record, and the reads that it takes.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_probe_read_user, bpf_probe_read_user_str_bytes};
use fdtrace_common::{
    class,
    wire::{
        Call, CallEpollCtl, CallEpollWait, CallFd, CallPair, CallPath, EPOLL_EVENTS_MAX, Header, Inflight, PATH_MAX,
        Scratch, Watch, flag, kind, loss, shed, watch_key,
    },
};

use super::{
    EBADF, EMFILE, ENFILE, F_SETLK, F_SETLKW, FIONBIO,
    args::{Regs, user},
    inflight::{self, BLOCKED, UNSEEN},
    number, tells_by_itself,
};
use crate::{
    emit::{self, Subject},
    filter::{self, Task},
    fresh,
    kernel::{self, Files, describe_slot},
    shared::SHED,
    turns::{self, Room},
    waits, watch,
};

/// A finished call.
pub struct Done {
    pub regs: Regs,
    pub ret: i64,
    pub nr: u32,
    pub class: u8,
    pub compat: bool,
    pub start: Inflight,
    pub files: Files,
    pub task: Task,
}

impl Done {
    /// The call that the current task returns from with `ret`, if the task is traced.
    #[inline(always)]
    pub fn of_current(regs: *const c_void, ret: i64) -> Option<Self> {
        let task = filter::current()?;
        let nr = number(regs);
        let compat = kernel::in_compat_call();
        let class = filter::class(nr, compat);
        let mut start = UNSEEN;
        if let Some(slot) = inflight::slot(task.tid) {
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
        let files = Files::of_current();
        Some(Self { regs: Regs::new(regs, compat), ret, nr: nr as u32, class, compat, start, files, task })
    }

    /// The call gave the thread a table of its own.
    #[inline(always)]
    pub fn has_new_table(&self) -> bool {
        self.start.table != 0 && self.files.files != self.start.table
    }

    #[inline(always)]
    pub fn subject(&self) -> Subject {
        Subject { tgid: self.task.tgid, tid: self.task.tid, table: self.files.files }
    }

    /// Writes the part that all calls have.
    ///
    /// # Safety
    /// `call` is valid for writes.
    #[inline(always)]
    pub unsafe fn fill(&self, call: *mut Call, kind: u16, flags: u16) {
        // SAFETY: by the caller's promise.
        unsafe {
            let flags = if self.compat { flags | flag::COMPAT } else { flags };
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
                class::IOCTL if self.regs.arg(1) & 0xffff_ffff == FIONBIO => u64::from(user::<u32>(self.regs.arg(2))),
                _ => 0,
            };
            (*call).enter_table = self.start.table;
            (*call).nr = self.nr;
            (*call).class = u32::from(self.class);
        }
    }

    #[inline(always)]
    pub fn plain(&self) {
        emit::fixed::<Call>(loss::RING_CALL, |call| {
            // SAFETY: the reserved record.
            unsafe { self.fill(call, kind::CALL, 0) };
        });
    }

    #[inline(always)]
    pub fn closed(&self, registers: *const c_void) {
        self.plain();
        if self.ret == 0 {
            fresh::closed(registers, &self.task, self.regs.arg(0) & 0xffff_ffff);
        }
    }

    /// A call that only used its descriptor. Somebody asked for it, or it failed, or it blocked; and if nobody else can
    /// change the table, that it blocked tells nothing.
    #[inline(always)]
    pub fn used(&self) {
        if self.start.before != 0 {
            watch::told(watch_key(self.task.tgid, self.regs.arg(0) as u32), self.task.tgid, self.ret);
            watch::told(self.start.before, self.task.tgid, self.ret);
        } else if !tells_by_itself(self.ret) && !self.blocked() {
            return;
        }
        self.plain();
    }

    /// A call that had no effect: told if descriptors are the reason.
    #[inline(always)]
    pub fn failed(&self) {
        if matches!(self.ret, EBADF | EMFILE | ENFILE) {
            self.plain();
        }
    }

    #[inline(always)]
    pub fn with_file(&self, fd: u64) {
        emit::fixed::<CallFd>(loss::RING_CALL, |record| {
            // SAFETY: the reserved record.
            unsafe {
                self.fill(&raw mut (*record).call, kind::CALL_FD, 0);
                describe_slot(self.files, fd, &raw mut (*record).file);
                (*record).fd = fd as i32;
                (*record).reserved = 0;
            }
        });
    }

    /// A file was put over a number, and perhaps over what somebody needs.
    #[inline(always)]
    pub fn put_over(&self, fd: u64) {
        self.with_file(fd);
        let before = self.start.before;
        // As of the standard streams, that is what numbers are given out for.
        if fd > 2 && before != 0 && self.files.file(fd) != before {
            watch::number(self.task.tgid, fd as u32, Watch::CLOBBERED);
        }
    }

    #[inline(always)]
    pub fn new_fd(&self) {
        if self.ret >= 0 {
            self.with_file(self.ret as u64);
        } else if tells_by_itself(self.ret) || matches!(self.ret, EMFILE | ENFILE) || self.blocked() {
            self.plain();
        }
    }

    /// It waited, in a table that others can change.
    #[inline(always)]
    fn blocked(&self) -> bool {
        self.start.time != 0 && self.files.users() > 1 && emit::now() - self.start.time > BLOCKED
    }

    #[inline(always)]
    pub fn pair(&self, pointer: u64) {
        // SAFETY: the helper checks the address and reports a fault.
        let Ok(fds) = (unsafe { bpf_probe_read_user(pointer as *const [i32; 2]) }) else {
            emit::missing(loss::USER_READ);
            return;
        };
        emit::fixed::<CallPair>(loss::RING_CALL, |record| {
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
    pub fn at(&self, pointer: u64) {
        self.with_file(u64::from(user::<u32>(pointer)));
    }

    /// An open. The path is read at the end of the call, when the kernel has just brought it into memory.
    #[inline(always)]
    pub fn opened(&self, path_arg: usize) {
        if self.ret < 0 {
            if matches!(self.ret, EBADF | EMFILE | ENFILE) {
                self.plain();
            }
            return;
        }
        let leave = SHED.get() < shed::PATHS;
        if !leave {
            emit::count_degraded(loss::RING_STACK);
        }
        if !leave || !turns::take(Room::Scratch) {
            // Or another's path is there. That it was opened is worth more than by what name.
            self.with_file(self.ret as u64);
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
            emit::variable(scratch, head + len, loss::RING_CALL);
        }
        turns::give_back(Room::Scratch);
    }

    #[inline(always)]
    pub fn epoll_ctl(&self) {
        // The event is packed on x86-64: 4 bytes of mask, then 8 of data. A null pointer (DEL) reads as zeros.
        let event: [u32; 3] =
            // SAFETY: the helper checks the address and reports a fault.
            unsafe { bpf_probe_read_user(self.regs.arg(3) as *const [u32; 3]) }.unwrap_or_default();
        emit::fixed::<CallEpollCtl>(loss::RING_CALL, |record| {
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
    pub fn waited(&self) {
        let due = self.ret > 0 && waits::is_due(self.task.tgid, self.start.time);
        if due {
            waits::told(self.task.tgid, self.start.time);
        }
        if due || self.ret <= 0 || self.blocked() {
            self.epoll_wait();
        }
    }

    #[inline(always)]
    fn epoll_wait(&self) {
        let pointer = self.regs.arg(1);
        emit::fixed::<CallEpollWait>(loss::RING_CALL, |record| {
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

const _: () = assert!(size_of::<CallPath>() + PATH_MAX <= Scratch::SIZE && size_of::<Header>() == 32);
