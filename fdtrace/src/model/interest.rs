//! What system calls do to epoll's interest lists, and what becomes of the lists when descriptions come and go.
//!
//! A call names its epoll and its target by numbers, and other threads change what these mean. Which descriptions it was
//! about is told by the addresses that it saw when it began and when it returned: if they are equal, it was about that
//! one, also if the call that made it has not returned yet. If they differ, the kernel is asked for its list.
//!
//! A description can outlive the last slot that the events know: a call that put it into another one has not returned.
//! What epoll knew of it is kept for as long as that may be so, and comes back with it.

use std::{collections::VecDeque, rc::Rc};

use crate::{
    event::{EpollCtl, EpollListed, EpollOp, Event, Interval},
    order::Stamp,
};

use super::{
    Change, World,
    description::{Description, Kind, Serial},
    epoll::{Entry, Epoll, Use},
    table::{Origin, SlotId, TableId},
};

/// How long the dead are remembered, nanoseconds: longer than a call that does not block takes to return.
const REMEMBERED: u64 = 1_000_000_000;
/// Of more than these the oldest are forgotten.
const GRAVES: usize = 64;

/// What epoll knew of a description when the last slot let go of it, or before the first one was known to hold it.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) description: Rc<Description>,
    /// Time and ring position.
    died: crate::event::Moment,
    instance: Option<Epoll>,
    /// Its registrations, each with the instance that it was in.
    entries: Vec<(Serial, Entry)>,
}

pub(super) type Graves = VecDeque<Remains>;

impl World {
    /// An epoll instance begins with its description.
    pub(super) fn born(&mut self, table: TableId, slot: SlotId) {
        let Some(live) = self.slot(slot).and_then(|slot| slot.live()) else { return };
        if live.data.description.kind() == Kind::Eventpoll && live.data.origin == Origin::Opened {
            let description = Rc::clone(&live.data.description);
            let epoll = self.epolls.entry(description.serial).or_insert_with(|| Epoll::new(description, None));
            epoll.creator.get_or_insert(table);
        }
    }

    /// An instance's entries, read from `/proc`. What the events know of an entry is better, and is kept.
    pub(super) fn epoll_listed(&mut self, event: &Event, fd: i32, rows: &[EpollListed], changes: &mut Vec<Change>) {
        let Some(table) = self.table_of_process(event.tgid).map(|table| table.id) else { return };
        let slot = SlotId { table, fd };
        let Some(live) = self.slot(slot).and_then(|slot| slot.live()) else { return };
        let epoll = self.instance(Rc::clone(&live.data.description));
        changes.push(Change::EpollListed { epoll, slot, rows: rows.to_vec() });
    }

    pub(super) fn epoll_ctl(&mut self, table: TableId, ctl: &EpollCtl, by: &Rc<Stamp>, changes: &mut Vec<Change>) {
        let slot = SlotId { table, fd: ctl.epoll };
        let instance = self.meant(slot, ctl.epoll_file.file, by.at);
        // It succeeded, so there was an instance, which is gone from the number or is none that is known.
        if by.ret == 0 && (ctl.epoll_file.file == 0 || instance.is_none()) {
            self.reread_interest(by.tgid);
        }
        let Some(instance) = instance else { return };
        // It looks at the end only, and may see who came then.
        let mut raced = !self.is_occupant(slot, &instance);
        let instance = self.instance(instance);
        let mut entry = None;
        if by.ret == 0 {
            entry = self.edit_interest(instance, table, ctl, by);
            raced |= entry.as_ref().is_some_and(|entry| !self.is_occupant(SlotId { table, fd: ctl.fd }, &entry.target));
            if raced {
                self.reread_interest(by.tgid);
            }
            if let Some(epoll) = self.epolls.get_mut(&instance) {
                epoll.users.entry(table).or_insert_with(Use::default).edited = Some(Rc::clone(by));
            }
        }
        let by = Rc::clone(by);
        changes.push(Change::EpollCtl { epoll: instance, slot, op: ctl.op, fd: ctl.fd, entry, by });
    }

    fn is_occupant(&self, slot: SlotId, description: &Description) -> bool {
        let live = self.slot(slot).and_then(|slot| slot.live());
        live.is_some_and(|live| live.data.description.serial == description.serial)
    }

    /// Which registration is under which file is told by the kernel only.
    fn reread_interest(&mut self, tgid: u32) {
        self.unseen.insert(tgid);
        self.reread_epolls = true;
    }

    /// A call has changed what a number means; did it race with one that registered the number?
    pub(super) fn moved_under_registration(&mut self, slot: SlotId, by: &Stamp) {
        if self.slot(slot).is_some_and(|slot| slot.raced_with_registration(by.at)) {
            self.reread_interest(by.tgid);
        }
    }

    /// A successful edit. Returns the registration concerned.
    fn edit_interest(&mut self, instance: Serial, table: TableId, ctl: &EpollCtl, by: &Rc<Stamp>) -> Option<Entry> {
        let slot = SlotId { table, fd: ctl.fd };
        let [before, after] = ctl.target;
        let mut candidates = Vec::new();
        for file in [after, before] {
            if file == 0 && before != after {
                continue;
            }
            let meant = self.meant(slot, file, by.at);
            candidates
                .extend(meant.filter(|meant| candidates.iter().all(|it: &Rc<Description>| it.serial != meant.serial)));
        }
        let mut raced = candidates.len() > 1;
        for slot in [slot, SlotId { table, fd: ctl.epoll }] {
            let slots = self.tables.get_mut(&table).map(|table| &mut table.slots);
            if let Some(state) = slots.and_then(|slots| slots.get_mut(&slot.fd)) {
                raced |= state.touched_since(by.at.start());
                state.register(by.at);
            }
        }
        if raced {
            // The number came to mean another file during the call.
            self.reread_interest(by.tgid);
        }
        let known = |target: &Rc<Description>| {
            self.epolls.get(&instance).is_some_and(|epoll| epoll.entries.contains_key(&(target.serial, ctl.fd)))
        };
        // An addition succeeds only for what was not there, the others only for what was.
        let fits = |target: &&Rc<Description>| known(target) != (ctl.op == EpollOp::Add);
        let target = Rc::clone(candidates.iter().find(fits).or(candidates.first())?);
        let epoll = self.epolls.get_mut(&instance)?;
        let key = (target.serial, ctl.fd);
        match ctl.op {
            EpollOp::Add => {
                let added = Some(Rc::clone(by));
                let (fd, events, data) = (ctl.fd, ctl.events, ctl.data);
                target.watched.set(target.watched.get() + 1);
                let new = Entry { target, fd, events, data, table: Some(table), added };
                epoll.entries.insert(key, new.clone());
                Some(new)
            }
            EpollOp::Mod => epoll.entries.get_mut(&key).map(|entry| {
                (entry.events, entry.data) = (ctl.events, ctl.data);
                entry.clone()
            }),
            EpollOp::Del => epoll.entries.remove(&key),
            EpollOp::Unknown(_) => None,
        }
    }

    pub(super) fn epoll_wait(
        &mut self,
        table: TableId,
        fd: i32,
        file: u64,
        ready: &[(u32, u64)],
        by: &Rc<Stamp>,
        changes: &mut Vec<Change>,
    ) {
        let slot = SlotId { table, fd };
        self.used(slot, by, changes);
        let Some(epoll) = self.meant(slot, file, by.at) else { return };
        let epoll = self.instance(epoll);
        if let Some(state) = self.epolls.get_mut(&epoll) {
            state.users.entry(table).or_insert_with(Use::default).waited = Some(Rc::clone(by));
        }
        changes.push(Change::EpollWait { epoll, slot, ready: ready.to_vec(), by: Rc::clone(by) });
    }

    /// The instance that a description is.
    fn instance(&mut self, description: Rc<Description>) -> Serial {
        let serial = description.serial;
        self.epolls.entry(serial).or_insert_with(|| Epoll::new(description, None));
        serial
    }

    /// The description that a call was about, which saw `file` in the slot; 0: it saw none, or did not look.
    fn meant(&mut self, slot: SlotId, file: u64, at: Interval) -> Option<Rc<Description>> {
        if let Some(state) = self.slot(slot) {
            let fits = |life: &crate::order::Life<_>| file == 0 || life.file == 0 || life.file == file;
            if let Some(live) = state.live().filter(|live| fits(live)) {
                return Some(Rc::clone(&live.data.description));
            }
            // Whoever ended it returned before this call did.
            let over = |life: &&crate::order::Life<_>| {
                (file == 0 || life.file == file) && life.end().is_none_or(|end| end.by.at.exit.pos >= at.start())
            };
            if let Some(life) = state.past().rev().find(over) {
                return Some(Rc::clone(&life.data.description));
            }
        }
        if file == 0 {
            return None;
        }
        // Whoever made it has not returned yet.
        if let Some(foreseen) = self.graves.iter().find(|remains| remains.is_foreseen(file)) {
            return Some(Rc::clone(&foreseen.description));
        }
        let description = self.description_at(file, None);
        if description.holders.get() == 0 {
            self.bury(Remains {
                description: Rc::clone(&description),
                died: self.now,
                instance: None,
                entries: Vec::new(),
            });
        }
        Some(description)
    }

    /// The last slot that we see, one of `table`'s, has let go: the kernel drops what it knew in epoll instances.
    pub(super) fn description_died(&mut self, description: &Rc<Description>, table: TableId) {
        let instance = self.epolls.remove(&description.serial);
        let mut entries = Vec::new();
        if description.watched.replace(0) > 0 {
            // An instance that seems to be gone may come back as well, and must not bring this along.
            let buried = self.graves.iter_mut().filter_map(|it| Some((&it.description.serial, it.instance.as_mut()?)));
            for (serial, epoll) in self.epolls.iter_mut().chain(buried) {
                let gone = epoll
                    .entries
                    .extract_if((description.serial, i32::MIN)..=(description.serial, i32::MAX), |_, _| true);
                entries.extend(gone.map(|(_, entry)| (*serial, entry)));
            }
        }
        // Whoever handed it on before the trace may hold it still, and with it the registrations.
        if !entries.is_empty()
            && description.details().is_none_or(|details| details.opened.is_none())
            && let Some(tgid) =
                self.tables.get(&table).filter(|table| table.alive()).and_then(|table| table.users().next())
        {
            self.reread_interest(tgid);
        }
        if instance.is_some() || !entries.is_empty() {
            self.bury(Remains { description: Rc::clone(description), died: self.now, instance, entries });
        }
    }

    /// What was known of a registration whose file seemed to be gone, and is not.
    pub(super) fn remembered(&self, instance: Serial, target: Serial, fd: i32) -> Option<&Entry> {
        let remains = self.graves.iter().find(|remains| remains.description.serial == target)?;
        let mut entries = remains.entries.iter();
        entries.find(|(serial, entry)| (*serial, entry.fd) == (instance, fd)).map(|(_, entry)| entry)
    }

    fn bury(&mut self, remains: Remains) {
        let limit = self.now.time.saturating_sub(REMEMBERED);
        while self.graves.front().is_some_and(|old| old.died.time < limit) || self.graves.len() >= GRAVES {
            self.graves.pop_front();
        }
        self.graves.push_back(remains);
    }

    /// A description that nobody was known to hold has a slot after all.
    pub(super) fn description_revived(&mut self, description: &Rc<Description>) {
        let Some(index) = self.graves.iter().position(|it| it.description.serial == description.serial) else { return };
        let Some(Remains { instance, entries, .. }) = self.graves.remove(index) else { return };
        if let Some(instance) = instance {
            self.epolls.entry(description.serial).or_insert(instance);
        }
        for (serial, entry) in entries {
            // A table that is listed brings back its descriptions one by one: the instance may be still to come.
            let mut buried = self.graves.iter_mut().filter(|it| it.description.serial == serial);
            let buried = || buried.find_map(|it| it.instance.as_mut());
            if let Some(epoll) = self.epolls.get_mut(&serial).or_else(buried) {
                description.watched.set(description.watched.get() + 1);
                epoll.entries.entry((description.serial, entry.fd)).or_insert(entry);
            }
        }
    }

    /// A call that had begun at position `start` has made `new`: a call that returned earlier may have met it.
    pub(super) fn was_foreseen(&mut self, new: &Rc<Description>, file: u64, start: u64) {
        let foreseen = self.graves.iter().position(|it| it.is_foreseen(file) && it.died.pos >= start);
        if let Some(Remains { description, .. }) = foreseen.and_then(|index| self.graves.remove(index)) {
            self.heir(&description, new);
        }
    }

    /// The same, and what it has made was gone before it returned: at which address it was is not known, so the kernel is
    /// asked what there is still of what was met.
    pub(super) fn stillborn(&mut self, by: &Stamp) {
        let met = |it: &Remains| it.is_unborn() && it.died.pos >= by.at.start() && it.description.watched.get() > 0;
        if self.graves.iter().any(met) {
            self.reread_interest(by.tgid);
        }
    }
}

impl Remains {
    /// Met by its address, and no slot has held it yet.
    fn is_unborn(&self) -> bool {
        self.description.holders.get() == 0 && self.description.details().is_none()
    }

    /// The same, by this address.
    fn is_foreseen(&self, file: u64) -> bool {
        self.description.file == file && self.is_unborn()
    }
}
