//! The rules: changes of the world in, findings out. One file per family of rules; each rule is documented where it is
//! written.
//!
//! Like the model, rules read no clock and no file, and a finding over a window that lost events is never `proven`.

mod blocked;
pub mod callsite;
mod close;
mod conversation;
mod eldest;
mod epoll;
pub(crate) mod evidence;
pub mod finding;
mod flags;
mod inherit;
mod interest;
mod late;
mod leak;
mod lock;
mod no_socket;
mod overwrite;
mod owner;
mod registration;
mod retry;
pub mod rules;
mod share;
mod stale_ctl;
mod stdio;
mod variable;

use crate::{
    collections::Bounded,
    model::{
        Change, World,
        description::Serial,
        table::{SlotId, TableId},
    },
    order::{End, Stamp},
};

use finding::{Confidence, Finding};

/// What findings with one root cause have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    /// This generation ended while somebody counted on it.
    Generation(SlotId, u32),
    /// This epoll instance is edited from two tables.
    Epoll(Serial),
    /// This description is in several hands.
    Description(Serial),
    /// This table is full, or fills up.
    Table(TableId),
}

/// Something that rules must be told to decide, and that is not reported unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The next uses of a number by a process, as many as `times`.
    Uses { tgid: u32, fd: i32, times: u32 },
    /// The uses of a file, through whatever number: the next `every`, and then whenever another process than the last one
    /// makes them. `fd`: a number that it has.
    Turns { file: u64, fd: i32, times: u32, every: u32 },
    /// The same of what a fork shares, since the one that has done so or from the next one on: that may follow at any time,
    /// and a talk over it be over before we know.
    TurnsAtFork { file: u64, fd: i32, times: u32, every: u32 },
    /// The kernel's list of the entries of an epoll instance.
    EpollList { tgid: u32, fd: i32 },
}

/// Where rules put what they have to say.
#[derive(Debug)]
struct Out<'a> {
    incidents: &'a mut Incidents,
    findings: &'a mut Vec<Finding>,
    wants: &'a mut Vec<Want>,
}

/// Causes whose incident is known: what follows from one that was forgotten begins an incident of its own.
const INCIDENTS: usize = 65_536;

/// Numbers the incidents.
#[derive(Debug, Default)]
struct Incidents {
    known: Bounded<Cause, u64, INCIDENTS>,
    last: u64,
}

impl Incidents {
    fn number(&mut self, cause: Cause) -> u64 {
        *self.known.or_insert_with(cause, || {
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
    wants: Vec<Want>,
    close: close::Rules,
    epoll: epoll::Rules,
    owner: owner::Rules,
    retry: retry::Rules,
    interest: interest::Rules,
    stale_ctl: stale_ctl::Rules,
    registration: registration::Rules,
    blocked: blocked::Rules,
    overwrite: overwrite::Rules,
    stdio: stdio::Rules,
    leak: leak::Rules,
    inherit: inherit::Rules,
    share: share::Rules,
    flags: flags::Rules,
    lock: lock::Rules,
    no_socket: no_socket::Rules,
    variable: variable::Rules,
}

impl Detector {
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at one change; the world is as it is after the event that caused it.
    pub fn on(&mut self, change: &Change, world: &World, findings: &mut Vec<Finding>) {
        let known = findings.len();
        let mut out = Out { incidents: &mut self.incidents, findings, wants: &mut self.wants };
        self.owner.on(change, world, &mut out);
        self.close.on(change, world, &mut out);
        self.epoll.on(change, world, &mut out);
        self.retry.on(change, world, &mut out);
        self.interest.on(change, world, &mut out);
        self.stale_ctl.on(change, world, &mut out);
        self.registration.on(change, world, &mut out);
        self.blocked.on(change, world, &mut out);
        self.overwrite.on(change, world, &mut out);
        self.stdio.on(change, world, &mut out);
        self.leak.on(change, world, &mut out);
        self.inherit.on(change, world, &mut out);
        self.share.on(change, world, &mut out);
        self.flags.on(change, world, &mut out);
        self.lock.on(change, world, &mut out);
        self.no_socket.on(change, world, &mut out);
        self.variable.on(change, world, &mut out);
        settle(&mut findings[known..], world);
    }

    /// What has to be watched from now on. To be asked for after events were taken in.
    pub fn take_wants(&mut self) -> Vec<Want> {
        std::mem::take(&mut self.wants)
    }

    /// Time has passed: what waited for it is decided.
    pub fn tick(&mut self, world: &World, findings: &mut Vec<Finding>) {
        let known = findings.len();
        let mut out = Out { incidents: &mut self.incidents, findings, wants: &mut self.wants };
        self.close.tick(world, &mut out);
        self.interest.tick(world, &mut out);
        self.stale_ctl.tick(world, &mut out);
        self.overwrite.tick(world, &mut out);
        self.inherit.tick(world, &mut out);
        self.share.tick(world, &mut out);
        settle(&mut findings[known..], world);
    }

    /// How much the rules forgot because there was too much of it: from then on they may miss something, or say it twice.
    pub fn forgotten(&self) -> u64 {
        self.incidents.known.forgotten()
            + self.owner.forgotten()
            + self.epoll.forgotten()
            + self.interest.forgotten()
            + self.blocked.forgotten()
            + self.overwrite.forgotten()
            + self.stdio.forgotten()
            + self.leak.forgotten()
            + self.inherit.forgotten()
            + self.no_socket.forgotten()
            + self.variable.forgotten()
    }

    /// Nothing more will come.
    pub fn finish(&mut self, world: &World, findings: &mut Vec<Finding>) {
        let known = findings.len();
        let mut out = Out { incidents: &mut self.incidents, findings, wants: &mut self.wants };
        self.close.finish(&mut out);
        self.epoll.finish(world, &mut out);
        self.stale_ctl.finish(&mut out);
        self.leak.finish(world, &mut out);
        self.share.finish(&mut out);
        settle(&mut findings[known..], world);
    }
}

/// What holds for all findings.
fn settle(findings: &mut [Finding], world: &World) {
    humble(findings);
    for finding in findings {
        let mut pids: Vec<u32> = finding.acts().map(|act| act.pid).chain([finding.pid]).collect();
        pids.sort_unstable();
        pids.dedup();
        let inside = |pid: u32| Some((pid, world.processes.get(&pid)?.inside?));
        finding.inside = pids.into_iter().filter_map(inside).collect();
    }
}

/// What rests on an order or an identity that the events leave open is not proven, whatever the rule says.
fn humble(findings: &mut [Finding]) {
    for finding in findings.iter_mut().filter(|finding| finding.confidence == Confidence::Proven) {
        if finding.acts().any(|act| act.ambiguous) {
            finding.confidence = Confidence::Likely;
        }
    }
}

/// The process has run one program from the end of the life to the call.
fn same_program(end: &End, by: &Stamp, world: &World) -> bool {
    let execed = world.processes.get(&by.tgid).and_then(|process| process.execed);
    execed.is_none_or(|execed| execed.pos < end.by.at.exit.pos)
}

#[cfg(test)]
mod tests;
