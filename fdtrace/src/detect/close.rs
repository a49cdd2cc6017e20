//! Closing and using what is closed: `use-after-close`, `double-close`, and what the history of a slot says of
//! `stale-close`.
//!
//! * `use-after-close`: a call other than close, and other than a probe, failed with `EBADF` on a number that had been
//!   open and was closed. Proven by the slot alone: the kernel looked the number up and found it closed, and the model
//!   knows who closed it. Not one in half a million calls of healthy programs. Where the owner that made the call is
//!   known, it is about the generation that this one had, and not about whichever had the number last.
//! * `double-close`: `close` failed with `EBADF` on a number that had been open and was closed. True, and harmless in a
//!   table that one task uses (shells do it), dangerous as soon as another task can take the number in between.
//!   Loops that close a range of numbers are a storm, not a mistake.
//! * `stale-close`: the number was closed by somebody who owned an *earlier* generation. Without the owner the calls of
//!   this bug and of a plain use after close are the same, so history alone makes it `possible`: the number was
//!   recycled, and one of the closes was one too many. Call sites may say more, or against it: see `callsite`.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    model::{Change, Met, World, table::SlotId},
    order::{How, Stamp, State},
};

use super::{
    Cause, Incidents, Out,
    evidence::{self, act, history, mark},
    finding::{Act, Confidence, Finding, Role, Severity, Verb},
    rules,
};

/// Closes of neighbouring numbers by one thread, with nothing else in between, that make a storm.
const STORM: usize = 8;
/// A run that goes on for longer than this without a next close is over, nanoseconds.
const STORM_PAUSE: u64 = 100_000_000;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Closes in a row, by thread. Sorted, so that a recording tells its findings in the order of the live run.
    runs: BTreeMap<u32, Run>,
}

/// Neighbouring numbers closed one after the other by one thread.
#[derive(Debug)]
struct Run {
    last_fd: i32,
    step: i32,
    length: usize,
    time: u64,
    /// Failed closes in the run, which are findings if it does not become a storm.
    held: Vec<Finding>,
}

impl Rules {
    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::BadFd { by, met, .. } => {
                let is_close = by.sys.is_some_and(|sys| sys.name == "close");
                if is_close {
                    let finding = met.first().and_then(|met| double_close(*met, by, world, out.incidents));
                    self.closed(by, finding, out);
                    return;
                }
                self.interrupted(by.tid, out);
                let probe = by.sys.is_none_or(|sys| sys.is_probe(&by.args));
                if !probe {
                    for met in met {
                        use_after_close(*met, by, world, out);
                    }
                }
            }
            Change::Removed { by, how: How::Closed, .. } if by.sys.is_some_and(|sys| sys.name == "close") => {
                self.closed(by, None, out);
            }
            Change::Installed { by, .. } | Change::EpollCtl { by, .. } | Change::EpollWait { by, .. } => {
                self.interrupted(by.tid, out);
            }
            Change::Exited { .. } => self.finish_old(world, out),
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, world: &World, out: &mut Out<'_>) {
        self.finish_old(world, out);
    }

    pub(super) fn finish(&mut self, out: &mut Out<'_>) {
        for run in std::mem::take(&mut self.runs).into_values() {
            out.findings.extend(run.judge());
        }
    }

    /// A close, failed if there is a finding.
    fn closed(&mut self, by: &Rc<Stamp>, finding: Option<Finding>, out: &mut Out<'_>) {
        let fd = crate::syscalls::fd(by.args[0]);
        let time = by.at.exit.time;
        let run = self.runs.entry(by.tid).or_insert(Run { last_fd: fd, step: 0, length: 0, time, held: Vec::new() });
        let step = fd.wrapping_sub(run.last_fd);
        let continues = run.length == 0 || (step.unsigned_abs() == 1 && (run.length == 1 || step == run.step));
        if !continues {
            let over = std::mem::replace(run, Run { last_fd: fd, step: 0, length: 0, time, held: Vec::new() });
            out.findings.extend(over.judge());
        }
        if run.length > 0 {
            run.step = step;
        }
        (run.last_fd, run.time) = (fd, time);
        run.length += 1;
        // In a storm nothing that failed matters, so there is no need to keep it.
        if run.length < STORM {
            run.held.extend(finding);
        } else {
            run.held.clear();
        }
    }

    fn interrupted(&mut self, tid: u32, out: &mut Out<'_>) {
        if let Some(run) = self.runs.remove(&tid) {
            out.findings.extend(run.judge());
        }
    }

    fn finish_old(&mut self, world: &World, out: &mut Out<'_>) {
        let limit = world.now().time.saturating_sub(STORM_PAUSE);
        self.runs.retain(|_, run| {
            if run.time >= limit {
                return true;
            }
            out.findings.append(&mut run.held);
            false
        });
    }
}

impl Run {
    fn judge(self) -> Vec<Finding> {
        if self.length >= STORM { Vec::new() } else { self.held }
    }
}

/// What the slot says about a dead generation that a call met.
struct Dead {
    incident: u64,
    confidence: Confidence,
    complete: bool,
    timeline: Vec<Act>,
    /// `None`: the generation is too long ago.
    closer: Option<Act>,
    /// Processes or threads that can take the number.
    shared: bool,
}

/// `met` is what was [`meant`].
fn dead(met: Met, by: &Stamp, world: &World, incidents: &mut Incidents) -> Option<Dead> {
    let table = world.tables.get(&met.slot.table)?;
    let shared = table.tasks().len() > 1;
    let Some(life) = world.slot(met.slot)?.life(met.number) else {
        // It ended, for there were later ones. Of those nobody has done anything to it.
        return by.owner_of(met.slot.fd).is_some().then(|| Dead {
            incident: incidents.number(Cause::Generation(met.slot, met.number)),
            confidence: Confidence::Likely,
            complete: false,
            timeline: Vec::new(),
            closer: None,
            shared,
        });
    };
    let closer = evidence::end(world, met.slot, life)?;
    // A new program that asks for what its predecessor did not leave it has made no lifetime mistake.
    if matches!(&life.state, State::Ended(end) if matches!(end.how, How::Exec | How::Exit)) {
        return None;
    }
    if world
        .processes
        .get(&by.tgid)
        .and_then(|process| process.execed)
        .is_some_and(|execed| life.end().is_some_and(|end| end.by.at.exit.pos < execed.pos))
    {
        return None;
    }
    let complete = table.complete_since(life.born.exit.time);
    let explained = life.end().is_some();
    let confidence = match (complete && explained, met.certain && !life.ambiguous) {
        (true, true) => Confidence::Proven,
        (true, false) => Confidence::Likely,
        (false, _) => Confidence::Possible,
    };
    Some(Dead {
        incident: incidents.number(Cause::Generation(met.slot, met.number)),
        confidence,
        complete,
        timeline: history(world, met.slot, met.number..=met.number),
        closer: Some(closer),
        shared,
    })
}

/// The generation that a call was meant for: the one that its owner was bound to, if that is known. Even if that one is
/// forgotten: who closed a later one is a bystander.
fn meant(met: Met, by: &Stamp) -> Met {
    by.owner_of(met.slot.fd).map_or(met, |(_, number)| Met { number, certain: true, ..met })
}

fn double_close(met: Met, by: &Rc<Stamp>, world: &World, incidents: &mut Incidents) -> Option<Finding> {
    let met = meant(met, by);
    let dead = dead(met, by, world, incidents)?;
    let fd = met.slot.fd;
    let again = act(by, fd, Verb::Closed)
        .of_generation(met.number)
        .with_role(Role::Culprit, "closed again: the number was free already");
    let mut timeline = dead.timeline;
    timeline.push(again.clone());
    let message = format!("fd {fd} was closed twice: the second close found it free");
    let base = evidence::finding("double-close", dead.incident, by, fd, world);
    Some(Finding {
        confidence: dead.confidence,
        severity: if dead.shared { Severity::Medium } else { Severity::Note },
        generation: Some(met.number),
        message,
        culprit: Some(again),
        root_cause: dead.closer,
        timeline,
        complete: dead.complete,
        ..base
    })
}

fn use_after_close(met: Met, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
    let met = meant(met, by);
    let Some(dead) = dead(met, by, world, out.incidents) else { return };
    let SlotId { fd, .. } = met.slot;
    let call = by.sys.map_or("a call", |sys| sys.name);
    let victim = act(by, fd, Verb::Used).of_generation(met.number).with_role(Role::Victim, "found it closed");
    let culprit =
        dead.closer.map(|act| act.with_role(Role::Culprit, "this close ended the generation that was used next"));
    // Whoever closed it may have meant the one before.
    let mut timeline = history(world, met.slot, met.number.saturating_sub(1)..=met.number);
    if let Some(culprit) = &culprit {
        mark(&mut timeline, culprit);
    }
    timeline.push(victim.clone());
    let base = Finding {
        confidence: dead.confidence,
        generation: Some(met.number),
        message: format!("{call} on fd {fd} failed with EBADF: generation {} had been closed", met.number),
        culprit,
        victim: Some(victim),
        timeline,
        complete: dead.complete,
        ..evidence::finding("use-after-close", dead.incident, by, fd, world)
    };
    out.findings.extend(stale_close(&base, met, world));
    out.findings.push(base);
}

/// What history says: the number had been closed before and was recycled, so the close of this generation may have been
/// meant for that one.
fn stale_close(hit: &Finding, met: Met, world: &World) -> Option<Finding> {
    let slot = world.slot(met.slot)?;
    let life = slot.life(met.number)?;
    // Who sweeps over all numbers had none of them in mind.
    let ended = life.end().filter(|end| end.how == How::Closed && !end.by.is("close_range"))?;
    let before = slot.lives().rev().find(|life| life.number < met.number)?;
    let first = before.end().filter(|end| end.how == How::Closed)?;
    // Where the object behind the close is known, it is known too whether it owned an earlier generation.
    if ended.by.part.by.is_some() || ended.by.part.against.is_some() {
        return None;
    }
    // Two processes with one table, or an exec in between, are another story.
    if first.by.tgid != ended.by.tgid || matches!(before.state, State::Implied { .. }) {
        return None;
    }
    let fd = met.slot.fd;
    let root = act(&first.by, fd, Verb::Closed)
        .of_generation(before.number)
        .with_role(Role::RootCause, "the number was free from here on, and was given out again");
    let mut timeline = hit.timeline.clone();
    mark(&mut timeline, &root);
    Some(Finding {
        rule: "stale-close",
        confidence: Confidence::Possible,
        message: format!(
            "fd {fd} was closed, opened again and closed again: if the second close was meant for generation {}, it \
             took generation {} from its owner",
            before.number, met.number
        ),
        root_cause: Some(root),
        timeline,
        advice: rules::advice("stale-close"),
        ..hit.clone()
    })
}
