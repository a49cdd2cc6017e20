//! `stdio-recycled`: 0, 1 or 2 became another file, and a program that knows nothing of it writes there.
//!
//! *Proof.* A standard number was closed, an open got it, and a program that was started by exec with the number open
//! writes to it: it cannot know it as anything but stdio. Reported for files that such writing spoils: regular files open
//! for reading *and* writing, and sockets.
//!
//! *Benign look-alikes.* `</dev/null` by close and open, `>log`, terminals, pipes, devices: not of these kinds. A socket or
//! file put there by `dup2` was put there on purpose, as inetd does.

use std::rc::Rc;

use crate::{
    collections::{Map, Told},
    model::{
        Change, World,
        description::{Description, Kind, Serial},
        table::{Origin, SlotId},
    },
    order::Stamp,
};

use super::{
    Cause, Out, Want,
    evidence::{self, act, object},
    finding::{Confidence, Finding, Role, Verb},
};

const O_ACCMODE: u32 = 3;
const O_RDWR: u32 = 2;
/// Uses of a recycled standard number that are looked at.
const USES: u32 = 64;
const REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// What came to a standard number by an open.
    recycled: Map<Serial, Recycled>,
    told: Told<Serial, REMEMBERED>,
}

#[derive(Debug)]
struct Recycled {
    fd: i32,
    description: Rc<Description>,
    by: Rc<Stamp>,
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.told.forgotten()
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Installed { slot, by, .. } if (0..=2).contains(&slot.fd) && by.sys.is_some() => {
                let Some(live) = world.slot(*slot).and_then(|slot| slot.live()) else { return };
                let description = &live.data.description;
                if live.data.origin == Origin::Opened && spoils(description) && self.recycled.len() < REMEMBERED {
                    let description = Rc::clone(description);
                    out.wants.push(Want::Turns { file: description.file, fd: slot.fd, times: USES, every: 0 });
                    let recycled = Recycled { fd: slot.fd, description, by: Rc::clone(by) };
                    self.recycled.insert(recycled.description.serial, recycled);
                }
            }
            Change::Used { slot, number, by } if !self.recycled.is_empty() && (1..=2).contains(&slot.fd) => {
                self.used(*slot, *number, by, world, out);
            }
            Change::TableDied { .. } => {
                self.recycled.retain(|_, recycled| recycled.description.holders.get() > 0);
            }
            _ => {}
        }
    }

    fn used(&mut self, slot: SlotId, number: u32, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let writes = by.sys.is_some_and(|sys| matches!(sys.name, "write" | "writev" | "sendto" | "sendmsg"));
        let Some(life) = world.slot(slot).and_then(|slot| slot.life(number)) else { return };
        let serial = life.data.description.serial;
        let Some(recycled) = self.recycled.get(&serial) else { return };
        // A program that began after the number was recycled, and did not open it itself.
        let began = evidence::program_began(by.tgid, world);
        let inherited = began.is_some_and(|began| began.pos > recycled.by.at.exit.pos);
        if !writes || by.ret <= 0 || !inherited || !self.told.insert(serial) {
            return;
        }
        let complete =
            world.tables.get(&slot.table).is_some_and(|table| table.complete_since(recycled.by.at.exit.time));
        let mut culprit = act(&recycled.by, recycled.fd, Verb::Opened)
            .with_role(Role::Culprit, "the standard number was closed, so the next open got it");
        culprit.object = object(&recycled.description);
        let mut victim = act(by, slot.fd, Verb::Used)
            .of_generation(number)
            .with_role(Role::Victim, "writes what it believes to be stdio");
        victim.object = object(&recycled.description);
        let incident = out.incidents.number(Cause::Description(serial));
        out.findings.push(Finding {
            confidence: if complete { Confidence::Proven } else { Confidence::Possible },
            generation: Some(number),
            message: format!(
                "{} wrote {} bytes to fd {}, which is {}: the standard number was closed when that was opened",
                evidence::shown_process(world, by.tgid),
                by.ret,
                slot.fd,
                evidence::shown(&recycled.description)
            ),
            timeline: vec![culprit.clone(), victim.clone()],
            culprit: Some(culprit),
            victim: Some(victim),
            complete,
            ..evidence::finding("stdio-recycled", incident, by, slot.fd, world)
        });
    }
}

/// Does a stray message do harm in it?
fn spoils(description: &Description) -> bool {
    let Some(details) = description.details() else { return false };
    match details.kind {
        Kind::File => details.info.flags & O_ACCMODE == O_RDWR,
        Kind::Socket { .. } => true,
        _ => false,
    }
}
