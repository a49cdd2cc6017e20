//! What system calls do to tables.

use std::rc::Rc;

use fdtrace_common::{class, wire::FileInfo};

use crate::{
    event::{Call, Effect, Event, Install, Source},
    order::{How, Installed, Life, Removed, Stamp},
    who::{owner::Part, sighting::Sighting},
};

use super::{
    Change, Met, World,
    description::{Description, Details},
    table::{Generation, Origin, SlotId, TableId},
};

const EBADF: i64 = -9;
const ENFILE: i64 = -23;
const EMFILE: i64 = -24;

impl World {
    pub(super) fn call(&mut self, event: &Event, call: &Call, seen: Option<Rc<Sighting>>, changes: &mut Vec<Change>) {
        // A straggler of a process that is gone: its table went with it.
        let process = self.processes.get(&event.tgid);
        if process.is_some_and(|process| !process.alive()) {
            return;
        }
        let comm = process.map_or_else(|| [].into(), |process| Rc::clone(&process.comm));
        if let Some(from) = call.enter_table
            && from != event.table
        {
            self.split(event, from, &call.effect);
        }
        let table = self.table_at(event.table, event.tgid, event.tid);
        let part = seen.as_deref().map_or_else(Part::default, |seen| self.role(table, event.tgid, call, seen));
        let (at, tgid, tid) = (event.at, event.tgid, event.tid);
        let by =
            Rc::new(Stamp { at, tgid, tid, comm, sys: Some(call.sys), args: call.args, ret: call.ret, seen, part });
        // Of several messages the first one's descriptors are told.
        let more_messages = call.sys.class == class::RECVMMSG && call.ret > 1;
        // Of a close whose beginning was not seen, whom it found is not known.
        let blind = at.enter.is_none() && matches!(call.effect, Effect::Remove { .. } | Effect::Replace { .. });
        if call.sys.class == class::URING || more_messages || blind {
            self.unseen.insert(event.tgid);
        }
        if call.effect.is_on_table() {
            let is_range = matches!(call.effect, Effect::RemoveRange { .. } | Effect::CloexecRange { .. });
            self.changed(table, at, is_range);
        }
        match &call.effect {
            Effect::None => {}
            Effect::Install(install) => {
                if call.sys.class == class::RETURNS_FD && install.source == Source::New {
                    for fd in call.sys.fd_args(&call.args) {
                        self.used(SlotId { table, fd }, &by, changes);
                    }
                }
                self.install(table, install, &by, changes);
            }
            Effect::Pair(pair) => {
                for install in pair.as_ref() {
                    self.install(table, install, &by, changes);
                }
            }
            Effect::Receive { files, cloexec, looked } => {
                for (fd, file) in files {
                    let file = FileInfo { file: *file, ..FileInfo::default() };
                    let (fd, cloexec, looked) = (*fd, *cloexec, *looked);
                    let install = Install { fd, file, cloexec, source: Source::Received, path: None, looked };
                    self.install(table, &install, &by, changes);
                }
            }
            Effect::Replace { install, before } => self.replace(table, install, *before, &by, changes),
            Effect::Remove { fd, before, after } => {
                let slot = SlotId { table, fd: *fd };
                let removed = self.edit(slot, |slot| slot.remove(&by, How::Closed, Some(*before), *after));
                self.moved_under_registration(slot, &by);
                let by = Rc::clone(&by);
                if let Some(Removed::Live(number) | Removed::Earlier(number)) = removed {
                    self.owners.ended(slot, number, by.seen.as_deref());
                }
                match removed {
                    Some(Removed::Live(number)) => {
                        changes.push(Change::Removed { slot, number, how: How::Closed, by, late: false });
                    }
                    Some(Removed::Earlier(number)) => {
                        changes.push(Change::Removed { slot, number, how: How::Closed, by, late: true });
                    }
                    Some(Removed::Early) | None => {}
                }
            }
            Effect::RemoveRange { first, last } => self.remove_range(table, *first, *last, &by, changes),
            Effect::SetCloexec { fd, on } => {
                let slot = SlotId { table, fd: *fd };
                if let Some(number) = self.set_cloexec(slot, *on, &by) {
                    changes.push(Change::Cloexec { slot, number, on: *on, by: Rc::clone(&by) });
                }
            }
            Effect::CloexecRange { first, last } => {
                let (Ok(first), last) = (i32::try_from(*first), i32::try_from(*last).unwrap_or(i32::MAX)) else {
                    return;
                };
                let mut raced = false;
                if let Some(table) = self.tables.get_mut(&table) {
                    for (_, slot) in table.slots.range_mut(first..=last) {
                        if let Some(live) = slot.live_mut() {
                            // Installed meanwhile: before or after is told by the kernel's table only.
                            raced |= live.born.exit.pos >= by.at.start();
                            raced |= !live.data.mark(true, by.at);
                        }
                    }
                }
                if raced {
                    self.unseen.insert(by.tgid);
                }
            }
            Effect::EpollCtl(ctl) => self.epoll_ctl(table, ctl, &by, changes),
            Effect::EpollWait { epoll, file, data, .. } => self.epoll_wait(table, *epoll, *file, data, &by, changes),
            Effect::Itself { fd } => {
                let slot = SlotId { table, fd: *fd };
                changes.extend(self.number(slot).map(|number| Change::Itself { slot, number, by: Rc::clone(&by) }));
            }
            Effect::Used { fd } => self.used(SlotId { table, fd: *fd }, &by, changes),
            Effect::SetFlags { fd, flags, before } => {
                let slot = SlotId { table, fd: *fd };
                if let Some(number) = self.number(slot) {
                    let (flags, before) = (*flags, *before);
                    changes.push(Change::FlagsSet { slot, number, flags, before, by: Rc::clone(&by) });
                }
            }
            Effect::Lock { fd, unlock } => {
                let slot = SlotId { table, fd: *fd };
                if let Some(number) = self.number(slot) {
                    changes.push(Change::Locked { slot, number, unlock: *unlock, by: Rc::clone(&by) });
                }
            }
        }
        match by.seen.as_deref() {
            Some(seen) if seen.candidates.is_some() => self.owners.let_go(event.tgid, seen),
            _ if call.sys.class == class::CLOSE => {
                let fd = call.sys.fd_args(&call.args).next();
                fd.into_iter().for_each(|fd| self.owners.may_have_let_go(event.tgid, SlotId { table, fd }));
            }
            _ => {}
        }
        match call.ret {
            EBADF => self.bad_fd(table, call, by, changes),
            EMFILE | ENFILE => changes.push(Change::NoRoom { table, by }),
            _ => {}
        }
    }

    /// The occupant's number.
    fn number(&self, slot: SlotId) -> Option<u32> {
        self.slot(slot)?.live().map(|live| live.number)
    }

    /// The occupant of the slot at the start of the call is the one that it was about.
    pub(super) fn used(&mut self, slot: SlotId, by: &Rc<Stamp>, changes: &mut Vec<Change>) {
        let Some(state) = self.slot(slot) else { return };
        let start = by.at.start();
        let met = state.lives().rev().find(|life| life.born.exit.pos < start);
        if let Some(life) = met
            && life.end().is_none_or(|end| end.by.at.exit.pos >= start)
        {
            changes.push(Change::Used { slot, number: life.number, by: Rc::clone(by) });
        }
    }

    /// The object behind a call, before the call has changed anything.
    fn role(&self, table: TableId, tgid: u32, call: &Call, seen: &Sighting) -> Part {
        let Some(fd) = call.sys.fd_args(&call.args).next() else { return Part::default() };
        let slot = SlotId { table, fd };
        if call.sys.class == class::CLOSE {
            let live = self.slot(slot).and_then(|slot| slot.live()).map(|live| live.number);
            return self.owners.closing(tgid, slot, live, seen);
        }
        self.owners.using(tgid, slot, seen)
    }

    fn install(&mut self, table: TableId, install: &Install, by: &Rc<Stamp>, changes: &mut Vec<Change>) {
        let slot = SlotId { table, fd: install.fd };
        let (description, origin) = self.occupant(table, install, by);
        let generation = |seen: Option<Generation>| {
            // What was seen in the table before its call returned is this very description, and others may share it.
            let description = match seen {
                Some(seen) => {
                    if let Some(details) = description.details() {
                        seen.description.explain(details.clone());
                    }
                    seen.description
                }
                None => Rc::clone(&description),
            };
            Generation::new(description, install.cloexec, origin, Some(Rc::clone(by)))
        };
        if self.tables.get(&table).is_some_and(|table| table.swept > by.at.start()) {
            // Whether the range was done before or after is told by the kernel's table only.
            self.unseen.insert(by.tgid);
        }
        let number = self.edit(slot, |slot| {
            let installed = slot.install_seen(by.at, install.looked, install.file.file, generation);
            (slot.begun(&installed), installed != Installed::BornDead)
        });
        self.moved_under_registration(slot, by);
        self.born(table, slot);
        if let Some((number, lives)) = number {
            match (lives, install.source) {
                (true, Source::New) => self.newborn(slot, by.at),
                (false, Source::New) => self.stillborn(by),
                _ => {}
            }
            changes.push(Change::Installed { slot, number, by: Rc::clone(by) });
        }
    }

    fn replace(&mut self, table: TableId, install: &Install, before: u64, by: &Rc<Stamp>, changes: &mut Vec<Change>) {
        let slot = SlotId { table, fd: install.fd };
        let (description, origin) = self.occupant(table, install, by);
        let outcome = self.edit(slot, |slot| {
            let generation = Generation::new(description, install.cloexec, origin, Some(Rc::clone(by)));
            let (ended, installed) = slot.replace(by, before, install.file.file, |_| generation);
            (ended, slot.begun(&installed), slot.live().is_none_or(|live| live.ambiguous))
        });
        self.moved_under_registration(slot, by);
        let Some((ended, begun, raced)) = outcome else { return };
        if raced {
            // Who has the number now is told by the kernel's table only.
            self.unseen.insert(by.tgid);
        }
        if let Some(ended) = ended {
            self.owners.replaced(by.tgid, slot, ended, begun);
        }
        if let Some(number) = ended {
            changes.push(Change::Removed { slot, number, how: How::Replaced, by: Rc::clone(by), late: false });
        }
        changes.push(Change::Installed { slot, number: begun, by: Rc::clone(by) });
    }

    /// The description that a call put into a slot, and how it came there.
    fn occupant(&mut self, table: TableId, install: &Install, by: &Rc<Stamp>) -> (Rc<Description>, Origin) {
        let file = install.file.file;
        let kind = self.kinds.of(&install.file);
        let details = |opened| Details { info: install.file, kind, path: install.path.clone(), opened };
        let from = match install.source {
            Source::New => {
                return (self.identities.create(file, Some(details(Some(Rc::clone(by))))), Origin::Opened);
            }
            Source::Received => {
                // Of what came with a message only the address is known.
                let details = (install.file.fop != 0).then(|| details(None));
                let description = self.description_at(file, details);
                if description.details().is_none() {
                    self.unseen.insert(by.tgid);
                }
                return (description, Origin::Received);
            }
            Source::Duplicated(from) => from,
        };
        // The number that was duplicated may have been closed, or replaced, by another thread since; but not before.
        let source = self.tables.get(&table).and_then(|table| table.slots.get(&from)).and_then(|slot| {
            let possible =
                || slot.lives().rev().filter(|life| life.end().is_none_or(|end| end.by.at.exit.pos >= by.at.start()));
            let same = |life: &&Life<Generation>| {
                let details = life.data.description.details();
                life.file == file && details.is_none_or(|known| known.is_of(&install.file))
            };
            // Of a life that nobody saw, anything may have been the file.
            let any = |life: &&Life<Generation>| file == 0 || life.file == 0;
            possible().find(same).or_else(|| possible().find(any)).map(|life| &life.data.description)
        });
        let description = match source {
            Some(source) => Rc::clone(source),
            None => self.description_at(file, Some(details(None))),
        };
        (description, Origin::Duplicated { from })
    }

    fn remove_range(&mut self, table: TableId, first: u32, last: u32, by: &Rc<Stamp>, changes: &mut Vec<Change>) {
        let (Ok(first), last) = (i32::try_from(first), i32::try_from(last).unwrap_or(i32::MAX)) else { return };
        let open: Vec<i32> = self.tables.get(&table).map_or_else(Vec::new, |table| {
            let range = table.slots.range(first..=last);
            range.filter(|(_, slot)| slot.live().is_some()).map(|(fd, _)| *fd).collect()
        });
        for fd in open {
            let slot = SlotId { table, fd };
            // Installed while the range was being closed: which came first is told by the kernel's table only.
            let raced = |live: &Life<Generation>| live.born.exit.pos >= by.at.start();
            if self.slot(slot).and_then(|slot| slot.live()).is_some_and(raced) {
                self.unseen.insert(by.tgid);
            }
            if let Some(Removed::Live(number)) = self.edit(slot, |slot| slot.remove(by, How::Closed, None, 0)) {
                self.owners.ended(slot, number, by.seen.as_deref());
                changes.push(Change::Removed { slot, number, how: How::Closed, by: Rc::clone(by), late: false });
            }
            self.moved_under_registration(slot, by);
        }
    }

    /// Returns the number of the generation that was marked.
    fn set_cloexec(&mut self, slot: SlotId, on: bool, by: &Stamp) -> Option<u32> {
        let live = self.tables.get_mut(&slot.table)?.slots.get_mut(&slot.fd)?.live_mut()?;
        // Who was installed meanwhile may have come afterwards.
        if live.born.exit.pos >= by.at.start() || !live.data.mark(on, by.at) {
            self.unseen.insert(by.tgid);
        }
        Some(live.number)
    }

    fn bad_fd(&mut self, table: TableId, call: &Call, by: Rc<Stamp>, changes: &mut Vec<Change>) {
        let Some(state) = self.tables.get(&table) else { return };
        let mut met = Vec::new();
        for fd in call.sys.fd_args(&call.args) {
            if let Some(subject) = state.slots.get(&fd).and_then(|slot| slot.subject(by.at)) {
                let slot = SlotId { table, fd };
                met.push(Met { slot, number: subject.life.number, certain: subject.certain });
            }
        }
        changes.push(Change::BadFd { table, by, met });
    }
}
