//! The kernel's own tables, read by the iterator: what was open before the trace, and the truth after a loss.

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use crate::{
    event::{Event, Interval, Moment, What},
    order::Observed,
};

use super::{
    Change, World,
    description::Details,
    table::{Generation, Origin, SlotId, TableId},
};

/// A snapshot in progress.
#[derive(Debug)]
pub(super) struct Snapshot {
    begin: Moment,
    /// 0: all processes.
    tgid: u32,
    rows: HashMap<TableId, BTreeSet<i32>>,
}

impl World {
    pub(super) fn snapshot_begin(&mut self, event: &Event) {
        self.snapshot = Some(Snapshot { begin: event.at.exit, tgid: event.tgid, rows: HashMap::new() });
    }

    pub(super) fn row(&mut self, event: &Event, changes: &mut Vec<Change>) {
        let What::Row { fd, file, cloexec, since, path } = &event.what else { return };
        let (fd, cloexec, since) = (*fd, *cloexec, *since);
        let table = self.table_at(event.table, event.tgid, event.tid);
        for tid in self.threads.remove(&event.tgid).unwrap_or_default() {
            if !self.tasks.contains_key(&tid) {
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
        let details = Details { info: *file, kind: self.kinds.of(file), path: path.clone(), opened: None };
        let slot = SlotId { table, fd };
        let description = match self.slot(slot).and_then(|slot| slot.live()) {
            Some(live) if live.file == file.file => {
                live.data.description.explain(details);
                Rc::clone(&live.data.description)
            }
            _ => self.description_at(file.file, Some(details)),
        };
        let origin = if first && self.never_read(table) { Origin::AlreadyOpen } else { Origin::Unseen };
        let seen = Interval { enter: Some(Moment { time: event.at.exit.time, pos: since }), exit: event.at.exit };
        let data = Rc::clone(&description);
        let observed = self.edit(slot, |slot| {
            let observed = slot.observe(seen, file.file, || Generation {
                description: data,
                cloexec,
                origin,
                by: None,
                owner: OnceCell::new(),
            });
            (observed, slot.live().map_or(0, |live| live.number))
        });
        if let Some((Observed::New | Observed::Replaced, number)) = observed {
            let by = Rc::new(self.stamp(event));
            changes.push(Change::Installed { slot, number, by });
        }
    }

    /// No snapshot of this table has been completed yet.
    fn never_read(&self, table: TableId) -> bool {
        self.tables.get(&table).is_some_and(|table| !table.read)
    }

    pub(super) fn snapshot_end(&mut self, event: &Event, changes: &mut Vec<Change>) {
        let Some(snapshot) = self.snapshot.take() else { return };
        let seen = Interval { enter: Some(snapshot.begin), exit: event.at.exit };
        let nobody = BTreeSet::new();
        let tables: Vec<TableId> = self
            .tables
            .values()
            .filter(|table| table.alive() && (snapshot.tgid == 0 || table.is_used_by(snapshot.tgid)))
            .map(|table| table.id)
            .collect();
        for id in tables {
            let rows = snapshot.rows.get(&id).unwrap_or(&nobody);
            let Some(table) = self.tables.get(&id) else { continue };
            let gone: Vec<i32> = table.open().map(|(fd, _)| fd).filter(|fd| !rows.contains(fd)).collect();
            for fd in gone {
                self.edit(SlotId { table: id, fd }, |slot| slot.missing(seen));
            }
            let Some(table) = self.tables.get_mut(&id) else { continue };
            table.read = true;
            if table.lost_until.is_none_or(|lost| lost < snapshot.begin.time)
                && let Some(since) = table.uncertain_since.take()
            {
                changes.push(Change::Healed { table: id, since });
            }
        }
    }
}
