//! The text report, for people: findings to one writer, the last line of a run to another.
//!
//! Findings of one root cause are told once. They come one by one, so an incident is held until nothing new has come to
//! it for a while, by the time of events; what comes later is told as a sequel. Findings that repeat what was told are
//! counted, and the counts told at the end. This module decides when; the others how it looks.

mod excerpt;
mod incident;
pub(in crate::sink) mod paint;
mod report;
mod table;
mod timeline;
mod words;

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

use super::{
    FindingCounts, Sink,
    run::{LEFT_OUT, Loss, RunMeta, Summary},
};
use crate::detect::finding::Finding;
use crate::sink::shape::Shape;
use incident::{Folded, Incident};
use paint::{Line, Tone};
use report::{Surroundings, report};

/// Incidents, shapes and losses that are remembered. A program that breaks rules in more ways than this is told more than once.
const OPEN_INCIDENTS: usize = 256;
const KNOWN_SHAPES: usize = 4096;
const KNOWN_INCIDENTS: usize = 65_536;
const KNOWN_LOSSES: usize = 256;
/// From so many on, equal findings are no longer held to see what belongs to them.
const STORM: u64 = 1000;
/// Counts told one by one at the end.
const REPEATS: usize = 20;

/// How to tell.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Columns of the terminal.
    pub width: usize,
    pub colour: bool,
    /// Tell also incidents that are nothing but notes.
    pub notes: bool,
    /// An incident is told when nothing new came to it for so long …
    pub quiet_ns: u64,
    /// … or when its first finding is so old …
    pub patience_ns: u64,
    /// … or when so many different findings belong to it.
    pub findings: usize,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { width: 80, colour: false, notes: false, quiet_ns: 500_000_000, patience_ns: 5_000_000_000, findings: 64 }
    }
}

impl TextOptions {
    /// As the stream has it: its width if it is a terminal, and colour as it, `NO_COLOR` and the user's choice demand.
    pub fn for_stream<S: anstream::stream::RawStream + std::os::fd::AsFd>(stream: &S) -> Self {
        let width = terminal_size::terminal_size_of(stream).map_or(100, |(width, _)| usize::from(width.0));
        let colour = anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never;
        Self { width: width.max(40), colour, ..Self::default() }
    }
}

pub struct TextSink<R: Write, E: Write> {
    reports: R,
    /// For what is about the run and not about the program.
    remarks: E,
    options: TextOptions,
    meta: Option<RunMeta>,
    losses: Vec<Loss>,
    open: BTreeMap<u64, Incident>,
    /// Rule at the head of incidents that were told.
    told: HashMap<u64, &'static str>,
    /// What was told, and how often it came again.
    known: HashMap<Shape, Known>,
    notes_not_told: FindingCounts,
}

struct Known {
    rule: &'static str,
    incident: u64,
    again: u64,
    first: u64,
    last: u64,
}

impl<R: Write, E: Write> TextSink<R, E> {
    pub fn new(reports: R, remarks: E, options: TextOptions) -> Self {
        Self {
            reports,
            remarks,
            options,
            meta: None,
            losses: Vec::new(),
            open: BTreeMap::new(),
            told: HashMap::new(),
            known: HashMap::new(),
            notes_not_told: FindingCounts::default(),
        }
    }

    fn is_ripe(&self, incident: &Incident, now: u64) -> bool {
        now.saturating_sub(incident.last_new) >= self.options.quiet_ns
            || now.saturating_sub(incident.first) >= self.options.patience_ns
            || incident.findings.len() >= self.options.findings
    }

    fn tell_all(&mut self, is_due: impl Fn(&Self, &Incident) -> bool) -> io::Result<()> {
        let mut due: Vec<(u64, u64)> =
            self.open.values().filter(|incident| is_due(self, incident)).map(|i| (i.first, i.number)).collect();
        due.sort_unstable();
        for (_, number) in due {
            self.tell(number)?;
        }
        Ok(())
    }

    fn tell(&mut self, number: u64) -> io::Result<()> {
        let Some(incident) = self.open.remove(&number) else {
            return Ok(());
        };
        // A sequel made of notes still explains something that was told.
        if !incident.matters() && incident.follows.is_none() && !self.options.notes {
            for folded in incident.findings.values() {
                self.notes_not_told.add_equal(&folded.finding, folded.count);
            }
            return Ok(());
        }
        let Some(rule) = incident.ranked().map(|(head, _)| head.finding.rule) else {
            return Ok(());
        };
        if incident.findings.keys().all(|shape| self.known.contains_key(shape)) {
            for (shape, folded) in &incident.findings {
                self.count_again(*shape, folded.count, folded.last);
            }
            return Ok(());
        }
        if self.told.len() < KNOWN_INCIDENTS {
            self.told.entry(number).or_insert(rule);
        }
        for (shape, folded) in &incident.findings {
            self.remember(*shape, folded, number);
        }
        let around = Surroundings { width: self.options.width, meta: self.meta.as_ref(), losses: &self.losses };
        let lines = report(&incident, &around);
        self.print(&lines)
    }

    /// One write for a report, so that the output of the traced program does not come between its lines.
    fn print(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&line.paint(self.options.colour));
            text.push('\n');
        }
        text.push('\n');
        self.reports.write_all(text.as_bytes())?;
        self.reports.flush()
    }

    fn remember(&mut self, shape: Shape, folded: &Folded, incident: u64) {
        if self.known.contains_key(&shape) {
            self.count_again(shape, folded.count, folded.last);
        } else if self.known.len() < KNOWN_SHAPES {
            let Folded { finding, first, last, .. } = folded;
            self.known.insert(shape, Known { rule: finding.rule, incident, again: 0, first: *first, last: *last });
        }
    }

    fn count_again(&mut self, shape: Shape, count: u64, last: u64) {
        if let Some(known) = self.known.get_mut(&shape) {
            known.again += count;
            known.last = known.last.max(last);
        }
    }

    /// It came so often that nobody wants to know what else belongs to the incident of this one.
    fn is_storm(&self, shape: Shape) -> bool {
        self.known.get(&shape).is_some_and(|known| known.again >= STORM)
    }

    fn repeats(&self) -> Vec<Line> {
        let mut repeated: Vec<&Known> = self.known.values().filter(|known| known.again > 0).collect();
        repeated.sort_by_key(|known| (std::cmp::Reverse(known.again), known.incident, known.rule));
        let since_start = |boot: u64| {
            let start = self.meta.as_ref().map_or(0, |meta| meta.started_boot);
            words::seconds(boot.saturating_sub(start))
        };
        let rules = repeated.iter().take(REPEATS).map(|known| known.rule.len()).max().unwrap_or(0);
        let mut lines: Vec<Line> = repeated
            .iter()
            .take(REPEATS)
            .map(|known| {
                Line::of(Tone::Strong, "seen again  ")
                    .and(Tone::Plain, format!("{:<rules$}", known.rule))
                    .and(Tone::Plain, format!("  incident {}  ", known.incident))
                    .and(Tone::Strong, format!("{} times", words::thousands(known.again)))
                    .and(
                        Tone::Dim,
                        format!(
                            "  first {}, last {} into the trace",
                            since_start(known.first),
                            since_start(known.last)
                        ),
                    )
            })
            .collect();
        if let Some(more @ 1..) = repeated.len().checked_sub(REPEATS) {
            lines.push(Line::of(Tone::Dim, format!("            and {more} more")));
        }
        lines
    }

    fn last_line(&self, summary: &Summary) -> String {
        let found = summary.findings.without(&self.notes_not_told, |incident| self.told.contains_key(&incident));
        let mut text = match found.total {
            0 if summary.lost > 0 => "no findings, but events are missing".to_owned(),
            0 => "no findings".to_owned(),
            _ => {
                let levels = [(found.proven, "proven"), (found.likely, "likely"), (found.possible, "possible")];
                let levels = levels.iter().filter(|(count, _)| *count > 0);
                let levels = levels.map(|(count, level)| format!("{} {level}", words::thousands(*count)));
                let levels = levels.collect::<Vec<_>>().join(", ");
                let (findings, incidents) =
                    (words::count(found.total, "finding"), words::count(found.incidents(), "incident"));
                format!("{findings} in {incidents} ({levels})")
            }
        };
        if self.notes_not_told.total > 0 {
            text.push_str(&format!(", {} not shown", words::count(self.notes_not_told.total, "note")));
        }
        text.push_str(&format!(
            "; events {}, lost {}",
            words::thousands(summary.events),
            words::thousands(summary.lost)
        ));
        let lost: Vec<_> = summary.lost_by_class.iter().filter(|(class, _)| *class != LEFT_OUT).copied().collect();
        if !lost.is_empty() && summary.lost > 0 {
            text.push_str(&format!(" ({})", words::by_class(&lost)));
        }
        let left_out = summary.left_out();
        // A stack is missed now and then, where the kernel interrupted a hook; who wants to know has the JSON.
        if left_out > summary.events / 100 {
            text.push_str(&format!(", left out {} (stacks, paths)", words::thousands(left_out)));
        }
        text.push_str(&format!(", uncertain {}", words::seconds(summary.uncertain_ns)));
        text
    }
}

impl<R: Write, E: Write> Sink for TextSink<R, E> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        if meta.already_open > 0 {
            let open = words::count(meta.already_open as u64, "descriptor");
            let verb = if meta.already_open == 1 { "was" } else { "were" };
            writeln!(self.remarks, "fdtrace: {open} {verb} open already; who opened them is not known")?;
        }
        self.meta = Some(meta.clone());
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let shape = Shape::of(finding);
        let number = finding.incident;
        if let Some(incident) = self.open.get_mut(&number) {
            incident.add(shape, finding);
        } else if self.told.contains_key(&number) && self.known.contains_key(&shape) || self.is_storm(shape) {
            self.count_again(shape, 1, finding.time);
        } else {
            if self.open.len() >= OPEN_INCIDENTS
                && let Some(oldest) = self.open.values().min_by_key(|incident| incident.first).map(|i| i.number)
            {
                self.tell(oldest)?;
            }
            let follows = self.told.get(&number).copied();
            self.open.insert(number, Incident::new(number, follows, shape, finding));
        }
        self.flush_incidents(finding.time)
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        if self.losses.len() >= KNOWN_LOSSES {
            self.losses.remove(0);
        }
        self.losses.push(loss.clone());
        Ok(())
    }

    fn flush_incidents(&mut self, now: u64) -> io::Result<()> {
        self.tell_all(|sink, incident| sink.is_ripe(incident, now))
    }

    fn process_ended(&mut self, pid: u32) -> io::Result<()> {
        self.tell_all(|_, incident| {
            incident.findings.values().all(|folded| folded.pids.len() == 1 && folded.pids.contains(&pid))
        })
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        self.tell_all(|_, _| true)?;
        let repeats = self.repeats();
        if !repeats.is_empty() {
            self.print(&repeats)?;
        }
        writeln!(self.remarks, "fdtrace: {}", self.last_line(summary))?;
        self.remarks.flush()
    }
}

#[cfg(test)]
mod tests;
