//! Processes come, change their program and go, and tables with them.

use std::{collections::BTreeSet, rc::Rc};

use fdtrace_common::wire::TABLE_WALK_MAX;

use crate::{
    event::{Effect, Event, Interval, Moment, TableAddr, TableRow, What},
    order::{How, Life, Stamp},
};

use super::{
    Change, GONE, World,
    process::{Process, comm},
    table::{Generation, Lineage, Origin, SlotId, TableId},
};

/// A copy of a table of which the upper part was not listed: calls that were on their way may have changed the original
/// before it was made, or after.
#[derive(Debug)]
pub(super) struct PartlyListed {
    from: TableId,
    /// Ring position of the end of the call that made the copy.
    made: u64,
    /// A process that uses the copy.
    tgid: u32,
}

/// Copies that are remembered for calls which are on their way.
const PARTLY_LISTED: usize = 16;

/// A table whose rows are on their way.
#[derive(Debug)]
pub(super) struct Listing {
    table: TableId,
    reason: Reason,
    by: Rc<Stamp>,
    listed: BTreeSet<i32>,
    /// A range of numbers, and what was done to it after the copy and before the listing.
    after: Option<(u32, u32, After)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Removed,
    Cloexec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Copied from that table.
    Copy {
        from: TableId,
    },
    /// The same, and then purged.
    CopyAndExec {
        from: TableId,
    },
    Exec,
}

impl Listing {
    /// The table that it is a copy of.
    fn original(&self) -> Option<TableId> {
        match self.reason {
            Reason::Copy { from } | Reason::CopyAndExec { from } => Some(from),
            Reason::Exec => None,
        }
    }
}

impl World {
    pub(super) fn fork(&mut self, event: &Event, changes: &mut Vec<Change>) {
        let What::Fork { tgid, tid, table: addr, start, comm: name } = &event.what else { return };
        let parent = self.table_at(event.table, event.tgid, event.tid);
        self.exists(*tgid, *tid);
        let is_process = *tgid != event.tgid;
        if is_process {
            let mut process = Process::new(*tgid, *start, comm(name));
            process.parent = Some(event.tgid);
            process.forked = Some(event.at.exit);
            if let Some(parent) = self.processes.get(&event.tgid) {
                process.exe = Rc::clone(&parent.exe);
                process.argv = Rc::clone(&parent.argv);
            }
            self.processes.insert(*tgid, process);
        }
        let table = if *addr == event.table {
            self.join(parent, *tgid, *tid);
            parent
        } else {
            self.copy(event, *addr, (*tgid, *tid), parent)
        };
        if is_process {
            changes.push(Change::Forked { parent: event.tgid, child: *tgid, table });
        }
    }

    /// A thread has left its table for a copy of its own. `after`: what the call did to the copy before it was listed.
    pub(super) fn split(&mut self, event: &Event, from: TableAddr, after: &Effect) {
        let parent = self.table_at(from, event.tgid, event.tid);
        self.copy(event, event.table, (event.tgid, event.tid), parent);
        if let Some(listing) = self.listings.get_mut(&event.table) {
            listing.after = match after {
                Effect::RemoveRange { first, last } => Some((*first, *last, After::Removed)),
                Effect::CloexecRange { first, last } => Some((*first, *last, After::Cloexec)),
                _ => None,
            };
        }
    }

    /// A new table, whose rows follow.
    fn copy(&mut self, event: &Event, addr: TableAddr, (tgid, tid): (u32, u32), from: TableId) -> TableId {
        self.forget(addr);
        // The thread may be the last one that is known to use it: others are on their way out.
        self.keep_original(from, true);
        let at = event.at.exit;
        let table = self.new_table(addr, tgid, tid, Lineage::Copied { from, at });
        let inherited = self.tables.get(&from).map(|from| (from.lost_until, from.uncertain_since));
        if let (Some((lost, uncertain)), Some(table)) = (inherited, self.tables.get_mut(&table)) {
            (table.lost_until, table.uncertain_since) = (lost, uncertain);
        }
        let by = Rc::new(self.stamp(event));
        let listing = Listing { table, reason: Reason::Copy { from }, by, listed: BTreeSet::new(), after: None };
        self.list(addr, listing);
        self.keep_original(from, false);
        table
    }

    fn keep_original(&mut self, table: TableId, on: bool) {
        if let Some(table) = self.tables.get_mut(&table) {
            table.copied = if on { table.copied + 1 } else { table.copied.saturating_sub(1) };
        }
    }

    /// The rows of a table will come. What it is a copy of is kept until they are there.
    fn list(&mut self, addr: TableAddr, listing: Listing) {
        if let Some(from) = listing.original() {
            self.keep_original(from, true);
        }
        self.drop_listing(addr);
        self.listings.insert(addr, listing);
    }

    /// No more rows will come.
    pub(super) fn drop_listing(&mut self, addr: TableAddr) {
        if let Some(listing) = self.listings.remove(&addr) {
            self.listed(&listing);
        }
    }

    fn listed(&mut self, listing: &Listing) {
        let Some(from) = listing.original() else { return };
        self.keep_original(from, false);
        self.bury_unused(from, listing.by.tgid, listing.by.tid);
    }

    /// The kernel has given this address to a new table, so the old one is dead, though that was not seen.
    fn forget(&mut self, addr: TableAddr) {
        let Some(old) = self.by_addr.remove(&addr).and_then(|old| self.tables.get(&old)) else { return };
        let (id, tasks) = (old.id, old.tasks().clone());
        for tid in tasks {
            if let Some((tgid, _)) = self.tasks.remove(&tid) {
                self.members.remove(&(tgid, tid));
                self.part(id, tgid, tid);
            }
        }
    }

    pub(super) fn exec(&mut self, event: &Event, changes: &mut Vec<Change>) {
        let What::Exec { path, argv, comm: name, .. } = &event.what else { return };
        let process = self.processes.entry(event.tgid).or_insert_with(|| Process::new(event.tgid, 0, comm(name)));
        process.comm = comm(name);
        process.exe = Rc::clone(path);
        process.argv = Rc::clone(argv);
        process.execed = Some(event.at.exit);
        process.exited = None;
        self.owners.forget(event.tgid);
        let known = self.by_addr.get(&event.table).and_then(|id| self.tables.get(id));
        let before = self.table_of_process(event.tgid).map(|table| table.id);
        let (table, reason) = match (known.filter(|table| table.is_used_by(event.tgid)), before) {
            (Some(table), _) => (table.id, Reason::Exec),
            // The old table was shared: the process has a copy of it now.
            (None, Some(from)) => {
                (self.copy(event, event.table, (event.tgid, event.tid), from), Reason::CopyAndExec { from })
            }
            (None, None) => (self.table_at(event.table, event.tgid, event.tid), Reason::Exec),
        };
        // All other threads are gone; the one that called exec has the process's number now.
        self.join(table, event.tgid, event.tid);
        self.exists(event.tgid, event.tid);
        self.threads.remove(&event.tgid);
        for tid in self.tasks_of(event.tgid) {
            if tid != event.tid {
                self.task_ended(event.tgid, tid);
            }
        }
        let by = Rc::new(self.stamp(event));
        self.list(event.table, Listing { table, reason, by, listed: BTreeSet::new(), after: None });
        changes.push(Change::Execed { process: event.tgid });
    }

    pub(super) fn exit(&mut self, event: &Event, group_dead: bool, changes: &mut Vec<Change>) {
        self.task_ended(event.tgid, event.tid);
        if group_dead {
            self.process_ended(event.tgid, event.at.exit, changes);
        }
    }

    /// A task is gone, and nothing told of it; with the last one its process is.
    pub(super) fn end_was_lost(&mut self, seen: &Event, tgid: u32, tid: u32, changes: &mut Vec<Change>) {
        self.task_ended(tgid, tid);
        let is_alive = self.processes.get(&tgid).is_some_and(Process::alive);
        let has_threads = self.threads.get(&tgid).is_some_and(|found| !found.is_empty());
        if is_alive && !has_threads && self.tasks_of(tgid).is_empty() {
            self.process_ended(tgid, seen.at.exit, changes);
        }
    }

    fn process_ended(&mut self, tgid: u32, at: Moment, changes: &mut Vec<Change>) {
        self.owners.forget(tgid);
        if let Some(process) = self.processes.get_mut(&tgid) {
            process.exited = Some(at);
            self.gone.push_back(tgid);
        }
        if self.gone.len() > GONE
            && let Some(oldest) = self.gone.pop_front()
            // The number may be another process's by now.
            && self.processes.get(&oldest).is_some_and(|process| !process.alive())
        {
            self.processes.remove(&oldest);
            self.forgotten += 1;
        }
        changes.push(Change::Exited { process: tgid, at });
        // Threads whose own end was not seen.
        for tid in self.tasks_of(tgid) {
            self.task_ended(tgid, tid);
        }
        self.threads.remove(&tgid);
    }

    fn task_ended(&mut self, tgid: u32, tid: u32) {
        self.members.remove(&(tgid, tid));
        if let Some(found) = self.threads.get_mut(&tgid) {
            found.retain(|found| *found != tid);
        }
        // The number may be a task's of another process by now.
        if let Some((_, table)) = self.tasks.get(&tid).copied().filter(|(of, _)| *of == tgid) {
            self.tasks.remove(&tid);
            self.part(table, tgid, tid);
        }
    }

    pub(super) fn process_found(&mut self, event: &Event) {
        let What::Process { start, comm: name, exe, argv } = &event.what else { return };
        if self.processes.get(&event.tgid).is_some_and(|process| !process.alive()) {
            // Its number is another's now, that was found.
            self.processes.remove(&event.tgid);
        }
        let process = self.processes.entry(event.tgid).or_insert_with(|| Process::new(event.tgid, *start, comm(name)));
        if process.exe.is_empty() {
            (process.start, process.exe, process.argv) = (*start, Rc::clone(exe), Rc::clone(argv));
        }
    }

    /// Rows of a table that was listed at fork, exec or unshare.
    pub(super) fn listing(
        &mut self,
        event: &Event,
        rows: &[TableRow],
        more: bool,
        beyond_walk: bool,
        changes: &mut Vec<Change>,
    ) {
        // Without its head, which was lost, a listing tells nothing that the next snapshot does not tell better.
        let Some(mut listing) = self.listings.remove(&event.table) else { return };
        for row in rows {
            listing.listed.insert(row.fd);
            match listing.reason {
                Reason::Copy { from } | Reason::CopyAndExec { from } => self.inherit(&listing, from, row, changes),
                Reason::Exec => self.kept(&listing, row, changes),
            }
        }
        if more {
            self.listings.insert(event.table, listing);
            return;
        }
        match listing.reason {
            Reason::Copy { from } | Reason::CopyAndExec { from } if beyond_walk => {
                self.inherit_rest(&listing, from, changes);
            }
            Reason::Copy { .. } | Reason::CopyAndExec { .. } => {}
            Reason::Exec => self.purge(&listing, beyond_walk, changes),
        }
        self.listed(&listing);
    }

    /// A copied table has this row: so had the original, at the moment of the copy.
    fn inherit(&mut self, listing: &Listing, from: TableId, row: &TableRow, changes: &mut Vec<Change>) {
        let at = listing.by.at.exit;
        let seen = Interval { enter: Some(at), exit: at };
        // The copy was made at some moment of the call; the original may have changed since.
        let copied = Interval { enter: listing.by.at.enter.or(Some(at)), exit: at };
        let source = SlotId { table: from, fd: row.fd };
        let cloexec = row.cloexec;
        let known = self.slot(source).and_then(|slot| {
            // An address comes again: who was over before the copy began was not copied.
            let was_there = |life: &&Life<Generation>| {
                life.file == row.file && life.end().is_none_or(|end| end.by.at.exit.pos >= copied.start())
            };
            let life = slot.lives().rev().find(was_there)?;
            Some((life.number, Rc::clone(&life.data.description)))
        });
        let (generation, description) = match known {
            Some(known) => known,
            None => {
                // The call that made it has not returned yet, or was not seen.
                let description = self.description_at(row.file, None);
                let data = Rc::clone(&description);
                let number = self.edit(source, |slot| {
                    slot.observe(copied, row.file, || Generation::new(data, cloexec, Origin::Unseen, None));
                    slot.lives().next_back().map_or(0, |life| life.number)
                });
                (number.unwrap_or(0), description)
            }
        };
        let origin = Origin::Inherited { from, generation };
        let generation = Generation::new(description, cloexec, origin, Some(Rc::clone(&listing.by)));
        self.appear(listing, row, seen, generation, changes);
    }

    fn appear(
        &mut self,
        listing: &Listing,
        row: &TableRow,
        seen: Interval,
        generation: Generation,
        changes: &mut Vec<Change>,
    ) {
        let slot = SlotId { table: listing.table, fd: row.fd };
        let number = self.edit(slot, |slot| {
            slot.install(seen, row.file, |_| generation);
            slot.live().map_or(0, |life| life.number)
        });
        let by = Rc::clone(&listing.by);
        changes.push(Change::Installed { slot, number: number.unwrap_or(0), by });
    }

    /// What lies above the listed part of a copied table is taken from the original.
    fn inherit_rest(&mut self, listing: &Listing, from: TableId, changes: &mut Vec<Change>) {
        let first = i32::try_from(TABLE_WALK_MAX).unwrap_or(i32::MAX);
        let rows: Vec<TableRow> = self.tables.get(&from).map_or_else(Vec::new, |table| {
            let open = table.slots.range(first..).filter_map(|(fd, slot)| Some((*fd, slot.live()?)));
            open.filter_map(|(fd, live)| {
                if live.data.cloexec && matches!(listing.reason, Reason::CopyAndExec { .. }) {
                    return None;
                }
                let number = u32::try_from(fd).ok()?;
                let after = listing.after.filter(|(first, last, _)| (*first..=*last).contains(&number));
                match after.map(|(_, _, after)| after) {
                    Some(After::Removed) => None,
                    Some(After::Cloexec) => Some(TableRow { fd, file: live.file, cloexec: true }),
                    None => Some(TableRow { fd, file: live.file, cloexec: live.data.cloexec }),
                }
            })
            .collect()
        });
        for row in &rows {
            self.inherit(listing, from, row, changes);
        }
        let user = self.tables.get(&listing.table).and_then(|table| table.users().next());
        let (Some(tgid), Some(original)) = (user, self.tables.get(&from)) else { return };
        let Interval { exit, .. } = listing.by.at;
        if original.changed > listing.by.at.start() {
            self.unseen.insert(tgid);
        }
        if original.tasks().iter().any(|tid| *tid != listing.by.tid) {
            self.partly_listed.truncate(PARTLY_LISTED - 1);
            self.partly_listed.push_front(PartlyListed { from, made: exit.pos, tgid });
        }
    }

    /// A call has changed a table. Copies that were made of it meanwhile, and not listed to the end, are to be read.
    pub(super) fn changed(&mut self, table: TableId, at: Interval, is_range: bool) {
        if let Some(table) = self.tables.get_mut(&table) {
            table.changed = at.exit.pos.saturating_add(1);
            if is_range {
                table.swept = table.changed;
            }
        }
        let raced = |copy: &&PartlyListed| copy.from == table && at.began_before(copy.made);
        self.unseen.extend(self.partly_listed.iter().filter(raced).map(|copy| copy.tgid));
    }

    /// A descriptor that survived an exec.
    fn kept(&mut self, listing: &Listing, row: &TableRow, changes: &mut Vec<Change>) {
        let slot = SlotId { table: listing.table, fd: row.fd };
        let at = listing.by.at.exit;
        let known = self.slot(slot).and_then(|slot| slot.live()).is_some_and(|live| live.file == row.file);
        if known {
            return;
        }
        let description = self.description_at(row.file, None);
        let seen = Interval { enter: Some(at), exit: at };
        let generation = Generation::new(description, false, Origin::Unseen, None);
        self.appear(listing, row, seen, generation, changes);
    }

    /// What an exec's listing does not have was closed by it.
    fn purge(&mut self, listing: &Listing, beyond_walk: bool, changes: &mut Vec<Change>) {
        let Some(table) = self.tables.get(&listing.table) else { return };
        let walked = i32::try_from(TABLE_WALK_MAX).unwrap_or(i32::MAX);
        let gone: Vec<i32> = table
            .open()
            .filter(
                |(fd, live)| {
                    if *fd < walked || !beyond_walk { !listing.listed.contains(fd) } else { live.data.cloexec }
                },
            )
            .map(|(fd, _)| fd)
            .collect();
        for fd in gone {
            let slot = SlotId { table: listing.table, fd };
            if let Some(Some(number)) = self.edit(slot, |slot| slot.vacate(&listing.by, How::Exec)) {
                let by = Rc::clone(&listing.by);
                changes.push(Change::Removed { slot, number, how: How::Exec, by, late: false });
            }
        }
    }

    /// Tells when a process was born, for rules that ask whether something happened before.
    pub fn forked_after(&self, tgid: u32, moment: Moment) -> bool {
        self.processes.get(&tgid).and_then(|process| process.forked).is_some_and(|forked| forked.pos > moment.pos)
    }
}
