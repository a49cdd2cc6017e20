//! Which slots share a description.
//!
//! # The problem
//!
//! What is seen of a description is the address of its `struct file`, when a call returns. The kernel hands an address
//! out again within microseconds of the last reference, and calls return in another order than they took effect: a `dup`
//! that took what another thread's `open` has just made may return before that `open`, and a `close` that made room for
//! it may return after both.
//!
//! # The rule
//!
//! At one moment, two slots share a description if and only if they hold one address. So, of the slots that are live by
//! the events and were seen with the address `A`, when a call returns that made a **new** description and shows it at `A`:
//!
//! 1. One that shows another file behind `A` (inode, device or operations differ) is over: whoever ended it returns later.
//! 2. One whose own call returned after the new one began holds the newborn: it was duplicated before its maker returned.
//! 3. Any other one was there before the call began. The kernel does not hand out an address that is held, so either it
//!    is over, and whoever ended it returns later, or the address that the new call saw in its slot is not that of the
//!    file it made, but that of one which another thread put there. This is a **doubt**.
//!
//! A doubt ends when one side of it turns out to be over. While it lasts the kernel is asked: in a reading of the tables
//! during which none of the slots was touched, slots that hold one address share, and the oldest description is theirs,
//! because an address with an older holder was never handed out again. Until then, and for good where the kernel had to
//! decide, the lives are marked ambiguous, and no `proven` verdict rests on them.
//!
//! *Proof of 2.* Let `N` be the new description's call and `D` a live slot that shows `A`, whose call returned after `N`
//! began and before it returned. Had `D` taken an earlier description at `A`, that one must have lost all its slots, `D`
//! among them, before `N` could be given `A`: a removal of `D` that began before `N` returned. If such a removal
//! returns, the life gets back the description that it was seen with at first ([`Generation::first`]). If none does, `D`
//! holds `N`'s.
//!
//! [`Generation::first`]: super::table::Generation::first

use std::{
    cell::{Cell, OnceCell},
    collections::{BTreeSet, hash_map::Entry},
    rc::Rc,
};

use crate::{collections::Map, event::Interval, order::Slot};

use super::{
    World,
    description::{Description, Details, Serial},
    table::{Generation, SlotId, TableId},
};

/// Names descriptions, and knows who holds each address.
#[derive(Debug, Default)]
pub(super) struct Identities {
    next: u64,
    /// Live slots by the address that they were seen with.
    holders: Map<u64, Holders>,
    /// Addresses that live slots hold with different descriptions, and those descriptions.
    doubts: Map<u64, Vec<Rc<Description>>>,
}

/// Slots that were seen with one address: nearly always one.
#[derive(Debug)]
enum Holders {
    One(SlotId),
    #[expect(clippy::box_collection, reason = "there is one of these for each open descriptor")]
    Many(Box<BTreeSet<SlotId>>),
}

impl Holders {
    fn insert(&mut self, slot: SlotId) {
        match self {
            Self::One(only) if *only == slot => {}
            Self::One(only) => *self = Self::Many(Box::new([*only, slot].into())),
            Self::Many(slots) => _ = slots.insert(slot),
        }
    }

    /// `true`: nobody is left.
    fn remove(&mut self, slot: SlotId) -> bool {
        match self {
            Self::One(only) => *only == slot,
            Self::Many(slots) => {
                slots.remove(&slot);
                slots.is_empty()
            }
        }
    }

    /// In order.
    fn iter(&self) -> impl Iterator<Item = SlotId> {
        let (one, many) = match self {
            Self::One(only) => (Some(*only), None),
            Self::Many(slots) => (None, Some(slots.as_ref())),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }
}

impl Identities {
    /// A new description.
    pub fn create(&mut self, file: u64, details: Option<Details>) -> Rc<Description> {
        let serial = Serial(self.next);
        self.next += 1;
        let details = details.map_or_else(OnceCell::new, OnceCell::from);
        let cell = || Cell::new(0);
        let (named, doubted) = (OnceCell::new(), Cell::new(false));
        Rc::new(Description { serial, file, details, named, holders: cell(), watched: cell(), doubted })
    }

    /// A slot's occupant changed, from one address to another; 0: nobody, or not seen.
    pub fn moved(&mut self, slot: SlotId, from: u64, to: u64) {
        if from != 0
            && let Entry::Occupied(mut holders) = self.holders.entry(from)
            && holders.get_mut().remove(slot)
        {
            holders.remove();
        }
        if to != 0 {
            match self.holders.entry(to) {
                Entry::Vacant(holders) => _ = holders.insert(Holders::One(slot)),
                Entry::Occupied(mut holders) => holders.get_mut().insert(slot),
            }
        }
    }

    pub fn holders(&self, file: u64) -> impl Iterator<Item = SlotId> {
        self.holders.get(&file).into_iter().flat_map(Holders::iter)
    }
}

impl World {
    /// A description known by what the kernel's table shows; shared if a live slot refers to the same file.
    pub(super) fn description_at(&mut self, file: u64, details: Option<Details>) -> Rc<Description> {
        let known = |slot: SlotId| {
            let live = self.slot(slot)?.live()?;
            let description = &live.data.description;
            let same = match (&details, description.details()) {
                (Some(new), Some(old)) => old.is_of(&new.info),
                _ => true,
            };
            same.then(|| (live.born.exit.pos, Rc::clone(description)))
        };
        // Of several, some are over and have not returned: the address is the youngest one's.
        let known = self.identities.holders(file).filter_map(known).max_by_key(|(born, known)| (*born, known.serial));
        match known {
            Some((_, known)) => {
                if let Some(details) = details {
                    known.explain(details);
                }
                known
            }
            None => self.identities.create(file, details),
        }
    }

    /// A call has made a new description in `slot`: who else holds it, and who cannot?
    pub(super) fn newborn(&mut self, slot: SlotId, at: Interval) {
        let Some(live) = self.slot(slot).and_then(|slot| slot.live()) else { return };
        let (file, new) = (live.file, Rc::clone(&live.data.description));
        if file == 0 {
            return;
        }
        self.was_foreseen(&new, file, at.start());
        let others: Vec<SlotId> = self.identities.holders(file).filter(|other| *other != slot).collect();
        for other in others {
            let Some(live) = self.slot(other).and_then(|slot| slot.live()) else { continue };
            let old = Rc::clone(&live.data.description);
            let is_another = match (old.details(), new.details()) {
                (Some(old), Some(new)) => !old.is_of(&new.info),
                _ => false,
            };
            if old.serial == new.serial || is_another {
                continue;
            }
            if live.born.exit.pos >= at.start() {
                self.hold(other, &new, Some(at.exit.pos));
            } else {
                self.doubt(file, [old, Rc::clone(&new)]);
            }
        }
    }

    fn doubt(&mut self, file: u64, between: [Rc<Description>; 2]) {
        let doubt = self.identities.doubts.entry(file).or_default();
        for description in between {
            description.doubted.set(true);
            if doubt.iter().all(|known| known.serial != description.serial) {
                doubt.push(description);
            }
        }
    }

    /// Somebody lost an address that is in doubt: is it still?
    pub(super) fn doubt_again(&mut self, file: u64) {
        if self.identities.doubts.contains_key(&file)
            && self.rivals(file, |_| true).1 < 2
            && let Some(settled) = self.identities.doubts.remove(&file)
        {
            for description in settled {
                description.doubted.set(false);
            }
        }
    }

    /// The oldest of the descriptions that live slots hold at an address, and how many there are.
    fn rivals(&self, file: u64, among: impl Fn(SlotId) -> bool) -> (Option<Rc<Description>>, usize) {
        let mut serials = BTreeSet::new();
        let mut oldest: Option<Rc<Description>> = None;
        for slot in self.identities.holders(file).filter(|slot| among(*slot)) {
            let Some(live) = self.slot(slot).and_then(|slot| slot.live()) else { continue };
            let description = &live.data.description;
            serials.insert(description.serial);
            if oldest.as_ref().is_none_or(|oldest| description.serial < oldest.serial) {
                oldest = Some(Rc::clone(description));
            }
        }
        (oldest, serials.len())
    }

    /// Processes whose tables would settle a doubt.
    pub(super) fn doubted_processes(&self) -> BTreeSet<u32> {
        let slots = self.identities.doubts.keys().flat_map(|file| self.identities.holders(*file));
        slots.filter_map(|slot| self.tables.get(&slot.table)?.users().next()).collect()
    }

    /// These tables were just read, from the position `since` on. Slots that hold one address, and that nothing has
    /// touched meanwhile, share a description.
    pub(super) fn agree(&mut self, tables: &[TableId], since: u64) {
        let stands = |world: &Self, slot: SlotId| {
            tables.contains(&slot.table) && world.slot(slot).is_some_and(|slot| !slot.touched_since(since))
        };
        let shared = self.identities.holders.iter().filter(|(_, holders)| holders.iter().nth(1).is_some());
        let files: Vec<u64> = shared.map(|(file, _)| *file).collect();
        for file in files {
            let (Some(oldest), 2..) = self.rivals(file, |slot| stands(self, slot)) else { continue };
            let slots: Vec<SlotId> = self.identities.holders(file).filter(|slot| stands(self, *slot)).collect();
            for slot in slots {
                let Some(state) = self.tables.get_mut(&slot.table).and_then(|table| table.slots.get_mut(&slot.fd))
                else {
                    continue;
                };
                if let Some(live) = state.live_mut().filter(|live| live.data.description.serial != oldest.serial) {
                    live.ambiguous = true;
                    self.hold(slot, &oldest, None);
                }
            }
            self.doubt_again(file);
        }
    }

    /// The occupant of a slot is this description and no other. `until`: a removal that began before this position shows
    /// that it was the other after all.
    fn hold(&mut self, slot: SlotId, description: &Rc<Description>, until: Option<u64>) {
        let state = self.tables.get_mut(&slot.table).and_then(|table| table.slots.get_mut(&slot.fd));
        let Some(live) = state.and_then(|slot| slot.live_mut()) else { return };
        let old = std::mem::replace(&mut live.data.description, Rc::clone(description));
        if let Some(until) = until
            && live.data.first.is_none()
        {
            live.data.first = Some((Rc::clone(&old), until));
        }
        description.hold();
        if old.release() {
            self.heir(&old, description);
        }
    }

    /// The last life that had `old` has `heir` now: what epoll knows of the one is true of the other.
    pub(super) fn heir(&mut self, old: &Rc<Description>, heir: &Rc<Description>) {
        if let Some(mut epoll) = self.epolls.remove(&old.serial) {
            match self.epolls.get_mut(&heir.serial) {
                Some(known) => {
                    known.entries.append(&mut epoll.entries);
                    known.users.append(&mut epoll.users);
                }
                None => {
                    epoll.description = Rc::clone(heir);
                    self.epolls.insert(heir.serial, epoll);
                }
            }
        }
        let watched = old.watched.replace(0);
        if watched == 0 {
            return;
        }
        heir.watched.set(heir.watched.get() + watched);
        for epoll in self.epolls.values_mut() {
            let renamed: Vec<_> =
                epoll.entries.extract_if((old.serial, i32::MIN)..=(old.serial, i32::MAX), |_, _| true).collect();
            for ((_, fd), mut entry) in renamed {
                entry.target = Rc::clone(heir);
                epoll.entries.insert((heir.serial, fd), entry);
            }
        }
    }
}

/// Of the lives that are over: one whose removal began before its second description was born had the first one all along.
pub(super) fn settle(slot: &mut Slot<Generation>) {
    for life in slot.past_mut() {
        let Some(start) = life.end().map(|end| end.by.at.start()) else { continue };
        let Some((first, until)) = life.data.first.take() else { continue };
        if start <= until {
            life.data.description = first;
            life.ambiguous = true;
        }
    }
}
