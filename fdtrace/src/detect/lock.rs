//! `posix-lock-dropped`: closing another descriptor of a file dropped the record locks on it.
//!
//! *Proof.* By file and inode: a lock was taken with `fcntl(F_SETLK)` through one description, and a descriptor of the same
//! inode but of another description was closed in the same table while the first was open. The kernel drops all record
//! locks of the table on that inode then.
//!
//! *Benign look-alikes.* `F_OFD_SETLK` and `flock`, which belong to the description: not looked at. A lock that was given
//! back before. Locks for reading, SQLite's deferred closes: nothing is closed while they last.

use std::rc::Rc;

use crate::{
    collections::Map,
    model::{
        Change, World,
        description::Description,
        table::{SlotId, TableId},
    },
    order::{How, Stamp},
};

use super::{
    Cause, Out,
    evidence::{self, act, object},
    finding::{Confidence, Finding, Role, Verb},
};

const REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Rules {
    held: Map<TableId, Vec<Held>>,
}

#[derive(Debug)]
struct Held {
    slot: SlotId,
    number: u32,
    inode: (u32, u64),
    by: Rc<Stamp>,
}

impl Rules {
    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Locked { slot, number, unlock, by } => {
                let Some(life) = world.slot(*slot).and_then(|slot| slot.life(*number)) else { return };
                let Some(inode) = inode(&life.data.description) else { return };
                let held = self.held.entry(slot.table).or_default();
                held.retain(|held| held.inode != inode);
                if !unlock && held.len() < REMEMBERED {
                    held.push(Held { slot: *slot, number: *number, inode, by: Rc::clone(by) });
                }
            }
            Change::Removed { slot, number, how: How::Closed | How::Replaced, by, .. } if !self.held.is_empty() => {
                self.removed(*slot, *number, by, world, out);
            }
            Change::TableDied { table } => {
                self.held.remove(table);
            }
            _ => {}
        }
    }

    fn removed(&mut self, slot: SlotId, number: u32, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let Some(locks) = self.held.get_mut(&slot.table).filter(|locks| !locks.is_empty()) else { return };
        let Some(life) = world.slot(slot).and_then(|slot| slot.life(number)) else { return };
        let Some(inode) = inode(&life.data.description) else { return };
        let Some(lock) = locks.iter().position(|held| held.inode == inode) else { return };
        let lock = locks.swap_remove(lock);
        let holder = world.slot(lock.slot).and_then(|slot| slot.live()).filter(|live| live.number == lock.number);
        let Some(holder) = holder.filter(|live| live.data.description.serial != life.data.description.serial) else {
            return;
        };
        let complete = world.tables.get(&slot.table).is_some_and(|table| table.complete_since(lock.by.at.exit.time));
        let mut victim = act(&lock.by, lock.slot.fd, Verb::Used)
            .of_generation(lock.number)
            .with_role(Role::Victim, "the lock that was taken here is gone");
        victim.object = object(&holder.data.description);
        let mut culprit = act(by, slot.fd, Verb::Closed)
            .of_generation(number)
            .with_role(Role::Culprit, "closed another descriptor of the same file");
        culprit.object = object(&life.data.description);
        let incident = out.incidents.number(Cause::Generation(lock.slot, lock.number));
        out.findings.push(Finding {
            confidence: if complete { Confidence::Proven } else { Confidence::Possible },
            generation: Some(lock.number),
            message: format!(
                "closing fd {} dropped the record locks on {} that were taken through fd {}",
                slot.fd,
                evidence::shown(&holder.data.description),
                lock.slot.fd
            ),
            timeline: vec![victim.clone(), culprit.clone()],
            culprit: Some(culprit),
            victim: Some(victim),
            complete,
            ..evidence::finding("posix-lock-dropped", incident, by, lock.slot.fd, world)
        });
    }
}

fn inode(description: &Description) -> Option<(u32, u64)> {
    description.details().map(|details| (details.info.dev, details.info.inode))
}
