//! The world: every traced process, its table, the lives of its slots, the descriptions behind them, epoll's lists.
//!
//! [`World::apply`] takes one event and says what changed. Nothing in here reads a clock, a file or a socket: the same
//! events give the same world, live, from a recording and in a test.

mod calls;
mod change;
pub mod description;
pub mod epoll;
mod identity;
mod interest;
pub mod owner;
pub mod process;
mod processes;
mod snapshot;
pub mod table;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use crate::{
    collections::Map,
    event::{Event, Interval, Moment, TableAddr, What},
    order::{How, Slot, Stamp, Tally},
    who::{
        owner::Part,
        sighting::{OwnerClass, Sighting},
    },
};

pub use change::{Change, Met};
use description::{Description, Kinds, Serial};
use epoll::Epoll;
use identity::Identities;
use interest::Graves;
use owner::Owners;
use process::Process;
use snapshot::Snapshot;
use table::{Generation, Lineage, SlotId, Table, TableId};

/// Processes that are gone and still known.
const GONE: usize = 4096;
/// Lives that are over and still known, in all slots together.
pub const DEAD_LIVES: usize = 65_536;

/// Lives that are over, in tables that are alive.
#[derive(Debug)]
struct DeadLives {
    count: usize,
    most: usize,
    /// Where they are, oldest first: one entry for each. Those of tables that are gone are in here as well.
    slots: VecDeque<SlotId>,
}

impl Default for DeadLives {
    fn default() -> Self {
        Self { count: 0, most: DEAD_LIVES, slots: VecDeque::new() }
    }
}

/// How long a removal waits for the return of the call that installed what it removed, nanoseconds.
const EARLY_PATIENCE: u64 = 1_000_000_000;

#[derive(Debug, Default)]
pub struct World {
    pub processes: Map<u32, Process>,
    pub tables: BTreeMap<TableId, Table>,
    pub epolls: BTreeMap<Serial, Epoll>,
    identities: Identities,
    graves: Graves,
    kinds: Kinds,
    by_addr: Map<TableAddr, TableId>,
    /// Tables whose listing is on its way, by address.
    listings: Map<TableAddr, processes::Listing>,
    partly_listed: VecDeque<processes::PartlyListed>,
    snapshot: Option<Snapshot>,
    snapshots_completed: u64,
    /// Slots with a removal that waits for its install.
    waiting: Vec<SlotId>,
    /// Tables that died with the last event: kept until the next one, so that rules can look at them.
    dead: Vec<TableId>,
    /// The table of each task.
    tasks: Map<u32, (u32, TableId)>,
    /// The same tasks, by process.
    members: BTreeSet<(u32, u32)>,
    /// Processes that are gone, in that order: some are kept, for their names and for their stragglers.
    gone: VecDeque<u32>,
    dead_lives: DeadLives,
    forgotten: u64,
    /// Threads of processes whose table has not been met yet.
    threads: Map<u32, Vec<u32>>,
    /// Processes that did something whose effect on their table is not seen.
    unseen: BTreeSet<u32>,
    /// All interest lists are to be read again.
    reread_epolls: bool,
    /// Epoll instances in snapshots since the last time that their entries were asked for.
    epolls_met: usize,
    next_table: u32,
    now: Moment,
    owners: Owners,
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    /// How many snapshots were seen from their begin to their end.
    pub fn snapshots_completed(&self) -> u64 {
        self.snapshots_completed
    }

    /// The moment of the last event.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Processes whose tables should be read: something was done to them that is not seen, or their slots are in doubt.
    pub fn take_unseen(&mut self) -> BTreeSet<u32> {
        let mut unseen = std::mem::take(&mut self.unseen);
        unseen.append(&mut self.doubted_processes());
        unseen
    }

    /// Every table is as the kernel has it, as far as can be known.
    pub fn is_certain(&self) -> bool {
        self.tables.values().all(|table| table.uncertain_since.is_none() || !table.alive())
    }

    /// Of all slots of the tables that are alive: how often returns came in another order than effects.
    pub fn order(&self) -> Tally {
        let slots = self.tables.values().flat_map(|table| table.slots.values());
        slots.fold(Tally::default(), |mut sum, slot| {
            sum += slot.tally();
            sum
        })
    }

    pub fn slot(&self, slot: SlotId) -> Option<&Slot<Generation>> {
        self.tables.get(&slot.table)?.slots.get(&slot.fd).map(AsRef::as_ref)
    }

    /// The table of a live process.
    pub fn table_of_process(&self, tgid: u32) -> Option<&Table> {
        let leader = self.tasks.get(&tgid).filter(|(of, _)| *of == tgid).map(|(_, table)| *table);
        match leader {
            Some(table) => self.tables.get(&table),
            // Its first thread may be gone.
            None => self.tables.get(&self.tasks.get(self.tasks_of(tgid).first()?)?.1),
        }
    }

    /// The tasks of a process that are known to use a table.
    fn tasks_of(&self, tgid: u32) -> Vec<u32> {
        self.members.range((tgid, 0)..=(tgid, u32::MAX)).map(|(_, tid)| *tid).collect()
    }

    /// The tasks that use a table, each after its process.
    pub fn users_of(&self, table: &Table) -> impl Iterator<Item = (u32, u32)> {
        table.tasks().iter().filter_map(|tid| Some((self.tasks.get(tid)?.0, *tid)))
    }

    /// How many lives and processes, over and done with, were forgotten to make room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// How many lives that are over are remembered.
    pub fn dead(&self) -> usize {
        self.dead_lives.count
    }

    /// Keeps at most so many lives that are over, and forgets the oldest of them.
    pub fn keep_dead(&mut self, most: usize) {
        self.dead_lives.most = most;
        self.forget_dead();
    }

    /// So many lives in a slot are over now that were not before.
    fn buried(&mut self, slot: SlotId, lives: usize) {
        self.dead_lives.count += lives;
        self.dead_lives.slots.extend(std::iter::repeat_n(slot, lives));
        self.forget_dead();
        if self.dead_lives.slots.len() > 2 * self.dead_lives.most.max(1024) {
            self.dead_lives.slots.retain(|slot| self.tables.contains_key(&slot.table));
        }
    }

    fn forget_dead(&mut self) {
        while self.dead_lives.count > self.dead_lives.most
            && let Some(slot) = self.dead_lives.slots.pop_front()
        {
            let state = self.tables.get_mut(&slot.table).and_then(|table| table.slots.get_mut(&slot.fd));
            // It went with its table, otherwise.
            if state.is_some_and(|slot| slot.forget_oldest()) {
                self.dead_lives.count -= 1;
                self.forgotten += 1;
            }
        }
    }

    /// The table that a task uses.
    pub fn table_of_task(&self, tid: u32) -> Option<&Table> {
        self.tables.get(&self.tasks.get(&tid)?.1)
    }

    /// Takes one event, in ring order, and appends what it changed.
    pub fn apply(&mut self, event: &Event, changes: &mut Vec<Change>) {
        self.apply_seen(event, None, changes);
    }

    /// The same, for a call of which something was seen.
    pub fn apply_seen(&mut self, event: &Event, seen: Option<Rc<Sighting>>, changes: &mut Vec<Change>) {
        for table in self.dead.drain(..) {
            self.tables.remove(&table);
        }
        self.now = event.at.exit;
        match &event.what {
            What::Call(call) => self.call(event, call, seen, changes),
            What::Fork { .. } => self.fork(event, changes),
            What::Exec { .. } => self.exec(event, changes),
            What::Exit { group_dead, .. } => self.exit(event, *group_dead, changes),
            What::Table { rows, more, beyond_walk } => self.listing(event, rows, *more, *beyond_walk, changes),
            What::Row { .. } => self.row(event, changes),
            What::SnapshotBegin { reading, threads } => self.snapshot_begin(event, *reading, *threads),
            What::SnapshotEnd { reading } => self.snapshot_end(event, *reading, changes),
            What::Lost { since, .. } => self.lost(*since, event.at.exit.time, changes),
            What::FopKind { fop, name } => {
                let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                self.kinds.learn(*fop, &name[..len]);
            }
            What::Process { .. } => self.process_found(event),
            What::Namespaced { inside } => {
                if let Some(process) = self.processes.get_mut(&event.tgid) {
                    process.inside = Some(*inside);
                }
            }
            What::EpollEntry { .. } => self.epoll_entry(event),
            What::Thread => self.thread_found(event),
            What::EpollList { fd, rows } => self.epoll_listed(event, *fd, rows, changes),
            What::Tick | What::Stack(_) | What::Code(_) | What::OwnerType { .. } | What::Bind { .. } => {}
        }
        self.expire(changes);
        changes.extend(self.dead.iter().map(|table| Change::TableDied { table: *table }));
    }

    /// An object was seen to hold a number. `other`: the one that was bound to it before and still holds it.
    pub fn bind(&mut self, event: &Event, class: &Rc<OwnerClass>, changes: &mut Vec<Change>) {
        let What::Bind { fd, file, object, other, .. } = event.what else { return };
        let Some(table) = self.by_addr.get(&event.table) else { return };
        let slot = SlotId { table: *table, fd };
        let Some(live) = self.slot(slot).and_then(|slot| slot.live()) else { return };
        // The slot may have another occupant by now, or a call that made it has not returned yet.
        if live.file != 0 && live.file != file {
            return;
        }
        let number = live.number;
        self.owners.only(event.tgid, slot, number, [Some(object), other]);
        let Some(owner) = self.owners.bind(event.tgid, object, class, slot, number, event.at.exit.time) else { return };
        let other = other.and_then(|other| {
            self.owners.of(event.tgid, slot, number).find(|known| known.object == other).map(Rc::clone)
        });
        if let Some(live) = self.slot(slot).and_then(|slot| slot.live()) {
            let _ = live.data.owner.set(Rc::clone(&owner));
        }
        changes.push(Change::Bound { slot, number, owner, other, at: event.at.exit, process: event.tgid });
    }

    /// The table at an address, made up if it was never heard of.
    fn table_at(&mut self, addr: TableAddr, tgid: u32, tid: u32) -> TableId {
        match self.by_addr.get(&addr) {
            Some(table) => {
                let table = *table;
                self.join(table, tgid, tid);
                table
            }
            None => self.new_table(addr, tgid, tid, Lineage::Found),
        }
    }

    /// A task uses a table, and no other from now on.
    fn join(&mut self, table: TableId, tgid: u32, tid: u32) {
        if self.tasks.get(&tid) == Some(&(tgid, table)) {
            return;
        }
        self.members.insert((tgid, tid));
        if let Some((before, old)) = self.tasks.insert(tid, (tgid, table)) {
            if before != tgid {
                self.members.remove(&(before, tid));
            }
            self.part(old, before, tid);
        }
        if let Some(table) = self.tables.get_mut(&table) {
            table.join(tgid, tid);
        }
    }

    /// A task uses a table no longer; the last one takes it along.
    fn part(&mut self, id: TableId, tgid: u32, tid: u32) {
        let Some(table) = self.tables.get_mut(&id) else { return };
        table.leave(tgid, tid);
        self.bury_unused(id, tgid, tid);
    }

    /// The end of a table that nobody uses, and of which no copy is on its way. The thread is the last one that used it.
    fn bury_unused(&mut self, id: TableId, tgid: u32, tid: u32) {
        let Some(table) = self.tables.get(&id).filter(|table| !table.alive()) else { return };
        let (addr, is_copied) = (table.addr, table.copied > 0);
        if self.by_addr.get(&addr) == Some(&id) {
            self.by_addr.remove(&addr);
            self.drop_listing(addr);
        }
        let Some(table) = self.tables.get(&id).filter(|_| !is_copied) else { return };
        let open: Vec<i32> = table.open().map(|(fd, _)| fd).collect();
        let over: usize = table.slots.values().map(|slot| slot.past().len()).sum();
        self.dead_lives.count = self.dead_lives.count.saturating_sub(over);
        let comm = self.processes.get(&tgid).map_or_else(|| [].into(), |process| Rc::clone(&process.comm));
        let at = Interval { enter: None, exit: self.now };
        let by =
            Rc::new(Stamp { at, tgid, tid, comm, sys: None, args: [0; 6], ret: 0, seen: None, part: Part::default() });
        for fd in open {
            self.edit_dying(SlotId { table: id, fd }, |slot| slot.vacate(&by, How::Exit));
        }
        self.dead.push(id);
    }

    fn new_table(&mut self, addr: TableAddr, tgid: u32, tid: u32, lineage: Lineage) -> TableId {
        let id = TableId(self.next_table);
        self.next_table += 1;
        self.tables.insert(id, Table::new(id, addr, lineage));
        self.by_addr.insert(addr, id);
        self.join(id, tgid, tid);
        id
    }

    /// Works on a slot and keeps count of who holds its descriptions.
    fn edit<R>(&mut self, slot: SlotId, work: impl FnOnce(&mut Slot<Generation>) -> R) -> Option<R> {
        let (result, lives) = self.edit_dying(slot, work)?;
        if lives > 0 {
            self.buried(slot, lives);
        }
        Some(result)
    }

    /// The same in a table that goes away, with all that it remembers. How many more lives are over is told as well.
    fn edit_dying<R>(&mut self, slot: SlotId, work: impl FnOnce(&mut Slot<Generation>) -> R) -> Option<(R, usize)> {
        let occupant = |slot: &Slot<Generation>| {
            slot.live().map(|life| (life.number, life.file, Rc::clone(&life.data.description)))
        };
        let state = self.tables.get_mut(&slot.table)?.slot_mut(slot.fd);
        let (before, over) = (occupant(state), state.past().len());
        let result = work(state);
        identity::settle(state);
        let over = state.past().len().saturating_sub(over);
        let after = occupant(state);
        let waits = state.waits();
        let addresses = [&before, &after].map(|life| life.as_ref().map_or(0, |(_, file, _)| *file));
        if addresses[0] != addresses[1] {
            self.identities.moved(slot, addresses[0], addresses[1]);
        }
        let of_life = |life: &Option<(u32, u64, Rc<Description>)>| {
            life.as_ref().map(|(number, _, description)| (*number, description.serial))
        };
        if of_life(&before) != of_life(&after) {
            if let Some((_, _, description)) = &after {
                if description.holders.get() == 0 {
                    self.description_revived(description);
                }
                description.hold();
            }
            if let Some((_, file, description)) = &before {
                if description.release() {
                    self.description_died(description, slot.table);
                }
                self.doubt_again(*file);
            }
        }
        if waits && !self.waiting.contains(&slot) {
            self.waiting.push(slot);
        }
        Some((result, over))
    }

    fn stamp(&self, event: &Event) -> Stamp {
        let comm = self.processes.get(&event.tgid).map_or_else(|| [].into(), |process| Rc::clone(&process.comm));
        Stamp {
            at: event.at,
            tgid: event.tgid,
            tid: event.tid,
            comm,
            sys: None,
            args: [0; 6],
            ret: 0,
            seen: None,
            part: Part::default(),
        }
    }

    fn expire(&mut self, changes: &mut Vec<Change>) {
        if self.waiting.is_empty() {
            return;
        }
        let limit = self.now.time.saturating_sub(EARLY_PATIENCE);
        for slot in std::mem::take(&mut self.waiting) {
            let unseen = self.identities.create(0, None);
            let Some(state) = self.tables.get_mut(&slot.table).and_then(|table| table.slots.get_mut(&slot.fd)) else {
                continue;
            };
            let given_up =
                state.expire(limit, || Generation::new(Rc::clone(&unseen), false, table::Origin::Unseen, None));
            if given_up > 0
                && let Some(life) = state.past().next_back()
                && let Some(end) = life.end()
            {
                let by = Rc::clone(&end.by);
                changes.push(Change::Removed { slot, number: life.number, how: end.how, by, late: false });
            }
            if state.waits() {
                self.waiting.push(slot);
            }
        }
    }

    fn lost(&mut self, since: u64, until: u64, changes: &mut Vec<Change>) {
        for table in self.tables.values_mut() {
            table.lost_until = Some(until);
            table.uncertain_since.get_or_insert(since);
        }
        changes.push(Change::Lost { since, until });
    }
}

#[cfg(test)]
mod tests;
