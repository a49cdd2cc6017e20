//! Quiet points: how the harness knows that every exercising task is parked, and what it does while they are.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::account::Held;
use crate::driver::Driver;
use crate::kind::Kind;
use crate::shared::{Phase, Slot, phase, state};
use crate::truth;

/// A task at a quiet point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    pub pid: u32,
    pub tid: u32,
    /// Its place among the exercising tasks.
    pub slot: usize,
}

/// A moment at which no exercising task touches a descriptor. Lasts until [`Driver::go`].
#[derive(Clone, Debug)]
pub struct QuietPoint {
    /// 0: nothing has been done yet.
    pub round: u32,
    /// The round before it was serial.
    pub serial: bool,
    pub tasks: Vec<Task>,
    /// Syscalls made so far.
    pub calls: u64,
}

impl QuietPoint {
    /// The processes, each once.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<_> = self.tasks.iter().map(|task| task.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

impl Driver {
    pub(crate) fn tasks(&self) -> Vec<Task> {
        let slots = self.region.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.phase() == Phase::Parked)
            .map(|(slot, it)| Task { pid: it.pid.load(SeqCst), tid: it.tid.load(SeqCst), slot })
            .collect()
    }

    pub(crate) fn states(&self) -> String {
        let mut text = String::new();
        for (index, slot) in self.region.slots.iter().enumerate().filter(|(_, slot)| slot.phase() != Phase::Free) {
            let (pid, tid) = (slot.pid.load(SeqCst), slot.tid.load(SeqCst));
            let execing = slot.execing.load(SeqCst);
            let seen = slot.state.load(SeqCst);
            let gone = is_gone(pid, tid);
            _ = writeln!(
                text,
                "  slot {index}: {:?} in round {}, pid {pid} tid {tid}, execing {execing}, gone {gone}",
                phase(seen),
                seen & 0xff_ffff
            );
        }
        text
    }

    /// Whether every task is parked in this round, and those that announced their end are gone.
    pub(crate) fn is_quiet(&self) -> Result<bool> {
        let claims = self.region.claims.load(SeqCst);
        // At the very start the first process has not entered itself yet.
        let mut quiet = self.region.slots.iter().any(|slot| slot.phase() == Phase::Parked);
        for (index, slot) in self.region.slots.iter().enumerate() {
            let seen = slot.state.load(SeqCst);
            let (pid, tid) = (slot.pid.load(SeqCst), slot.tid.load(SeqCst));
            let gone = |other: Phase| _ = slot.state.compare_exchange(seen, state(other, seen), SeqCst, SeqCst);
            match phase(seen) {
                Phase::Free | Phase::Gone => {}
                Phase::Dying if is_gone(pid, if tid == 0 { pid } else { tid }) => gone(Phase::Gone),
                Phase::Dying => quiet = false,
                Phase::Starting => {
                    quiet = false;
                    if self.is_abandoned(slot) {
                        gone(Phase::Gone);
                    }
                }
                // A thread that came to life too late to be told that its process ends.
                Phase::Parked | Phase::Running if pid != 0 && self.is_doomed(pid) => {
                    quiet = false;
                    if is_gone(pid, if tid == 0 { pid } else { tid }) {
                        gone(Phase::Gone);
                    }
                }
                Phase::Parked => quiet &= seen == state(Phase::Parked, self.round),
                Phase::Running => {
                    quiet = false;
                    if tid != 0 && slot.execing.load(SeqCst) == 0 && is_gone(pid, tid) {
                        self.killed(index, seen)?;
                    }
                }
            }
        }
        Ok(quiet && self.region.claims.load(SeqCst) == claims)
    }

    /// Whether a slot was claimed by a task that was killed, by its sibling's exec or exit, before it made the new one.
    /// One that was made all the same gives up when it finds its slot gone.
    fn is_abandoned(&self, slot: &Slot) -> bool {
        let claimer = || (slot.claimer_pid.load(SeqCst), slot.claimer_tid.load(SeqCst));
        let (pid, tid) = claimer();
        let nobody = pid == 0 || tid == 0;
        if !nobody && !is_gone(pid, tid) {
            return false;
        }
        // Time for a claimer to say who it is, and for a child that was made to begin.
        std::thread::sleep(Duration::from_millis(if nobody { 300 } else { 50 }));
        claimer() == (pid, tid)
    }

    /// Whether a process has been told to end by one of its threads.
    fn is_doomed(&self, pid: u32) -> bool {
        let ends = |slot: &Slot| slot.exits_all.load(SeqCst) == 1 && slot.pid.load(SeqCst) == pid;
        self.region.slots.iter().any(|slot| matches!(slot.phase(), Phase::Dying | Phase::Gone) && ends(slot))
    }

    /// A running task has gone without a word. An exec beside it may have killed it, and its new image will say so soon.
    /// Anything else is a fault of the exerciser.
    fn killed(&self, index: usize, seen: u32) -> Result<()> {
        let slot = &self.region.slots[index];
        let pid = slot.pid.load(SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        let changed = slot.state.load(SeqCst) != seen || slot.pid.load(SeqCst) != pid;
        let execing = |other: &Slot| other.pid.load(SeqCst) == pid && other.execing.load(SeqCst) == 1;
        if changed || self.is_doomed(pid) || self.region.slots.iter().any(execing) {
            return Ok(());
        }
        // It may be the one that called exec, which has taken another id.
        if !is_gone(pid, slot.tid.load(SeqCst)) {
            return Ok(());
        }
        Err(anyhow!("exercising task {pid} died\n{}\n{}", self.states(), self.explain(&[], 40)))
    }

    /// Makes the slots and accounts of those who are gone free again.
    pub(crate) fn sweep(&self) {
        for slot in self.region.slots.iter().filter(|slot| slot.phase() == Phase::Gone) {
            let words: [&AtomicU32; 9] = [
                &slot.pid,
                &slot.tid,
                &slot.table,
                &slot.claimer_pid,
                &slot.claimer_tid,
                &slot.execing,
                &slot.word,
                &slot.mailbox,
                &slot.exits_all,
            ];
            words.into_iter().for_each(|word| word.store(0, SeqCst));
            slot.state.store(0, SeqCst);
        }
        for (index, table) in self.region.tables.iter().enumerate() {
            if table.used.load(SeqCst) == 1 && self.region.sharers(index) == 0 {
                table.used.store(0, SeqCst);
            }
        }
    }

    /// After a parallel round the accounts are put right from the kernel's tables, so that a serial round may rely on
    /// what is closed. Descriptions get new serials: from here on the accounts say nothing about sharing.
    pub(crate) fn correct_accounts(&self) -> Result<()> {
        for task in self.tasks() {
            let kernel = truth::table_of(task.tid)?;
            let account = &self.region.tables[self.region.slots[task.slot].table.load(SeqCst) as usize];
            for (fd, _) in account.live() {
                if !kernel.iter().any(|held| held.fd == fd) {
                    account.clear(fd);
                }
            }
            for held in &kernel {
                let known = account.get(held.fd);
                let kind = match known.map(Held::kind).filter(|kind| kind.class().is_none_or(|name| name == held.kind))
                {
                    Some(kind) => kind,
                    None => Kind::of_class(&held.kind),
                };
                let description = match known {
                    Some(known) => known.description(),
                    None => self.region.descriptions.fetch_add(1, SeqCst) as u32 + 1,
                };
                account.set(held.fd, Held::new(kind, held.cloexec, description));
            }
        }
        Ok(())
    }
}

/// Whether a task has ended as far as its table is concerned: a zombie has closed everything.
pub(crate) fn is_gone(pid: u32, tid: u32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/task/{tid}/stat")) else { return true };
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at + 2));
    matches!(state, Some(b'Z' | b'X'))
}
