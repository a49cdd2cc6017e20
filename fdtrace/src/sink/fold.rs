//! For sinks that tell findings as they come, and no lifetimes: equal findings are told once, and counted; notes are told
//! only with an incident that has something to say.
//!
//! A storm of ten thousand findings becomes the first of them, at once, and a count with the last, at the end. Nothing is
//! decided here about what is a mistake.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use crate::detect::finding::{Finding, Severity};

use super::{
    Sink,
    run::{Loss, Mark, RunMeta, Summary},
    shape::Shape,
};

/// Shapes, incidents and notes that are remembered; beyond that each finding is told for itself.
const REMEMBERED: usize = 65_536;
/// Notes held for one incident.
const NOTES: usize = 16;

/// A finding that came more than once.
#[derive(Debug)]
pub struct Repeat {
    /// How often in all.
    pub count: u64,
    /// Incident and time of the first.
    pub incident: u64,
    pub first: u64,
    pub last: Finding,
}

/// A sink behind which equal findings are one.
pub struct Folding<S> {
    inner: S,
    /// Tell notes too.
    notes: bool,
    known: HashMap<Shape, Known>,
    told: HashSet<u64>,
    held: BTreeMap<u64, Vec<Finding>>,
}

struct Known {
    count: u64,
    incident: u64,
    first: u64,
    /// In the order in which they were first told.
    order: usize,
    last: Option<Finding>,
}

impl<S: Sink> Folding<S> {
    pub fn new(inner: S, notes: bool) -> Self {
        Self { inner, notes, known: HashMap::new(), told: HashSet::new(), held: BTreeMap::new() }
    }

    fn tell(&mut self, finding: &Finding) -> io::Result<()> {
        let shape = Shape::of(finding);
        if let Some(known) = self.known.get_mut(&shape) {
            known.count += 1;
            known.last = Some(finding.clone());
            return Ok(());
        }
        let order = self.known.len();
        if order < REMEMBERED {
            let known = Known { count: 1, incident: finding.incident, first: finding.time, order, last: None };
            self.known.insert(shape, known);
        }
        self.inner.finding(finding)
    }
}

impl<S: Sink> Sink for Folding<S> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.inner.meta(meta)
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let incident = finding.incident;
        if finding.severity == Severity::Note && !self.notes && !self.told.contains(&incident) {
            if self.held.len() < REMEMBERED {
                let held = self.held.entry(incident).or_default();
                if held.len() < NOTES {
                    held.push(finding.clone());
                }
            }
            return Ok(());
        }
        if self.told.len() < REMEMBERED {
            self.told.insert(incident);
        }
        let mut result = Ok(());
        for note in self.held.remove(&incident).unwrap_or_default() {
            result = result.and(self.tell(&note));
        }
        result.and(self.tell(finding))
    }

    fn mark(&mut self, mark: &Mark) -> io::Result<()> {
        self.inner.mark(mark)
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.inner.loss(loss)
    }

    fn flush_incidents(&mut self, now: u64) -> io::Result<()> {
        self.inner.flush_incidents(now)
    }

    fn process_ended(&mut self, pid: u32) -> io::Result<()> {
        self.inner.process_ended(pid)
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        let mut again: Vec<Known> =
            std::mem::take(&mut self.known).into_values().filter(|k| k.last.is_some()).collect();
        again.sort_by_key(|known| known.order);
        let mut result = Ok(());
        for Known { count, incident, first, last, .. } in again {
            if let Some(last) = last {
                result = result.and(self.inner.repeated(&Repeat { count, incident, first, last }));
            }
        }
        result.and(self.inner.end(summary))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        detect::finding::{Confidence, Verb},
        sink::fixture::{act, finding},
    };

    #[derive(Default)]
    struct Counting {
        findings: Vec<&'static str>,
        repeats: Vec<u64>,
    }

    impl Sink for &mut Counting {
        fn meta(&mut self, _: &RunMeta) -> io::Result<()> {
            Ok(())
        }

        fn finding(&mut self, finding: &Finding) -> io::Result<()> {
            self.findings.push(finding.rule);
            Ok(())
        }

        fn repeated(&mut self, repeat: &Repeat) -> io::Result<()> {
            self.repeats.push(repeat.count);
            Ok(())
        }

        fn loss(&mut self, _: &Loss) -> io::Result<()> {
            Ok(())
        }

        fn end(&mut self, _: &Summary) -> io::Result<()> {
            Ok(())
        }
    }

    fn example(rule: &'static str, fd: i32) -> Finding {
        let acts = vec![act(0, fd, 1, Verb::Opened, "openat")];
        Finding { fd, ..finding(rule, Confidence::Proven, "something is wrong", acts) }
    }

    #[test]
    fn a_storm_is_told_once() {
        let mut counting = Counting::default();
        let mut sink = Folding::new(&mut counting, false);
        for fd in 0..10_000 {
            sink.finding(&Finding { incident: fd as u64, ..example("use-after-close", fd) }).unwrap();
        }
        sink.finding(&example("stale-close", 3)).unwrap();
        sink.end(&Summary::default()).unwrap();
        assert_eq!((counting.findings, counting.repeats), (vec!["use-after-close", "stale-close"], vec![10_000]));
    }

    #[test]
    fn notes_come_with_their_incident_only() {
        let note = |incident| Finding { severity: Severity::Note, incident, ..example("double-close", 3) };
        let mut counting = Counting::default();
        let mut sink = Folding::new(&mut counting, false);
        sink.finding(&note(1)).unwrap();
        sink.finding(&note(2)).unwrap();
        sink.finding(&Finding { incident: 2, ..example("stale-close", 3) }).unwrap();
        sink.end(&Summary::default()).unwrap();
        assert_eq!(counting.findings, ["double-close", "stale-close"]);
    }
}
