//! What objects do to numbers: `foreign-close`, `stale-close` proven, `two-owners`.
//!
//! * `foreign-close`: a close that no owner made hit a generation whose owner still held the number at that moment. The
//!   root cause, before it does damage. Proven: the object's own field was read in the kernel when the close began.
//! * `stale-close`: an object that was bound to an earlier generation closes a later one. Proven at the close itself: the
//!   object was bound, its generation was closed behind its back while it held the number, and now it has let go of it.
//! * `stale-use`: an object that was bound to an earlier generation uses a later one, and no error tells. Likely, not
//!   proven: the object was in reach of the call and no other owner of the number was, but the call may be another's.
//! * `two-owners`: an object was bound to a generation that another object is bound to, and both hold the number.
//!
//! A thread that closes neighbouring numbers one after the other cleans up and is not blamed: see the storms of `close`.

use std::rc::Rc;

use crate::{
    collections::{Bounded, Told},
    model::{Change, World, table::SlotId},
    order::{How, Stamp},
    who::owner::Owner,
};

use super::{
    Cause, Incidents, Out,
    evidence::{self, act, comm, history, mark},
    finding::{Confidence, Finding, Name, Role, Severity, Verb},
    late::{Late, Who},
    rules,
};

/// Closes of neighbouring numbers by one thread, from which on they are a clean-up.
const CLEAN_UP: u32 = 3;
const REMEMBERED: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// The number each thread closed last, and how many neighbours before it in a row.
    runs: Bounded<u32, (i32, u32), REMEMBERED>,
    /// What was told of stale uses: slot, generation, object. Once is enough.
    used: Told<(SlotId, u32, u64), REMEMBERED>,
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.runs.forgotten() + self.used.forgotten()
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Removed { slot, number, how: How::Closed, by, .. }
                if by.sys.is_some_and(|sys| sys.name == "close") =>
            {
                let run = self.run(by.tid, slot.fd);
                if let Some((owner, bound)) = by.owner_of(slot.fd).filter(|(_, bound)| bound < number) {
                    let late = late(*slot, *number, bound, owner, by, world);
                    out.findings.push(late.close(world, out.incidents));
                } else if let Some(owner) = &by.part.against
                    && run < CLEAN_UP
                {
                    out.findings.push(foreign_close(*slot, *number, owner, by, world, out.incidents));
                }
            }
            Change::Used { slot, number, by } if by.ret >= 0 => {
                if let Some((owner, bound)) = by.owner_of(slot.fd).filter(|(_, bound)| bound < number)
                    && self.used.insert((*slot, *number, owner.object))
                {
                    let late = late(*slot, *number, bound, owner, by, world);
                    // Its pointer may be left over on the stack, from an earlier call.
                    let late = Late { confidence: late.confidence.min(Confidence::Likely), ..late };
                    out.findings.push(late.usage(world, out.incidents));
                }
            }
            Change::Installed { by, .. } => {
                self.runs.remove(&by.tid);
            }
            Change::Bound { slot, number, owner, other: Some(other), at, process } => {
                out.findings.push(two_owners(
                    *slot,
                    *number,
                    [other, owner],
                    (*process, at.time),
                    world,
                    out.incidents,
                ));
            }
            Change::Exited { process, .. } => {
                self.runs.remove(process);
            }
            _ => {}
        }
    }

    /// Length of the run of neighbouring closes that this one belongs to.
    fn run(&mut self, tid: u32, fd: i32) -> u32 {
        let run = self.runs.or_insert_with(tid, || (fd, 0));
        let neighbours = fd.abs_diff(run.0) == 1;
        *run = (fd, if neighbours { run.1 + 1 } else { 0 });
        run.1
    }
}

/// The generation and its owner at once: nothing is missing from either. A generation so old that it was forgotten is
/// known by its owner.
fn confidence(slot: SlotId, since: u32, owner: &Owner, world: &World) -> (Confidence, bool) {
    let life = world.slot(slot).and_then(|state| state.life(since));
    let (born, ambiguous) = life.map_or((owner.since, false), |life| (life.born.exit.time, life.ambiguous));
    match world.tables.get(&slot.table).is_some_and(|table| table.complete_since(born)) {
        true if ambiguous => (Confidence::Likely, true),
        true => (Confidence::Proven, true),
        false => (Confidence::Possible, false),
    }
}

/// An object that had an earlier generation.
fn late<'a>(slot: SlotId, number: u32, bound: u32, owner: &Owner, by: &'a Rc<Stamp>, world: &World) -> Late<'a> {
    let (confidence, complete) = confidence(slot, bound, owner, world);
    Late { slot, number, bound, by, who: Who::Object(evidence::owner(owner)), confidence, complete }
}

fn foreign_close(
    slot: SlotId,
    number: u32,
    owner: &Rc<Owner>,
    by: &Rc<Stamp>,
    world: &World,
    incidents: &mut Incidents,
) -> Finding {
    let SlotId { fd, .. } = slot;
    let (confidence, complete) = confidence(slot, number, owner, world);
    let culprit =
        act(by, fd, Verb::Closed).of_generation(number).with_role(Role::Culprit, "closed behind the object's back");
    let victim = world.slot(slot).and_then(|state| state.life(number));
    let victim = victim.map(|life| evidence::birth(world, slot, life)).map(|mut victim| {
        victim.who.owner = Some(evidence::owner(owner));
        victim.with_role(Role::Victim, "the object still holds the number, and will use and close it again")
    });
    let mut timeline = history(world, slot, number..=number);
    for part in [&victim, &Some(culprit.clone())].into_iter().flatten() {
        mark(&mut timeline, part);
    }
    let owned = evidence::owner(owner);
    Finding {
        rule: "foreign-close",
        confidence,
        severity: severity("foreign-close"),
        incident: incidents.number(Cause::Generation(slot, number)),
        pid: by.tgid,
        inside: Vec::new(),
        process: comm(world, by.tgid),
        fd,
        generation: Some(number),
        message: format!("fd {fd} was closed behind the back of its owner {} {:#x}", owned.kind, owned.address),
        culprit: Some(culprit),
        victim,
        root_cause: None,
        timeline,
        advice: rules::advice("foreign-close"),
        complete,
        time: by.at.exit.time,
    }
}

fn two_owners(
    slot: SlotId,
    number: u32,
    owners: [&Rc<Owner>; 2],
    (process, time): (u32, u64),
    world: &World,
    incidents: &mut Incidents,
) -> Finding {
    let SlotId { fd, .. } = slot;
    let (confidence, complete) = confidence(slot, number, owners[0], world);
    let [first, second] = owners.map(|owner| evidence::owner(owner));
    Finding {
        rule: "two-owners",
        confidence,
        severity: severity("two-owners"),
        incident: incidents.number(Cause::Generation(slot, number)),
        pid: process,
        inside: Vec::new(),
        process: world.processes.get(&process).map_or_else(Name::default, |process| Name(Rc::clone(&process.comm))),
        fd,
        generation: Some(number),
        message: format!(
            "fd {fd} has two owners: {} {:#x} and {} {:#x} will both close it",
            first.kind, first.address, second.kind, second.address
        ),
        culprit: None,
        victim: None,
        root_cause: None,
        timeline: history(world, slot, number..=number),
        advice: rules::advice("two-owners"),
        complete,
        time,
    }
}

fn severity(rule: &str) -> Severity {
    rules::find(rule).map_or(Severity::High, |rule| rule.severity)
}
