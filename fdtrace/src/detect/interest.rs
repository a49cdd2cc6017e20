//! Interest lists that have lost touch with the numbers: `ghost-event`, `epoll-duplicate-entry`.
//!
//! An epoll entry belongs to a description and carries the number under which it was added. The kernel drops it with the
//! last reference to the description, and nobody tells it that the number has gone.
//!
//! * `ghost-event`: an event was delivered for an entry whose number, in the table that added it, is closed or another
//!   file. *Proof.* The entry is known by description, from its `ADD` or from the kernel's own list; the event's data is
//!   that of this entry and of no other whose number is in order; and the number was closed before the wait began, so it
//!   is not an event that was on its way while a handler closed the number. *Look-alikes.* Copies that a forked child
//!   holds only until its exec keep an entry alive for a moment: silent.
//! * `epoll-duplicate-entry`: two live entries of one instance with the same number and different descriptions, added
//!   through one table. *Proof.* The registrations, and that the older description is still held by this table, or by
//!   another one for longer than a fork takes to exec.

use std::rc::Rc;

use crate::{
    collections::{Map, Told},
    event::EpollOp,
    model::{
        Change, World,
        description::Serial,
        epoll::Entry,
        table::{SlotId, TableId},
    },
    order::{Stamp, State},
};

use super::{
    Cause, Out, Want,
    evidence::{self, act, object},
    finding::{Act, Confidence, Finding, Role, Verb},
};

/// A copy held by another process counts once it is older than this: until then that may be about to exec. Nanoseconds.
const SETTLED: u64 = 50_000_000;
/// The list of an instance's entries is asked for at most this often, and for each entry in it this much less often,
/// nanoseconds: reading it is not free.
const ASK_AGAIN: u64 = 100_000_000;
const ASK_AGAIN_ROW: u64 = 100_000;
const REMEMBERED: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Second entries whose first may be about to go.
    doubles: Vec<Double>,
    /// Entries that were told, by instance, description and number.
    told: Told<(Serial, Option<Serial>, i32), REMEMBERED>,
    /// When the kernel's list of an instance may be asked for again.
    asked: Map<Serial, u64>,
    /// Stale entries of listings: instance and data, with the number.
    listed: Map<(Serial, u64), (i32, u64)>,
}

#[derive(Debug)]
struct Double {
    epoll: Serial,
    slot: SlotId,
    old: Entry,
    new: Entry,
    by: Rc<Stamp>,
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.told.forgotten()
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::EpollCtl { epoll, slot, op: EpollOp::Add, entry: Some(entry), by, .. } if by.ret == 0 => {
                self.listed.remove(&(*epoll, entry.data));
                self.added(*epoll, *slot, entry, by, world, out);
            }
            Change::EpollWait { epoll, slot, ready, by } => {
                for (_, data) in ready {
                    self.event(*epoll, *slot, *data, by, world, out);
                }
            }
            Change::EpollListed { epoll, rows, .. } => {
                let now = world.now().time;
                self.listed.retain(|(listed, _), _| listed != epoll);
                self.asked.insert(*epoll, now.saturating_add(ASK_AGAIN + ASK_AGAIN_ROW * rows.len() as u64));
                for row in rows {
                    let fine = rows.iter().any(|other| other.data == row.data && other.inode == other.open_inode);
                    if !fine && self.listed.len() < REMEMBERED {
                        self.listed.insert((*epoll, row.data), (row.fd, now));
                    }
                }
            }
            Change::TableDied { .. } => {
                self.listed.retain(|(epoll, _), _| world.epolls.contains_key(epoll));
                self.asked.retain(|epoll, _| world.epolls.contains_key(epoll));
            }
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, world: &World, out: &mut Out<'_>) {
        let limit = world.now().time.saturating_sub(SETTLED);
        let ripe: Vec<Double> = self.doubles.extract_if(.., |double| double.by.at.exit.time < limit).collect();
        for double in ripe {
            if double.old.target.holders.get() > 0 && double.new.target.holders.get() > 0 {
                self.tell_double(&double, world, out);
            }
        }
    }

    /// A new entry: is there another one of this number?
    fn added(&mut self, epoll: Serial, slot: SlotId, new: &Entry, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let Some(state) = world.epolls.get(&epoll) else { return };
        let same_number = |old: &&Entry| {
            old.fd == new.fd && old.target.serial != new.target.serial && old.table.is_none_or(|t| t == slot.table)
        };
        let Some(old) = state.entries.values().find(same_number) else { return };
        let double = Double { epoll, slot, old: old.clone(), new: new.clone(), by: Rc::clone(by) };
        let held_here = world
            .tables
            .get(&slot.table)
            .is_some_and(|table| table.open().any(|(_, live)| live.data.description.serial == old.target.serial));
        if held_here {
            self.tell_double(&double, world, out);
        } else if self.doubles.len() < REMEMBERED {
            self.doubles.push(double);
        }
    }

    fn tell_double(&mut self, double: &Double, world: &World, out: &mut Out<'_>) {
        let Double { epoll, slot, old, new, by } = double;
        if !self.told.insert((*epoll, None, new.fd)) {
            return;
        }
        let fd = new.fd;
        let since = old.added.as_ref().map_or(by.at.exit.time, |added| added.at.exit.time);
        let complete = world.tables.get(&slot.table).is_some_and(|table| table.complete_since(since));
        let target = SlotId { table: slot.table, fd };
        let mut timeline = Vec::new();
        if let Some(added) = &old.added {
            let mut line = act(added, fd, Verb::Registered);
            line.object = object(&old.target);
            timeline.push(line);
        }
        let culprit = closed(world, target, old.target.serial)
            .map(|end| end.with_role(Role::Culprit, "closed while registered, with a copy left elsewhere"));
        timeline.extend(culprit.clone());
        let mut victim = act(by, fd, Verb::Registered).with_role(Role::Victim, "the second entry of this number");
        victim.object = object(&new.target);
        timeline.push(victim.clone());
        let incident = out.incidents.number(Cause::Description(old.target.serial));
        out.findings.push(Finding {
            confidence: if complete { Confidence::Proven } else { Confidence::Possible },
            generation: world.slot(target).and_then(|slot| Some(slot.live()?.number)),
            message: format!(
                "epoll fd {} watches two files under the number {fd}: {} from before, and {}",
                slot.fd,
                evidence::shown(&old.target),
                evidence::shown(&new.target)
            ),
            culprit,
            victim: Some(victim),
            timeline,
            complete,
            ..evidence::finding("epoll-duplicate-entry", incident, by, fd, world)
        });
    }

    /// An event was delivered.
    fn event(&mut self, epoll: Serial, slot: SlotId, data: u64, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let Some(state) = world.epolls.get(&epoll) else { return };
        let mut ghost = None;
        let mut known = false;
        for entry in state.entries.values().filter(|entry| entry.data == data) {
            known = true;
            // What another process registered in a shared instance is another rule's business.
            let here = entry.table.is_none_or(|table| table == slot.table);
            // Registered unseen, so who has the number now may have been registered unseen as well.
            if entry.added.is_none() && is_open(world, SlotId { table: slot.table, fd: entry.fd }) {
                return;
            }
            let Some(since) = gone_since(entry, slot.table, world).filter(|_| here) else { return };
            if since >= by.at.start() || held_for_a_moment(entry, slot.table, by, world) {
                return;
            }
            ghost = Some(entry);
        }
        if let Some(entry) = ghost {
            self.tell_ghost(epoll, slot, Some(entry), entry.fd, by, world, out);
            return;
        }
        if known {
            return;
        }
        let now = by.at.exit.time;
        if let Some((fd, _)) = self.listed.get(&(epoll, data)).filter(|(_, at)| by.at.start() > 0 && *at < now) {
            let fd = *fd;
            // A number that the events show as open was opened after the list was read.
            if !is_open(world, SlotId { table: slot.table, fd }) {
                self.tell_ghost(epoll, slot, None, fd, by, world, out);
            }
            return;
        }
        if self.asked.get(&epoll).is_none_or(|at| *at < now) && self.asked.len() < REMEMBERED {
            self.asked.insert(epoll, now.saturating_add(ASK_AGAIN));
            out.wants.push(Want::EpollList { tgid: by.tgid, fd: slot.fd });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one change")]
    fn tell_ghost(
        &mut self,
        epoll: Serial,
        slot: SlotId,
        entry: Option<&Entry>,
        fd: i32,
        by: &Rc<Stamp>,
        world: &World,
        out: &mut Out<'_>,
    ) {
        let target = entry.map(|entry| entry.target.serial);
        if !self.told.insert((epoll, target, fd)) {
            return;
        }
        let registered_slot = SlotId { table: slot.table, fd };
        let since = entry.and_then(|entry| entry.added.as_ref()).map_or(by.at.exit.time, |added| added.at.exit.time);
        let complete = world.tables.get(&slot.table).is_some_and(|table| table.complete_since(since));
        let mut timeline = Vec::new();
        if let Some((entry, added)) = entry.and_then(|entry| Some((entry, entry.added.as_ref()?))) {
            let mut line = act(added, fd, Verb::Registered);
            line.object = object(&entry.target);
            timeline.push(line);
        }
        let culprit = target.and_then(|target| closed(world, registered_slot, target));
        let culprit =
            culprit.map(|end| end.with_role(Role::Culprit, "closed while registered, with a copy left elsewhere"));
        timeline.extend(culprit.clone());
        let mut victim =
            act(by, slot.fd, Verb::Waited).with_role(Role::Victim, "is woken for a number that is not its any more");
        if let Some(state) = world.epolls.get(&epoll) {
            victim.object = object(&state.description);
        }
        timeline.push(victim.clone());
        let what = entry.map_or_else(|| "a file".to_owned(), |entry| evidence::shown(&entry.target));
        let now = match world.slot(registered_slot).and_then(|slot| slot.live()) {
            Some(live) => format!("{} by now", evidence::shown(&live.data.description)),
            None => "closed".to_owned(),
        };
        let incident = match target {
            Some(target) => Cause::Description(target),
            None => Cause::Epoll(epoll),
        };
        let incident = out.incidents.number(incident);
        out.findings.push(Finding {
            confidence: if complete { Confidence::Proven } else { Confidence::Possible },
            message: format!(
                "epoll fd {} delivered an event for fd {fd} ({what}), which is {now}: the entry outlived the number",
                slot.fd
            ),
            culprit,
            victim: Some(victim),
            timeline,
            complete,
            ..evidence::finding("ghost-event", incident, by, fd, world)
        });
    }
}

fn is_open(world: &World, slot: SlotId) -> bool {
    world.slot(slot).is_some_and(|slot| slot.live().is_some())
}

/// Position since which the number of an entry is not the entry's any more; `None`: it still is, or nobody knows.
fn gone_since(entry: &Entry, user: TableId, world: &World) -> Option<u64> {
    let table = entry.table.unwrap_or(user);
    let slot = world.slot(SlotId { table, fd: entry.fd })?;
    if slot.live().is_some_and(|live| live.data.description.serial == entry.target.serial) {
        return None;
    }
    let life = slot.past().rev().find(|life| life.data.description.serial == entry.target.serial)?;
    match &life.state {
        State::Ended(end) => Some(end.by.at.exit.pos),
        State::Live | State::Implied { .. } => None,
    }
}

/// Only processes that were forked just now, and have not run a program yet, hold the entry's description.
fn held_for_a_moment(entry: &Entry, user: TableId, by: &Stamp, world: &World) -> bool {
    let serial = entry.target.serial;
    let holds = |table: &crate::model::table::Table| table.open().any(|(_, l)| l.data.description.serial == serial);
    world.tables.values().filter(|table| holds(table)).all(|table| {
        table.id != user
            && table.users().all(|tgid| {
                let forked = world.processes.get(&tgid).and_then(|process| process.forked);
                forked.is_some_and(|forked| forked.time.saturating_add(SETTLED) > by.at.exit.time)
            })
    })
}

/// The act that ended the life of this description in a slot.
fn closed(world: &World, slot: SlotId, description: Serial) -> Option<Act> {
    let state = world.slot(slot)?;
    let life = state.past().rev().find(|life| life.data.description.serial == description)?;
    evidence::end(world, slot, life)
}
