//! How exercising tasks come to life: fork, vfork, clone, threads, and a new image by exec.
//!
//! Every image maps one block of stacks, one for each slot, so that no stack is ever in use twice in one address space
//! and none has to be freed by the thread that stands on it.

use core::sync::atomic::Ordering::SeqCst;

use crate::agent::{Agent, SKIP};
use crate::kind::Kind;
use crate::nr;
use crate::ops;
use crate::rng::Rng;
use crate::shared::{Phase, Region, SLOTS, phase, state};
use crate::sys::{self, Arg};

const STACK: u64 = 256 * 1024;

/// How to make a task.
#[derive(Clone, Copy)]
pub struct Making {
    /// `fork`, `vfork`, `clone` or `clone3`.
    pub number: i64,
    /// Flags of `clone` and `clone3`; those that `fork` and `vfork` imply are added.
    pub flags: u64,
}

/// What a new task does before it exercises like the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    Exercise,
    /// Has a syscall of its own answered by another task, see `ops::notify`.
    Notified,
    /// The same, with a table of its own.
    NotifiedElsewhere,
}

#[repr(C)]
#[derive(Default)]
struct Clone3 {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

pub const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

fn has(flags: u64, flag: i32) -> bool {
    flags & flag as u64 != 0
}

/// Maps a page that 32-bit calls can point to; 0 if that is not possible.
pub fn map_low() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping touches no memory in use.
        let at = unsafe { sys::syscall(nr::MMAP, [0, 4096, prot as u64, flags as u64, u64::MAX, 0]) };
        if at > 0 { at as u64 } else { 0 }
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Maps the stacks of this image.
pub fn map_stacks() -> Option<u64> {
    let size = STACK * SLOTS as u64;
    let (prot, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: a new anonymous mapping touches no memory in use.
    let at = unsafe { sys::syscall(nr::MMAP, [0, size, prot as u64, flags as u64, u64::MAX, 0]) };
    (at > 0).then_some(at as u64)
}

impl Agent {
    /// Makes a task that exercises too: 0, or the error. Its id is not told, as it is not a matter of the seed.
    pub fn spawn(&mut self, making: Making) -> i64 {
        self.spawn_for(making, Errand::Exercise).map_or_else(|error| error, |_| 0)
    }

    /// Makes a task that runs an errand first. Returns its slot.
    pub fn spawn_for(&mut self, making: Making, errand: Errand) -> Result<usize, i64> {
        let Making { number, mut flags } = making;
        if number == nr::VFORK {
            flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        }
        let thread = has(flags, libc::CLONE_THREAD);
        let region = self.region;
        if region.occupied() >= region.max_agents.load(SeqCst) as usize {
            return Err(SKIP);
        }
        let Some(index) = self.claim(thread) else { return Err(SKIP) };
        let slot = &region.slots[index];
        let table = if has(flags, libc::CLONE_FILES) { Some(self.table_index()) } else { region.claim_table() };
        let Some(table) = table else {
            slot.state.store(0, SeqCst);
            return Err(SKIP);
        };
        if table != self.table_index() {
            region.tables[table].copy_from(self.table());
        }
        slot.table.store(table as u32, SeqCst);
        slot.left.store(self.own_slot().left.load(SeqCst) / 2, SeqCst);

        let birth = region.births.fetch_add(1, SeqCst) + 1;
        let child = Agent {
            slot: index,
            pid: if thread { self.pid } else { 0 },
            tid: 0,
            rng: Rng::derived(region.seed.load(SeqCst), birth),
            ephemeral: has(flags, libc::CLONE_VFORK),
            thread,
            errand,
            has_workers: false,
            stale_workers: false,
            ..*self
        };
        let mut pidfd: i32 = -1;
        let ret = self.issue(number, flags, index, child, &mut pidfd);
        if ret < 0 {
            if table != self.table_index() {
                region.tables[table].used.store(0, SeqCst);
            }
            slot.state.store(0, SeqCst);
            return Err(ret);
        }
        if has(flags, libc::CLONE_PIDFD) {
            self.made(i64::from(pidfd), Kind::Pidfd, true);
        }
        if self.is_serial() {
            let started = || phase(slot.state.load(SeqCst)) != Phase::Starting && slot.execing.load(SeqCst) == 0;
            self.await_that("a new task does not start", started);
            // A vfork child lets its parent go on before it closes its table.
            self.await_the_dying();
        }
        Ok(index)
    }

    fn claim(&self, thread: bool) -> Option<usize> {
        let starting = state(Phase::Starting, self.round);
        let claim = |slot: &crate::shared::Slot| slot.state.compare_exchange(0, starting, SeqCst, SeqCst).is_ok();
        let index = self.region.slots.iter().position(claim)?;
        let slot = &self.region.slots[index];
        // After the state, so that whoever sees the same number of claims twice has not missed one.
        self.region.claims.fetch_add(1, SeqCst);
        slot.claimer_pid.store(self.pid, SeqCst);
        slot.claimer_tid.store(self.tid, SeqCst);
        slot.pid.store(if thread { self.pid } else { 0 }, SeqCst);
        Some(index)
    }

    fn issue(&self, number: i64, flags: u64, index: usize, child: Agent, pidfd: &mut i32) -> i64 {
        let bottom = self.stacks + STACK * index as u64;
        let room = (size_of::<Agent>() as u64).next_multiple_of(64);
        let top = bottom + STACK - room;
        let argument = top as *mut Agent;
        // SAFETY: the slot's stack belongs to the new task alone, which does not run yet.
        unsafe { argument.write(child) };

        let signal = if child.thread { 0 } else { libc::SIGCHLD as u64 };
        let pidfd_at = Arg::write(pidfd).0;
        let own_stack = has(flags, libc::CLONE_VM) && !has(flags, libc::CLONE_VFORK);
        let arguments = Clone3 {
            flags,
            pidfd: if has(flags, libc::CLONE_PIDFD) { pidfd_at } else { 0 },
            exit_signal: signal,
            stack: if own_stack { bottom } else { 0 },
            stack_size: if own_stack { top - bottom } else { 0 },
            ..Clone3::default()
        };
        let a = match number {
            nr::CLONE3 => [Arg::read(&arguments).0, size_of::<Clone3>() as u64, 0, 0, 0, 0],
            nr::CLONE => [flags | signal, if own_stack { top } else { 0 }, arguments.pidfd, 0, 0, 0],
            _ => [0; 6],
        };
        let entry = self.log_begin(number as u32, [if number == nr::CLONE3 { flags } else { a[0] }, 0, 0, 0], &[]);
        // SAFETY: the stack is the new task's own, and `born` takes the agent that lies above it.
        let ret = unsafe { sys::spawn(number, a, top, born, argument.cast()) };
        self.log_end(entry, ret);
        ret
    }

    /// Runs the exerciser's own program anew in this task. Returns only if that fails.
    pub fn exec(&mut self, way: Exec) -> i64 {
        let region = self.region;
        let Some(table) = region.claim_table() else { return SKIP };
        let before = self.table_index();
        // Opened before the account is copied: without close-on-exec it stays open in the new image.
        let program = match way {
            Exec::Path => None,
            Exec::Descriptor { cloexec } => {
                let flags = libc::O_RDONLY | if cloexec { libc::O_CLOEXEC } else { 0 };
                let exe = Arg(region.exe.as_ptr() as u64);
                let fd = self.call_noted(nr::OPENAT, &[libc::AT_FDCWD.into(), exe, flags.into(), 0.into()], b"(exe)");
                if self.made(fd, Kind::File, cloexec) < 0 {
                    region.tables[table].used.store(0, SeqCst);
                    return fd;
                }
                Some(fd)
            }
        };
        let account = &region.tables[table];
        account.copy_from(self.table());
        account.purge_cloexec();
        let slot = self.own_slot();
        slot.rng.store(self.rng.0, SeqCst);
        slot.op.store(self.op, SeqCst);
        slot.execing.store(1, SeqCst);
        slot.table.store(table as u32, SeqCst);

        let mut number = [0_u8; 24];
        write_decimal(&mut number, self.slot);
        let exe = region.exe.as_ptr() as u64;
        let argv = [exe, c"resume".as_ptr() as u64, region.control.as_ptr() as u64, number.as_ptr() as u64, 0];
        let envp = [0_u64];
        let (argv, envp) = (Arg::read(&argv), Arg::read(&envp));
        let ret = match program {
            None if self.rng.chance(50) => self.call_noted(nr::EXECVE, &[Arg(exe), argv, envp], b"(exe)"),
            None => {
                let a = [libc::AT_FDCWD.into(), Arg(exe), argv, envp, 0.into()];
                self.call_noted(nr::EXECVEAT, &a, b"(exe)")
            }
            Some(fd) => self.call(nr::EXECVEAT, &[fd.into(), c"".into(), argv, envp, libc::AT_EMPTY_PATH.into()]),
        };
        slot.table.store(before as u32, SeqCst);
        slot.execing.store(0, SeqCst);
        account.used.store(0, SeqCst);
        ret
    }
}

impl Agent {
    /// Enters what the new image's runtime opened by itself: /dev/null, once or several times, in place of those of 0, 1
    /// and 2 that poll(2) takes for closed, at the lowest free numbers.
    fn enter_startup(&self) {
        let table = self.table();
        let mut free = [-1_i32; 6];
        for (to, fd) in free.iter_mut().zip((0..).filter(|fd| table.get(*fd).is_none())) {
            *to = fd;
        }
        let mut first: Option<i32> = None;
        for fd in free {
            if self.call(nr::FCNTL, &[fd.into(), libc::F_GETFD.into()]) < 0 {
                continue;
            }
            let same = |other: &i32| crate::truth::same_file((self.pid, fd), (self.pid, *other)).unwrap_or(false);
            match first.filter(same).and_then(|other| table.get(other)) {
                Some(held) => table.set(fd, held),
                None => {
                    self.made(fd.into(), Kind::Char, false);
                    first.get_or_insert(fd);
                }
            }
        }
    }
}

/// How the program is named to exec.
#[derive(Clone, Copy)]
pub enum Exec {
    Path,
    Descriptor { cloexec: bool },
}

/// First code of every task made by [`Agent::spawn`].
extern "C" fn born(argument: *mut u8) -> ! {
    // SAFETY: the parent wrote the agent there, for this task alone.
    let mut agent = unsafe { argument.cast::<Agent>().read() };
    agent.pid = sys::getpid();
    agent.tid = sys::gettid();
    let slot = agent.own_slot();
    // First of all: the slot may have been taken away, if who claimed it was killed meanwhile.
    agent.advance(state(Phase::Starting, agent.round), state(Phase::Running, agent.round));
    slot.pid.store(agent.pid, SeqCst);
    slot.tid.store(agent.tid, SeqCst);
    if agent.ephemeral {
        for _ in 0..agent.rng.below(5) {
            agent.step();
        }
        if agent.profile.execs() && agent.rng.chance(40) {
            agent.op = ops::index_of("exec") as u32;
            let ret = agent.exec(Exec::Path);
            if ret != SKIP {
                agent.count(agent.op as usize, ret);
            }
        }
        agent.end(true);
    }
    if agent.errand != Errand::Exercise {
        ops::be_notified(&mut agent);
    }
    agent.live()
}

/// Goes on in a new image: finds the agent of `slot`, and settles what exec did to the threads beside it.
pub fn resume(region: &'static Region, index: usize) -> ! {
    let Some(own) = region.slots.get(index) else { sys::exit_process(71) };
    let seen = own.state.load(SeqCst);
    let Some(stacks) = map_stacks() else { sys::exit_process(72) };
    let (pid, tid) = (sys::getpid(), sys::gettid());
    let agent = Agent {
        region,
        slot: index,
        pid,
        tid,
        round: seen & 0x00ff_ffff,
        rng: Rng(own.rng.load(SeqCst)),
        profile: crate::profile::Profile::from_raw(region.profile.load(SeqCst)),
        ephemeral: false,
        thread: false,
        errand: Errand::Exercise,
        stacks,
        low: map_low(),
        has_workers: false,
        stale_workers: false,
        recent: [(-1, -1); 4],
        op: own.op.load(SeqCst),
    };
    for (other, slot) in region.slots.iter().enumerate() {
        let gone = state(Phase::Gone, agent.round);
        if other != index && slot.pid.load(SeqCst) == pid && slot.phase() != Phase::Free {
            // Its exit, had it announced one, will not come.
            slot.exits_all.store(0, SeqCst);
            slot.state.store(gone, SeqCst);
        }
        // Claimed by a thread that is dead now. A task that it made all the same gives up at its first step.
        if slot.phase() == Phase::Starting && slot.claimer_pid.load(SeqCst) == pid {
            _ = slot.state.compare_exchange(state(Phase::Starting, agent.round), gone, SeqCst, SeqCst);
        }
    }
    if phase(seen) != Phase::Running || own.execing.load(SeqCst) != 1 {
        // Another thread's exit had been announced when exec won the race.
        agent.vanish();
    }
    agent.enter_startup();
    own.pid.store(pid, SeqCst);
    own.tid.store(tid, SeqCst);
    agent.count(agent.op as usize, 0);
    own.execing.store(0, SeqCst);
    agent.live()
}

/// Writes `value` in decimal, with a terminating NUL.
fn write_decimal(to: &mut [u8; 24], value: usize) {
    let mut digits = [0_u8; 20];
    let mut rest = value;
    let mut len = 0;
    loop {
        digits[len] = b'0' + (rest % 10) as u8;
        len += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for (to, from) in to.iter_mut().zip(digits[..len].iter().rev().chain([&0])) {
        *to = *from;
    }
}
