//! The rules: changes of the world in, findings out. One file per family of rules; each rule is documented where it is
//! written.
//!
//! Like the model, rules read no clock and no file, and a finding over a window that lost events is never `proven`.

mod close;
mod epoll;
pub(crate) mod evidence;
pub mod finding;
mod owner;
pub mod rules;

use std::collections::HashMap;

use crate::model::{Change, World, description::Serial, table::SlotId};

use finding::Finding;

/// What findings with one root cause have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    /// This generation ended while somebody counted on it.
    Generation(SlotId, u32),
    /// This epoll instance is edited from two tables.
    Epoll(Serial),
}

/// Numbers the incidents.
#[derive(Debug, Default)]
struct Incidents {
    known: HashMap<Cause, u64>,
    last: u64,
}

impl Incidents {
    fn number(&mut self, cause: Cause) -> u64 {
        *self.known.entry(cause).or_insert_with(|| {
            self.last += 1;
            self.last
        })
    }

    /// What has this cause belongs to an incident that began elsewhere.
    fn join(&mut self, cause: Cause, incident: u64) {
        self.known.insert(cause, incident);
    }
}

/// All rules and what they remember.
#[derive(Debug, Default)]
pub struct Detector {
    incidents: Incidents,
    close: close::Rules,
    epoll: epoll::Rules,
    owner: owner::Rules,
}

impl Detector {
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at one change; the world is as it is after the event that caused it.
    pub fn on(&mut self, change: &Change, world: &World, findings: &mut Vec<Finding>) {
        self.owner.on(change, world, &mut self.incidents, findings);
        self.close.on(change, world, &mut self.incidents, findings);
        self.epoll.on(change, world, &mut self.incidents, findings);
    }

    /// Time has passed: what waited for it is decided.
    pub fn tick(&mut self, world: &World, findings: &mut Vec<Finding>) {
        self.close.tick(world, findings);
    }

    /// Nothing more will come.
    pub fn finish(&mut self, world: &World, findings: &mut Vec<Finding>) {
        self.close.finish(findings);
        self.epoll.finish(world, &mut self.incidents, findings);
    }
}
