//! Shows the source lines of those who played a part, marked, as a compiler would. The lines were read by others; where
//! there are none, the chain of callers stands in for them.

use super::{
    paint::{Line, Tone},
    words,
};
use crate::{
    detect::finding::{Act, Frame, Name, Role},
    escape::columns,
};

/// Callers that are named.
const CALLERS: usize = 4;
/// Lines of source in one report.
const LINES: usize = 6;

struct Mark<'a> {
    file: &'a Name,
    line: u32,
    source: &'a str,
    parts: Vec<(Role, String)>,
    callers: Vec<&'a Frame>,
}

/// Whether the source line of this act is at hand: then it says what part the act plays.
pub fn has_source(act: &Act) -> bool {
    let chain = words::chain(act);
    chain
        .iter()
        .skip(words::telling(&chain))
        .any(|frame| frame.source.is_some() && frame.file.is_some() && frame.line.is_some())
}

pub fn excerpt(acts: &[Act], width: usize) -> Vec<Line> {
    let mut marks: Vec<Mark<'_>> = Vec::new();
    let mut lines = Vec::new();
    for act in acts {
        let Some(role) = act.role else { continue };
        let chain = words::chain(act);
        // The frame to name, or else the next one further out whose source is known.
        let shown = chain
            .iter()
            .enumerate()
            .skip(words::telling(&chain))
            .find_map(|(at, frame)| Some((at, frame.file.as_ref()?, frame.line?, frame.source.as_deref()?)));
        match shown {
            Some((at, file, line, source)) => {
                let mut part = words::role(role).1.to_owned();
                if let Some(extension) = words::below(act).first() {
                    part.push_str(&format!(" in {}", site(extension)));
                } else if at > 0 {
                    part.push_str(&format!(" in {}", words::function(chain[0])));
                }
                if let Some(remark) = &act.remark {
                    part.push_str(&format!(": {}", words::tame(remark)));
                }
                let callers = chain[at + 1..].to_vec();
                if let Some(mark) = marks.iter_mut().find(|mark| (mark.file, mark.line) == (file, line)) {
                    if mark.parts.iter().all(|(known, _)| *known != role) {
                        mark.parts.push((role, part));
                    }
                } else if marks.len() < LINES {
                    marks.push(Mark { file, line, source, parts: vec![(role, part)], callers });
                }
            }
            None if chain.len() > 1 && lines.len() < LINES => {
                let all: Vec<&Frame> = words::below(act).into_iter().chain(chain).collect();
                lines.push(calls(role, &all, width));
            }
            None => {}
        }
    }
    let mut shown = show(marks, width);
    shown.append(&mut lines);
    shown
}

fn show(mut marks: Vec<Mark<'_>>, width: usize) -> Vec<Line> {
    let digits = marks.iter().map(|mark| mark.line.to_string().len()).max().unwrap_or(0).max(3);
    let gutter = |number: &str| Line::of(Tone::Gutter, format!("  {number:>digits$} │ "));
    let mut lines = Vec::new();
    while let Some(first) = marks.first() {
        let file = first.file;
        let (mut here, rest): (Vec<_>, Vec<_>) = marks.into_iter().partition(|mark| mark.file == file);
        marks = rest;
        here.sort_by_key(|mark| mark.line);
        let title = Line::of(Tone::Gutter, format!("  {:>digits$} ╭ ", ""));
        let room = width.saturating_sub(title.width());
        lines.push(title.and(Tone::Dim, words::path(file, room)));
        for mut mark in here {
            mark.parts.sort();
            let line = gutter(&mark.line.to_string());
            let room = width.saturating_sub(line.width());
            let source = shorten_end(&words::tame(mark.source.trim()), room);
            let under = "^".repeat(columns(&source).max(1));
            lines.push(line.and(Tone::Plain, source));

            let tone = mark.parts.iter().map(|(role, _)| *role).min().map_or(Tone::Plain, |role| words::role(role).0);
            let label = mark.parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join("; ");
            let blank = gutter("");
            if columns(&under) + 1 + columns(&label) <= room {
                lines.push(blank.and(tone, format!("{under} {label}")));
            } else {
                lines.push(blank.clone().and(tone, under));
                lines.push(blank.and(tone, shorten_end(&label, room)));
            }
            if !mark.callers.is_empty() {
                let from = format!("called from {}", sites(&mark.callers));
                lines.push(gutter("").and(Tone::Dim, shorten_end(&from, room)));
            }
        }
    }
    lines
}

/// The callers of an act whose source is not at hand.
fn calls(role: Role, chain: &[&Frame], width: usize) -> Line {
    let (tone, name) = words::role(role);
    let line = Line::of(tone, format!("  {name:<10}  "));
    let room = width.saturating_sub(line.width());
    line.and(Tone::Plain, shorten_end(&sites(chain), room))
}

/// `main (a.py:12)`
fn site(frame: &Frame) -> String {
    match words::place(frame, 40) {
        place if place.is_empty() => words::function(frame),
        place => format!("{} ({place})", words::function(frame)),
    }
}

/// `main (a.py:12) ‹ <module> (a.py:30)`
fn sites(frames: &[&Frame]) -> String {
    let mut sites: Vec<String> = frames.iter().take(CALLERS).map(|frame| site(frame)).collect();
    if let Some(more @ 1..) = frames.len().checked_sub(CALLERS) {
        sites.push(format!("{more} more"));
    }
    sites.join(" ‹ ")
}

/// Outer callers matter less than inner ones: what does not fit is cut from the end.
fn shorten_end(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    for character in text.chars() {
        if columns(&out) + columns(character.encode_utf8(&mut [0; 4])) + 1 > width {
            break;
        }
        out.push(character);
    }
    out.push('…');
    out
}
