//! Findings of one root cause, gathered until they can be told at once. This module decides what belongs to a report and
//! what comes first in it; how it looks is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::detect::finding::{Act, Finding, Role, Severity};
use crate::sink::shape::Shape;

/// Rules from cause to consequence: of two equally sure and serious findings, the earlier in this list explains the later.
pub const CAUSES_FIRST: [&str; 26] = [
    "foreign-close",
    "two-owners",
    "close-after-eintr",
    "bulk-close",
    "clobbered-fd",
    "saved-fd-overwritten",
    "stdio-recycled",
    "stale-close",
    "double-close",
    "close-while-blocked",
    "epoll-shared-across-fork",
    "epoll-duplicate-entry",
    "epoll-lost-registration",
    "shared-stream",
    "shared-offset",
    "shared-flags",
    "posix-lock-dropped",
    "cloexec-race",
    "exec-leak",
    "held-by-fork",
    "fd-leak",
    "fd-limit",
    "stale-use",
    "use-after-close",
    "ghost-event",
    "epoll-stale-ctl",
];

/// Equal findings, told as one.
#[derive(Clone, Debug)]
pub struct Folded {
    pub finding: Finding,
    pub count: u64,
    pub first: u64,
    pub last: u64,
    pub pids: BTreeSet<u32>,
}

impl Folded {
    /// Processes remembered by number; from there on there are just many.
    const PIDS: usize = 64;

    pub fn new(finding: &Finding) -> Self {
        Self {
            finding: finding.clone(),
            count: 1,
            first: finding.time,
            last: finding.time,
            pids: BTreeSet::from([finding.pid]),
        }
    }

    pub fn add(&mut self, other: &Finding) {
        self.count += 1;
        self.first = self.first.min(other.time);
        self.last = self.last.max(other.time);
        if self.pids.len() < Self::PIDS {
            self.pids.insert(other.pid);
        }
    }
}

/// What is gathered for one report.
#[derive(Clone, Debug)]
pub struct Incident {
    pub number: u64,
    pub findings: BTreeMap<Shape, Folded>,
    /// Rule that headed an earlier report of this incident.
    pub follows: Option<&'static str>,
    /// Time of the first finding, of the last, and of the last that was new.
    pub first: u64,
    pub last: u64,
    pub last_new: u64,
}

impl Incident {
    pub fn new(number: u64, follows: Option<&'static str>, shape: Shape, finding: &Finding) -> Self {
        let time = finding.time;
        Self {
            number,
            findings: BTreeMap::from([(shape, Folded::new(finding))]),
            follows,
            first: time,
            last: time,
            last_new: time,
        }
    }

    pub fn add(&mut self, shape: Shape, finding: &Finding) {
        self.first = self.first.min(finding.time);
        self.last = self.last.max(finding.time);
        if let Some(folded) = self.findings.get_mut(&shape) {
            folded.add(finding);
        } else {
            self.findings.insert(shape, Folded::new(finding));
            self.last_new = self.last;
        }
    }

    /// The finding that the report is about, then its consequences in the order in which they came.
    pub fn ranked(&self) -> Option<(&Folded, Vec<&Folded>)> {
        let head = self.findings.values().min_by_key(|folded| {
            let finding = &folded.finding;
            let is_note = finding.severity == Severity::Note;
            let rank = (std::cmp::Reverse(finding.confidence), std::cmp::Reverse(finding.severity));
            (is_note, rank, causal(finding.rule), finding.time)
        })?;
        let mut rest: Vec<&Folded> = self.findings.values().filter(|folded| !std::ptr::eq(*folded, head)).collect();
        rest.sort_by_key(|folded| (folded.first, causal(folded.finding.rule)));
        Some((head, rest))
    }

    /// Whether there is more to it than notes.
    pub fn matters(&self) -> bool {
        self.findings.values().any(|folded| folded.finding.severity > Severity::Note)
    }
}

fn causal(rule: &str) -> usize {
    CAUSES_FIRST.iter().position(|known| *known == rule).unwrap_or(CAUSES_FIRST.len())
}

/// All that was done, once, in order. Where findings see different parts in one act, the one nearest the cause counts.
pub fn merged_timeline<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    for finding in findings {
        let parts = [
            (&finding.root_cause, Role::RootCause),
            (&finding.culprit, Role::Culprit),
            (&finding.victim, Role::Victim),
        ];
        let named = parts.into_iter().filter_map(|(act, role)| {
            let act = act.as_ref()?;
            Some(Act { role: act.role.or(Some(role)), ..act.clone() })
        });
        for act in finding.timeline.iter().cloned().chain(named) {
            match acts.iter_mut().find(|known| is_same(known, &act)) {
                Some(known) => {
                    known.role = [known.role, act.role].into_iter().flatten().min();
                    known.remark = known.remark.take().or(act.remark);
                    if known.who.owner.is_none() {
                        known.who.owner = act.who.owner;
                    }
                }
                None => acts.push(act),
            }
        }
    }
    acts.sort_by_key(|act| act.time);
    acts
}

fn is_same(one: &Act, other: &Act) -> bool {
    let key = |act: &Act| (act.time, act.pid, act.tid, act.fd, act.verb as u8, act.call, act.error);
    key(one) == key(other)
}
