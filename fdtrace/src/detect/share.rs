//! One description in two hands: `shared-stream`, `shared-offset`.
//!
//! Which process uses a descriptor is not reported unasked. When a fork copies one of the kinds below, the kernel side is
//! asked to tell whenever another process than the last one uses it: turns are seen, and long monologues cost nothing.
//! Right behind the fork each use is told, for a while.
//!
//! * `shared-stream`: reads and writes on one stream socket by live tables, in turns A, B, A, B, where B may be
//!   several. *Proof.* File and table identity, and questions that crossed ([`super::conversation`]). *Likely* without those,
//!   if both ask and take answers. *Possible* is as little as: A writes, B writes, A reads, while both live; or both read, and
//!   one may be gone by the time; or both write, in turns, and only one reads.
//!   *Look-alikes.* A, B: a server hands a client over; A, B, A: separated privileges; one that writes and one that reads;
//!   workers that take jobs in turn; pipes, eventfds, listening sockets, standard streams; processes that have run another
//!   program since.
//! * `shared-offset`: the same for reads, writes and seeks that move the offset of one regular file without `O_APPEND`.
//!   *Look-alikes.* `pread`, logs, a shell and its children on the standard streams.

use std::{collections::BTreeSet, rc::Rc};

use fdtrace_common::wire::Watch;

use crate::{
    collections::Map,
    model::{
        Change, World,
        description::{Description, Kind, Serial},
        table::{Generation, Origin, SlotId, TableId},
    },
    order::{Life, Stamp},
};

use super::{
    Cause, Incidents, Out, Want,
    conversation::Conversation,
    evidence::{self, act, object},
    finding::{Confidence, Finding, Role, Severity, Verb},
};

/// How long turns may take to go on, nanoseconds.
const GOING_ON: u64 = 500_000_000;
/// Turns remembered for one description.
const KEPT: usize = 24;
const REMEMBERED: usize = 16_384;
const SOCK_STREAM: u16 = 1;
const SOCK_SEQPACKET: u16 = 5;
const O_APPEND: u32 = 0o2000;

#[derive(Debug, Default)]
pub(super) struct Rules {
    shared: Map<Serial, Shared>,
    /// The table that was copied last, and how many of its files have each use told.
    opened: (Option<TableId>, u32),
}

#[derive(Debug)]
struct Shared {
    description: Rc<Description>,
    /// Who used it, by turns.
    turns: Vec<Turn>,
    told: bool,
    conversation: Conversation,
    /// What is told unless the turns go on, and tell more.
    waiting: Option<Finding>,
}

#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub table: TableId,
    slot: SlotId,
    number: u32,
    pub by: Rc<Stamp>,
}

impl Rules {
    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            // A connection that is being made.
            Change::Installed { slot, by, .. } if by.is("socket") && slot.fd > 2 => {
                if let Some(live) = world.slot(*slot).and_then(|slot| slot.live())
                    && matters(&live.data.description)
                {
                    let file = live.data.description.file;
                    out.wants.push(Want::TurnsAtFork { file, fd: slot.fd, times: Watch::TURNS, every: 0 });
                }
            }
            // A row of a copied table.
            Change::Installed { slot, by, .. } if by.sys.is_none() => {
                let Some(live) = world.slot(*slot).and_then(|slot| slot.live()) else { return };
                let description = &live.data.description;
                if !matches!(live.data.origin, Origin::Inherited { .. }) {
                    return;
                }
                if !matters(description) || slot.fd <= 2 || self.shared.len() >= REMEMBERED {
                    return;
                }
                let shared = self.shared.entry(description.serial).or_insert_with(|| Shared::new(description));
                if self.opened.0 != Some(slot.table) {
                    self.opened = (Some(slot.table), 0);
                }
                let mut every = 0;
                if self.opened.1 < Watch::OPENINGS {
                    self.opened.1 += 1;
                    every = Watch::OPENING;
                    shared.conversation.begin();
                }
                let (file, fd, times) = (description.file, slot.fd, Watch::TURNS);
                out.wants.push(Want::TurnsAtFork { file, fd, times, every });
            }
            Change::Used { slot, number, by } if !self.shared.is_empty() => self.used(*slot, *number, by, world, out),
            // Whoever runs another program uses what it was given, on purpose.
            Change::Execed { process } if !self.shared.is_empty() => {
                let Some(table) = world.table_of_process(*process) else { return };
                for shared in self.shared.values_mut() {
                    shared.turns.retain(|turn| turn.table != table.id);
                }
            }
            Change::TableDied { .. } => self.shared.retain(|_, shared| {
                let lasts = shared.conversation.is_open();
                let kept = shared.description.holders.get() > u32::from(!lasts);
                if !kept {
                    out.findings.extend(shared.waiting.take());
                }
                kept
            }),
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, world: &World, out: &mut Out<'_>) {
        let limit = world.now().time.saturating_sub(GOING_ON);
        for shared in self.shared.values_mut() {
            if let Some(finding) = shared.waiting.take_if(|finding| finding.time < limit) {
                out.findings.push(finding);
                shared.told = true;
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Out<'_>) {
        // In the order of their making, whatever the map's order is.
        let mut left: Vec<Finding> = self.shared.values_mut().filter_map(|shared| shared.waiting.take()).collect();
        left.sort_by_key(|finding| finding.time);
        out.findings.extend(left);
    }

    fn used(&mut self, slot: SlotId, number: u32, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let Some(life) = world.slot(slot).and_then(|slot| slot.life(number)) else { return };
        let Some(shared) = self.shared.get_mut(&life.data.description.serial) else { return };
        let call = by.sys.map_or("", |sys| sys.name);
        if shared.told
            || !matters(&shared.description)
            || by.ret <= 0
            || !moves(call)
            || given_at_exec(life, by.tgid, world)
        {
            return;
        }
        let turn = Turn { table: slot.table, slot, number, by: Rc::clone(by) };
        if shared.description.kind() != Kind::File
            && let Some([a, b, c, d]) = shared.conversation.on(&turn, asks(&turn), world)
        {
            shared.offer(&[&a, &b, &c, &d], Confidence::Possible, world, out);
        }
        if shared.turns.last().is_none_or(|last| last.table != turn.table) {
            shared.turns.push(turn);
        }
        // Only the last turns of two that are alive count.
        let alive = |table: &TableId| world.tables.get(table).is_some_and(|table| table.alive());
        shared.turns.retain(|turn| alive(&turn.table));
        shared.turns.dedup_by_key(|turn| turn.table);
        let keep = shared.turns.len().saturating_sub(KEPT);
        shared.turns.drain(..keep);
        // There may be more than two at the table: it is this one against each other one, or against all of them.
        let others: BTreeSet<TableId> =
            shared.turns.iter().map(|turn| turn.table).filter(|id| *id != slot.table).collect();
        let with = |others: &BTreeSet<TableId>| {
            let concerned = shared.turns.iter().filter(|turn| turn.table == slot.table || others.contains(&turn.table));
            let mut turns: Vec<Turn> = concerned.cloned().collect();
            turns.dedup_by_key(|turn| turn.table == slot.table);
            turns
        };
        let sets = others.iter().map(|other| BTreeSet::from([*other])).chain([others.clone()]);
        let in_turns = sets.filter_map(|others| {
            let turns = with(&others);
            (turns.len() >= 4).then(|| shared.harm(slot.table, &others).map(|sure| (sure, turns)))?
        });
        // The first of the surest.
        let best = in_turns.reduce(|best, next| if next.0 > best.0 { next } else { best });
        match (best, with(&others).as_slice()) {
            (Some((sure, turns)), _) => {
                let last: Vec<&Turn> = turns.iter().skip(turns.len() - 4).collect();
                shared.offer(&last, sure, world, out);
            }
            // It may have been meant: separated privileges look like that.
            (None, [.., a, b, c]) if shared.crossed([a, b, c]) => {
                shared.offer(&[a, b, c], Confidence::Possible, world, out);
            }
            _ => {}
        }
        if shared.told {
            shared.turns.clear();
        }
    }
}

impl Shared {
    /// How sure it is that those who take these turns do harm.
    fn harm(&self, one: TableId, others: &BTreeSet<TableId>) -> Option<Confidence> {
        if self.description.kind() == Kind::File {
            // Taking turns on a file can be agreed on, with a lock of some kind, and then it is no mistake.
            return Some(Confidence::Possible);
        }
        self.conversation.harm(one, others)
    }

    /// A asked, B asked before A had its answer, and A took the next answer there was.
    fn crossed(&self, [a, b, c]: [&Turn; 3]) -> bool {
        let clients = [a, b].iter().all(|turn| self.conversation.is_client(turn.table));
        matches!(self.description.kind(), Kind::Socket { .. })
            && clients
            && a.table == c.table
            && asks(a)
            && asks(b)
            && !asks(c)
    }

    /// Tells what is proven. What is less sure waits for a moment: the turns may go on, and tell more.
    fn offer(&mut self, turns: &[&Turn], sure: Confidence, world: &World, out: &mut Out<'_>) {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.confidence >= sure) {
            return;
        }
        let Some(finding) = interleaved(&self.description, turns, sure, world, out.incidents) else { return };
        if finding.confidence == Confidence::Proven {
            (self.told, self.waiting) = (true, None);
            out.findings.push(finding);
        } else {
            self.waiting = Some(finding);
        }
    }

    fn new(description: &Rc<Description>) -> Self {
        Self {
            description: Rc::clone(description),
            turns: Vec::new(),
            conversation: Conversation::default(),
            told: false,
            waiting: None,
        }
    }
}

fn matters(description: &Description) -> bool {
    let Some(details) = description.details() else { return false };
    match details.kind {
        Kind::Socket { sock_type, .. } => matches!(sock_type, SOCK_STREAM | SOCK_SEQPACKET),
        Kind::File => details.info.flags & O_APPEND == 0,
        _ => false,
    }
}

fn asks(turn: &Turn) -> bool {
    turn.by.sys.is_some_and(|sys| is_write(sys.name))
}

fn is_write(call: &str) -> bool {
    matches!(call, "write" | "writev" | "sendto" | "sendmsg" | "sendmmsg" | "sendfile")
}

/// Takes from a stream, adds to it, or moves an offset.
pub(super) fn moves(call: &str) -> bool {
    is_write(call) || matches!(call, "read" | "readv" | "recvfrom" | "recvmsg" | "recvmmsg" | "splice" | "lseek")
}

/// Has the process become another program since it got this descriptor? Then it was given it on purpose.
fn given_at_exec(life: &Life<Generation>, tgid: u32, world: &World) -> bool {
    let Some(process) = world.processes.get(&tgid) else { return false };
    process.execed.is_some_and(|execed| {
        execed.pos > life.born.exit.pos
            && process.forked.is_some_and(|forked| execed.pos > forked.pos)
            // The first program of the trace was started by us: what it shares, it shares with its own children.
            && process.parent.is_some_and(|parent| world.processes.contains_key(&parent))
    })
}

fn interleaved(
    description: &Description,
    turns: &[&Turn],
    sure: Confidence,
    world: &World,
    incidents: &mut Incidents,
) -> Option<Finding> {
    let [first, second, ..] = turns else { return None };
    let is_file = description.kind() == Kind::File;
    let rule = if is_file { "shared-offset" } else { "shared-stream" };
    let complete = [first, second]
        .iter()
        .all(|turn| world.tables.get(&turn.table).is_some_and(|table| table.complete_since(first.by.at.exit.time)));
    let timeline: Vec<_> = turns
        .iter()
        .map(|turn| {
            let mut line = act(&turn.by, turn.slot.fd, Verb::Used).of_generation(turn.number);
            line.object = object(description);
            line
        })
        .collect();
    let mut timeline = timeline;
    let role = |line: &mut super::finding::Act, role, remark: &str| {
        (line.role, line.remark) = (Some(role), Some(remark.to_owned()));
    };
    // Who forked later is the guest.
    let forked =
        |turn: &Turn| world.processes.get(&turn.by.tgid).and_then(|process| process.forked).map_or(0, |at| at.pos);
    let (guest, host) = if forked(second) >= forked(first) { (second, first) } else { (first, second) };
    let last_of = |side: &Turn| turns.iter().rposition(|turn| turn.table == side.table);
    let (culprit, victim) = (last_of(guest)?, last_of(host)?);
    role(&mut timeline[culprit], Role::Culprit, "goes on using what the other side uses");
    role(&mut timeline[victim], Role::Victim, "shares it since the fork");
    let (a, b) = (evidence::shown_process(world, first.by.tgid), evidence::shown_process(world, second.by.tgid));
    let what = evidence::shown(description);
    let message = if is_file {
        format!("{a} and {b} move the offset of {what} in turns: each read or write of one moves it for the other")
    } else {
        let harm = if turns.iter().all(|turn| asks(turn)) {
            "what they send may mix"
        } else {
            "what is meant for one reaches the other"
        };
        format!("{a} and {b} talk over the same {what} in turns: {harm}")
    };
    let (pid, fd, number) = (&turns[victim].by, turns[victim].slot.fd, turns[victim].number);
    let incident = incidents.number(Cause::Description(description.serial));
    let base = evidence::finding(rule, incident, pid, fd, world);
    Some(Finding {
        confidence: if complete { sure } else { Confidence::Possible },
        severity: if is_file { Severity::Medium } else { base.severity },
        generation: Some(number),
        message,
        culprit: Some(timeline[culprit].clone()),
        victim: Some(timeline[victim].clone()),
        timeline,
        complete,
        ..base
    })
}
