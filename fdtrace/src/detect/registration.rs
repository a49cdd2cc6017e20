//! `epoll-lost-registration`: a number was watched, closed and opened again, and nobody registered the successor.
//!
//! *Proof.* That the entry is gone is proven: the kernel drops it with the last reference to the description, and this was
//! the last one. That somebody counts on it is not, so it is `possible` and a note. It is told once the instance has been
//! waited on again without the number having been added, by a thread that waited for longer than [`WAITED`].
//!
//! *Look-alikes.* Closing a registered descriptor is legal, and the way nginx and libuv unregister; a successor that cannot be
//! watched (a regular file) or that is not of the kind that was watched is another one's.

use std::rc::Rc;

use crate::{
    collections::Map,
    event::EpollOp,
    model::{
        Change, World,
        description::{Kind, Serial},
        table::SlotId,
    },
    order::{How, Stamp},
};

use super::{
    Cause, Out,
    evidence::{self, act, birth, end},
    finding::{Confidence, Finding, Role, Verb},
};

/// A wait that found nothing for so long is what a hang looks like, nanoseconds.
const WAITED: u64 = 1_000_000_000;
const REMEMBERED: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Registrations in force, by slot: the instance, and what was registered.
    registered: Map<SlotId, Registered>,
    /// Registrations that ended with their file.
    lost: Map<SlotId, Lost>,
}

#[derive(Debug)]
struct Registered {
    epoll: Serial,
    target: Serial,
    by: Rc<Stamp>,
}

#[derive(Debug)]
struct Lost {
    was: Registered,
    kind: Kind,
    number: u32,
    /// The generation that has the number now.
    successor: Option<u32>,
}

impl Rules {
    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::EpollCtl { epoll, slot, op, fd, entry, by } => {
                let target = SlotId { table: slot.table, fd: *fd };
                self.lost.remove(&target);
                match (op, entry) {
                    (EpollOp::Add, Some(entry)) if self.registered.len() < REMEMBERED => {
                        let target_serial = entry.target.serial;
                        let registered = Registered { epoll: *epoll, target: target_serial, by: Rc::clone(by) };
                        self.registered.insert(target, registered);
                    }
                    (EpollOp::Del, _) => {
                        self.registered.remove(&target);
                    }
                    _ => {}
                }
            }
            Change::Removed { slot, number, how: How::Closed, .. } if !self.registered.is_empty() => {
                self.lost.remove(slot);
                let Some(was) = self.registered.remove(slot) else { return };
                let Some(life) = world.slot(*slot).and_then(|state| state.life(*number)) else { return };
                let description = &life.data.description;
                let ended = description.serial == was.target && description.holders.get() == 0;
                if ended && self.lost.len() < REMEMBERED {
                    self.lost.insert(*slot, Lost { was, kind: description.kind(), number: *number, successor: None });
                }
            }
            Change::Installed { slot, number, .. } => {
                if let Some(lost) = self.lost.get_mut(slot) {
                    let live = world.slot(*slot).and_then(|state| state.live());
                    let alike = live.is_some_and(|live| live.data.description.kind() == lost.kind);
                    if alike {
                        lost.successor = Some(*number);
                    } else {
                        self.lost.remove(slot);
                    }
                }
            }
            Change::EpollWait { epoll, slot, ready, by } if ready.is_empty() && !self.lost.is_empty() => {
                let waited = by.at.enter.is_some_and(|enter| by.at.exit.time.saturating_sub(enter.time) > WAITED);
                if waited {
                    self.waited(*epoll, *slot, by, world, out);
                }
            }
            Change::TableDied { table } => {
                self.registered.retain(|slot, _| slot.table != *table);
                self.lost.retain(|slot, _| slot.table != *table);
            }
            _ => {}
        }
    }

    /// Somebody waited for long, and for nothing.
    fn waited(&mut self, epoll: Serial, waiter: SlotId, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let of_it = |slot: &SlotId, lost: &Lost| {
            slot.table == waiter.table && lost.was.epoll == epoll && lost.successor.is_some()
        };
        let mut told: Vec<SlotId> =
            self.lost.iter().filter(|(slot, lost)| of_it(slot, lost)).map(|(slot, _)| *slot).collect();
        told.sort_unstable();
        for slot in told {
            if let Some(lost) = self.lost.remove(&slot) {
                out.findings.extend(tell(&lost, slot, waiter, by, world, out.incidents));
            }
        }
    }
}

fn tell(
    lost: &Lost,
    slot: SlotId,
    waiter: SlotId,
    by: &Rc<Stamp>,
    world: &World,
    incidents: &mut super::Incidents,
) -> Option<Finding> {
    let state = world.slot(slot)?;
    let (gone, next) = (state.life(lost.number)?, state.life(lost.successor?)?);
    // Its successor must have been there all the time.
    if next.end().is_some() || next.born.exit.pos >= by.at.start() {
        return None;
    }
    let fd = slot.fd;
    let complete = world.tables.get(&slot.table)?.complete_since(lost.was.by.at.exit.time);
    let mut registered = act(&lost.was.by, fd, Verb::Registered).of_generation(gone.number);
    registered.object = evidence::object(&gone.data.description);
    let culprit = end(world, slot, gone)?.with_role(Role::Culprit, "ends the registration");
    let mut successor = birth(world, slot, next);
    successor.remark = Some("not registered".to_owned());
    let victim = act(by, waiter.fd, Verb::Waited).with_role(Role::Victim, "waited for long, and for nothing");
    let incident = incidents.number(Cause::Generation(slot, gone.number));
    Some(Finding {
        confidence: Confidence::Possible,
        generation: Some(next.number),
        message: format!("fd {fd} was registered, closed and opened again, and is not registered any more"),
        timeline: vec![registered, culprit.clone(), successor, victim.clone()],
        culprit: Some(culprit),
        victim: Some(victim),
        complete,
        ..evidence::finding("epoll-lost-registration", incident, by, fd, world)
    })
}
