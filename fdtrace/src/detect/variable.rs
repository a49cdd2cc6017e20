//! Static variables that keep numbers: `stale-close` and `stale-use` where no object owns the number.
//!
//! A variable to which nothing writes but calls that return new numbers has the number of the generation that the last of
//! those calls made: see [`crate::who::native::variable`]. Whoever takes the number from there means that generation.
//!
//! *Proof.* The generation that the variable keeps was made before our eyes, and of each one that came after it in the
//! slot it was seen by which way it was made: not by a call that leaves its result in the variable. *Likely*, not proven:
//! the program may count on being given the same number again. Where it says so, by `dup2` to that number, or by comparing
//! the variable's with another one, the variable is taken to have the new generation.
//! *Look-alikes.* A variable that is not reset when its number is closed, and not used again: silent. So is a program that
//! asks what its number is by now, before it uses it or not. A child's own variable, after a fork, has what its parent's had.

use std::{collections::BTreeMap, rc::Rc};

use fdtrace_common::class;

use crate::{
    collections::Told,
    escape,
    model::{
        Change, World,
        table::{Origin, SlotId, TableId},
    },
    order::{How, Stamp},
    who::sighting::Variable,
};

use super::{
    Out, Want,
    finding::{Confidence, Owner},
    late::{Late, Who},
};

/// Variables that are remembered. Those of more are not looked at, and counted.
const REMEMBERED: usize = 16_384;
/// Of a slot whose earlier generation a variable still keeps, so many uses are asked for at once, so often at most.
const USES: u32 = 16;
const ASKED: u32 = 64;
const ASK_AGAIN: u64 = 10_000_000;

/// Process and address.
type VariableId = (u32, u64);

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Sorted, as the next: what becomes of one process or table is no reason to look at the others'.
    kept: BTreeMap<VariableId, Kept>,
    by_slot: BTreeMap<SlotId, Vec<VariableId>>,
    /// What was told of uses: slot, generation, variable.
    used: Told<(SlotId, u32, VariableId), REMEMBERED>,
    refused: u64,
}

/// What a variable keeps.
#[derive(Clone, Copy, Debug)]
struct Kept {
    slot: SlotId,
    /// 0: the one that is copied from the parent's and not listed yet.
    number: u32,
    /// The last generation of the slot that is known not to be kept there, or `number`.
    last: u32,
    /// When the call returned, nanoseconds.
    since: u64,
    /// The table and generation that a fork copies, until the copy is listed.
    copy_of: Option<(TableId, u32)>,
    asked: u32,
    asked_at: u64,
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.used.forgotten() + self.refused
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Installed { slot, number, by } => {
                if !self.kept.is_empty() {
                    self.installed(*slot, *number, by, world, out);
                }
                if let Some(variable) = variable(by).filter(|variable| variable.keeps_result)
                    // The standard streams' numbers are what is counted on.
                    && slot.fd > 2
                    && by.ret == i64::from(slot.fd)
                {
                    self.keep((by.tgid, variable.address), Kept::new(*slot, *number, by.at.exit.time));
                }
            }
            Change::Removed { slot, number, how: How::Closed, by, .. } if by.is("close") => {
                if let Some(late) = self.late(*slot, *number, by, world) {
                    out.findings.push(late.close(world, out.incidents));
                }
            }
            Change::Used { slot, number, by } if by.ret >= 0 => {
                if let Some(late) = self.late(*slot, *number, by, world)
                    && let Some(variable) = variable(by)
                    && self.used.insert((*slot, *number, (by.tgid, variable.address)))
                {
                    out.findings.push(late.usage(world, out.incidents));
                }
            }
            Change::Itself { slot, number, .. } => {
                for id in self.by_slot.get(slot).into_iter().flatten() {
                    if let Some(kept) = self.kept.get_mut(id).filter(|kept| kept.copy_of.is_none()) {
                        kept.chosen(*number);
                    }
                }
            }
            Change::Forked { parent, child, table } => self.forked(*parent, *child, *table, world),
            Change::Execed { process } | Change::Exited { process, .. } => {
                let gone: Vec<VariableId> = self.of(*process).map(|(id, _)| *id).collect();
                gone.into_iter().for_each(|id| self.forget(id));
            }
            Change::TableDied { table } => {
                let slot = |fd| SlotId { table: *table, fd };
                let slots = self.by_slot.range(slot(i32::MIN)..=slot(i32::MAX));
                let gone: Vec<VariableId> = slots.flat_map(|(_, variables)| variables).copied().collect();
                gone.into_iter().for_each(|id| self.forget(id));
            }
            _ => {}
        }
    }

    /// Another generation of a slot: which variables keep it?
    fn installed(&mut self, slot: SlotId, number: u32, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let Some(variables) = self.by_slot.get(&slot) else { return };
        let is_chosen = by.sys.is_some_and(|sys| matches!(sys.class, class::DUP2 | class::FCNTL));
        let way_is_known = by.seen.as_deref().is_some_and(|seen| seen.followed);
        let origin = world.slot(slot).and_then(|slot| slot.life(number)).map(|life| life.data.origin);
        let mut lost = Vec::new();
        for id in variables {
            let Some(kept) = self.kept.get_mut(id) else { continue };
            if number <= kept.last {
                continue;
            }
            if let Some((from, generation)) = kept.copy_of {
                if origin == Some(Origin::Inherited { from, generation }) {
                    (kept.number, kept.last, kept.copy_of) = (number, number, None);
                } else {
                    lost.push(*id);
                }
            } else if is_chosen {
                kept.chosen(number);
            } else if way_is_known && number == kept.last + 1 {
                kept.last = number;
                let now = by.at.exit.time;
                if kept.asked < ASKED && now.saturating_sub(kept.asked_at) >= ASK_AGAIN {
                    (kept.asked, kept.asked_at) = (kept.asked + 1, now);
                    out.wants.push(Want::Uses { tgid: id.0, fd: slot.fd, times: USES });
                }
            } else {
                lost.push(*id);
            }
        }
        lost.into_iter().for_each(|id| self.forget(id));
    }

    fn keep(&mut self, id: VariableId, kept: Kept) {
        self.forget(id);
        if self.kept.len() >= REMEMBERED {
            self.refused += 1;
            return;
        }
        self.kept.insert(id, kept);
        self.by_slot.entry(kept.slot).or_default().push(id);
    }

    fn forget(&mut self, id: VariableId) {
        let Some(kept) = self.kept.remove(&id) else { return };
        if let Some(variables) = self.by_slot.get_mut(&kept.slot) {
            variables.retain(|other| *other != id);
            if variables.is_empty() {
                self.by_slot.remove(&kept.slot);
            }
        }
    }

    /// The variables of a process.
    fn of(&self, tgid: u32) -> impl Iterator<Item = (&VariableId, &Kept)> {
        self.kept.range((tgid, 0)..=(tgid, u64::MAX))
    }

    /// The child has a copy of each variable, and of the table.
    fn forked(&mut self, parent: u32, child: u32, table: TableId, world: &World) {
        let mut copies = Vec::new();
        for ((_, address), kept) in self.of(parent) {
            let SlotId { table: from, fd } = kept.slot;
            let live = world.slot(kept.slot).and_then(|slot| slot.live()).map(|live| live.number);
            if table == from {
                copies.push(((child, *address), *kept));
            } else if live == Some(kept.number) {
                let copy_of = Some((from, kept.number));
                let slot = SlotId { table, fd };
                copies.push(((child, *address), Kept { copy_of, ..Kept::new(slot, 0, world.now().time) }));
            }
        }
        copies.into_iter().for_each(|(id, kept)| self.keep(id, kept));
    }

    /// The number was taken from a variable that keeps an earlier generation.
    fn late<'a>(&self, slot: SlotId, number: u32, by: &'a Rc<Stamp>, world: &World) -> Option<Late<'a>> {
        let variable = variable(by).filter(|variable| !variable.keeps_result)?;
        let kept = self.kept.get(&(by.tgid, variable.address))?;
        let about = by.sys?.fd_args(&by.args).next()?;
        let later = kept.number < number && number <= kept.last && kept.copy_of.is_none();
        let was_kept = kept.slot == slot && about == slot.fd && later;
        if !was_kept || !world.tables.get(&slot.table)?.complete_since(kept.since) {
            return None;
        }
        let state = world.slot(slot)?;
        let ambiguous = state.lives().any(|life| (kept.number..=number).contains(&life.number) && life.ambiguous);
        if ambiguous {
            return None;
        }
        let kind = match &*variable.name {
            [] => "a static variable".to_owned(),
            name => format!("variable {}", escape::escape_terminal(name)),
        };
        Some(Late {
            slot,
            number,
            bound: kept.number,
            by,
            who: Who::Variable(Owner { kind, address: variable.address }),
            confidence: Confidence::Likely,
            complete: true,
        })
    }
}

impl Kept {
    /// The program put a generation where the variable's number points to.
    fn chosen(&mut self, number: u32) {
        (self.number, self.last) = (number, number);
    }

    fn new(slot: SlotId, number: u32, since: u64) -> Self {
        Self { slot, number, last: number, since, copy_of: None, asked: 0, asked_at: 0 }
    }
}

fn variable(by: &Stamp) -> Option<&Variable> {
    by.seen.as_deref()?.variable.as_ref()
}
