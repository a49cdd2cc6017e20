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
    escape,
    model::{
        Change, World,
        table::{Generation, SlotId},
    },
    order::{How, Life, Stamp},
    who::owner::Owner,
};

use super::{
    Cause, Incidents, Out,
    evidence::{self, act, comm, history, mark},
    finding::{Confidence, Finding, Name, Role, Severity, Verb},
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
                    out.findings.push(stale_close(*slot, *number, bound, owner, by, world, out.incidents));
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
                    out.findings.push(stale_use(*slot, *number, bound, owner, by, world, out.incidents));
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

fn stale_close(
    slot: SlotId,
    number: u32,
    bound: u32,
    owner: &Rc<Owner>,
    by: &Rc<Stamp>,
    world: &World,
    incidents: &mut Incidents,
) -> Finding {
    let SlotId { fd, .. } = slot;
    let (confidence, complete) = confidence(slot, bound, owner, world);
    let culprit = act(by, fd, Verb::Closed)
        .of_generation(number)
        .with_role(Role::Culprit, &format!("by the owner of generation {bound}, which was gone"));
    let state = world.slot(slot);
    let root = state.and_then(|state| state.life(bound)).and_then(|life| evidence::end(world, slot, life));
    let root = root.map(|root| root.with_role(Role::RootCause, "closed behind the object's back"));
    let victim = state.and_then(|state| state.life(number)).map(|life| evidence::birth(world, slot, life));
    let victim = victim.map(|victim| victim.with_role(Role::Victim, "lost its descriptor"));
    let mut timeline = Vec::new();
    for life in state.into_iter().flat_map(|state| state.lives()) {
        // What came in between matters less, and there may be much of it.
        if life.number == bound || life.number == number {
            timeline.push(evidence::birth(world, slot, life));
            timeline.extend(evidence::end(world, slot, life));
        }
    }
    for part in [&root, &victim, &Some(culprit.clone())].into_iter().flatten() {
        mark(&mut timeline, part);
    }
    let thief = evidence::owner(owner);
    let incident = incidents.number(Cause::Generation(slot, bound));
    // What its victim does next follows from the same.
    incidents.join(Cause::Generation(slot, number), incident);
    Finding {
        rule: "stale-close",
        confidence,
        severity: severity("stale-close"),
        incident,
        pid: by.tgid,
        inside: Vec::new(),
        process: comm(world, by.tgid),
        fd,
        generation: Some(number),
        message: format!(
            "fd {fd} was closed by an object that no longer owns it: {} {:#x} owned generation {bound}, this is \
             generation {number}",
            thief.kind, thief.address
        ),
        culprit: Some(culprit),
        victim,
        root_cause: root,
        timeline,
        advice: rules::advice("stale-close"),
        complete,
        time: by.at.exit.time,
    }
}

fn stale_use(
    slot: SlotId,
    number: u32,
    bound: u32,
    owner: &Rc<Owner>,
    by: &Rc<Stamp>,
    world: &World,
    incidents: &mut Incidents,
) -> Finding {
    let SlotId { fd, .. } = slot;
    let (confidence, complete) = confidence(slot, bound, owner, world);
    let call = by.sys.map_or("a call", |sys| sys.name);
    let culprit = act(by, fd, Verb::Used)
        .of_generation(number)
        .with_role(Role::Culprit, &format!("by the owner of generation {bound}, which was gone"));
    let state = world.slot(slot);
    let own = state.and_then(|state| state.life(bound));
    let root = own.and_then(|life| evidence::end(world, slot, life));
    let root = root.map(|root| root.with_role(Role::RootCause, "closed behind the object's back"));
    let hit = state.and_then(|state| state.life(number));
    let victim = hit.map(|life| evidence::birth(world, slot, life).with_role(Role::Victim, "used by a stranger"));
    let mut timeline = Vec::new();
    for life in [own, hit].into_iter().flatten() {
        timeline.push(evidence::birth(world, slot, life));
        timeline.extend(evidence::end(world, slot, life));
    }
    for part in [&root, &victim].into_iter().flatten() {
        mark(&mut timeline, part);
    }
    timeline.push(culprit.clone());
    let name = |life: Option<&Life<Generation>>| {
        life.map_or_else(String::new, |life| escape::escape_terminal(&evidence::object(&life.data.description).0))
    };
    let thief = evidence::owner(owner);
    Finding {
        rule: "stale-use",
        // Its pointer may be left over on the stack, from an earlier call.
        confidence: confidence.min(Confidence::Likely),
        severity: severity("stale-use"),
        incident: incidents.number(Cause::Generation(slot, bound)),
        pid: by.tgid,
        inside: Vec::new(),
        process: comm(world, by.tgid),
        fd,
        generation: Some(number),
        message: format!(
            "{call} on fd {fd} was meant for generation {bound}, {}, and went to generation {number}, {}: by {} {:#x}",
            name(own),
            name(hit),
            thief.kind,
            thief.address
        ),
        culprit: Some(culprit),
        victim,
        root_cause: root,
        timeline,
        advice: rules::advice("stale-use"),
        complete,
        time: by.at.exit.time,
    }
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
