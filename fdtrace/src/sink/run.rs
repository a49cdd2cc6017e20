//! What a sink is told about the run as a whole. Plain data: nothing here measures, counts a ring or reads a clock.

use std::collections::BTreeSet;

use fdtrace_common::wire::loss;
use jiff::Timestamp;

use crate::detect::finding::{Confidence, Finding, Name, Severity};

/// Name and version of the JSON form; the number grows when a reader of the old form would misread the new one.
pub const SCHEMA: &str = "fdtrace/1";

/// Known when the trace begins.
#[derive(Clone, Debug)]
pub struct RunMeta {
    /// Version of fdtrace.
    pub version: String,
    /// [`SCHEMA`], unless a recording says otherwise.
    pub schema: String,
    /// Kernel release the events come from.
    pub kernel: String,
    /// When the trace began, by the wall clock: nanoseconds since 1970.
    pub started_wall: u64,
    /// The same moment by `CLOCK_BOOTTIME`, the clock of all events.
    pub started_boot: u64,
    pub targets: Vec<Target>,
    /// Descriptors that were open before the trace began; who opened them is not known.
    pub already_open: usize,
}

/// A process that the user asked for, not one that came by fork.
#[derive(Clone, Debug)]
pub struct Target {
    pub pid: u32,
    pub name: Name,
    /// The arguments as the kernel tells them, each ended by a zero byte.
    pub cmdline: Name,
}

impl RunMeta {
    /// Converts a boot time to wall time. A suspended machine keeps both in step; a clock that was set does not, and
    /// the time then tells what the clock said when the trace began.
    pub fn wall(&self, boot: u64) -> Option<Timestamp> {
        let nanos = i128::from(self.started_wall) + i128::from(boot) - i128::from(self.started_boot);
        Timestamp::from_nanosecond(nanos).ok()
    }
}

/// Events that were not seen.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Boot time up to which events may be missing.
    pub time: u64,
    /// Boot time since which they may be.
    pub since: u64,
    pub by_class: Vec<(&'static str, u64)>,
}

/// A traced program has said that it is here: everything it did before has been told by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Boot time.
    pub time: u64,
    pub pid: u32,
    pub tid: u32,
    /// What it said.
    pub number: u32,
}

/// The class, in [`Summary::lost_by_class`], of what costs the answer to who did it and is not lost.
pub const LEFT_OUT: &str = loss::NAMES[loss::RING_STACK];

/// Known when the trace has ended.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Events that arrived.
    pub events: u64,
    /// Events that the kernel side produced: those that arrived and those that were lost.
    pub produced: u64,
    pub lost: u64,
    pub lost_by_class: Vec<(&'static str, u64)>,
    /// For how long some table was not known with certainty.
    pub uncertain_ns: u64,
    pub findings: FindingCounts,
    pub duration_ns: u64,
}

impl Summary {
    /// What tells who made a call and was left out, for want of room or because of a budget. Not among the lost: what
    /// happened is known.
    pub fn left_out(&self) -> u64 {
        self.lost_by_class.iter().find(|(class, _)| *class == LEFT_OUT).map_or(0, |(_, count)| *count)
    }
}

/// How many findings, by level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindingCounts {
    pub total: u64,
    pub proven: u64,
    pub likely: u64,
    pub possible: u64,
    pub high: u64,
    pub medium: u64,
    pub note: u64,
    incidents: BTreeSet<u64>,
    /// The surest of those that are no mere notes.
    surest: Option<Confidence>,
}

impl FindingCounts {
    pub fn add(&mut self, finding: &Finding) {
        self.add_equal(finding, 1);
    }

    /// The same for as many that are equal.
    pub fn add_equal(&mut self, finding: &Finding, count: u64) {
        self.total += count;
        *match finding.confidence {
            Confidence::Proven => &mut self.proven,
            Confidence::Likely => &mut self.likely,
            Confidence::Possible => &mut self.possible,
        } += count;
        *match finding.severity {
            Severity::High => &mut self.high,
            Severity::Medium => &mut self.medium,
            Severity::Note => &mut self.note,
        } += count;
        self.incidents.insert(finding.incident);
        if finding.severity > Severity::Note {
            self.surest = self.surest.max(Some(finding.confidence));
        }
    }

    /// Is there a finding at least as sure as this? Notes do not count: they are not told either.
    pub fn reach(&self, level: Confidence) -> bool {
        self.surest >= Some(level)
    }

    /// Without those that `other` counts; of an incident that has more than those, its findings only.
    pub fn without(&self, other: &Self, told: impl Fn(u64) -> bool) -> Self {
        let incidents = self.incidents.iter().filter(|number| !other.incidents.contains(number) || told(**number));
        Self {
            total: self.total.saturating_sub(other.total),
            proven: self.proven.saturating_sub(other.proven),
            likely: self.likely.saturating_sub(other.likely),
            possible: self.possible.saturating_sub(other.possible),
            high: self.high.saturating_sub(other.high),
            medium: self.medium.saturating_sub(other.medium),
            note: self.note.saturating_sub(other.note),
            incidents: incidents.copied().collect(),
            surest: self.surest,
        }
    }

    /// Root causes: findings that share one are counted once.
    pub fn incidents(&self) -> u64 {
        self.incidents.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        detect::finding::Verb,
        sink::fixture::{act, finding},
    };

    #[test]
    fn notes_do_not_count() {
        let of = |severity, confidence| {
            let found = finding("double-close", confidence, "", vec![act(0, 3, 1, Verb::Closed, "close")]);
            Finding { severity, ..found }
        };
        let mut counts = FindingCounts::default();
        counts.add(&of(Severity::Note, Confidence::Proven));
        assert!(!counts.reach(Confidence::Possible));
        counts.add(&of(Severity::Medium, Confidence::Likely));
        let reached = [Confidence::Possible, Confidence::Likely, Confidence::Proven].map(|level| counts.reach(level));
        assert_eq!((reached, counts.total), ([true, true, false], 2));
    }
}
