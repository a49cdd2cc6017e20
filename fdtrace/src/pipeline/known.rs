//! Stacks that were met before. The kernel side is told by which words it recognises them, and then sends their number
//! instead of a copy: what was found out of them is kept here.
//!
//! A number whose stack is forgotten stands for nothing: such a call has no native frames, rather than a stranger's.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    rc::Rc,
};

use fdtrace_common::{
    wire::TracedProcess,
    witness::{KNOWN_STACKS, KnownStack, STACK_VARIANTS, StackKey},
};

use super::relative::{self, Bases};
use crate::who::sighting::Unwound;

/// Stacks that are known at most. Less than the kernel side has room for, which makes room before it is full.
const MOST: usize = KNOWN_STACKS as usize / 4 * 3;
/// Stacks of which it is remembered that they were met, in each of two halves.
const MET_MOST: usize = 1 << 14;
/// Copies of a known stack after which the kernel side is told again: it may have forgotten.
const TELL_AGAIN: u32 = 4;

/// A static variable.
#[derive(Clone)]
pub(super) struct Variable {
    pub(super) address: u64,
    /// It is the program's own, and no library's.
    pub(super) in_program: bool,
    pub(super) name: Rc<str>,
}

/// What is found out of a stack, of which nothing is kept but this.
pub(super) struct Stack {
    /// In the terms of the process that had it first.
    pub(super) unwound: Unwound,
    pub(super) bases: Bases,
    /// See [`KnownStack::by_program`].
    by_program: bool,
    /// One of [`fdtrace_common::witness::caller`], once somebody has asked.
    pub(super) caller: Option<u32>,
    /// The variable that keeps what a call from here returns, and whether it is known where that goes; once somebody has
    /// asked.
    pub(super) keeper: Option<(Option<Variable>, bool)>,
}

impl Stack {
    pub(super) fn new(unwound: Unwound, bases: Bases, by_program: bool) -> Self {
        Self { unwound, bases, by_program, caller: None, keeper: None }
    }
}

/// What the kernel side is to be told.
pub(super) enum Change {
    Add(StackKey, Box<KnownStack>),
    Remove(StackKey),
}

struct Entry {
    key: StackKey,
    stack: Stack,
    /// Tells its basis from those of others with the same key.
    basis: u64,
    /// Copies of it that came since the kernel side was told.
    copies: u32,
    /// It was met since room was last made.
    used: bool,
}

/// Stacks by place and depth.
type Places = HashMap<(u64, u64), Vec<u64>>;

#[derive(Default)]
pub(super) struct Known {
    stacks: HashMap<u64, Entry>,
    /// Those of each layout: see [`fdtrace_common::wire::TracedProcess::layout`].
    places: HashMap<u64, Places>,
    /// The layout of each process, as it was last told.
    layouts: HashMap<u32, u64>,
    /// The last number given.
    last: u64,
    /// Stacks that were met once, as hashes; and before them.
    met: HashSet<u64>,
    met_before: HashSet<u64>,
    changes: Vec<Change>,
    hasher: RandomState,
    /// Stacks that came as a number, and as a copy.
    pub(super) recognised: u64,
    pub(super) copied: u64,
}

impl Known {
    /// The stack that the kernel side has recognised.
    pub(super) fn get(&mut self, layout: u64, number: u64) -> Option<&mut Stack> {
        let entry = self.stacks.get_mut(&number).filter(|entry| entry.key.layout == layout)?;
        entry.used = true;
        self.recognised += 1;
        Some(&mut entry.stack)
    }

    /// A copy of a stack came from a process and was unwound; `stack` is what is kept of it if it becomes known.
    pub(super) fn met(&mut self, tgid: u32, key: StackKey, words: &[(u32, u64)], stack: impl FnOnce() -> Stack) {
        if self.layouts.get(&tgid) != Some(&key.layout) {
            self.ended(tgid);
            self.layouts.insert(tgid, key.layout);
        }
        let hash = self.hasher.hash_one((key.place, key.below, key.layout, words));
        if !self.met_before.contains(&hash) && self.met.insert(hash) {
            if self.met.len() >= MET_MOST {
                self.met_before = std::mem::take(&mut self.met);
            }
            return;
        }
        if self.came_again(key, hash, words) {
            return;
        }
        if self.stacks.len() >= MOST {
            self.make_room();
        }
        let place = self.places.entry(key.layout).or_default().entry((key.place, key.below)).or_default();
        let Some(variant) = u32::try_from(place.len()).ok().filter(|&count| count < STACK_VARIANTS) else { return };
        let key = StackKey { variant, ..key };
        self.last += 1;
        place.push(self.last);
        let stack = stack();
        self.changes.push(Change::Add(key, Box::new(known(self.last, words, &stack))));
        let entry = Entry { key, stack, basis: hash, copies: 0, used: true };
        self.stacks.insert(self.last, entry);
    }

    /// A copy of one that is known came: it was under way when the kernel side was told, or that has forgotten.
    fn came_again(&mut self, key: StackKey, hash: u64, words: &[(u32, u64)]) -> bool {
        let Self { stacks, places, changes, .. } = self;
        let Some(place) = places.get(&key.layout).and_then(|places| places.get(&(key.place, key.below))) else {
            return false;
        };
        for number in place {
            let Some(entry) = stacks.get_mut(number).filter(|entry| entry.basis == hash) else { continue };
            entry.copies += 1;
            if entry.copies >= TELL_AGAIN && entry.copies.is_power_of_two() {
                changes.push(Change::Add(entry.key, Box::new(known(*number, words, &entry.stack))));
            }
            return true;
        }
        false
    }

    /// A process has a copy.
    pub(super) fn forked(&mut self, parent: u32, child: u32) {
        if let Some(layout) = self.layouts.get(&parent).copied() {
            self.layouts.insert(child, layout);
        }
    }

    /// A process has no longer the layout that it had, or has ended: the stacks are of no use if it was the last that had
    /// it, and no other one will.
    pub(super) fn ended(&mut self, tgid: u32) {
        let Some(layout) = self.layouts.remove(&tgid) else { return };
        if layout & TracedProcess::SHARED == 0
            && self.places.contains_key(&layout)
            && !self.layouts.values().any(|other| *other == layout)
        {
            self.retain(layout, |_| false);
        }
    }

    /// What the kernel side has to be told since this was last asked.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Forgets what was not met lately; and if that is not half of it, all.
    fn make_room(&mut self) {
        let used = self.stacks.values().filter(|entry| entry.used).count();
        let keep = used <= MOST / 2;
        for layout in self.places.keys().copied().collect::<Vec<_>>() {
            self.retain(layout, |entry| keep && entry.used);
        }
        for entry in self.stacks.values_mut() {
            entry.used = false;
        }
    }

    /// Keeps the places of a layout with a stack of which `keep` says so: the kernel side asks for the first one of a place
    /// first, and for no second one without it.
    fn retain(&mut self, layout: u64, keep: impl Fn(&Entry) -> bool) {
        let Self { stacks, changes, places, .. } = self;
        let Some(there) = places.get_mut(&layout) else { return };
        there.retain(|_, numbers| {
            if numbers.iter().any(|number| stacks.get(number).is_some_and(&keep)) {
                return true;
            }
            let gone = numbers.iter().filter_map(|number| stacks.remove(number));
            changes.extend(gone.map(|entry| Change::Remove(entry.key)));
            false
        });
        if there.is_empty() {
            places.remove(&layout);
        }
    }
}

/// How the kernel side recognises a stack.
fn known(number: u64, words: &[(u32, u64)], stack: &Stack) -> KnownStack {
    let by_program = u32::from(stack.by_program);
    let mut known = KnownStack { number, by_program, span: relative::span(words), ..KnownStack::default() };
    let rooms = known.words.iter_mut().zip(&mut known.offsets);
    for (&(offset, word), (word_room, offset_room)) in words.iter().zip(rooms) {
        (*word_room, *offset_room) = (word, offset);
        known.count += 1;
    }
    known
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::who::native::{AddressSpace, End, Frame};

    const CODE: u64 = 0x40_1000;

    const LAYOUT: u64 = 3;

    fn at(below: u64) -> StackKey {
        StackKey { place: CODE, below, layout: LAYOUT, ..StackKey::default() }
    }

    fn unwound() -> Unwound {
        let frame = Frame { address: CODE + 8, module: Some(0), is_return_address: true, by_frame_pointer: false };
        Unwound { space: Rc::new(RefCell::new(AddressSpace::empty(1))), frames: [frame].into(), end: End::Complete }
    }

    /// Meets a stack with these words, and returns what the kernel side is told of: added variants and their numbers, and how
    /// many are removed.
    fn meet(known: &mut Known, key: StackKey, words: &[(u32, u64)]) -> (Vec<(u32, u64)>, usize) {
        known.met(7, key, words, || Stack::new(unwound(), Bases::default(), false));
        told(known)
    }

    fn told(known: &mut Known) -> (Vec<(u32, u64)>, usize) {
        let changes = known.changes();
        let added = changes.iter().filter_map(|change| match change {
            Change::Add(key, stack) => Some((key.variant, stack.number)),
            Change::Remove(_) => None,
        });
        let added: Vec<_> = added.collect();
        let removed = changes.len() - added.len();
        (added, removed)
    }

    #[test]
    fn the_second_time() {
        let mut known = Known::default();
        assert_eq!(meet(&mut known, at(64), &[(8, 1)]), (vec![], 0));
        assert_eq!(meet(&mut known, at(64), &[(8, 2)]), (vec![], 0));
        assert_eq!(meet(&mut known, at(64), &[(8, 1)]), (vec![(0, 1)], 0));
        assert_eq!(meet(&mut known, at(64), &[(8, 2)]), (vec![(1, 2)], 0));
        assert!(known.get(LAYOUT, 1).is_some() && known.get(LAYOUT, 2).is_some());
        // No other layout has it, and nobody has what was not given.
        assert!(known.get(4, 1).is_none() && known.get(LAYOUT, 3).is_none());
        // Those that were under way do not have it told each time.
        let again: usize = (0..64).map(|_| meet(&mut known, at(64), &[(8, 1)]).0.len()).sum();
        assert_eq!(again, 5);
    }

    #[test]
    fn no_more_than_the_kernel_side_asks_for() {
        let mut known = Known::default();
        let variants = (0..6).flat_map(|value| {
            meet(&mut known, at(64), &[(8, value)]);
            meet(&mut known, at(64), &[(8, value)]).0
        });
        assert_eq!(variants.map(|(variant, _)| variant).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn another_layout() {
        let mut known = Known::default();
        meet(&mut known, at(64), &[(8, 1)]);
        meet(&mut known, at(64), &[(8, 1)]);
        known.forked(7, 8);
        let other = StackKey { layout: 4, ..at(64) };
        assert_eq!(meet(&mut known, other, &[(8, 1)]), (vec![], 0));
        assert_eq!(meet(&mut known, other, &[(8, 1)]), (vec![(0, 2)], 0));
        // The copy still has the first one.
        assert!(known.get(LAYOUT, 1).is_some() && known.get(4, 1).is_none());
        known.ended(8);
        assert_eq!(told(&mut known), (vec![], 1));
    }

    #[test]
    fn what_is_gone_stands_for_nothing() {
        for (news, stays) in [
            (Box::new(|known: &mut Known| known.ended(7)) as Box<dyn Fn(&mut Known)>, false),
            (Box::new(|known| known.ended(8)), true),
            (Box::new(|known| (known.forked(7, 8), known.ended(7)).1), true),
            (Box::new(|known| (known.forked(7, 8), known.ended(7), known.ended(8)).2), false),
        ] {
            let mut known = Known::default();
            meet(&mut known, at(64), &[(8, 1)]);
            meet(&mut known, at(64), &[(8, 1)]);
            news(&mut known);
            assert_eq!(known.get(LAYOUT, 1).is_some(), stays);
            assert_eq!(told(&mut known), (vec![], usize::from(!stays)));
        }
    }

    #[test]
    fn room_is_made_by_forgetting_what_was_not_met() {
        let mut known = Known::default();
        let mut removed = 0;
        for sp in 0..2 * MOST as u64 {
            meet(&mut known, at(sp), &[(8, 1)]);
            removed += meet(&mut known, at(sp), &[(8, 1)]).1;
            // The first one is in use all the time.
            assert!(known.get(LAYOUT, 1).is_some() || removed > 0);
            assert!(known.stacks.len() <= MOST);
        }
        assert!(removed >= MOST);
        assert_eq!(known.stacks.len(), known.places[&LAYOUT].len());
    }

    #[test]
    fn a_copy_of_one_that_is_known_forgets_nothing() {
        let mut known = Known::default();
        for sp in 0..MOST as u64 {
            meet(&mut known, at(sp), &[(8, 1)]);
            meet(&mut known, at(sp), &[(8, 1)]);
        }
        assert_eq!(known.stacks.len(), MOST);
        assert_eq!(meet(&mut known, at(7), &[(8, 1)]), (vec![], 0));
        assert_eq!(known.stacks.len(), MOST);
    }

    #[test]
    fn what_others_have_too_stays() {
        let mut known = Known::default();
        let shared = StackKey { layout: LAYOUT | TracedProcess::SHARED, ..at(64) };
        meet(&mut known, shared, &[(8, 1)]);
        meet(&mut known, shared, &[(8, 1)]);
        known.ended(7);
        assert_eq!(told(&mut known), (vec![], 0));
        assert!(known.get(shared.layout, 1).is_some());
    }

    #[test]
    fn the_words_and_the_frame_pointer_are_told() {
        let known = known(9, &[(KnownStack::BP, 7), (24, 5), (8, 6)], &Stack::new(unwound(), Bases::default(), true));
        assert_eq!((known.number, known.count, known.span, known.by_program), (9, 3, 32, 1));
        assert_eq!(
            (known.offsets[..3].to_vec(), known.words[..3].to_vec()),
            (vec![KnownStack::BP, 24, 8], vec![7, 5, 6])
        );
    }
}
