//! Too many: `fd-leak` and `fd-limit`.
//!
//! * `fd-limit`: a call failed with `EMFILE` or `ENFILE`. *Proof.* The error. Who is to blame is not proven: the message
//!   names what most of the open descriptors are and by which call they came. *Look-alikes.* `inotify_init` and
//!   `fanotify_init` have limits of their own for each user, and say so with the same error.
//! * `fd-leak`: descriptors of one origin pile up. *Proof.* None without call sites: the call, the kind and the path stand
//!   in for those, so it is `possible`. Told at the end of the process, or when the limit is reached, where at least 32 of
//!   one origin are open, none of that origin was ever closed, and none is watched by an epoll. *Look-alikes.* Pools that
//!   grow to a size; connections, of which a server may have as many as it has clients: not told.

use std::rc::Rc;

use crate::{
    collections::Map,
    model::{
        Change, World,
        description::Kind,
        table::{Generation, Origin, SlotId, TableId},
    },
    order::{How, Life, Stamp},
};

use super::{
    Cause, Out,
    evidence::{self, birth},
    finding::{Act, Confidence, Finding, Role},
};

/// Open descriptors of one origin that are too many.
const MANY: usize = 32;
/// Origins remembered for one table, and tables.
const ORIGINS: usize = 4096;
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
    /// How many of an origin were closed.
    closed: Map<TableId, Map<Source, u64>>,
    limit_told: Vec<TableId>,
}

impl Rules {
    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Removed { slot, number, how: How::Closed | How::Replaced, .. } => {
                let Some(life) = world.slot(*slot).and_then(|slot| slot.life(*number)) else { return };
                let Some(source) = source(life) else { return };
                if !counts(life) || self.closed.len() >= ORIGINS {
                    return;
                }
                let closed = self.closed.entry(slot.table).or_default();
                if closed.len() < ORIGINS {
                    *closed.entry(source).or_default() += 1;
                }
            }
            Change::NoRoom { table, by } => self.full(*table, by, world, out),
            Change::TableDied { table } => {
                self.judge(*table, world, out);
                self.closed.remove(table);
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
        for (source, lives) in by_source(table, world) {
            let closed = self.closed.get(&table).and_then(|closed| closed.get(&source)).copied().unwrap_or(0);
            let told: Vec<&(i32, &Life<Generation>)> = lives.iter().filter(|(_, life)| counts(life)).collect();
            if told.len() < MANY || closed > 0 {
                continue;
            }
            let (Some((fd, first)), Some((last_fd, last))) = (told.first(), told.last()) else { continue };
            let Some(by) = last.data.by.as_ref() else { continue };
            let culprit =
                birth(world, SlotId { table, fd: *last_fd }, last).with_role(Role::Culprit, "the last of them");
            let timeline = vec![
                birth(world, SlotId { table, fd: *fd }, first).with_role(Role::RootCause, "the first of them"),
                culprit.clone(),
            ];
            let incident = out.incidents.number(Cause::Generation(SlotId { table, fd: *fd }, first.number));
            out.findings.push(Finding {
                generation: Some(last.number),
                message: format!("{} of {} are open, and none was ever closed", told.len(), named(&source)),
                culprit: Some(culprit),
                timeline,
                complete: world.tables.get(&table).is_some_and(|table| table.complete_since(0)),
                ..evidence::finding("fd-leak", incident, by, *last_fd, world)
            });
        }
    }

    fn full(&mut self, table: TableId, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        if self.limit_told.contains(&table) {
            return;
        }
        self.limit_told.push(table);
        let Some(state) = world.tables.get(&table) else { return };
        let open = state.open().count();
        let mut sources: Vec<_> = by_source(table, world).into_iter().collect();
        sources.sort_by(|(a, a_lives), (b, b_lives)| b_lives.len().cmp(&a_lives.len()).then(a.cmp(b)));
        let tops: Vec<String> =
            sources.iter().take(NAMED).map(|(source, lives)| format!("{} of {}", lives.len(), named(source))).collect();
        let call = by.sys.map_or("a call", |sys| sys.name);
        let (limit, error) = match by.errno() {
            Some(23) => ("the machine has as many open files as it may", "ENFILE"),
            _ if matches!(call, "inotify_init" | "inotify_init1" | "fanotify_init") => {
                ("the user has as many instances of this kind as allowed", "EMFILE")
            }
            _ => ("the process has as many descriptors as it may", "EMFILE"),
        };
        let tops = if tops.is_empty() { String::new() } else { format!(", {}", tops.join(", ")) };
        let mut timeline: Vec<Act> = Vec::new();
        for (_, lives) in sources.iter().take(NAMED) {
            if let Some((fd, life)) = lives.last() {
                timeline.push(birth(world, SlotId { table, fd: *fd }, life));
            }
        }
        timeline.sort_by_key(|act| act.time);
        let victim =
            evidence::act(by, -1, super::finding::Verb::Opened).with_role(Role::Victim, "found no number left");
        let culprit = timeline.last().cloned().filter(|_| !sources.is_empty());
        timeline.push(victim.clone());
        let incident = out.incidents.number(Cause::Table(table));
        out.findings.push(Finding {
            confidence: Confidence::Proven,
            message: format!("{call} failed with {error}: {limit}; {open} are open{tops}"),
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

/// What is open in a table, or was when it died, by source.
fn by_source(table: TableId, world: &World) -> std::collections::BTreeMap<Source, Vec<(i32, &Life<Generation>)>> {
    let mut sources: std::collections::BTreeMap<Source, Vec<_>> = std::collections::BTreeMap::new();
    let Some(table) = world.tables.get(&table) else { return sources };
    for (fd, slot) in &table.slots {
        let dead = || slot.past().next_back().filter(|life| life.end().is_some_and(|end| end.how == How::Exit));
        let Some(life) = slot.live().or_else(dead) else { continue };
        if let Some(source) = source(life) {
            sources.entry(source).or_default().push((*fd, life));
        }
    }
    sources
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
