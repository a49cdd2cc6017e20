//! Draws one incident, like a compiler's diagnostic: what happened, in which process, the life of the descriptor, the
//! source lines, the consequences, the advice.

use std::collections::BTreeMap;

use super::{
    excerpt::excerpt,
    incident::{Folded, Incident, merged_timeline},
    paint::{Line, Tone, paragraph},
    timeline, words,
};
use crate::{
    detect::finding::{Act, Name},
    sink::run::{Loss, RunMeta},
};

/// Text wider than this is hard to read, however wide the terminal is. Tables may be wider.
const READABLE: usize = 100;
/// Consequences that are told one by one.
const CONSEQUENCES: usize = 8;
/// Processes that are named one by one.
const PROCESSES: usize = 6;

/// What a report is drawn with, besides the incident.
pub struct Surroundings<'a> {
    pub width: usize,
    pub meta: Option<&'a RunMeta>,
    /// Losses that may touch the incident.
    pub losses: &'a [Loss],
}

pub fn report(incident: &Incident, around: &Surroundings<'_>) -> Vec<Line> {
    let Some((head, consequences)) = incident.ranked() else {
        return Vec::new();
    };
    let text_width = around.width.min(READABLE);
    let acts = merged_timeline(std::iter::once(head).chain(consequences.iter().copied()).map(|folded| &folded.finding));

    let mut lines = headline(head, text_width);
    lines.extend(processes(head, &acts, around));
    lines.extend(when(incident, head, around));
    if !acts.is_empty() {
        lines.push(Line::of(Tone::Dim, "  ").and(Tone::Strong, timeline::heading(&acts)));
        lines.extend(timeline::timeline(&acts, around.width));
    }
    lines.extend(excerpt(&acts, around.width));
    lines.extend(also(&consequences, text_width));
    lines.extend(notes(head, &consequences, &acts, around.losses, text_width));
    lines.extend(labelled(Tone::Help, "help", Tone::Plain, &words::tame(head.finding.advice), text_width));
    lines.push(Line::of(Tone::Dim, format!("  more fdtrace explain {}", head.finding.rule)));
    lines
}

/// `error[stale-close] fd 3 was closed …          proven`
fn headline(head: &Folded, width: usize) -> Vec<Line> {
    let finding = &head.finding;
    let (tone, level) = words::level(finding);
    let confidence = words::confidence(finding.confidence);
    let first = Line::of(tone, level).and(Tone::Strong, format!("[{}] ", finding.rule));
    let room = width.saturating_sub(confidence.len() + 2);
    let mut lines = paragraph(first, 2, Tone::Strong, &words::tame(&finding.message), room);
    if let Some(first) = lines.first_mut() {
        first.pad(width.saturating_sub(confidence.len()));
        first.push(tone, confidence);
    }
    lines
}

fn processes(head: &Folded, acts: &[Act], around: &Surroundings<'_>) -> Vec<Line> {
    let targets = around.meta.map_or(&[][..], |meta| &meta.targets);
    let mut involved: BTreeMap<u32, &Name> = BTreeMap::from([(head.finding.pid, &head.finding.process)]);
    for act in acts {
        involved.insert(act.pid, &act.process);
    }
    let label = if involved.len() > 1 { "processes" } else { "process" };
    let mut lines: Vec<Line> = Vec::new();
    let inside = |pid| head.finding.inside.iter().find(|(outside, _)| *outside == pid).map(|(_, inside)| *inside);
    let left_out = involved.len().saturating_sub(PROCESSES);
    for (pid, name) in involved.into_iter().take(PROCESSES) {
        let label = if lines.is_empty() { label } else { "" };
        let line = Line::of(Tone::Strong, format!("  {label:<9}  "));
        let room = around.width.saturating_sub(line.width());
        lines.push(line.and(Tone::Plain, words::process(pid, inside(pid), name, targets, room)));
    }
    if left_out > 0 {
        lines.push(Line::new().padded(13).and(Tone::Dim, format!("and {left_out} more")));
    }
    lines
}

/// When, by which number, how often.
fn when(incident: &Incident, head: &Folded, around: &Surroundings<'_>) -> Vec<Line> {
    let mut line = Line::of(Tone::Strong, "  incident   ").and(Tone::Plain, incident.number.to_string());
    if let Some(wall) = around.meta.and_then(|meta| meta.wall(head.first)) {
        line.push(Tone::Dim, format!("  {wall:.3}"));
    }
    if head.count > 1 {
        line.push(Tone::Strong, format!("  seen {}", times(head)));
    }
    if let Some(rule) = incident.follows {
        line.push(Tone::Plain, format!("  follows {rule}, told above"));
    }
    vec![line]
}

/// `10,000 times within 9.1 s, in 3 processes`
fn times(folded: &Folded) -> String {
    let mut text =
        format!("{} times within {}", words::thousands(folded.count), words::seconds(folded.last - folded.first));
    if folded.pids.len() > 1 {
        text.push_str(&format!(", in {} processes", folded.pids.len()));
    }
    text
}

fn also(consequences: &[&Folded], width: usize) -> Vec<Line> {
    let shown = &consequences[..consequences.len().min(CONSEQUENCES)];
    let rules = shown.iter().map(|folded| folded.finding.rule.len()).max().unwrap_or(0);
    let mut lines: Vec<Line> = Vec::new();
    for folded in shown {
        let finding = &folded.finding;
        let label = if lines.is_empty() { "also" } else { "" };
        let confidence = words::confidence(finding.confidence);
        let first = Line::of(Tone::Strong, format!("  {label:<5}"))
            .and(words::level(finding).0, format!("{:<rules$}", finding.rule))
            .and(Tone::Dim, format!("  {confidence:<8}  "));
        let mut sentence = words::tame(&finding.message);
        if folded.count > 1 {
            sentence.push_str(&format!(" (seen {})", times(folded)));
        }
        let hang = if width >= first.width() + 40 { first.width() } else { 9 };
        lines.extend(paragraph(first, hang, Tone::Plain, &sentence, width));
    }
    if let Some(more @ 1..) = consequences.len().checked_sub(CONSEQUENCES) {
        lines.push(Line::new().padded(7).and(Tone::Dim, format!("and {more} more")));
    }
    lines
}

/// What a reader must know to judge the report.
fn notes(head: &Folded, consequences: &[&Folded], acts: &[Act], losses: &[Loss], width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let complete = head.finding.complete && consequences.iter().all(|folded| folded.finding.complete);
    if !complete {
        let since = acts.first().map_or(head.first, |act| act.time);
        let until = head.last;
        let mut missing: BTreeMap<&'static str, u64> = BTreeMap::new();
        for loss in losses.iter().filter(|loss| loss.since <= until && loss.time >= since) {
            for (class, count) in &loss.by_class {
                *missing.entry(class).or_default() += count;
            }
        }
        let missing: Vec<_> = missing.into_iter().collect();
        let what = match missing.as_slice() {
            [] => String::new(),
            classes => format!(": {}", words::by_class(classes)),
        };
        let text = format!("events are missing from this window{what}; it may have been somebody else");
        lines.extend(labelled(Tone::Note, "note", Tone::Plain, &text, width));
    }
    if acts.iter().any(|act| act.ambiguous) {
        let text = "acts at times with ~ raced each other: the order shown is one of several that fit";
        lines.extend(labelled(Tone::Note, "note", Tone::Plain, text, width));
    }
    lines
}

fn labelled(tone: Tone, label: &str, text_tone: Tone, text: &str, width: usize) -> Vec<Line> {
    paragraph(Line::of(tone, format!("  {label:<5}")), 7, text_tone, text, width)
}
