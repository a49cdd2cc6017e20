//! The lives of descriptors as a stream: one [`Lifetime`] for each generation, told when it is over.
//!
//! What is remembered here are the numbers of generations that are not told yet; all else is the model's. So memory is
//! bounded by what is open.

use std::collections::HashMap;

use crate::{
    detect::{
        evidence,
        finding::{Act, Name},
    },
    model::{
        Change, World,
        table::{Generation, Origin, SlotId, TableId},
    },
    order::{Life, PAST, State},
};

/// One generation of a descriptor number in one table.
#[derive(Clone, Debug)]
pub struct Lifetime {
    /// The process that had it, or the first of those that shared the table.
    pub pid: u32,
    pub process: Name,
    pub table: u32,
    pub fd: i32,
    pub generation: u32,
    /// Equal for descriptors that share an open file description.
    pub description: u64,
    /// `file`, `socket`, `pipe`, …
    pub kind: &'static str,
    pub object: Name,
    /// As it was last.
    pub cloexec: bool,
    pub opened: Act,
    /// `None`: it was open when the recording ended.
    pub closed: Option<Act>,
    /// When the next generation of this number began, if that is known. A close that was overtaken returns later.
    pub successor: Option<u64>,
    /// It stands for more than itself, see [`super::alike`]: this is the first of them, `closed` is of the last.
    pub folded: Option<Alike>,
}

/// Generations of one number, one after the other, that differ in nothing but times and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alike {
    pub count: u64,
    /// How long they were open, together, nanoseconds.
    pub open_ns: u64,
    /// The longest of them, nanoseconds.
    pub longest_ns: u64,
}

impl Lifetime {
    /// What it stands for, be that itself alone. Times are 0 while it is open.
    pub fn alike(&self) -> Alike {
        self.folded.unwrap_or_else(|| {
            let open_ns = self.closed.as_ref().map_or(0, |closed| closed.time.saturating_sub(self.opened.time));
            Alike { count: 1, open_ns, longest_ns: open_ns }
        })
    }

    /// When it was over, for a picture in which generations of one number do not overlap.
    pub fn ended(&self) -> Option<u64> {
        let closed = self.closed.as_ref()?.time;
        let ended = self.successor.map_or(closed, |next| closed.min(next.saturating_sub(1)));
        Some(ended.max(self.opened.time))
    }
}

/// Follows the changes of the world.
#[derive(Debug, Default)]
pub struct Lifetimes {
    /// Generations that began and were not told, by slot.
    pending: HashMap<SlotId, Vec<u32>>,
    /// Who had a table: when it dies nobody does.
    owners: HashMap<TableId, u32>,
    /// When to look for tables whose death was not seen.
    sweep_at: usize,
}

/// Slots below which looking for lost tables is not worth it.
const SWEEP_MIN: usize = 4096;

impl Lifetimes {
    pub fn on(&mut self, change: &Change, world: &World, mut out: impl FnMut(Lifetime)) {
        match change {
            Change::Installed { slot, number, .. } => {
                if let Some(table) = world.tables.get(&slot.table)
                    && let Some(user) = table.users().next()
                {
                    self.owners.entry(slot.table).or_insert(user);
                }
                let pending = self.pending.entry(*slot).or_default();
                if !pending.contains(number) {
                    pending.push(*number);
                }
                // Some end with the birth of another; some have an end that will be forgotten before it is explained.
                let forgotten = u64::from(*number).saturating_sub(PAST as u64);
                self.settle(*slot, world, &mut out, |life| match life.state {
                    State::Live => false,
                    State::Ended(_) => true,
                    State::Implied { .. } => u64::from(life.number) <= forgotten,
                });
                self.sweep(world);
            }
            Change::Removed { slot, number, .. } => {
                let was_pending = self.pending.get(slot).is_some_and(|pending| pending.contains(number));
                let unseen = |life: &Life<Generation>| life.data.origin == Origin::Unseen;
                if was_pending {
                    self.settle(*slot, world, &mut out, |life| life.number == *number);
                } else if let Some(life) = world.slot(*slot).and_then(|state| state.life(*number)).filter(|l| unseen(l))
                {
                    out(self.lifetime(*slot, life, world));
                }
            }
            Change::TableDied { table } => {
                let fds = world.tables.get(table).map_or_else(Vec::new, |table| table.slots.keys().copied().collect());
                for fd in fds {
                    let slot = SlotId { table: *table, fd };
                    self.settle(slot, world, &mut out, |_| true);
                    self.pending.remove(&slot);
                }
                self.owners.remove(table);
            }
            _ => {}
        }
    }

    /// Nothing more will come: tells what is open still.
    pub fn finish(&mut self, world: &World, mut out: impl FnMut(Lifetime)) {
        let mut slots: Vec<SlotId> = self.pending.keys().copied().collect();
        slots.sort();
        for slot in slots {
            self.settle(slot, world, &mut out, |_| true);
        }
        self.pending.clear();
    }

    /// Tells the pending generations of a slot that are ripe.
    fn settle(
        &mut self,
        slot: SlotId,
        world: &World,
        out: &mut impl FnMut(Lifetime),
        ripe: impl Fn(&Life<Generation>) -> bool,
    ) {
        let (Some(state), Some(pending)) = (world.slot(slot), self.pending.get_mut(&slot)) else { return };
        let mut told = Vec::new();
        pending.retain(|number| match state.life(*number) {
            Some(life) if ripe(life) => {
                told.push(life);
                false
            }
            Some(_) => true,
            // Forgotten: nothing is known of it any more.
            None => false,
        });
        if pending.is_empty() {
            self.pending.remove(&slot);
        }
        for life in told {
            out(self.lifetime(slot, life, world));
        }
    }

    fn lifetime(&self, slot: SlotId, life: &Life<Generation>, world: &World) -> Lifetime {
        let mut opened = evidence::birth(world, slot, life);
        let user = || world.tables.get(&slot.table)?.users().next();
        let pid = self.owners.get(&slot.table).copied().or_else(user).unwrap_or(opened.pid);
        let next = world.slot(slot).and_then(|state| state.life(life.number + 1));
        let description = &life.data.description;
        let mut closed = evidence::end(world, slot, life);
        for act in [Some(&mut opened), closed.as_mut()].into_iter().flatten().filter(|act| act.pid == 0) {
            // Nobody did it, and the table has no user left that it could be said of.
            (act.pid, act.tid, act.process) = (pid, pid, evidence::comm(world, pid));
        }
        Lifetime {
            pid,
            process: evidence::comm(world, pid),
            table: slot.table.0,
            fd: slot.fd,
            generation: life.number,
            description: description.serial.0,
            kind: description.kind().name(),
            object: evidence::object(description),
            cloexec: life.data.cloexec,
            closed,
            successor: next.map(|next| next.born.exit.time),
            opened,
            folded: None,
        }
    }

    /// Forgets tables that are gone although nobody said so: their death was lost.
    fn sweep(&mut self, world: &World) {
        if self.pending.len() <= self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        self.pending.retain(|slot, _| world.tables.contains_key(&slot.table));
        self.owners.retain(|table, _| world.tables.contains_key(table));
        self.sweep_at = self.pending.len() * 2;
    }
}
