//! Replaced while needed: `clobbered-fd` and `saved-fd-overwritten`.
//!
//! * `clobbered-fd`: `dup2` or `dup3` put a file over a live number, 3 or higher, that belongs to somebody else. That it was
//!   live is proven by the call; that somebody needed it is *proven* when a later call through the number fails because of
//!   the kind of the new file, and *likely* if another thread had opened the old one, of another kind, and the process
//!   neither runs another program within a second nor has a copy of the old one. *Look-alikes.* 0, 1 and 2; the shuffling
//!   of numbers before an exec; a number whose old file was saved under another one; a file of the same kind, or the
//!   null device, put over a number that its owner gives up; redirections of numbers that had been assigned by `dup2`.
//! * `saved-fd-overwritten`: `saved = dup(n)`, something else is put over `saved`, and then `dup2(saved, n)` puts that on
//!   `n`. *Proof.* By description: what lands in `n` is not what was copied from it, and the copy had not been put back
//!   before. *Look-alikes.* Numbers that were chosen (`dup2(n, 9)`) and not given by the kernel may be assigned anew.

use std::rc::Rc;

use fdtrace_common::wire::Watch;

use crate::{
    collections::Told,
    model::{
        Change, World,
        description::{Description, Kind},
        table::{Generation, Origin, SlotId},
    },
    order::{How, Life, Stamp},
    syscalls::fd,
};

use super::{
    Cause, Out, Want,
    evidence::{self, act, birth, end, history, mark},
    finding::{Confidence, Finding, Role, Verb},
};

/// How long a process has to run another program before what it did to its numbers counts, nanoseconds.
const SETTLED: u64 = 1_000_000_000;
const PENDING: usize = 1024;
/// Copies that were told to be overwritten.
const SAVED: usize = 16_384;

/// Errors that say: not on a file of this kind.
const WRONG_KIND: [i32; 6] = [
    20,  // ENOTDIR
    25,  // ENOTTY
    29,  // ESPIPE
    88,  // ENOTSOCK
    95,  // EOPNOTSUPP
    107, // ENOTCONN
];

#[derive(Debug, Default)]
pub(super) struct Rules {
    pending: Vec<Clobbered>,
    saved: Told<(SlotId, u32), SAVED>,
}

#[derive(Debug)]
struct Clobbered {
    slot: SlotId,
    /// The life that was cut short, and its successor.
    old: u32,
    new: u32,
    by: Rc<Stamp>,
    /// Somebody else's, as far as threads tell.
    foreign: bool,
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.saved.forgotten()
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Removed { slot, number, how: How::Replaced, by, .. } if slot.fd > 2 => {
                if let Some(clobbered) = clobbered(*slot, *number, by, world)
                    && self.pending.len() < PENDING
                {
                    out.wants.push(Want::Uses { tgid: by.tgid, fd: slot.fd, times: Watch::CLOBBERED });
                    self.pending.push(clobbered);
                }
            }
            Change::Installed { slot, number, by } if by.is("dup2") || by.is("dup3") => {
                self.restored(*slot, *number, by, world, out);
            }
            Change::Used { slot, number, by } if by.errno().is_some_and(|errno| WRONG_KIND.contains(&errno)) => {
                let hit = self.pending.iter().position(|held| held.slot == *slot && held.new == *number);
                if let Some(hit) = hit {
                    let held = self.pending.swap_remove(hit);
                    tell(&held, Some(by), Confidence::Proven, world, out);
                }
            }
            Change::Execed { process } => self.pending.retain(|held| held.by.tgid != *process),
            Change::TableDied { table } => self.pending.retain(|held| held.slot.table != *table),
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, world: &World, out: &mut Out<'_>) {
        let limit = world.now().time.saturating_sub(SETTLED);
        for held in self.pending.extract_if(.., |held| held.foreign && held.by.at.exit.time < limit) {
            tell(&held, None, Confidence::Likely, world, out);
        }
    }

    /// Something was put into a slot with `dup2`: was it meant to be what had been saved from there?
    fn restored(&mut self, slot: SlotId, number: u32, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let source = SlotId { table: slot.table, fd: fd(by.args[0]) };
        let Some(from) = world.slot(source) else { return };
        let Some(occupant) = from.live() else { return };
        // The occupant was put over a copy that the kernel had chosen the number for.
        let Some(saved) = from.past().rev().find(|life| life.number + 1 == occupant.number) else { return };
        let chosen = saved.data.by.as_ref().is_none_or(|made| made.is("dup2") || made.is("dup3"));
        let over = saved.end().is_some_and(|end| end.how == How::Replaced && end.by.tgid == by.tgid);
        let description = &saved.data.description;
        if saved.data.origin != (Origin::Duplicated { from: slot.fd })
            || chosen
            || !over
            || description.serial == occupant.data.description.serial
        {
            return;
        }
        let Some(target) = world.slot(slot) else { return };
        let back = target.lives().any(|life| {
            life.number < number
                && life.born.exit.pos > saved.born.exit.pos
                && life.data.description.serial == description.serial
        });
        // Only what was replaced since can be put back.
        let needed = target.lives().rev().find(|life| life.number < number);
        let gone = needed.is_some_and(|life| life.data.description.serial != description.serial);
        if back || !gone || !self.saved.insert((source, saved.number)) {
            return;
        }
        let complete = world.tables.get(&slot.table).is_some_and(|table| table.complete_since(saved.born.exit.time));
        let culprit =
            end(world, source, saved).map(|act| act.with_role(Role::Culprit, "put something else over the saved copy"));
        let victim = act(by, slot.fd, Verb::Duplicated)
            .of_generation(number)
            .with_role(Role::Victim, "was to put back what had been saved");
        let mut timeline = vec![birth(world, source, saved)];
        timeline.extend(culprit.clone());
        timeline.push(victim.clone());
        let incident = out.incidents.number(Cause::Generation(source, saved.number));
        out.findings.push(Finding {
            confidence: if complete { Confidence::Proven } else { Confidence::Possible },
            generation: Some(saved.number),
            message: format!(
                "fd {} was saved as fd {}, which was overwritten: {} was put back instead of {}",
                slot.fd,
                source.fd,
                evidence::shown(&occupant.data.description),
                evidence::shown(description)
            ),
            culprit,
            victim: Some(victim),
            timeline,
            complete,
            ..evidence::finding("saved-fd-overwritten", incident, by, source.fd, world)
        });
    }
}

/// A replacement that may have hit somebody.
fn clobbered(slot: SlotId, old: u32, by: &Rc<Stamp>, world: &World) -> Option<Clobbered> {
    let table = world.tables.get(&slot.table)?;
    let state = world.slot(slot)?;
    let (before, now) = (state.life(old)?, state.live()?);
    let (gone, new) = (&before.data.description, &now.data.description);
    let saved = table.open().any(|(_, live)| live.data.description.serial == gone.serial);
    let assigned = matches!(before.data.origin, Origin::Duplicated { .. })
        && before.data.by.as_ref().is_some_and(|made| made.is("dup2") || made.is("dup3"));
    if saved || assigned || gone.serial == new.serial || alike(gone, new) || is_null_device(new) {
        return None;
    }
    // A forked child that has not run its program yet is about to.
    let opened_here = |life: &Life<Generation>| matches!(life.data.origin, Origin::Opened);
    let opener = before.data.by.as_ref()?;
    let foreign = opened_here(before) && opener.tid != by.tid && opener.tgid == by.tgid;
    Some(Clobbered { slot, old, new: now.number, by: Rc::clone(by), foreign })
}

fn alike(a: &Description, b: &Description) -> bool {
    match (a.kind(), b.kind()) {
        (Kind::Unknown, _) | (_, Kind::Unknown) => true,
        (Kind::Socket { .. }, Kind::Socket { .. }) => true,
        (a, b) => a == b,
    }
}

/// 1:3.
fn is_null_device(description: &Description) -> bool {
    description.kind() == Kind::CharDevice
        && description.details().is_some_and(|details| details.info.rdev == 1 << 20 | 3)
}

fn tell(held: &Clobbered, user: Option<&Rc<Stamp>>, confidence: Confidence, world: &World, out: &mut Out<'_>) {
    let Clobbered { slot, old, new, by, .. } = held;
    let (Some(table), Some(state)) = (world.tables.get(&slot.table), world.slot(*slot)) else { return };
    let (Some(before), Some(after)) = (state.life(*old), state.life(*new)) else { return };
    let fd = slot.fd;
    let complete = table.complete_since(before.born.exit.time);
    let culprit =
        end(world, *slot, before).map(|act| act.with_role(Role::Culprit, "closed what had the number, without a word"));
    let mut timeline = history(world, *slot, *old..=*new);
    if let Some(culprit) = &culprit {
        mark(&mut timeline, culprit);
    }
    let victim = user.map(|user| {
        act(user, fd, Verb::Used)
            .of_generation(*new)
            .with_role(Role::Victim, "was meant for what had the number before")
    });
    timeline.extend(victim.clone());
    let incident = out.incidents.number(Cause::Generation(*slot, *old));
    let call = by.sys.map_or("dup2", |sys| sys.name);
    out.findings.push(Finding {
        confidence: if complete { confidence } else { Confidence::Possible },
        generation: Some(*old),
        message: format!(
            "{call} put {} over fd {fd}, which was {}",
            evidence::shown(&after.data.description),
            evidence::shown(&before.data.description)
        ),
        culprit,
        victim,
        timeline,
        complete,
        ..evidence::finding("clobbered-fd", incident, by, fd, world)
    });
}
