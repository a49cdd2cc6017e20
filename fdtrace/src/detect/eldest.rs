//! Are the eldest of many still used? Uses that succeed are not reported unasked, so a few numbers of each origin are watched
//! once a table has grown, and again each time that it has doubled.

use crate::{
    collections::Map,
    model::table::{Generation, SlotId, TableId},
    order::Life,
};

use super::{Out, Want};

/// Open descriptors at which the first look is taken, and what lies between two looks at a table, nanoseconds.
const FIRST_LOOK: usize = 32;
const PAUSE: u64 = 100_000_000;
/// How many of one origin are worth watching some of, and how many of them are watched.
const MANY: usize = 16;
const EACH: usize = 4;
/// Origins watched at one look, and numbers in all.
const ORIGINS: usize = 16;
const NUMBERS: usize = 4096;
/// Who was not used for so long since it is watched is not in use, nanoseconds.
const LONG: u64 = 1_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Eldest {
    /// When a table is looked at again.
    next_look: Map<TableId, Look>,
    watched: Map<SlotId, Watched>,
}

#[derive(Debug)]
struct Look {
    /// A number that is not given out before that many are open, unless somebody asks for it.
    number: i32,
    time: u64,
}

#[derive(Debug)]
struct Watched {
    number: u32,
    since: u64,
    used: bool,
}

/// Some that were watched, and not used in all that time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unused {
    pub count: usize,
    /// Nanoseconds.
    pub time: u64,
}

impl Eldest {
    /// Has the table grown so far that it is worth a look? `open` counts what is open there.
    pub(super) fn is_due(&mut self, slot: SlotId, now: u64, open: impl FnOnce() -> usize) -> bool {
        // Most tables never grow so far, and are not remembered.
        if usize::try_from(slot.fd).is_ok_and(|fd| fd < FIRST_LOOK)
            || self.next_look.get(&slot.table).is_some_and(|next| slot.fd < next.number || now < next.time)
        {
            return false;
        }
        let open = open();
        let number = i32::try_from(FIRST_LOOK.max(2 * open)).unwrap_or(i32::MAX);
        self.next_look.insert(slot.table, Look { number, time: now.saturating_add(PAUSE) });
        open >= MANY
    }

    /// Has the first of each group watched.
    pub(super) fn watch<'w>(
        &mut self,
        table: TableId,
        groups: impl Iterator<Item = Vec<(i32, &'w Life<Generation>)>>,
        now: u64,
        out: &mut Out<'_>,
    ) {
        for mut lives in groups.filter(|lives| lives.len() >= MANY).take(ORIGINS) {
            lives.sort_by_key(|(_, life)| life.data.by.as_ref().map(|by| by.at.exit.time));
            for (fd, life) in lives.iter().take(EACH) {
                let Some(by) = life.data.by.as_ref() else { continue };
                if self.of(table, *fd, life).is_none() && self.watched.len() < NUMBERS {
                    out.wants.push(Want::Uses { tgid: by.tgid, fd: *fd, times: 1 });
                    let watched = Watched { number: life.number, since: now, used: false };
                    self.watched.insert(SlotId { table, fd: *fd }, watched);
                }
            }
        }
    }

    pub(super) fn used(&mut self, slot: SlotId, number: u32) {
        if let Some(watched) = self.watched.get_mut(&slot).filter(|watched| watched.number == number) {
            watched.used = true;
        }
    }

    fn of(&self, table: TableId, fd: i32, life: &Life<Generation>) -> Option<&Watched> {
        self.watched.get(&SlotId { table, fd }).filter(|watched| watched.number == life.number)
    }

    /// Those of a group that were watched for long, if not one of them was used.
    pub(super) fn unused(&self, table: TableId, lives: &[(i32, &Life<Generation>)], now: u64) -> Option<Unused> {
        if self.is_used(table, lives) {
            return None;
        }
        let watched = || lives.iter().filter_map(|(fd, life)| self.of(table, *fd, life));
        let last = watched().map(|watched| watched.since).max()?;
        let time = now.saturating_sub(last);
        (time >= LONG).then(|| Unused { count: watched().count(), time })
    }

    pub(super) fn is_used(&self, table: TableId, lives: &[(i32, &Life<Generation>)]) -> bool {
        lives.iter().any(|(fd, life)| self.of(table, *fd, life).is_some_and(|watched| watched.used))
    }

    pub(super) fn forget(&mut self, table: TableId) {
        if self.next_look.remove(&table).is_some() {
            self.watched.retain(|slot, _| slot.table != table);
        }
    }
}
