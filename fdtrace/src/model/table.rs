//! One kernel `files_struct`: slots, and who uses them.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use crate::{
    event::{Interval, Moment, TableAddr},
    model::description::Description,
    order::{Slot, Stamp},
    who::owner::Owner,
};

/// Our own name for a table, because the kernel's address of one is recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId {
    pub table: TableId,
    pub fd: i32,
}

/// One life of a slot, as the model sees it. Its number, birth and end are in [`crate::order::Life`].
#[derive(Debug)]
pub struct Generation {
    pub description: Rc<Description>,
    pub cloexec: bool,
    /// Ring position at which the last call that marked it so, or not so, returned.
    marked: u64,
    pub origin: Origin,
    pub by: Option<Rc<Stamp>>,
    /// The description that it was seen with before another one turned out to fit, and the ring position until which the
    /// first one was possible: see [`super::identity`].
    pub first: Option<(Rc<Description>, u64)>,
    /// The first object that was seen to own it.
    pub owner: OnceCell<Rc<Owner>>,
}

impl Generation {
    pub fn new(description: Rc<Description>, cloexec: bool, origin: Origin, by: Option<Rc<Stamp>>) -> Self {
        Self { description, cloexec, marked: 0, origin, by, first: None, owner: OnceCell::new() }
    }

    /// A call marks it as close-on-exec, or as not. `false`: another call was at it, and which came last is told by the
    /// kernel's table only.
    pub(super) fn mark(&mut self, cloexec: bool, at: Interval) -> bool {
        let raced = self.cloexec != cloexec && self.is_marked_since(at.start());
        self.cloexec = cloexec;
        self.marked = self.marked.max(at.exit.pos);
        !raced
    }

    /// May a call have marked it at that ring position or later?
    pub(super) fn is_marked_since(&self, pos: u64) -> bool {
        self.marked != 0 && self.marked >= pos
    }
}

/// How a generation came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Opened,
    /// From another number of the same table.
    Duplicated {
        from: i32,
    },
    /// Copied with the table: fork, or a thread that left its table.
    Inherited {
        from: TableId,
        generation: u32,
    },
    /// From another table, in a message or through a pidfd.
    Received,
    /// Open when the trace began.
    AlreadyOpen,
    /// Found in the table; how it got there was not seen.
    Unseen,
}

/// How a table came to be.
#[derive(Clone, Debug)]
pub enum Lineage {
    /// Copied from `from`.
    Copied { from: TableId, at: Moment },
    /// It was there before the trace.
    Found,
}

#[derive(Debug)]
pub struct Table {
    pub id: TableId,
    pub addr: TableAddr,
    /// Boxed, because numbers come in ascending order, and a tree that is filled so is half empty.
    pub slots: BTreeMap<i32, Box<Slot<Generation>>>,
    /// Processes with a task that uses it, and how many of their tasks do.
    users: BTreeMap<u32, usize>,
    /// Tasks that use it.
    tasks: BTreeSet<u32>,
    /// Copies of it whose rows are on their way: until they are there, it is looked at.
    pub(super) copied: u32,
    pub lineage: Lineage,
    /// Just above the ring position of the last call that changed it; 0: none.
    pub(super) changed: u64,
    /// The same of the last one that did something to a range of numbers.
    pub(super) swept: u64,
    /// Events are missing up to here.
    pub lost_until: Option<u64>,
    /// Events are missing since then and the kernel's table has not been read again.
    pub uncertain_since: Option<u64>,
    /// A snapshot of it has been completed.
    pub read: bool,
}

impl Table {
    pub fn new(id: TableId, addr: TableAddr, lineage: Lineage) -> Self {
        Self {
            id,
            addr,
            slots: BTreeMap::new(),
            users: BTreeMap::new(),
            tasks: BTreeSet::new(),
            copied: 0,
            lineage,
            changed: 0,
            swept: 0,
            lost_until: None,
            uncertain_since: None,
            read: false,
        }
    }

    pub(super) fn join(&mut self, tgid: u32, tid: u32) {
        if self.tasks.insert(tid) {
            *self.users.entry(tgid).or_default() += 1;
        }
    }

    pub(super) fn leave(&mut self, tgid: u32, tid: u32) {
        if self.tasks.remove(&tid)
            && let Some(count) = self.users.get_mut(&tgid)
        {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&tgid);
            }
        }
    }

    /// Its tasks, of all its processes.
    pub fn tasks(&self) -> &BTreeSet<u32> {
        &self.tasks
    }

    /// Processes with a task that uses it.
    pub fn users(&self) -> impl Iterator<Item = u32> {
        self.users.keys().copied()
    }

    pub fn is_used_by(&self, tgid: u32) -> bool {
        self.users.contains_key(&tgid)
    }

    pub fn alive(&self) -> bool {
        !self.users.is_empty()
    }

    pub fn slot_mut(&mut self, fd: i32) -> &mut Slot<Generation> {
        self.slots.entry(fd).or_default()
    }

    /// Open descriptors, in order.
    pub fn open(&self) -> impl Iterator<Item = (i32, &crate::order::Life<Generation>)> {
        self.slots.iter().filter_map(|(fd, slot)| Some((*fd, slot.live()?)))
    }

    /// Nothing is missing from what is known since `time`.
    pub fn complete_since(&self, time: u64) -> bool {
        self.uncertain_since.is_none() && self.lost_until.is_none_or(|lost| lost < time)
    }
}
