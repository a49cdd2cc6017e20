//! `close-after-eintr`: a close that had failed was tried again.
//!
//! Linux frees the number before anything of a close can fail, so every result but `EBADF` means closed, and a second
//! close is one too many: it closes nothing, or what has taken the number since.
//!
//! *Proof.* Two calls of one thread, and nothing else: a close of a live number that failed with anything but `EBADF`, and
//! a close of the same number in the same table, with no install in that slot by this thread between them.
//!
//! *Benign look-alikes.* A failed close, then an open by this thread that gives the same number, then its close: the
//! install clears the memory of the failure.

use std::rc::Rc;

use crate::{
    collections::Map,
    model::{
        Change, World,
        table::{SlotId, TableId},
    },
    order::{How, Stamp},
};

use super::{
    Cause, Out,
    evidence::{self, act, history, mark},
    finding::{Confidence, Finding, Role, Verb},
};

/// Failed closes that are remembered; a program that has more has another problem.
const REMEMBERED: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Closes that failed and took the number all the same, by thread and number.
    failed: Map<(u32, SlotId), Failed>,
}

#[derive(Debug)]
struct Failed {
    number: u32,
    by: Rc<Stamp>,
}

impl Rules {
    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Removed { slot, number, how: How::Closed, by, .. } if by.is("close") => {
                if let Some(failed) = self.failed.remove(&(by.tid, *slot)) {
                    tell(&failed, *slot, Some(*number), by, world, out);
                }
                if by.ret < 0 && self.failed.len() < REMEMBERED {
                    self.failed.insert((by.tid, *slot), Failed { number: *number, by: Rc::clone(by) });
                }
            }
            Change::BadFd { table, by, .. } if by.is("close") => {
                let slot = SlotId { table: *table, fd: crate::syscalls::fd(by.args[0]) };
                if let Some(failed) = self.failed.remove(&(by.tid, slot)) {
                    tell(&failed, slot, None, by, world, out);
                }
            }
            Change::Installed { slot, by, .. } if !self.failed.is_empty() => {
                self.failed.remove(&(by.tid, *slot));
            }
            Change::TableDied { table } => self.forget(*table),
            _ => {}
        }
    }

    fn forget(&mut self, table: TableId) {
        self.failed.retain(|(_, slot), _| slot.table != table);
    }
}

/// `hit`: the generation that the second close ended.
fn tell(failed: &Failed, slot: SlotId, hit: Option<u32>, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
    let Some(table) = world.tables.get(&slot.table) else { return };
    let fd = slot.fd;
    let complete = table.complete_since(failed.by.at.exit.time);
    let first = act(&failed.by, fd, Verb::Closed)
        .of_generation(failed.number)
        .with_role(Role::RootCause, "failed, and the number was free all the same");
    let error = first.error.unwrap_or("an error");
    let (result, remark) = match hit {
        Some(_) => ("and ended the file that had taken the number since", "took the number from its new owner"),
        None => ("and found it free", "closed nothing, by luck"),
    };
    let culprit =
        act(by, fd, Verb::Closed).of_generation(hit.unwrap_or(failed.number)).with_role(Role::Culprit, remark);
    let mut timeline = history(world, slot, failed.number..=hit.unwrap_or(failed.number));
    mark(&mut timeline, &first);
    if hit.is_some() {
        mark(&mut timeline, &culprit);
    } else {
        timeline.push(culprit.clone());
    }
    let incident = out.incidents.number(Cause::Generation(slot, failed.number));
    let base = evidence::finding("close-after-eintr", incident, by, fd, world);
    out.findings.push(Finding {
        confidence: if complete { Confidence::Proven } else { Confidence::Possible },
        generation: Some(failed.number),
        message: format!("close of fd {fd} failed with {error} and was tried again, {result}"),
        culprit: Some(culprit),
        root_cause: Some(first),
        timeline,
        complete,
        ..base
    });
}
