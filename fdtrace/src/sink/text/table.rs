//! Rows and columns of a timeline. Columns are as wide as their content and the terminal allow; those that would say the
//! same in each row (one process, one thread, one number) are left out. Where even the narrowest table is too wide, the
//! doer moves to a line of his own under each act.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    excerpt::has_source,
    paint::{Line, Tone, paragraph},
    words::{self, Addresses},
};
use crate::{
    detect::finding::{Act, Verb},
    escape::{columns, escape_terminal, shorten_middle},
};

const INDENT: usize = 4;
const GAP: usize = 2;
/// With less room than this, what says little is left out.
const ROOMY: usize = 90;

/// Columns that say where: each is blank where it repeats the row above.
const LABELS: usize = 3;
/// Columns that say what: time, verb, object.
const WHAT: std::ops::Range<usize> = LABELS..LABELS + 3;
const TIME: usize = LABELS;
const VERB: usize = LABELS + 1;
const OBJECT: usize = LABELS + 2;
/// Columns that say who: actor, place, function, thread.
const WHO: std::ops::Range<usize> = LABELS + 3..COLUMNS;
const ACTOR: usize = LABELS + 3;
const PLACE: usize = LABELS + 4;
const FUNCTION: usize = LABELS + 5;
const COLUMNS: usize = LABELS + 7;

/// Whether verb and object have a column each, or share one, which is narrower: most rows have no object of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sentence {
    Apart,
    Joined,
}

pub struct Table<'a> {
    cells: Vec<[String; COLUMNS]>,
    /// Widths with which no cell is cut.
    natural: [usize; COLUMNS],
    /// Widths of a table with one line for each act; `None`: it takes two.
    fitted: Option<[usize; COLUMNS]>,
    acts: &'a [Act],
    room: usize,
}

impl<'a> Table<'a> {
    /// The widest layout that fits.
    pub fn fit(acts: &'a [Act], width: usize) -> Self {
        let room = width.saturating_sub(INDENT).max(40);
        let spacious = Self::of(acts, room, Sentence::Apart);
        if let Some(widths) = spacious.widths_with_parts(room) {
            return Self { fitted: Some(widths), ..spacious };
        }
        let dense = Self::of(acts, room, Sentence::Joined);
        Self { fitted: dense.widths_with_parts(room).or_else(|| dense.widths(room)), ..dense }
    }

    fn of(acts: &'a [Act], room: usize, sentence: Sentence) -> Self {
        let start = acts.first().map_or(0, |first| first.time);
        let span = acts.last().map_or(0, |last| last.time.saturating_sub(start));
        let addresses = Addresses::of(acts);
        let several = |count: usize| count > 1;
        let pids = several(acts.iter().map(|act| act.pid).collect::<BTreeSet<_>>().len());
        let fds = several(acts.iter().map(|act| act.fd).filter(|fd| *fd >= 0).collect::<BTreeSet<_>>().len());
        let threads: BTreeSet<_> = acts.iter().map(|act| (act.pid, act.tid)).collect();
        let threads = acts.iter().any(|act| threads.iter().any(|(pid, tid)| *pid == act.pid && *tid != act.tid));

        let mut before: Option<&Act> = None;
        let mut objects = BTreeMap::new();
        let mut cells = Vec::with_capacity(acts.len());
        for act in acts {
            let new_pid = before.is_none_or(|before| before.pid != act.pid);
            let new_fd = new_pid || before.is_none_or(|before| before.fd != act.fd);
            let new_life = new_fd || before.is_none_or(|before| before.generation != act.generation);
            let is_birth = matches!(act.verb, Verb::Opened | Verb::AlreadyOpen | Verb::UnseenOrigin | Verb::Duplicated);
            let new_object = objects.insert(act.fd, &act.object) != Some(&act.object) || is_birth;
            let show = |wanted: bool, text: String| if wanted { text } else { String::new() };
            let chain = words::chain(act);
            let innermost = chain.get(words::telling(&chain));
            let mut function = innermost.map_or_else(String::new, |frame| words::function(frame));
            if room < ROOMY && function == "<module>" {
                function.clear();
            }
            if let Some(task) = &act.who.task {
                function = format!("{function} [{}]", escape_terminal(&task.0)).trim_start().to_owned();
            }
            let mut time = words::since(act.time.saturating_sub(start), span);
            if act.ambiguous {
                time.replace_range(0..1, "~");
            }
            let main = act.pid == act.tid;
            let object = show(new_object, escape_terminal(&act.object.0));
            let (verb, object) = match sentence {
                Sentence::Apart => (words::verb(act), object),
                Sentence::Joined => (format!("{} {object}", words::verb(act)).trim_end().to_owned(), String::new()),
            };
            cells.push([
                show(pids && new_pid, format!("pid {}", act.pid)),
                show(fds && new_fd && act.fd >= 0, format!("fd {}", act.fd)),
                show(new_life, act.generation.map_or_else(String::new, |generation| format!("gen {generation}"))),
                time,
                verb,
                object,
                words::actor(act, &addresses),
                innermost.map_or_else(String::new, |frame| words::place(frame, 28)),
                function,
                show(threads, if main { "main thread".to_owned() } else { format!("thread {}", act.tid) }),
            ]);
            before = Some(act);
        }
        let natural =
            std::array::from_fn(|at| cells.iter().map(|row: &[String; COLUMNS]| columns(&row[at])).max().unwrap_or(0));
        Self { cells, natural, fitted: None, acts, room }
    }

    /// Columns before the verb, with their gaps.
    fn before_verb(&self) -> usize {
        total(&self.natural[..=TIME]) + GAP
    }

    /// The same before the time.
    fn before_time(&self) -> usize {
        match total(&self.natural[..TIME]) {
            0 => 0,
            labels => labels + GAP,
        }
    }

    /// Widths with which one line holds a whole row, or `None` if that would leave too little of each.
    fn widths(&self, room: usize) -> Option<[usize; COLUMNS]> {
        let mut widths = self.natural;
        for (column, least) in [(OBJECT, 20), (VERB, 28), (FUNCTION, 12), (PLACE, 18), (OBJECT, 12), (PLACE, 14)] {
            shrink(&mut widths, .., column, least, room);
        }
        (total(&widths) <= room).then_some(widths)
    }

    /// The same with room behind each row for the part that its act plays.
    fn widths_with_parts(&self, room: usize) -> Option<[usize; COLUMNS]> {
        let parts = self.acts.iter().filter_map(|act| act.role).map(|role| words::role(role).1.len()).max();
        self.widths(room.saturating_sub(parts.map_or(0, |width| GAP + 2 + width)))
    }

    /// Says that rows are left out here.
    pub fn gap(&self, rows: usize, lines: &mut Vec<Line>) {
        let line = Line::new().padded(INDENT + self.before_verb());
        lines.push(line.and(Tone::Dim, format!("… {rows} more …")));
    }

    /// Draws one act, with the part that it plays.
    pub fn row(&self, row: usize, lines: &mut Vec<Line>) {
        let (act, room) = (&self.acts[row], self.room);
        let mut line = Line::new().padded(INDENT);
        match &self.fitted {
            Some(widths) => self.cells(row, 0..COLUMNS, widths, &mut line),
            None => {
                let mut widths = self.natural;
                shrink(&mut widths, ..WHO.start, VERB, 16, room);
                self.cells(row, 0..WHAT.end, &widths, &mut line);
                let who = self.who(row);
                if !who.is_empty() {
                    lines.push(line.trimmed());
                    line = who;
                }
            }
        }
        let width = INDENT + room;
        let Some((tone, long, short)) = remark(act) else {
            lines.push(line);
            return;
        };
        // Arrows of neighbouring rows stand under each other where the table leaves room for it.
        let content = line.clone().trimmed();
        let places = [line.width(), content.width() + GAP];
        let fits = |at: usize, remark: &str| at + 2 + columns(remark) <= width;
        if let Some(at) = places.into_iter().find(|at| fits(*at, &long)) {
            lines.push(content.padded(at).and(tone, format!("← {long}")));
        } else if let Some(at) = places.into_iter().find(|at| has_source(act) && fits(*at, &short)) {
            lines.push(content.padded(at).and(tone, format!("← {short}")));
        } else {
            lines.push(content);
            let indents = [INDENT + self.before_verb(), INDENT + self.before_time() + GAP];
            let indent = indents.into_iter().find(|indent| fits(*indent, &long)).unwrap_or(indents[1]);
            let under = Line::new().padded(indent);
            let hang = indent + 2;
            lines.extend(paragraph(under, hang, tone, &format!("↑ {long}"), width));
        }
    }

    /// The columns that say who, side by side on a line of their own.
    fn who(&self, row: usize) -> Line {
        let mut line = Line::new().padded(INDENT + self.before_time() + GAP);
        let mut widths = self.cells[row].each_ref().map(|cell| columns(cell));
        let rest = self.room.saturating_sub(self.before_time() + GAP);
        for (column, least) in [(FUNCTION, 12), (PLACE, 14), (FUNCTION, 6), (PLACE, 8), (ACTOR, 8)] {
            shrink(&mut widths, WHO, column, least, rest);
        }
        let indent = line.width();
        self.cells(row, WHO, &widths, &mut line);
        if line.width() == indent { Line::new() } else { line }
    }

    fn cells(&self, row: usize, range: std::ops::Range<usize>, widths: &[usize; COLUMNS], line: &mut Line) {
        let act = &self.acts[row];
        for column in range {
            let width = widths[column];
            if width == 0 {
                continue;
            }
            let end = line.width() + width;
            let mut cell = self.cells[row][column].clone();
            if columns(&cell) > width {
                let chain = words::chain(act);
                if let (PLACE, Some(frame)) = (column, chain.get(words::telling(&chain))) {
                    cell = words::place(frame, width);
                }
                cell = shorten_middle(&cell, width);
            }
            if column == TIME {
                line.pad(end.saturating_sub(columns(&cell)));
            }
            line.push(self.tone(act, column), cell);
            line.pad(end + GAP);
        }
    }

    fn tone(&self, act: &Act, column: usize) -> Tone {
        match (column, act.role) {
            (0..LABELS, _) => Tone::Gutter,
            (TIME, _) => Tone::Dim,
            (_, Some(role)) if column == VERB => words::role(role).0,
            (FUNCTION.., _) => Tone::Dim,
            _ => Tone::Plain,
        }
    }
}

/// What stands behind a row: the part that the act plays with what else there is to know of it, and the part alone.
fn remark(act: &Act) -> Option<(Tone, String, String)> {
    let remark = act.remark.as_deref().map(words::tame);
    match (act.role.map(words::role), remark) {
        (Some((tone, role)), Some(remark)) => Some((tone, format!("{role}: {remark}"), role.to_owned())),
        (Some((tone, role)), None) => Some((tone, role.to_owned(), role.to_owned())),
        (None, Some(remark)) => Some((Tone::Dim, remark.clone(), remark)),
        (None, None) => None,
    }
}

/// Width of columns side by side; empty ones take no gap.
fn total(widths: &[usize]) -> usize {
    let used = widths.iter().filter(|width| **width > 0);
    let gaps = used.clone().count().saturating_sub(1) * GAP;
    used.sum::<usize>() + gaps
}

/// Makes a column narrower, but not less than `least`, as far as the columns of `range` need it to fit in.
fn shrink(
    widths: &mut [usize; COLUMNS],
    range: impl std::slice::SliceIndex<[usize], Output = [usize]>,
    column: usize,
    least: usize,
    room: usize,
) {
    let excess = total(&widths[range]).saturating_sub(room);
    widths[column] = widths[column].saturating_sub(excess).max(least.min(widths[column]));
}
