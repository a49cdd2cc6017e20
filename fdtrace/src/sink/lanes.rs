//! The timeline for a terminal: a lane for each descriptor number, generations as bars, findings pinned below the lane
//! they are about. All of it is known before the first line is printed, so what is remembered of each generation is
//! little, and there is a limit.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

use super::{
    Sink,
    lifetime::Lifetime,
    run::{Loss, RunMeta, Summary},
    text::paint::{Line, Tone},
};
use crate::{
    detect::finding::{Finding, Name, Severity},
    escape::{columns, escape_terminal, shorten_middle},
};

/// Generations that are remembered, and findings.
const BARS_MAX: usize = 2_000_000;
const PINS_MAX: usize = 10_000;
/// Findings spelled out below the lanes.
const TOLD_MAX: usize = 40;
/// Columns before the lanes.
const LABEL: usize = 8;

pub struct LanesSink<W: Write> {
    out: W,
    width: usize,
    colour: bool,
    meta: Option<RunMeta>,
    processes: BTreeMap<u32, Name>,
    /// By process, table and number.
    lanes: BTreeMap<(u32, u32, i32), Lane>,
    bars: usize,
    left_out: u64,
    pins: Vec<Finding>,
    losses: Vec<(u64, u64)>,
    span: (u64, u64),
}

#[derive(Default)]
struct Lane {
    bars: Vec<Bar>,
    last: Name,
}

struct Bar {
    from: u64,
    /// `u64::MAX`: open at the end.
    to: u64,
    description: u64,
}

impl<W: Write> LanesSink<W> {
    pub fn new(out: W, width: usize, colour: bool) -> Self {
        Self {
            out,
            width: width.max(40),
            colour,
            meta: None,
            processes: BTreeMap::new(),
            lanes: BTreeMap::new(),
            bars: 0,
            left_out: 0,
            pins: Vec::new(),
            losses: Vec::new(),
            span: (u64::MAX, 0),
        }
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        writeln!(self.out, "{}", line.paint(self.colour))
    }

    fn seen(&mut self, time: u64) {
        self.span = (self.span.0.min(time), self.span.1.max(time));
    }

    /// Column of a moment.
    fn column(&self, time: u64, room: usize) -> usize {
        let (from, to) = self.span;
        let share = time.clamp(from, to) - from;
        let column = u128::from(share) * (room as u128) / (u128::from(to - from) + 1);
        (column as usize).min(room - 1)
    }

    fn cells(&self, lane: &Lane, room: usize) -> String {
        // What a column shows: nothing, a bar, its ends, or more than that.
        let mut cells = vec![(' ', 0u32); room];
        for bar in &lane.bars {
            let (first, last) = (self.column(bar.from, room), self.column(bar.to.min(self.span.1), room));
            for (column, cell) in cells.iter_mut().enumerate().take(last + 1).skip(first) {
                cell.1 += 1;
                let (begins, ends) = (column == first, column == last && bar.to != u64::MAX);
                cell.0 = match (cell.1, begins, ends) {
                    (2.., _, _) if cell.1 > 2 => '▒',
                    (2, _, _) if cell.0 == '┤' && begins && !ends => '┼',
                    (2, _, _) => '▒',
                    (_, true, true) => '|',
                    (_, true, false) => '├',
                    (_, false, true) => '┤',
                    (_, false, false) => '─',
                };
            }
        }
        cells.into_iter().map(|(cell, _)| cell).collect()
    }

    fn ruler(&self, room: usize) -> String {
        let span = self.span.1 - self.span.0;
        let step = round_step(span / (room as u64 / 14).max(2));
        let mut ruler = String::new();
        for time in (0..=span).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let at = self.column(self.span.0 + time, room);
            let mark = format!("╵{}", spell_mark(time, step));
            if columns(&ruler) > at || at + columns(&mark) > room {
                continue;
            }
            ruler.push_str(&" ".repeat(at - columns(&ruler)));
            ruler.push_str(&mark);
        }
        ruler
    }

    fn tell(&mut self) -> io::Result<()> {
        if self.lanes.is_empty() {
            return writeln!(self.out, "no descriptor fits");
        }
        let room = self.width.saturating_sub(LABEL + self.width / 4).max(16);
        let room_for_name = self.width - LABEL - room - 2;
        let ruler = self.ruler(room);
        let mut holders: HashMap<u64, (usize, usize)> = HashMap::new();
        for (index, lane) in self.lanes.values().enumerate() {
            for bar in &lane.bars {
                let known = holders.entry(bar.description).or_insert((index, 0));
                if known.1 == 0 || known.0 != index {
                    *known = (index, known.1 + 1);
                }
            }
        }
        let mut shared: Vec<u64> = holders.iter().filter(|(_, (_, n))| *n > 1).map(|(serial, _)| *serial).collect();
        shared.sort_unstable();
        let letters: HashMap<u64, String> =
            shared.into_iter().enumerate().map(|(index, serial)| (serial, letters(index))).collect();
        let lanes = std::mem::take(&mut self.lanes);
        let pins = std::mem::take(&mut self.pins);
        let mut before = None;
        for ((pid, table, fd), lane) in &lanes {
            if before != Some((*pid, *table)) {
                if before.is_some() {
                    writeln!(self.out)?;
                }
                before = Some((*pid, *table));
                let name = self.processes.get(pid).map(|name| escape_terminal(&name.0)).unwrap_or_default();
                let name = shorten_middle(&name, self.width.saturating_sub(24));
                self.line(&Line::of(Tone::Strong, name).and(Tone::Dim, format!("  pid {pid}  table {table}")))?;
                self.line(&Line::of(Tone::Dim, format!("{:LABEL$}{ruler}", "")))?;
            }
            let mut marks: Vec<&str> =
                lane.bars.iter().filter_map(|bar| letters.get(&bar.description)).map(String::as_str).collect();
            marks.sort_unstable();
            marks.dedup();
            let marks = match &marks[..] {
                [] => String::new(),
                few if few.len() <= 3 => format!("[{}] ", few.join("")),
                _ => "[…] ".to_owned(),
            };
            let count = match lane.bars.len() {
                0 | 1 => String::new(),
                few @ ..10_000 => format!("×{few} "),
                many => format!("×{}k ", many / 1000),
            };
            // The name is what is shortened: what stands before it says how much there is.
            let before = format!("{marks}{count}");
            let name = shorten_middle(&escape_terminal(&lane.last.0), room_for_name.saturating_sub(columns(&before)));
            let name = shorten_middle(&format!("{before}{name}"), room_for_name);
            let line = Line::of(Tone::Strong, format!("{:>6}  ", format!("fd {fd}")))
                .and(Tone::Gutter, self.cells(lane, room))
                .and(Tone::Plain, "  ")
                .and(Tone::Plain, name);
            self.line(&line)?;
            self.pinned(&pins, *pid, *fd, room)?;
        }
        self.legend(&letters, &pins)
    }

    /// Marks below a lane, one for each finding, numbered.
    fn pinned(&mut self, pins: &[Finding], pid: u32, fd: i32, room: usize) -> io::Result<()> {
        // Where each mark stands, and the numbers it stands for: those without room for their own are told by the one before.
        let mut marks: Vec<(usize, usize, usize)> = Vec::new();
        for (number, pin) in (1..).zip(pins).filter(|(_, pin)| (pin.pid, pin.fd) == (pid, fd)) {
            let at = self.column(pin.time, room);
            match marks.last_mut() {
                Some((before, first, last)) if at < *before + columns(&pin_mark(*first, number)) + 1 => *last = number,
                _ => marks.push((at, number, number)),
            }
        }
        let mut row = String::new();
        for (at, first, last) in marks {
            row.push_str(&" ".repeat(at.saturating_sub(columns(&row))));
            row.push_str(&pin_mark(first, last));
        }
        if row.is_empty() {
            return Ok(());
        }
        let row = shorten_middle(&row, self.width - LABEL);
        self.line(&Line::of(Tone::Error, format!("{:LABEL$}{row}", "")))
    }

    fn legend(&mut self, letters: &HashMap<u64, String>, pins: &[Finding]) -> io::Result<()> {
        writeln!(self.out)?;
        let mut legend = String::from("├ opened  ┤ closed  ▒ several  ×N generations");
        if !letters.is_empty() {
            legend.push_str("  [A] one description");
        }
        self.line(&Line::of(Tone::Dim, shorten_middle(&legend, self.width)))?;
        for (since, until) in std::mem::take(&mut self.losses) {
            let text = format!("events are missing from +{} to +{}", self.since(since), self.since(until));
            self.line(&Line::of(Tone::Warning, text))?;
        }
        if self.left_out > 0 {
            let text = format!("{} generations are left out: narrow it down with --pid, --fd or --from", self.left_out);
            self.line(&Line::of(Tone::Warning, text))?;
        }
        for (number, pin) in pins.iter().enumerate().take(TOLD_MAX) {
            let tone = match pin.severity {
                Severity::High => Tone::Error,
                Severity::Medium => Tone::Warning,
                Severity::Note => Tone::Note,
            };
            let head = format!("▲{} +{} {} ", number + 1, self.since(pin.time), pin.confidence.name());
            let message = shorten_middle(&pin.message, self.width.saturating_sub(columns(&head) + pin.rule.len() + 2));
            self.line(
                &Line::of(Tone::Plain, head).and(tone, pin.rule).and(Tone::Plain, "  ").and(Tone::Plain, message),
            )?;
        }
        if pins.len() > TOLD_MAX {
            writeln!(self.out, "… and {} more: `fdtrace report` tells them all", pins.len() - TOLD_MAX)?;
        }
        Ok(())
    }

    fn since(&self, time: u64) -> String {
        spell(time.saturating_sub(self.meta.as_ref().map_or(0, |meta| meta.started_boot)) as f64)
    }
}

fn pin_mark(first: usize, last: usize) -> String {
    if first == last { format!("▲{first}") } else { format!("▲{first}–{last}") }
}

/// 1, 2 or 5 of a power of ten, not less than `step`.
fn round_step(step: u64) -> u64 {
    let power = 10u64.pow(step.max(1).ilog10());
    [1, 2, 5].map(|times| times * power).into_iter().find(|round| *round >= step).unwrap_or(power.saturating_mul(10))
}

/// In the unit of the step between marks, which is round.
fn spell_mark(ns: u64, step: u64) -> String {
    match step {
        1_000_000_000.. => format!("{} s", ns / 1_000_000_000),
        1_000_000.. => format!("{} ms", ns / 1_000_000),
        1_000.. => format!("{} µs", ns / 1_000),
        _ => format!("{ns} ns"),
    }
}

/// A, B, …, Z, AA, AB, …
fn letters(mut index: usize) -> String {
    let mut letters = String::new();
    loop {
        letters.insert(0, char::from(b'A' + (index % 26) as u8));
        if index < 26 {
            return letters;
        }
        index = index / 26 - 1;
    }
}

fn spell(ns: f64) -> String {
    match ns {
        ns if ns >= 1e9 => format!("{:.3} s", ns / 1e9),
        ns if ns >= 1e6 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.0} µs", ns / 1e3),
    }
}

impl<W: Write> Sink for LanesSink<W> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.meta = Some(meta.clone());
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.seen(finding.time);
        if self.pins.len() < PINS_MAX {
            self.pins.push(finding.clone());
        }
        Ok(())
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        if self.losses.len() < 20 {
            self.losses.push((loss.since, loss.time));
        }
        Ok(())
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        if self.bars >= BARS_MAX {
            self.left_out += 1;
            return Ok(());
        }
        self.bars += 1;
        let from = lifetime.opened.time;
        let to = lifetime.ended();
        self.seen(from);
        self.seen(to.unwrap_or(from));
        let lane = self.lanes.entry((lifetime.pid, lifetime.table, lifetime.fd)).or_default();
        lane.bars.push(Bar { from, to: to.unwrap_or(u64::MAX), description: lifetime.description });
        lane.last = lifetime.object.clone();
        self.processes.insert(lifetime.pid, lifetime.process.clone());
        Ok(())
    }

    fn end(&mut self, _summary: &Summary) -> io::Result<()> {
        self.tell()?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::fixture;

    #[test]
    fn fits_the_terminal_and_keeps_its_rows() {
        for width in [40, 80, 200] {
            let mut out = Vec::new();
            let mut sink = LanesSink::new(&mut out, width, false);
            sink.meta(&fixture::meta("python3 a.py")).unwrap();
            for fd in 0..6 {
                for generation in 1..40 {
                    sink.lifetime(&fixture::lifetime(fd, generation, "\u{1b}[2J\n世界\u{202e}/long/name".as_bytes()))
                        .unwrap();
                }
            }
            sink.end(&Summary::default()).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.lines().all(|line| columns(line) <= width), "{text}");
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
            assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("fd ")).count(), 6);
        }
    }

    #[test]
    fn marks_are_round() {
        assert_eq!([1, 2, 3, 7, 10, 377_400_000].map(round_step), [1, 2, 5, 10, 10, 500_000_000]);
        assert_eq!([spell_mark(1_500_000, 500_000), spell_mark(4_000_000_000, 2_000_000_000)], ["1500 µs", "4 s"]);
        assert_eq!([pin_mark(4, 4), pin_mark(4, 6)], ["▲4", "▲4–6"]);
    }

    #[test]
    fn letters_go_on_after_z() {
        assert_eq!([letters(0), letters(25), letters(26), letters(701)].map(|s| s), ["A", "Z", "AA", "ZZ"]);
    }
}
