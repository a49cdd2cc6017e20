//! What an event did to the world, for the rules.

use std::rc::Rc;

use crate::{
    event::{EpollListed, EpollOp, Moment},
    order::{How, Stamp},
    who::owner::Owner,
};

use super::{
    description::Serial,
    epoll::Entry,
    table::{SlotId, TableId},
};

/// What an event did to the world. Details are in the [`World`], under the keys given here.
#[derive(Debug)]
pub enum Change {
    /// A new generation.
    Installed {
        slot: SlotId,
        number: u32,
        by: Rc<Stamp>,
    },
    /// A generation ended. `late`: the slot has had another occupant since.
    Removed {
        slot: SlotId,
        number: u32,
        how: How,
        by: Rc<Stamp>,
        late: bool,
    },
    /// A call failed with `EBADF`. `met`: the dead generations that its numbers had, and whether that is certain.
    BadFd {
        table: TableId,
        by: Rc<Stamp>,
        met: Vec<Met>,
    },
    /// An epoll interest list was edited, or was to be. `entry`: the registration that was added, changed or removed.
    EpollCtl {
        epoll: Serial,
        slot: SlotId,
        op: EpollOp,
        fd: i32,
        entry: Option<Entry>,
        by: Rc<Stamp>,
    },
    /// Somebody waited on an epoll instance. `ready`: the events that were delivered, as far as they were recorded.
    EpollWait {
        epoll: Serial,
        slot: SlotId,
        ready: Vec<(u32, u64)>,
        by: Rc<Stamp>,
    },
    /// The kernel's own list of an instance's entries was read.
    EpollListed {
        epoll: Serial,
        slot: SlotId,
        rows: Vec<EpollListed>,
    },
    /// Status flags of the description in a slot were set.
    FlagsSet {
        slot: SlotId,
        number: u32,
        flags: u32,
        /// Those that it had; `None`: not known.
        before: Option<u32>,
        by: Rc<Stamp>,
    },
    /// A record lock was taken through a slot, or given back.
    Locked {
        slot: SlotId,
        number: u32,
        unlock: bool,
        by: Rc<Stamp>,
    },
    /// A call that changes nothing was reported: it blocked, or somebody had asked for it. `number`: the generation that
    /// was in the slot when it began.
    Used {
        slot: SlotId,
        number: u32,
        by: Rc<Stamp>,
    },
    /// A number was put over itself, by `dup2`: whoever does that wants this file to have this number.
    Itself {
        slot: SlotId,
        number: u32,
        by: Rc<Stamp>,
    },
    /// Close-on-exec was set or cleared by a call.
    Cloexec {
        slot: SlotId,
        number: u32,
        on: bool,
        by: Rc<Stamp>,
    },
    /// A call found no free number (`EMFILE`) or no room for another file (`ENFILE`).
    NoRoom {
        table: TableId,
        by: Rc<Stamp>,
    },
    /// An object was seen to own a generation; `other` does as well.
    Bound {
        slot: SlotId,
        number: u32,
        owner: Rc<Owner>,
        other: Option<Rc<Owner>>,
        at: Moment,
        process: u32,
    },
    Forked {
        parent: u32,
        child: u32,
        table: TableId,
    },
    Execed {
        process: u32,
    },
    /// The process is gone, and with it its hold on its tables.
    Exited {
        process: u32,
        at: Moment,
    },
    /// Nobody uses the table any more.
    TableDied {
        table: TableId,
    },
    /// Events are missing.
    Lost {
        since: u64,
        until: u64,
    },
    /// What the kernel's tables say and the events do not explain.
    Healed {
        table: TableId,
        since: u64,
    },
}

/// A dead generation that a call met.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    pub slot: SlotId,
    pub number: u32,
    pub certain: bool,
}
