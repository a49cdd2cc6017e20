//! One exercising task: it makes steps when a round is on, and parks between rounds.
//!
//! Runs in tasks made by bare `clone`: no allocation, no thread-local storage, no C library. What it does in a step is
//! in [`crate::ops`]; how it comes to life and changes its image is in [`crate::birth`].

use core::sync::atomic::Ordering::SeqCst;

use crate::birth::Errand;
use crate::nr;
use crate::ops::{self, Op};
use crate::profile::Profile;
use crate::rng::Rng;
use crate::shared::{COMPAT, Entry, FINISH, LOG, NOBODY, PENDING, Phase, Region, Slot, Table, phase, state};
use crate::sys::{self, Arg};

/// Result of an operation that found nothing to work on: neither counted nor logged.
pub const SKIP: i64 = i64::MIN + 1;

/// Longest wait for another task before the whole run is given up.
const PATIENCE_MICROS: u64 = 20_000_000;

/// Plain data: copied into the child of every spawn.
#[derive(Clone, Copy)]
pub struct Agent {
    pub region: &'static Region,
    pub slot: usize,
    pub pid: u32,
    pub tid: u32,
    pub round: u32,
    pub rng: Rng,
    pub profile: Profile,
    /// A vfork child: makes a few steps in its parent's turn, then leaves.
    pub ephemeral: bool,
    /// A thread of a process that another one began.
    pub thread: bool,
    /// What it does before it exercises.
    pub errand: Errand,
    /// Start of this image's stacks, see [`crate::birth`].
    pub stacks: u64,
    /// A page below 4 GiB, for 32-bit calls; 0 if there is none.
    pub low: u64,
    /// This task has io_uring workers.
    pub has_workers: bool,
    /// They use the table that this task had when they were made.
    pub stale_workers: bool,
    /// Latest registrations: epoll and number.
    pub recent: [(i32, i32); 4],
    /// Operation being done, for the log.
    pub op: u32,
}

impl Agent {
    pub fn own_slot(&self) -> &'static Slot {
        &self.region.slots[self.slot]
    }

    /// Index of the account of this task's table.
    pub fn table_index(&self) -> usize {
        self.own_slot().table.load(SeqCst) as usize
    }

    pub fn table(&self) -> &'static Table {
        &self.region.tables[self.table_index()]
    }

    pub fn is_serial(&self) -> bool {
        self.region.serial.load(SeqCst) == 1
    }

    /// Makes steps, parks, and so on; returns never.
    pub fn live(mut self) -> ! {
        loop {
            self.burst();
            self.park();
        }
    }

    fn burst(&mut self) {
        if self.is_serial() {
            while self.take_turn() {
                for _ in 0..=self.rng.below(3) {
                    if self.region.left.load(SeqCst) == 0 {
                        break;
                    }
                    self.region.left.fetch_sub(1, SeqCst);
                    self.step();
                }
                self.pass_turn();
            }
        } else {
            let left = &self.own_slot().left;
            while left.load(SeqCst) > 0 {
                left.fetch_sub(1, SeqCst);
                self.step();
            }
        }
    }

    /// One operation, chosen by the generator.
    pub fn step(&mut self) {
        let Some((index, op)) = ops::choose(self) else { return };
        self.perform(index, op);
    }

    /// One operation.
    pub fn perform(&mut self, index: usize, op: &Op) {
        self.op = index as u32;
        let result = (op.run)(self);
        if result == SKIP {
            return;
        }
        self.count(index, result);
    }

    /// Enters the outcome of an operation into counters and digest.
    pub fn count(&self, index: usize, result: i64) {
        let count = &self.region.counts[index];
        if result < 0 {
            count.failed.fetch_add(1, SeqCst);
            count.errno.store(result.unsigned_abs() as u32, SeqCst);
        } else {
            count.ok.fetch_add(1, SeqCst);
        }
        if self.is_serial() {
            self.region.digest((self.slot as u64) << 48 ^ (index as u64) << 32 ^ result as u32 as u64);
        }
    }

    // Calls.

    /// Issues a syscall and logs it.
    pub fn call(&self, number: i64, arguments: &[Arg]) -> i64 {
        self.call_noted(number, arguments, &[])
    }

    /// The same, with the path it is about.
    pub fn call_noted(&self, number: i64, arguments: &[Arg], note: &[u8]) -> i64 {
        let mut a = [0_u64; 6];
        for (to, from) in a.iter_mut().zip(arguments) {
            *to = from.0;
        }
        let entry = self.log_begin(number as u32, [a[0], a[1], a[2], a[3]], note);
        // SAFETY: `Arg`s are made from references that live through this call; the operations ask for nothing that
        // changes this process's own memory.
        let ret = unsafe { sys::syscall(number, a) };
        self.log_end(entry, ret);
        ret
    }

    /// Issues a 32-bit syscall and logs it; -ENOSYS where there are none.
    pub fn call_compat(&self, number: u32, a: [u32; 3]) -> i64 {
        let entry = self.log_begin(number | COMPAT, [a[0].into(), a[1].into(), a[2].into(), 0], &[]);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the callers pass numbers and pointers to pages that they hold below 4 GiB.
        let ret = unsafe { sys::compat(i64::from(number), a) };
        #[cfg(not(target_arch = "x86_64"))]
        let ret = -i64::from(libc::ENOSYS);
        self.log_end(entry, ret);
        ret
    }

    pub fn log_begin(&self, number: u32, args: [u64; 4], note: &[u8]) -> (&'static Entry, u64) {
        let begin = self.region.clock.fetch_add(1, SeqCst);
        let entry = &self.region.log[begin as usize % LOG];
        entry.begin.store(0, SeqCst);
        entry.end.store(0, SeqCst);
        entry.ret.store(PENDING, SeqCst);
        entry.pid.store(self.pid, SeqCst);
        entry.tid.store(self.tid, SeqCst);
        entry.nr.store(number, SeqCst);
        entry.op.store(self.op, SeqCst);
        for (to, from) in entry.args.iter().zip(args) {
            to.store(from, SeqCst);
        }
        let mut words = [[0_u8; 8]; 2];
        let tail = &note[note.len().saturating_sub(16)..];
        for (to, from) in words.iter_mut().flatten().zip(tail) {
            *to = *from;
        }
        for (to, from) in entry.note.iter().zip(words) {
            to.store(u64::from_le_bytes(from), SeqCst);
        }
        entry.begin.store(begin + 1, SeqCst);
        (entry, begin)
    }

    pub fn log_end(&self, (entry, begin): (&'static Entry, u64), ret: i64) {
        // The ring may have gone round meanwhile.
        if entry.begin.load(SeqCst) == begin + 1 {
            entry.end.store(self.region.clock.load(SeqCst), SeqCst);
            entry.ret.store(ret as u64, SeqCst);
        }
    }

    // Rounds.

    /// Parks until the next round begins.
    pub fn park(&mut self) {
        self.own_slot().rng.store(self.rng.0, SeqCst);
        self.advance(state(Phase::Running, self.round), state(Phase::Parked, self.round));
        let round = loop {
            let round = self.region.round.load(SeqCst);
            if round == FINISH {
                sys::exit_process(0);
            }
            if round != self.round {
                break round;
            }
            sys::futex_wait(&self.region.round, round, 500_000);
            self.leave_if_alone();
        };
        self.own_slot().left.store(self.region.steps.load(SeqCst), SeqCst);
        self.advance(state(Phase::Parked, self.round), state(Phase::Running, round));
        self.round = round;
    }

    /// Moves to another state, unless somebody has declared this task dying: then it goes.
    pub fn advance(&self, from: u32, to: u32) {
        if self.own_slot().state.compare_exchange(from, to, SeqCst, SeqCst).is_err() {
            self.vanish();
        }
    }

    /// Ends this task without touching anything.
    pub fn vanish(&self) -> ! {
        if self.thread { sys::exit_thread() } else { sys::exit_process(0) }
    }

    /// Leaves when the harness is gone, so that nothing is left behind.
    fn leave_if_alone(&self) {
        let driver = self.region.driver.load(SeqCst);
        if driver != 0 && !sys::exists(driver, driver) {
            sys::exit_process(0);
        }
    }

    /// Waits for this task's turn; false when the round is over.
    fn take_turn(&self) -> bool {
        let slot = self.own_slot();
        loop {
            let seen = slot.wake.load(SeqCst);
            if self.region.ended.load(SeqCst) == self.round {
                return false;
            }
            if self.region.turn.load(SeqCst) == self.slot as u32 {
                self.await_the_dying();
                return true;
            }
            match slot.phase() {
                Phase::Running => {}
                _ => self.vanish(),
            }
            if self.region.round.load(SeqCst) == FINISH {
                sys::exit_process(0);
            }
            sys::futex_wait(&slot.wake, seen, 500_000);
            self.leave_if_alone();
        }
    }

    /// Gives the turn to a task that is running, perhaps to this one again; ends the round when its steps are used up.
    pub fn pass_turn(&self) {
        let region = self.region;
        let running = |slot: &Slot| slot.phase() == Phase::Running && slot.execing.load(SeqCst) == 0;
        let choices = region.slots.iter().filter(|slot| running(slot)).count();
        if region.left.load(SeqCst) == 0 || choices == 0 {
            region.turn.store(NOBODY, SeqCst);
            region.ended.store(self.round, SeqCst);
            for slot in &region.slots {
                slot.wake.fetch_add(1, SeqCst);
                sys::futex_wake(&slot.wake);
            }
            return;
        }
        let mut scheduler = Rng(region.scheduler.load(SeqCst));
        let chosen = scheduler.below(choices);
        region.scheduler.store(scheduler.0, SeqCst);
        let next = region.slots.iter().enumerate().filter(|(_, slot)| running(slot)).nth(chosen);
        if let Some((index, slot)) = next {
            region.turn.store(index as u32, SeqCst);
            if index != self.slot {
                slot.wake.fetch_add(1, SeqCst);
                sys::futex_wake(&slot.wake);
            }
        }
    }

    /// In a serial round the end of a task is over before the next step: what it held is closed by then.
    pub fn await_the_dying(&self) {
        for slot in &self.region.slots {
            let (pid, tid) = (slot.pid.load(SeqCst), slot.tid.load(SeqCst));
            if slot.phase() == Phase::Dying && tid != 0 {
                self.await_that("a task does not end", || !sys::exists(pid, tid));
            }
        }
    }

    /// Waits for another task; gives the run up when it takes too long.
    pub fn await_that(&self, what: &str, mut done: impl FnMut() -> bool) {
        let mut since = 0;
        let mut pause = 5;
        while !done() {
            let now = sys::now_micros();
            if since == 0 {
                since = now;
            }
            if now - since > PATIENCE_MICROS {
                self.fail(what);
            }
            sys::sleep_micros(pause);
            pause = (pause * 2).min(500);
        }
    }

    /// Gives up the run, saying why.
    pub fn fail(&self, why: &str) -> ! {
        if self.region.failed.fetch_add(1, SeqCst) == 0 {
            Region::put_text(&self.region.failure, why.as_bytes());
        }
        sys::exit_process(70)
    }

    /// Announces the end of this task and, if `all`, of the threads beside it; then ends.
    pub fn end(&self, all: bool) -> ! {
        self.own_slot().exits_all.store(u32::from(all), SeqCst);
        for (index, slot) in self.region.slots.iter().enumerate() {
            let own = index == self.slot;
            if (own || all && slot.pid.load(SeqCst) == self.pid) && slot.is_live() {
                declare_dying(slot);
            }
        }
        if self.is_serial() && !self.ephemeral {
            self.pass_turn();
        }
        let number = if all { nr::EXIT_GROUP } else { nr::EXIT };
        self.log_begin(number as u32, [0; 4], &[]);
        if all { sys::exit_process(0) } else { sys::exit_thread() }
    }
}

/// Marks a live task as one that will end; one that has parked already included.
fn declare_dying(slot: &Slot) {
    loop {
        let seen = slot.state.load(SeqCst);
        if !matches!(phase(seen), Phase::Starting | Phase::Running | Phase::Parked) {
            return;
        }
        let dying = state(Phase::Dying, seen);
        if slot.state.compare_exchange(seen, dying, SeqCst, SeqCst).is_ok() {
            return;
        }
    }
}
