//! Epoll instances as the kernel holds them: entries keyed by (description, number).
//!
//! An entry belongs to the description, not to the number under which it was added: it survives `close` while a dup or a
//! forked copy is open, and vanishes with the last reference.
//! <https://github.com/torvalds/linux/blob/v6.12/fs/eventpoll.c#L170>

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    model::{
        description::{Description, Serial},
        table::{SlotId, TableId},
    },
    order::Stamp,
};

#[derive(Clone, Debug)]
pub struct Entry {
    pub target: Rc<Description>,
    pub fd: i32,
    pub events: u32,
    pub data: u64,
    /// Table through which it was added; `None`: it was there before.
    pub table: Option<TableId>,
    pub added: Option<Rc<Stamp>>,
}

#[derive(Debug)]
pub struct Epoll {
    pub description: Rc<Description>,
    /// Table through which it was created; `None`: before the trace.
    pub creator: Option<TableId>,
    pub entries: BTreeMap<(Serial, i32), Entry>,
    /// While its entries are being listed: those that the listing has not confirmed yet.
    pub(super) listed: BTreeMap<(Serial, i32), Entry>,
    /// What the listing has told and which of these it is cannot be said yet.
    pub(super) unclear: Vec<Listed>,
    /// Its entries from before the trace have been asked for.
    pub asked: bool,
    /// Last edit or wait through each table that has used it.
    pub users: BTreeMap<TableId, Use>,
}

/// An entry as the kernel lists it, of [`crate::event::What::EpollEntry`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub fd: i32,
    pub events: u32,
    pub data: u64,
    pub inode: u64,
    pub dev: u32,
    /// A number means its file: `held`, or else its own. `None`: the kernel would not tell.
    pub same: Option<bool>,
    pub held: Option<SlotId>,
}

/// The last time that a table used an instance.
#[derive(Clone, Debug, Default)]
pub struct Use {
    pub edited: Option<Rc<Stamp>>,
    pub waited: Option<Rc<Stamp>>,
}

impl Epoll {
    pub fn new(description: Rc<Description>, creator: Option<TableId>) -> Self {
        Self {
            description,
            creator,
            entries: BTreeMap::new(),
            listed: BTreeMap::new(),
            unclear: Vec::new(),
            asked: false,
            users: BTreeMap::new(),
        }
    }
}
