//! Too many: `fd-leak` and `fd-limit`.
//!
//! * `fd-limit`: a call failed with `EMFILE` or `ENFILE`. *Proof.* The error. Who is to blame is not proven: the message
//!   names what most of the open descriptors are and by which call they came. *Look-alikes.* `inotify_init` and
//!   `fanotify_init` have limits of their own for each user, and say so with the same error.
//! * `fd-leak`: descriptors of one origin pile up. Told at the end of the process, or when the limit is reached.
//!   *Likely*: one thread opened one path at one call site at least 32 times, over seconds and not in one go, closed none of
//!   them, and did not use the eldest any more. *Possible*: at least 32 of one call, kind and path, wherever they were opened;
//!   or at least 64 of one call site, whatever they are, that came over seconds and whose eldest were not used any more; none
//!   closed, none watched by an epoll. *Look-alikes.* Pools that grow to a size: the eldest are in use, or several threads
//!   opened them; files that are opened once when the program starts, which come in one go; connections that were accepted,
//!   of which a server may have as many as it has clients: not told.

use std::{cell::RefCell, collections::BTreeMap, hash::Hash, rc::Rc};

use crate::{
    collections::{Map, Set},
    model::{
        Change, World,
        description::Kind,
        table::{Generation, Origin, SlotId, TableId},
    },
    order::{How, Life, Stamp},
};

use super::{
    Cause, Out,
    eldest::{Eldest, Unused},
    evidence::{self, birth},
    finding::{Act, Confidence, Finding, Role},
};

/// Open descriptors of one origin that are too many.
const MANY: usize = 32;
/// Of one call site, if they are not all the same.
const MANY_OF_SITE: usize = 64;
/// Times at which they came, so that they were not opened in one go, and what lies between two, nanoseconds.
const BURSTS: usize = 4;
const PAUSE: u64 = 1_000_000_000;
/// Tables in which something was closed that are remembered, and origins of one of them, and its call sites.
const TABLES: usize = 4096;
const ORIGINS: usize = 4096;
/// Call sites remembered; all are forgotten when there are more.
const PLACES: usize = 65_536;
/// Origins named when the limit is reached.
const NAMED: usize = 3;

/// What stands in for the place where a descriptor is opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Source {
    call: &'static str,
    kind: &'static str,
    /// Of files, for those are opened at many places by the same call.
    path: Option<Rc<[u8]>>,
}

#[derive(Debug, Default)]
pub(super) struct Rules {
    closed: ClosedByTable,
    places: Places,
    eldest: Eldest,
    limit_told: Vec<TableId>,
}

/// What was closed in tables that live. Of what is too much to remember nobody is told that it was not closed.
#[derive(Debug, Default)]
struct ClosedByTable {
    tables: Map<TableId, Closed>,
    /// There were more tables than are remembered.
    lost_tables: bool,
    forgotten: u64,
}

/// What was closed in one table.
#[derive(Debug, Default)]
struct Closed {
    sources: Set<Source>,
    sites: Set<u64>,
}

impl ClosedByTable {
    fn add(&mut self, table: TableId, source: Option<Source>, site: Option<u64>) {
        if self.tables.len() >= TABLES && !self.tables.contains_key(&table) {
            self.lost_tables = true;
            self.forgotten += 1;
            return;
        }
        let closed = self.tables.entry(table).or_default();
        self.forgotten +=
            u64::from(!remember(&mut closed.sources, source)) + u64::from(!remember(&mut closed.sites, site));
    }

    /// Was one of this origin closed? `None`: that is not known any more.
    fn has_source(&self, table: TableId, source: &Source) -> Option<bool> {
        self.has(table, source, |closed| &closed.sources)
    }

    fn has_site(&self, table: TableId, site: u64) -> Option<bool> {
        self.has(table, &site, |closed| &closed.sites)
    }

    fn has<T: Eq + Hash>(&self, table: TableId, what: &T, of: impl FnOnce(&Closed) -> &Set<T>) -> Option<bool> {
        let Some(closed) = self.tables.get(&table).map(of) else { return (!self.lost_tables).then_some(false) };
        if closed.contains(what) { Some(true) } else { (closed.len() < ORIGINS).then_some(false) }
    }
}

/// Is it remembered now, if there is any?
fn remember<T: Eq + Hash>(set: &mut Set<T>, new: Option<T>) -> bool {
    let Some(new) = new else { return true };
    if set.len() < ORIGINS {
        set.insert(new);
        return true;
    }
    set.contains(&new)
}

/// Call sites by position in the instructions, so that line tables are read once for each.
#[derive(Debug, Default)]
struct Places(RefCell<Map<u64, u64>>);

impl Places {
    /// Where a descriptor was opened.
    fn site(&self, life: &Life<Generation>) -> Option<u64> {
        let seen = life.data.by.as_ref()?.seen.as_ref()?;
        let position = seen.position()?;
        let mut known = self.0.borrow_mut();
        if let Some(site) = known.get(&position) {
            return Some(*site);
        }
        let site = seen.site()?;
        if known.len() >= PLACES {
            known.clear();
        }
        known.insert(position, site);
        Some(site)
    }
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.closed.forgotten
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Removed { slot, number, how: How::Closed | How::Replaced, .. } => {
                let Some(life) = world.slot(*slot).and_then(|slot| slot.life(*number)) else { return };
                let Some(source) = source(life) else { return };
                self.closed.add(slot.table, Some(source).filter(|_| counts(life)), self.places.site(life));
            }
            Change::Installed { slot, .. } => {
                let open = || world.tables.get(&slot.table).map_or(0, |table| table.open().count());
                if !self.eldest.is_due(*slot, world.now().time, open) {
                    return;
                }
                let sources = by_source(slot.table, world).into_values().filter(|lives| counts(lives[0].1));
                let sites = by_site(slot.table, world, &self.places).into_values();
                self.eldest.watch(slot.table, sources.chain(sites), world.now().time, out);
            }
            Change::Used { slot, number, .. } => self.eldest.used(*slot, *number),
            Change::NoRoom { table, by } => self.full(*table, by, world, out),
            Change::TableDied { table } => {
                self.judge(*table, world, out);
                self.closed.tables.remove(table);
                self.eldest.forget(*table);
                self.limit_told.retain(|told| told != table);
            }
            _ => {}
        }
    }

    pub(super) fn finish(&mut self, world: &World, out: &mut Out<'_>) {
        let live: Vec<TableId> = world.tables.values().filter(|table| table.alive()).map(|table| table.id).collect();
        for table in live {
            self.judge(table, world, out);
        }
    }

    /// The process ends, or we do: what has piled up?
    fn judge(&mut self, table: TableId, world: &World, out: &mut Out<'_>) {
        // Most never had so many numbers, and need no sorting by origin.
        if world.tables.get(&table).is_none_or(|table| table.slots.len() < MANY) {
            return;
        }
        let mut told_sites = Set::default();
        for (source, mut lives) in by_source(table, world) {
            lives.retain(|(_, life)| counts(life));
            let closed = self.closed.has_source(table, &source);
            if lives.len() < MANY || closed == Some(true) || self.eldest.is_used(table, &lives) {
                continue;
            }
            let one_place = self.one_place(table, &lives);
            if closed.is_none() && !one_place {
                continue;
            }
            told_sites.extend(lives.iter().filter_map(|(_, life)| self.places.site(life)));
            let at_one_place = if one_place { ", opened at one place" } else { "" };
            let unused = self.eldest.unused(table, &lives, world.now().time);
            let (count, source_named, left) = (lives.len(), named(&source), left(unused));
            let message = format!("{count} of {source_named} are open{at_one_place}, and none was ever closed{left}");
            let alone = one_place && source.path.is_some() && one_thread(&lives) && came_over_time(&lives);
            tell(table, &lives, message, alone && unused.is_some(), world, out);
        }
        for (site, lives) in by_site(table, world, &self.places) {
            if lives.len() < MANY_OF_SITE || told_sites.contains(&site) {
                continue;
            }
            let unused = self.eldest.unused(table, &lives, world.now().time);
            if unused.is_some() && self.one_place(table, &lives) && came_over_time(&lives) {
                let example = lives.last().and_then(|(_, life)| source(life)).map(|source| named(&source));
                let (count, example, left) = (lives.len(), example.unwrap_or_default(), left(unused));
                let message = format!(
                    "{count} that were opened at one place are open, and none was ever closed{left}; the last is {example}"
                );
                tell(table, &lives, message, false, world, out);
            }
        }
    }

    /// All were opened at one call site, and nothing that was opened there was closed.
    fn one_place(&self, table: TableId, lives: &[(i32, &Life<Generation>)]) -> bool {
        let Some(place) = lives.first().and_then(|(_, life)| self.places.site(life)) else { return false };
        self.closed.has_site(table, place) == Some(false)
            && lives.iter().all(|(_, life)| self.places.site(life) == Some(place))
    }

    fn full(&mut self, table: TableId, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        if self.limit_told.contains(&table) {
            return;
        }
        self.limit_told.push(table);
        let Some(state) = world.tables.get(&table) else { return };
        let open = state.open().count();
        let tops = openers(table, world, &self.places);
        let call = by.sys.map_or("a call", |sys| sys.name);
        let (limit, error) = match by.errno() {
            Some(23) => ("the machine has as many open files as it may", "ENFILE"),
            _ if matches!(call, "inotify_init" | "inotify_init1" | "fanotify_init") => {
                ("the user has as many instances of this kind as allowed", "EMFILE")
            }
            _ => ("the process has as many descriptors as it may", "EMFILE"),
        };
        let mut timeline: Vec<Act> =
            tops.iter().map(|(_, fd, life)| birth(world, SlotId { table, fd: *fd }, life)).collect();
        let named: String = tops.iter().map(|(named, ..)| format!(", {named}")).collect();
        timeline.sort_by_key(|act| act.time);
        let victim =
            evidence::act(by, -1, super::finding::Verb::Opened).with_role(Role::Victim, "found no number left");
        let culprit = timeline.last().cloned();
        timeline.push(victim.clone());
        let incident = out.incidents.number(Cause::Table(table));
        out.findings.push(Finding {
            confidence: Confidence::Proven,
            message: format!("{call} failed with {error}: {limit}; {open} are open{named}"),
            culprit: culprit
                .map(|act| act.with_role(Role::Culprit, "one of those that most of the open ones are like")),
            victim: Some(victim),
            timeline,
            complete: state.complete_since(0),
            ..evidence::finding("fd-limit", incident, by, -1, world)
        });
        self.judge(table, world, out);
    }
}

fn tell(
    table: TableId,
    lives: &[(i32, &Life<Generation>)],
    message: String,
    likely: bool,
    world: &World,
    out: &mut Out<'_>,
) {
    let (Some((fd, first)), Some((last_fd, last))) = (lives.first(), lives.last()) else { return };
    let Some(by) = last.data.by.as_ref() else { return };
    let culprit = birth(world, SlotId { table, fd: *last_fd }, last).with_role(Role::Culprit, "the last of them");
    let timeline = vec![
        birth(world, SlotId { table, fd: *fd }, first).with_role(Role::RootCause, "the first of them"),
        culprit.clone(),
    ];
    let incident = out.incidents.number(Cause::Generation(SlotId { table, fd: *fd }, first.number));
    let complete = world.tables.get(&table).is_some_and(|table| table.complete_since(0));
    out.findings.push(Finding {
        confidence: if likely && complete { Confidence::Likely } else { Confidence::Possible },
        generation: Some(last.number),
        message,
        culprit: Some(culprit),
        timeline,
        complete,
        ..evidence::finding("fd-leak", incident, by, *last_fd, world)
    });
}

/// What is known of their use.
fn left(unused: Option<Unused>) -> String {
    unused.map_or_else(String::new, |Unused { count, time }| {
        format!(" (of the eldest {count} were watched for {} s: not used)", time / 1_000_000_000)
    })
}

/// They were not opened in one go.
fn came_over_time(lives: &[(i32, &Life<Generation>)]) -> bool {
    let mut times: Vec<u64> = lives.iter().filter_map(|(_, life)| Some(life.data.by.as_ref()?.at.exit.time)).collect();
    times.sort_unstable();
    times.windows(2).filter(|pair| pair[1] - pair[0] >= PAUSE).count() + 1 >= BURSTS
}

fn one_thread(lives: &[(i32, &Life<Generation>)]) -> bool {
    let tid = |life: &Life<Generation>| life.data.by.as_ref().map(|by| by.tid);
    lives.windows(2).all(|pair| tid(pair[0].1) == tid(pair[1].1))
}

/// Where most of what is open was opened, with the last of each: by call site, or where that is not known by what it is.
fn openers<'w>(table: TableId, world: &'w World, places: &Places) -> Vec<(String, i32, &'w Life<Generation>)> {
    let mut groups: BTreeMap<(Option<u64>, Option<Source>), Vec<_>> = BTreeMap::new();
    for (fd, life) in open(table, world) {
        if let Some(source) = source(life) {
            let site = places.site(life);
            let source = Some(source).filter(|_| site.is_none());
            groups.entry((site, source)).or_default().push((fd, life));
        }
    }
    let mut groups: Vec<Vec<(i32, &Life<Generation>)>> = groups.into_values().collect();
    groups.sort_by(|a, b| b.len().cmp(&a.len()).then(a[0].0.cmp(&b[0].0)));
    groups
        .iter()
        .take(NAMED)
        .filter_map(|lives| {
            let (fd, life) = lives.last()?;
            let last = source(life)?;
            let same = lives.iter().all(|(_, life)| source(life).as_ref() == Some(&last));
            let of = if same { "of" } else { "like" };
            Some((format!("{} {of} {}", lives.len(), named(&last)), *fd, *life))
        })
        .collect()
}

/// What is open in a table, or was when it died, by number.
fn open(table: TableId, world: &World) -> impl Iterator<Item = (i32, &Life<Generation>)> {
    world.tables.get(&table).into_iter().flat_map(|table| &table.slots).filter_map(|(fd, slot)| {
        let dead = || slot.past().next_back().filter(|life| life.end().is_some_and(|end| end.how == How::Exit));
        Some((*fd, slot.live().or_else(dead)?))
    })
}

fn by_source(table: TableId, world: &World) -> BTreeMap<Source, Vec<(i32, &Life<Generation>)>> {
    let mut sources: BTreeMap<Source, Vec<_>> = BTreeMap::new();
    for (fd, life) in open(table, world) {
        if let Some(source) = source(life) {
            sources.entry(source).or_default().push((fd, life));
        }
    }
    sources
}

/// Of what no event loop watches and nobody else has connected, by call site.
fn by_site<'w>(table: TableId, world: &'w World, places: &Places) -> BTreeMap<u64, Vec<(i32, &'w Life<Generation>)>> {
    let mut sites: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for (fd, life) in open(table, world) {
        let accepted = life.data.by.as_ref().is_some_and(|by| by.is("accept") || by.is("accept4"));
        if accepted || source(life).is_none() || life.data.description.watched.get() > 0 {
            continue;
        }
        if let Some(site) = places.site(life) {
            sites.entry(site).or_default().push((fd, life));
        }
    }
    sites
}

fn source(life: &Life<Generation>) -> Option<Source> {
    if life.data.origin != Origin::Opened {
        return None;
    }
    let call = life.data.by.as_ref()?.sys?.name;
    let details = life.data.description.details()?;
    let path = details.path.as_ref().map(|path| Rc::clone(&path.bytes));
    Some(Source { call, kind: details.kind.name(), path })
}

/// Of a kind that nobody has many of on purpose, and not in an event loop's hands.
fn counts(life: &Life<Generation>) -> bool {
    let description = &life.data.description;
    !matches!(description.kind(), Kind::Socket { .. } | Kind::Pipe | Kind::Unknown) && description.watched.get() == 0
}

fn named(source: &Source) -> String {
    match &source.path {
        Some(path) => format!("{} ({})", crate::escape::escape_terminal(path), source.call),
        None => format!("kind {} ({})", source.kind, source.call),
    }
}
