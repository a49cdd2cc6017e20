//! `epoll-shared-across-fork`: an interest list edited from both sides of a fork.
//!
//! Fork copies the number, not the instance: parent and child hold *one* epoll, and an edit by either changes what the
//! other waits for. Nothing fails.
//!
//! *Proof.* The instance is one description, known by its serial; one table is a copy of the other and neither process
//! has run another program since; both use the instance after the fork, and one of them edits it. Holding it is not
//! enough: servers fork children that inherit an epoll and never touch it. As long as only one side has used it since
//! the fork the finding waits; if the other side had waited on it before the fork and lives to the end, it is `likely`.

use std::rc::Rc;

use crate::{
    collections::Told,
    event::{EpollOp, Moment},
    model::{
        Change, World,
        description::Serial,
        epoll::Entry,
        table::{Lineage, Table, TableId},
    },
    order::Stamp,
};

use super::{
    Cause, Out,
    evidence::{self, act, comm, object},
    finding::{Act, Confidence, Finding, Name, Role, Verb, Who},
};

/// Edits remembered for an instance while nobody knows yet whether the other side uses it.
const PENDING: usize = 64;
/// Edits that were told and are not to be told again.
const TOLD: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Rules {
    pending: Vec<Edit>,
    /// (instance, editor, other side, number, operation) told already.
    told: Told<(Serial, TableId, TableId, i32, u8), TOLD>,
}

/// An edit of an instance that another table holds too.
#[derive(Clone, Debug)]
struct Edit {
    epoll: Serial,
    epoll_fd: i32,
    editor: TableId,
    other: TableId,
    op: EpollOp,
    fd: i32,
    entry: Option<Entry>,
    by: Rc<Stamp>,
    /// When the tables parted.
    parted: Moment,
    /// The process that holds the other table.
    other_process: u32,
    /// Which of the two made the other.
    parent: u32,
    child: u32,
    generation: Option<u32>,
    /// Nothing is missing since they parted, up to the edit.
    complete: bool,
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.told.forgotten()
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::EpollCtl { epoll, slot, op, fd, entry, by } => {
                self.used(*epoll, slot.table, by, world, out);
                if by.ret != 0 {
                    return;
                }
                for (other, parted) in others(*epoll, slot.table, world) {
                    // The editor may be gone by the time that the other side notices: what is needed of it is kept.
                    let other_process = process_of(other, world);
                    let from_other = copied_from(slot.table, other, world).is_some();
                    let (parent, child) = if from_other { (other_process, by.tgid) } else { (by.tgid, other_process) };
                    let edit = Edit {
                        epoll: *epoll,
                        epoll_fd: slot.fd,
                        editor: slot.table,
                        other,
                        op: *op,
                        fd: *fd,
                        entry: entry.clone(),
                        by: Rc::clone(by),
                        parted,
                        other_process,
                        parent,
                        child,
                        generation: world.slot(*slot).and_then(|slot| Some(slot.live()?.number)),
                        complete: complete(slot.table, parted, world),
                    };
                    match last_use(*epoll, other, world).filter(|used| used.at.exit.pos > parted.pos) {
                        Some(used) => self.tell(&edit, Some(&used), Confidence::Proven, world, out),
                        None if self.pending.len() < PENDING => self.pending.push(edit),
                        None => {}
                    }
                }
            }
            Change::EpollWait { epoll, slot, by, .. } => self.used(*epoll, slot.table, by, world, out),
            Change::TableDied { table } => {
                self.pending.retain(|edit| edit.other != *table);
            }
            Change::Execed { process } => {
                let execed = |table: &TableId| world.tables.get(table).is_some_and(|t| t.is_used_by(*process));
                self.pending.retain(|edit| !execed(&edit.other));
            }
            _ => {}
        }
    }

    pub(super) fn finish(&mut self, world: &World, out: &mut Out<'_>) {
        for edit in std::mem::take(&mut self.pending) {
            let waited = world.epolls.get(&edit.epoll).and_then(|epoll| epoll.users.get(&edit.other)?.waited.clone());
            if let Some(waited) = waited {
                self.tell(&edit, Some(&waited), Confidence::Likely, world, out);
            }
        }
    }

    /// A table has used an instance: edits by others that waited for this are told.
    fn used(&mut self, epoll: Serial, table: TableId, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        if self.pending.is_empty() {
            return;
        }
        let (told, waiting) =
            std::mem::take(&mut self.pending).into_iter().partition(|edit| edit.epoll == epoll && edit.other == table);
        self.pending = waiting;
        let told: Vec<Edit> = told;
        for edit in told {
            self.tell(&edit, Some(by), Confidence::Proven, world, out);
        }
    }

    fn tell(
        &mut self,
        edit: &Edit,
        used: Option<&Rc<Stamp>>,
        confidence: Confidence,
        world: &World,
        out: &mut Out<'_>,
    ) {
        let op = match edit.op {
            EpollOp::Add => 1,
            EpollOp::Del => 2,
            EpollOp::Mod => 3,
            EpollOp::Unknown(_) => 0,
        };
        if !self.told.insert((edit.epoll, edit.editor, edit.other, edit.fd, op)) {
            return;
        }
        let Some(epoll) = world.epolls.get(&edit.epoll) else { return };
        let complete = edit.complete && complete(edit.other, edit.parted, world);
        let confidence = if complete { confidence } else { Confidence::Possible };
        let [editor, victim_name] = [edit.by.tgid, edit.other_process].map(|tgid| evidence::shown_process(world, tgid));
        let number = edit.fd;
        let (verb, did, harm) = match edit.op {
            EpollOp::Add => (
                Verb::Registered,
                format!("added a registration of its fd {number} to"),
                format!("{victim_name} gets events for a number that means something else to it, or nothing"),
            ),
            EpollOp::Del => (
                Verb::Unregistered,
                format!("removed the registration of fd {number} from"),
                format!("{victim_name} will not be woken for it any more"),
            ),
            EpollOp::Mod | EpollOp::Unknown(_) => (
                Verb::Modified,
                format!("changed the registration of fd {number} in"),
                format!("{victim_name} waits for other events than it asked for"),
            ),
        };
        let mut culprit = act(&edit.by, number, verb).with_role(Role::Culprit, "edits the list that both wait on");
        let mut timeline = Vec::new();
        if let Some(opened) = epoll.description.details().and_then(|details| details.opened.as_ref()) {
            let mut act = act(opened, edit.epoll_fd, Verb::Opened);
            act.object = object(&epoll.description);
            timeline.push(act);
        }
        if let Some(entry) = &edit.entry {
            culprit.object = object(&entry.target);
            if let (Some(added), false) = (&entry.added, edit.op == EpollOp::Add) {
                let mut registered = act(added, number, Verb::Registered);
                registered.object = object(&entry.target);
                timeline.push(registered);
            }
        }
        timeline.push(forked(edit, world));
        timeline.push(culprit.clone());
        let victim = used.map(|used| {
            let verb = if used.sys.is_some_and(|sys| sys.name == "epoll_ctl") { Verb::Modified } else { Verb::Waited };
            let mut victim = act(used, edit.epoll_fd, verb).with_role(Role::Victim, "uses the same instance");
            victim.object = object(&epoll.description);
            victim
        });
        timeline.extend(victim.clone());
        timeline.sort_by_key(|act| act.time);
        let incident = out.incidents.number(Cause::Epoll(edit.epoll));
        out.findings.push(Finding {
            confidence,
            generation: edit.generation,
            message: format!(
                "{editor} {did} epoll fd {}, which it shares with {victim_name} since the fork: {harm}",
                edit.epoll_fd
            ),
            culprit: Some(culprit),
            victim,
            timeline,
            complete,
            ..evidence::finding("epoll-shared-across-fork", incident, &edit.by, edit.epoll_fd, world)
        });
    }
}

/// Live tables, related to `table` by fork, that hold the instance too, with the moment they parted.
fn others(epoll: Serial, table: TableId, world: &World) -> Vec<(TableId, Moment)> {
    let shared = world.epolls.get(&epoll).is_some_and(|epoll| epoll.description.holders.get() > 1);
    if !shared {
        return Vec::new();
    }
    let holds = |other: &&Table| other.open().any(|(_, live)| live.data.description.serial == epoll);
    let others = world.tables.values().filter(|other| other.id != table && other.alive()).filter(holds);
    others.filter_map(|other| Some((other.id, parted(table, other.id, world)?))).collect()
}

/// When two tables parted by fork, if nobody has run another program since.
fn parted(a: TableId, b: TableId, world: &World) -> Option<Moment> {
    let moment = [(a, b), (b, a)].into_iter().find_map(|(child, parent)| copied_from(child, parent, world)).or_else(
        // Brothers.
        || {
            let (a, b) = (ancestors(a, world), ancestors(b, world));
            let common = a.iter().find(|(table, _)| b.iter().any(|(other, _)| other == table))?.0;
            let at = |line: &[(TableId, Moment)]| line.iter().find(|(table, _)| *table == common).map(|(_, at)| *at);
            let (first, second) = (at(&a)?, at(&b)?);
            Some(if first.pos < second.pos { second } else { first })
        },
    )?;
    let execed = |table: TableId| {
        world.tables.get(&table).into_iter().flat_map(|table| table.users()).any(|tgid| {
            world.processes.get(&tgid).and_then(|process| process.execed).is_some_and(|execed| execed.pos > moment.pos)
        })
    };
    (!execed(a) && !execed(b)).then_some(moment)
}

fn copied_from(child: TableId, parent: TableId, world: &World) -> Option<Moment> {
    ancestors(child, world).into_iter().find(|(table, _)| *table == parent).map(|(_, at)| at)
}

/// The tables that a table was copied from, nearest first, each with the moment at which this line left it.
fn ancestors(table: TableId, world: &World) -> Vec<(TableId, Moment)> {
    let mut line = Vec::new();
    let mut next = table;
    while let Some(Lineage::Copied { from, at }) = world.tables.get(&next).map(|table| &table.lineage) {
        // A line cannot be longer than there are tables.
        if line.len() > world.tables.len() {
            break;
        }
        line.push((*from, *at));
        next = *from;
    }
    line
}

fn last_use(epoll: Serial, table: TableId, world: &World) -> Option<Rc<Stamp>> {
    let used = world.epolls.get(&epoll)?.users.get(&table)?;
    let both = [&used.edited, &used.waited];
    both.into_iter().flatten().max_by_key(|stamp| stamp.at.exit.pos).cloned()
}

fn complete(table: TableId, since: Moment, world: &World) -> bool {
    world.tables.get(&table).is_some_and(|table| table.complete_since(since.time))
}

fn process_of(table: TableId, world: &World) -> u32 {
    world.tables.get(&table).and_then(|table| table.users().next()).unwrap_or(0)
}

/// The line of the timeline that says when the two sides parted.
fn forked(edit: &Edit, world: &World) -> Act {
    let (parent, child) = (edit.parent, edit.child);
    Act {
        time: edit.parted.time,
        enter_time: None,
        pid: parent,
        tid: parent,
        process: comm(world, parent),
        fd: edit.epoll_fd,
        generation: None,
        verb: Verb::Forked,
        call: "fork",
        error: None,
        object: Name::default(),
        role: Some(Role::RootCause),
        remark: Some(format!("process {child} begins with the same epoll instance")),
        ambiguous: false,
        who: Who::default(),
    }
}
