//! Which object owns which generation, concluded from what objects hold at the moments when they are seen.
//!
//! An object is *bound* to the generation whose number it holds while a call uses that number. All owners that we know
//! forget their number before they close it: so an object that was bound to a number, and holds none at the moment the
//! number is closed, is who closes it. If that number has had another generation since, the object is late: its own
//! generation was closed behind its back.
//!
//! A bond outlives its generation only on evidence: the object still held the number when somebody else closed it. Any
//! other end (a lost record, an exec, an object that has let go) breaks it, for an address alone proves nothing.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    collections::Map,
    who::{
        owner::{Owner, Part},
        sighting::{Candidate, OwnerClass, Sighting},
    },
};

use super::table::SlotId;

#[derive(Debug)]
struct Bond {
    owner: Rc<Owner>,
    slot: SlotId,
    number: u32,
    /// Its generation was closed by somebody else, and it does not know.
    orphaned: bool,
}

/// Process and address of an object.
type ObjectId = (u32, u64);

/// Bonds at a time. A program whose objects are never seen to let go must not fill our memory.
const BONDS: usize = 262_144;

#[derive(Debug, Default)]
pub(super) struct Owners {
    bonds: BTreeMap<ObjectId, Bond>,
    /// The objects that are bound to a generation of a slot.
    by_slot: Map<SlotId, Vec<ObjectId>>,
}

impl Owners {
    /// An object was seen to hold the number of a live generation. Returns the owner if it is a new one.
    pub(super) fn bind(
        &mut self,
        tgid: u32,
        object: u64,
        class: &Rc<OwnerClass>,
        slot: SlotId,
        number: u32,
        since: u64,
    ) -> Option<Rc<Owner>> {
        // One that was left behind by an earlier generation still holds the same number: that binds it to nothing new.
        if let Some(bond) = self.bonds.get(&(tgid, object))
            && bond.slot == slot
            && bond.owner.class == *class
            && (bond.orphaned || bond.number == number)
        {
            return None;
        }
        self.break_bond((tgid, object));
        if self.bonds.len() >= BONDS {
            return None;
        }
        let owner = Rc::new(Owner { object, class: Rc::clone(class), since });
        let bond = Bond { owner: Rc::clone(&owner), slot, number, orphaned: false };
        self.bonds.insert((tgid, object), bond);
        self.by_slot.entry(slot).or_default().push((tgid, object));
        Some(owner)
    }

    fn break_bond(&mut self, object: ObjectId) {
        let Some(bond) = self.bonds.remove(&object) else { return };
        if let Some(bound) = self.by_slot.get_mut(&bond.slot) {
            bound.retain(|other| *other != object);
            if bound.is_empty() {
                self.by_slot.remove(&bond.slot);
            }
        }
    }

    /// Keeps, of the bonds to a slot, those that are to be kept.
    fn retain(&mut self, slot: SlotId, mut keep: impl FnMut(ObjectId, &mut Bond) -> bool) {
        let Some(mut bound) = self.by_slot.remove(&slot) else { return };
        bound.retain(|object| {
            let keep = self.bonds.get_mut(object).is_some_and(|bond| keep(*object, bond));
            if !keep {
                self.bonds.remove(object);
            }
            keep
        });
        if !bound.is_empty() {
            self.by_slot.insert(slot, bound);
        }
    }

    /// Objects bound to a live generation.
    pub(super) fn of(&self, tgid: u32, slot: SlotId, number: u32) -> impl Iterator<Item = &Rc<Owner>> {
        let bound = self.by_slot.get(&slot).into_iter().flatten().filter(move |(process, _)| *process == tgid);
        let bonds = bound.filter_map(|object| self.bonds.get(object));
        bonds.filter(move |bond| bond.number == number && !bond.orphaned).map(|bond| &bond.owner)
    }

    /// Who closes this number? `live`: the generation that the slot has now.
    pub(super) fn closing(&self, tgid: u32, slot: SlotId, live: Option<u32>, seen: &Sighting) -> Part {
        let Some(candidates) = &seen.candidates else { return Part::default() };
        let bonded = |candidate: &Candidate| {
            let bond = self.bonds.get(&(tgid, candidate.object))?;
            (bond.slot == slot && bond.owner.class == candidate.class).then_some(bond)
        };
        // The bond of one that is not an orphan must be to the generation that is there.
        let mut by = candidates.iter().filter(|candidate| candidate.fd < 0).filter_map(bonded);
        let by = match (by.next(), by.next()) {
            (Some(bond), None) if bond.orphaned || Some(bond.number) == live => Some(bond),
            // Of two it could be either.
            _ => None,
        };
        let against = candidates.iter().filter(|candidate| candidate.fd == slot.fd).find_map(bonded);
        let against = against.filter(|bond| by.is_none() && !bond.orphaned && Some(bond.number) == live);
        Part {
            by: by.map(|bond| (Rc::clone(&bond.owner), bond.number)),
            against: against.map(|bond| Rc::clone(&bond.owner)),
        }
    }

    /// Who uses this number? The object that holds it and was bound to it.
    pub(super) fn using(&self, tgid: u32, slot: SlotId, seen: &Sighting) -> Part {
        let holders = || seen.candidates.iter().flatten().filter(|candidate| candidate.fd == slot.fd);
        let bond = |candidate: &Candidate| {
            let bond = self.bonds.get(&(tgid, candidate.object))?;
            (bond.slot == slot && bond.owner.class == candidate.class).then_some(bond)
        };
        // Of two it could be either, also if only one of them was met before. If all of them are late, it is one of them.
        let mut among: Vec<&Candidate> = holders().collect();
        if among.len() > 1 && among.iter().all(|candidate| bond(candidate).is_some_and(|bond| bond.orphaned)) {
            among.retain(|candidate| candidate.in_register);
        }
        match among[..] {
            [one] => Part { by: bond(one).map(|bond| (Rc::clone(&bond.owner), bond.number)), against: None },
            _ => Part::default(),
        }
    }

    /// A generation is gone. `seen`: of the call that ended it.
    pub(super) fn ended(&mut self, slot: SlotId, number: u32, seen: Option<&Sighting>) {
        let candidates = seen.and_then(|seen| seen.candidates.as_deref()).unwrap_or_default();
        self.retain(slot, |(_, object), bond| {
            if bond.number != number || bond.orphaned {
                return true;
            }
            bond.orphaned = candidates
                .iter()
                .any(|seen| seen.object == object && seen.fd == slot.fd && seen.class == bond.owner.class);
            bond.orphaned
        });
    }

    /// An object holds no number any more.
    pub(super) fn let_go(&mut self, tgid: u32, seen: &Sighting) {
        for candidate in seen.candidates.iter().flatten().filter(|candidate| candidate.fd < 0) {
            self.break_bond((tgid, candidate.object));
        }
    }

    /// Nobody looked at who closed this number. It may have been an object that was left behind: it would be gone, and its
    /// address another's.
    pub(super) fn may_have_let_go(&mut self, tgid: u32, slot: SlotId) {
        self.retain(slot, |(process, _), bond| process != tgid || !bond.orphaned);
    }

    /// All others of a generation have let go without a call.
    pub(super) fn only(&mut self, tgid: u32, slot: SlotId, number: u32, keep: [Option<u64>; 2]) {
        self.retain(slot, |(process, object), bond| {
            process != tgid || bond.number != number || bond.orphaned || keep.contains(&Some(object))
        });
    }

    /// `dup2` put something else where the objects' number points to: they own that now.
    pub(super) fn replaced(&mut self, tgid: u32, slot: SlotId, old: u32, new: u32) {
        self.retain(slot, |(process, _), bond| {
            if process == tgid && bond.number == old && !bond.orphaned {
                bond.number = new;
            }
            true
        });
    }

    pub(super) fn forget(&mut self, tgid: u32) {
        let objects: Vec<ObjectId> =
            self.bonds.range((tgid, 0)..=(tgid, u64::MAX)).map(|(object, _)| *object).collect();
        objects.into_iter().for_each(|object| self.break_bond(object));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::table::TableId;

    const TGID: u32 = 7;
    const SLOT: SlotId = SlotId { table: TableId(1), fd: 3 };

    fn class() -> Rc<OwnerClass> {
        Rc::new(OwnerClass { address: 0x100, name: b"_io.FileIO"[..].into() })
    }

    /// What is seen of a call while the object at 0x1000 holds `fd`.
    fn seen(fd: i32) -> Sighting {
        let candidate = Candidate { object: 0x1000, class: class(), fd, in_register: true };
        Sighting {
            python: Vec::new(),
            cut: false,
            task: None,
            candidates: Some(vec![candidate]),
            native: None,
            native_site: None,
            variable: None,
            followed: false,
        }
    }

    /// Generation 1 was closed while its owner held the number, and generation 2 is there.
    fn left_behind() -> Owners {
        let mut owners = Owners::default();
        assert!(owners.bind(TGID, 0x1000, &class(), SLOT, 1, 0).is_some());
        owners.ended(SLOT, 1, Some(&seen(3)));
        owners
    }

    #[test]
    fn one_that_was_left_behind_is_who_closes_late() {
        let part = left_behind().closing(TGID, SLOT, Some(2), &seen(-1));
        assert_eq!(part.by.map(|(owner, bound)| (owner.object, bound)), Some((0x1000, 1)));
    }

    #[test]
    fn after_a_close_that_nobody_looked_at_its_address_proves_nothing() {
        let mut owners = left_behind();
        owners.may_have_let_go(TGID + 1, SLOT);
        assert!(owners.closing(TGID, SLOT, Some(2), &seen(-1)).by.is_some(), "that was another process");
        owners.may_have_let_go(TGID, SLOT);
        assert!(owners.closing(TGID, SLOT, Some(3), &seen(-1)).by.is_none());
    }
}
