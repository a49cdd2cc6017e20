//! The kernel's own tables, read by the iterator: what was open before the trace, and the truth after a loss.

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use fdtrace_common::wire::{EpollEntry, FileInfo};

use crate::{
    event::{Event, Interval, Moment, What},
    order::Observed,
};

use super::{
    Change, World,
    description::{Description, Details, Kind, Serial},
    epoll::{Entry, Epoll, Listed},
    table::{Generation, Origin, SlotId, TableId},
};

const LISTING_BEGINS: i32 = EpollEntry::BEGIN;
const LISTING_ENDS: i32 = EpollEntry::END;

/// A snapshot in progress.
#[derive(Debug)]
pub(super) struct Snapshot {
    begin: Moment,
    reading: Option<u64>,
    /// 0: all processes.
    tgid: u32,
    rows: HashMap<TableId, BTreeSet<i32>>,
    /// If it lists the threads as well: processes and tasks that were known before, and of which nothing has shown since that
    /// they exist. What they did before their end may still be on its way, and shows nothing.
    unmet: BTreeSet<(u32, u32)>,
}

impl World {
    pub(super) fn snapshot_begin(&mut self, event: &Event, reading: Option<u64>, threads: bool) {
        let unmet = if threads { self.members.clone() } else { BTreeSet::new() };
        if threads {
            self.threads.clear();
        }
        let (begin, tgid) = (event.at.exit, event.tgid);
        self.snapshot = Some(Snapshot { begin, reading, tgid, rows: HashMap::new(), unmet });
    }

    /// There is this thread.
    pub(super) fn thread_found(&mut self, event: &Event) {
        self.exists(event.tgid, event.tid);
        if !self.members.contains(&(event.tgid, event.tid)) {
            self.threads.entry(event.tgid).or_default().push(event.tid);
        }
    }

    /// A task is there, while a snapshot is taken.
    pub(super) fn exists(&mut self, tgid: u32, tid: u32) {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.unmet.remove(&(tgid, tid));
        }
    }

    pub(super) fn row(&mut self, event: &Event, changes: &mut Vec<Change>) {
        let What::Row { fd, file, cloexec, since, path } = &event.what else { return };
        let (fd, cloexec, since) = (*fd, *cloexec, *since);
        let table = self.table_at(event.table, event.tgid, event.tid);
        self.exists(event.tgid, event.tid);
        for tid in self.threads.remove(&event.tgid).unwrap_or_default() {
            if !self.members.contains(&(event.tgid, tid)) {
                self.join(table, event.tgid, tid);
            }
        }
        let first = match &mut self.snapshot {
            Some(snapshot) => {
                snapshot.rows.entry(table).or_default().insert(fd);
                true
            }
            None => false,
        };
        let kind = self.kinds.of(file);
        if kind == Kind::Eventpoll {
            self.epolls_met += 1;
        }
        let details = Details { info: *file, kind, path: path.clone(), opened: None };
        let slot = SlotId { table, fd };
        let description = match self.slot(slot).and_then(|slot| slot.live()) {
            Some(live)
                if live.file == file.file && live.data.description.details().is_none_or(|known| known.is_of(file)) =>
            {
                live.data.description.explain(details);
                Rc::clone(&live.data.description)
            }
            _ => self.description_at(file.file, Some(details)),
        };
        let origin = if first && self.never_read(table) { Origin::AlreadyOpen } else { Origin::Unseen };
        let seen = Interval { enter: Some(Moment { time: event.at.exit.time, pos: since }), exit: event.at.exit };
        let data = Rc::clone(&description);
        let observed = self.edit(slot, |slot| {
            if let (false, Some(live)) = (slot.touched_since(since), slot.live_mut())
                && live.file == file.file
            {
                if !live.data.is_marked_since(since) {
                    live.data.cloexec = cloexec;
                }
                // The same address, and another file: the old one is gone and its memory was given out again.
                if live.data.description.details().is_some_and(|known| !known.is_of(file)) {
                    slot.missing(seen);
                }
            }
            // Nobody had looked at what was installed here.
            if let (false, Some(live)) = (slot.touched_since(since), slot.live_mut())
                && live.file == 0
            {
                (live.file, live.data.description) = (file.file, Rc::clone(&data));
            }
            let observed = slot.observe(seen, file.file, || Generation::new(data, cloexec, origin, None));
            (observed, slot.live().map_or(0, |live| live.number))
        });
        if let Some((Observed::New | Observed::Replaced, number)) = observed {
            let by = Rc::new(self.stamp(event));
            changes.push(Change::Installed { slot, number, by });
        }
    }

    /// The tasks that use each table.
    pub fn tasks_by_table(&self) -> Vec<Vec<u32>> {
        let alive = self.tables.values().filter(|table| table.alive());
        alive.map(|table| table.tasks().iter().copied().collect()).collect()
    }

    /// Epoll instances whose entries are to be read, as tasks that have it and number: those that were there before the
    /// trace, and all of them when they can be edited unseen. The end of some of the tasks may have been lost.
    pub fn epolls_to_read(&mut self) -> Vec<(Vec<u32>, i32)> {
        let again = std::mem::take(&mut self.reread_epolls);
        if self.epolls_met == 0 && !again {
            return Vec::new();
        }
        self.epolls_met = 0;
        let mut wanted = Vec::new();
        for table in self.tables.values() {
            let tids: Vec<u32> = table.tasks().iter().copied().collect();
            for (fd, live) in table.open() {
                let description = &live.data.description;
                if description.kind() != Kind::Eventpoll {
                    continue;
                }
                let epoll = || Epoll::new(Rc::clone(description), None);
                let epoll = self.epolls.entry(description.serial).or_insert_with(epoll);
                let first = epoll.creator.is_none() && !std::mem::replace(&mut epoll.asked, true);
                if first || again {
                    wanted.push((tids.clone(), fd));
                }
            }
        }
        wanted
    }

    /// What the kernel lists of an instance: the beginning, its entries, and the end.
    pub(super) fn epoll_entry(&mut self, event: &Event) {
        let What::EpollEntry { epoll, fd, events, data, inode, dev, current, held } = event.what else { return };
        let Some(table) = self.table_of_task(event.tid) else { return };
        let Some(live) = table.slots.get(&epoll).and_then(|slot| slot.live()) else { return };
        let (instance, table) = (live.data.description.serial, table.id);
        let held = held.and_then(|(tid, fd)| Some(SlotId { table: self.table_of_task(tid)?.id, fd }));
        let Some(state) = self.epolls.get_mut(&instance) else { return };
        match fd {
            LISTING_BEGINS => {
                state.listed = std::mem::take(&mut state.entries);
                state.unclear.clear();
            }
            LISTING_ENDS => {
                for row in std::mem::take(&mut state.unclear) {
                    self.confirm(instance, table, &row);
                }
                // What the listing does not confirm is gone.
                if let Some(state) = self.epolls.get_mut(&instance) {
                    state.listed.clear();
                }
            }
            _ => {
                let same = if held.is_some() { Some(true) } else { current };
                let row = Listed { fd, events, data, inode, dev, same, held };
                // Of others only the inode is known, which many files have in common: they come last, or they would be taken
                // for one of these.
                if same == Some(true) {
                    self.confirm(instance, table, &row);
                } else {
                    state.unclear.push(row);
                }
            }
        }
    }

    /// The kernel has this entry.
    fn confirm(&mut self, instance: Serial, table: TableId, row: &Listed) {
        let Listed { fd, events, data, inode, dev, same, held } = *row;
        let holding = held.unwrap_or(SlotId { table, fd });
        let current = self.slot(holding).and_then(|slot| slot.live());
        let current = current.map(|live| Rc::clone(&live.data.description));
        let is_of = |description: &Rc<Description>| {
            description.details().is_some_and(|details| details.info.inode == inode && details.info.dev == dev)
        };
        // Anonymous inodes are shared by many files, so an inode proves a difference only.
        let holder = current.as_ref().map(|current| current.serial);
        let number = self.slot(SlotId { table, fd });
        let earlier = number.filter(|_| same == Some(false)).and_then(|slot| {
            let past = slot.past().rev().map(|life| &life.data.description);
            // The listing is newer than the events before it: whoever has the number there may have lost it since.
            let mut all = past.chain(current.as_ref());
            all.find(|description| is_of(description) && has_inode_of_its_own(description.kind())).cloned()
        });
        let current = current.filter(|current| same.unwrap_or(true) && is_of(current));
        let matches = |entry: &Entry| match (same, &current) {
            (Some(true), Some(current)) => entry.target.serial == current.serial,
            // Not the one that the number means: that one may have an entry of its own.
            (Some(false), _) => {
                let serial = Some(entry.target.serial);
                is_of(&entry.target) && (serial != holder || serial == earlier.as_ref().map(|earlier| earlier.serial))
            }
            _ => is_of(&entry.target),
        };
        let state = self.epolls.get_mut(&instance);
        if let Some(state) = state {
            let confirmed = || state.listed.iter().filter(|(_, entry)| entry.fd == fd && matches(entry));
            let alike = confirmed().find(|(_, entry)| (entry.events, entry.data) == (events, data));
            if let Some(key) = alike.or_else(|| confirmed().next()).map(|(key, _)| *key)
                && let Some(mut entry) = state.listed.remove(&key)
            {
                (entry.events, entry.data) = (events, data);
                state.entries.insert(key, entry);
                return;
            }
        }
        // The number is closed or means another file by now: it is about who had it last, or about a file that we cannot see.
        let target = current.or(earlier).unwrap_or_else(|| {
            let info = FileInfo { inode, dev, ..FileInfo::default() };
            self.identities.create(0, Some(Details { info, kind: Kind::Unknown, path: None, opened: None }))
        });
        let known = self.remembered(instance, target.serial, fd);
        // What another table holds, it may have registered.
        let unknown = (Some(holding.table).filter(|holder| *holder != table), None);
        let (table, added) = known.map_or(unknown, |known| (known.table, known.added.clone()));
        let Some(state) = self.epolls.get_mut(&instance) else { return };
        target.watched.set(target.watched.get() + 1);
        let key = (target.serial, fd);
        let entry = Entry { target, fd, events, data, table, added };
        state.entries.entry(key).or_insert(entry);
    }

    /// No snapshot of this table has been completed yet.
    fn never_read(&self, table: TableId) -> bool {
        self.tables.get(&table).is_some_and(|table| !table.read)
    }

    pub(super) fn snapshot_end(&mut self, event: &Event, reading: u64, changes: &mut Vec<Change>) {
        // Its rows came before the begin of the one that is in progress, and say nothing about what that will not show.
        let is_this = |snapshot: &mut Snapshot| snapshot.reading.is_none_or(|this| this == reading);
        let Some(snapshot) = self.snapshot.take_if(is_this) else { return };
        self.snapshots_completed += 1;
        for (tgid, tid) in snapshot.unmet {
            self.end_was_lost(event, tgid, tid, changes);
        }
        // Descriptions can live on, and with them their registrations, without a number that we see.
        self.reread_epolls |= snapshot.tgid == 0;
        let seen = Interval { enter: Some(snapshot.begin), exit: event.at.exit };
        let nobody = BTreeSet::new();
        let tables: Vec<TableId> = self
            .tables
            .values()
            .filter(|table| table.alive() && (snapshot.tgid == 0 || table.is_used_by(snapshot.tgid)))
            .map(|table| table.id)
            .collect();
        let mut whole = Vec::new();
        for id in tables {
            let rows = snapshot.rows.get(&id).unwrap_or(&nobody);
            let Some(table) = self.tables.get(&id) else { continue };
            // A row that was lost says nothing, least of all that its slot is empty.
            if table.lost_until.is_some_and(|lost| lost >= snapshot.begin.time) {
                continue;
            }
            let gone: Vec<i32> = table.open().map(|(fd, _)| fd).filter(|fd| !rows.contains(fd)).collect();
            for fd in gone {
                self.edit(SlotId { table: id, fd }, |slot| slot.missing(seen));
            }
            let Some(table) = self.tables.get_mut(&id) else { continue };
            table.read = true;
            whole.push(id);
            if let Some(since) = table.uncertain_since.take() {
                let addr = table.addr;
                changes.push(Change::Healed { table: id, since });
                // Rows that were to come by now were lost.
                self.drop_listing(addr);
            }
        }
        self.agree(&whole, snapshot.begin.pos);
    }
}

/// Other kinds share one inode among all files of the kind, or of several.
fn has_inode_of_its_own(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::CharDevice | Kind::Pipe | Kind::Socket { .. })
}
