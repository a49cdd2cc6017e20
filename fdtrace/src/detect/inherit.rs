//! Descriptors that get where they should not: `exec-leak`, `cloexec-race`, `held-by-fork`.
//!
//! * `exec-leak`: a program that was started has a descriptor it knows nothing of. *Proof.* The exec, at which the number
//!   was open and not marked; that it was not meant to be passed on is one inference, so it is `likely`. Reported for kinds
//!   that hurt (regular files open for writing and reading, bound sockets, epoll instances, block devices), opened by a
//!   program of the trace, once the new program has ended, or has run for a second, without using it. *Look-alikes.* 0, 1
//!   and 2; numbers named on the command line; numbers whose mark was cleared on purpose, or that were assigned by `dup`.
//! * `cloexec-race`: a process was forked between the opening of a descriptor and its mark. *Proof.* Opened without the mark
//!   by one thread, copied by a fork of another, marked by the first afterwards; and the child has run a program with it.
//!   *Look-alikes.* One thread doing all three; a child that closes the number first.
//! * `held-by-fork`: a process closed its last number of a bound socket, a forked child still holds it, and binding anew
//!   fails with `EADDRINUSE`. *Proof.* File identity shows who holds it; that it is this socket which is in the way is one
//!   inference, so it is `likely`. *Look-alikes.* A child that holds a copy by itself does no harm: not told.

use std::rc::Rc;

use crate::{
    collections::{Map, Told},
    model::{
        Change, World,
        description::{Description, Kind, Serial},
        table::{Generation, Lineage, Origin, SlotId, TableId},
    },
    order::{Life, Stamp},
};

use super::{
    Cause, Out, Want,
    evidence::{self, act, birth, object},
    finding::{Confidence, Finding, Role, Verb},
};

/// A program that has not used what it inherited for so long does not know of it, nanoseconds.
const UNUSED: u64 = 1_000_000_000;
/// Uses of a file that may have leaked that are looked at.
const USES: u32 = 64;
const REMEMBERED: usize = 4096;
const O_ACCMODE: u32 = 3;
const O_RDWR: u32 = 2;
const EADDRINUSE: i32 = 98;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Numbers whose mark was cleared by a call: they are meant to be passed on.
    passed_on: Told<Serial, REMEMBERED>,
    /// Sockets with an address, and the call that gave it.
    bound: Map<Serial, Bound>,
    leaked: Vec<Leaked>,
    leak_told: Told<Serial, REMEMBERED>,
    races: Vec<Race>,
}

#[derive(Debug)]
struct Bound {
    table: TableId,
    fd: i32,
    description: Rc<Description>,
    by: Rc<Stamp>,
}

/// A descriptor that a new program has and does not know of, as it seems.
#[derive(Debug)]
struct Leaked {
    process: u32,
    slot: SlotId,
    number: u32,
    description: Rc<Description>,
    opened: super::finding::Act,
    execed: u64,
    complete: bool,
}

/// A child that has a descriptor which was marked too late for it.
#[derive(Debug)]
struct Race {
    parent: SlotId,
    number: u32,
    child: SlotId,
    marked: Rc<Stamp>,
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.passed_on.forgotten() + self.leak_told.forgotten()
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Cloexec { slot, number, on, by } => {
                let Some(life) = world.slot(*slot).and_then(|slot| slot.life(*number)) else { return };
                if *on {
                    self.marked(*slot, life, by, world, out);
                } else {
                    self.passed_on.insert(life.data.description.serial);
                }
            }
            // A row of a copied table: from now on, so that not even the first use by a new program is missed.
            Change::Installed { slot, by, .. } if by.sys.is_none() && slot.fd > 2 => {
                let Some(live) = world.slot(*slot).and_then(|slot| slot.live()) else { return };
                let description = &live.data.description;
                if !live.data.cloexec && !self.leak_told.contains(&description.serial) && self.hurts(description) {
                    out.wants.push(Want::Turns { file: description.file, fd: slot.fd, times: USES, every: 0 });
                }
            }
            Change::Execed { process } => {
                self.execed(*process, world);
                self.raced(*process, world, out);
            }
            Change::Used { slot, number, by } if by.is("bind") => self.bind(*slot, *number, by, world, out),
            Change::Used { slot, by, .. } => {
                self.leaked.retain(|leaked| leaked.slot != *slot || leaked.process != by.tgid);
            }
            Change::Exited { process, .. } => {
                let over: Vec<Leaked> = self.leaked.extract_if(.., |leaked| leaked.process == *process).collect();
                for leaked in over {
                    self.tell_leak(&leaked, world, out);
                }
            }
            Change::TableDied { .. } => {
                self.bound.retain(|_, bound| bound.description.holders.get() > 0);
                self.races.retain(|race| world.tables.get(&race.child.table).is_some_and(|table| table.alive()));
            }
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, world: &World, out: &mut Out<'_>) {
        let limit = world.now().time.saturating_sub(UNUSED);
        let ripe: Vec<Leaked> = self.leaked.extract_if(.., |leaked| leaked.execed < limit).collect();
        for leaked in ripe {
            self.tell_leak(&leaked, world, out);
        }
    }

    /// A program begins: what does it have that it was not given?
    fn execed(&mut self, process: u32, world: &World) {
        let (Some(table), Some(state)) = (world.table_of_process(process), world.processes.get(&process)) else {
            return;
        };
        self.leaked.retain(|leaked| leaked.process != process);
        for (fd, live) in table.open().filter(|(fd, live)| *fd > 2 && !live.data.cloexec) {
            let description = &live.data.description;
            let serial = description.serial;
            if self.leak_told.contains(&serial)
                || self.passed_on.contains(&serial)
                || !self.hurts(description)
                || named(fd, &state.argv)
                || self.leaked.len() >= REMEMBERED
            {
                continue;
            }
            let Some((slot, root)) = origin(SlotId { table: table.id, fd }, live, world) else { continue };
            if root.data.origin != Origin::Opened {
                continue;
            }
            self.leaked.push(Leaked {
                process,
                slot: SlotId { table: table.id, fd },
                number: live.number,
                description: Rc::clone(description),
                opened: birth(world, slot, root),
                execed: state.execed.map_or(0, |execed| execed.time),
                complete: table.complete_since(root.born.exit.time),
            });
        }
    }

    fn hurts(&self, description: &Description) -> bool {
        let Some(details) = description.details() else { return false };
        match details.kind {
            Kind::File => details.info.flags & O_ACCMODE == O_RDWR,
            Kind::Socket { .. } => self.bound.contains_key(&description.serial),
            Kind::Eventpoll | Kind::BlockDevice => true,
            _ => false,
        }
    }

    fn tell_leak(&mut self, leaked: &Leaked, world: &World, out: &mut Out<'_>) {
        if !self.leak_told.insert(leaked.description.serial) {
            return;
        }
        let fd = leaked.slot.fd;
        let culprit = leaked.opened.clone().with_role(Role::Culprit, "without close-on-exec");
        let process = evidence::comm(world, leaked.process);
        let mut victim = culprit.clone();
        (victim.time, victim.enter_time, victim.pid, victim.tid) =
            (leaked.execed, None, leaked.process, leaked.process);
        (victim.process, victim.fd, victim.generation) = (process.clone(), fd, Some(leaked.number));
        (victim.verb, victim.call, victim.who) = (Verb::Inherited, "execve", super::finding::Who::default());
        let victim = victim.with_role(Role::Victim, "began with it, and never used it");
        let incident = out.incidents.number(Cause::Description(leaked.description.serial));
        let text = super::rules::find("exec-leak");
        out.findings.push(Finding {
            rule: "exec-leak",
            confidence: if leaked.complete { Confidence::Likely } else { Confidence::Possible },
            severity: text.map_or(super::finding::Severity::Medium, |text| text.severity),
            incident,
            pid: leaked.process,
            inside: Vec::new(),
            process,
            fd,
            generation: Some(leaked.number),
            message: format!(
                "{} was started with fd {fd}, {}, which was opened without close-on-exec",
                evidence::shown_process(world, leaked.process),
                evidence::shown(&leaked.description)
            ),
            timeline: vec![culprit.clone(), victim.clone()],
            culprit: Some(culprit),
            victim: Some(victim),
            root_cause: None,
            advice: super::rules::advice("exec-leak"),
            complete: leaked.complete,
            time: world.now().time,
        });
    }

    /// A descriptor got its mark: was a process forked since it was opened?
    fn marked(&mut self, slot: SlotId, life: &Life<Generation>, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let Some(opened) = life.data.by.as_ref().filter(|opened| opened.tid == by.tid && opened.sys.is_some()) else {
            return;
        };
        for table in world.tables.values().filter(|table| table.alive()) {
            let Lineage::Copied { from, at } = table.lineage else { continue };
            let between = opened.at.start() < at.pos && at.pos < by.at.exit.pos;
            let Some(live) = table.slots.get(&slot.fd).and_then(|slot| slot.live()) else { continue };
            let forker = live.data.by.as_ref().map(|forked| forked.tid);
            if from != slot.table
                || !between
                || live.data.cloexec
                || live.data.description.serial != life.data.description.serial
                || forker.is_none_or(|forker| forker == by.tid)
                || self.races.len() >= REMEMBERED
            {
                continue;
            }
            let child = SlotId { table: table.id, fd: slot.fd };
            let race = Race { parent: slot, number: life.number, child, marked: Rc::clone(by) };
            let execed = table.users().any(|tgid| {
                world.processes.get(&tgid).and_then(|process| process.execed).is_some_and(|execed| execed.pos > at.pos)
            });
            if execed {
                tell_race(&race, world, out);
            } else {
                self.races.push(race);
            }
        }
    }

    fn raced(&mut self, process: u32, world: &World, out: &mut Out<'_>) {
        let Some(table) = world.table_of_process(process).map(|table| table.id) else { return };
        for race in self.races.extract_if(.., |race| race.child.table == table) {
            let still = world.slot(race.child).and_then(|slot| slot.live()).is_some_and(|live| !live.data.cloexec);
            if still {
                tell_race(&race, world, out);
            }
        }
    }

    fn bind(&mut self, slot: SlotId, number: u32, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let Some(life) = world.slot(slot).and_then(|slot| slot.life(number)) else { return };
        if by.ret == 0 {
            let description = Rc::clone(&life.data.description);
            if self.bound.len() < REMEMBERED {
                let bound = Bound { table: slot.table, fd: slot.fd, description, by: Rc::clone(by) };
                self.bound.insert(bound.description.serial, bound);
            }
            return;
        }
        if by.errno() != Some(EADDRINUSE) {
            return;
        }
        // A socket that this table had, of the same kind, and that only others hold now.
        let holder = self.bound.values().find_map(|bound| {
            if bound.table != slot.table || bound.description.kind() != life.data.description.kind() {
                return None;
            }
            let holds = |table: &&crate::model::table::Table| {
                table.open().any(|(_, live)| live.data.description.serial == bound.description.serial)
            };
            let mut holders = world.tables.values().filter(holds);
            let first = holders.next()?;
            (first.id != slot.table && holders.all(|table| table.id != slot.table)).then_some((bound, first))
        });
        let Some((bound, holder)) = holder else { return };
        let Some((held_fd, held)) =
            holder.open().find(|(_, live)| live.data.description.serial == bound.description.serial)
        else {
            return;
        };
        let complete = world.tables.get(&slot.table).is_some_and(|table| table.complete_since(bound.by.at.exit.time));
        let culprit = birth(world, SlotId { table: holder.id, fd: held_fd }, held)
            .with_role(Role::Culprit, "keeps the address taken");
        let mut line = act(&bound.by, bound.fd, Verb::Used);
        line.object = object(&bound.description);
        let victim =
            act(by, slot.fd, Verb::Used).of_generation(number).with_role(Role::Victim, "wants the same address");
        let process = holder.users().next().unwrap_or(0);
        let incident = out.incidents.number(Cause::Description(bound.description.serial));
        out.findings.push(Finding {
            confidence: if complete { Confidence::Likely } else { Confidence::Possible },
            generation: Some(number),
            message: format!(
                "bind of fd {} failed with EADDRINUSE: fd {} was closed here, and {} has held a copy since it was forked",
                slot.fd,
                bound.fd,
                evidence::shown_process(world, process)
            ),
            timeline: vec![line, culprit.clone(), victim.clone()],
            culprit: Some(culprit),
            victim: Some(victim),
            complete,
            ..evidence::finding("held-by-fork", incident, by, bound.fd, world)
        });
    }
}

/// The life through which an inherited one was opened, as far as that is remembered.
fn origin<'a>(slot: SlotId, live: &'a Life<Generation>, world: &'a World) -> Option<(SlotId, &'a Life<Generation>)> {
    let (mut slot, mut life) = (slot, live);
    // A line of descent is no longer than there are tables.
    for _ in 0..=world.tables.len() {
        let Origin::Inherited { from, generation } = life.data.origin else { return Some((slot, life)) };
        slot = SlotId { table: from, fd: slot.fd };
        life = world.slot(slot)?.life(generation)?;
    }
    None
}

/// The number stands on the command line.
fn named(fd: i32, argv: &[u8]) -> bool {
    let number = fd.to_string();
    argv.split(|byte| !byte.is_ascii_digit()).any(|word| word == number.as_bytes())
}

fn tell_race(race: &Race, world: &World, out: &mut Out<'_>) {
    let (Some(parent), Some(child)) = (
        world.slot(race.parent).and_then(|slot| slot.life(race.number)),
        world.slot(race.child).and_then(|slot| slot.live()),
    ) else {
        return;
    };
    let complete = [race.parent.table, race.child.table]
        .iter()
        .all(|table| world.tables.get(table).is_some_and(|table| table.complete_since(parent.born.exit.time)));
    let fd = race.parent.fd;
    let what = evidence::shown(&parent.data.description);
    let culprit = birth(world, race.parent, parent).with_role(Role::Culprit, "opened without close-on-exec");
    let victim = birth(world, race.child, child).with_role(Role::Victim, "forked before the mark was set");
    let marked = act(&race.marked, fd, Verb::Modified).of_generation(race.number);
    let process = world.tables.get(&race.child.table).and_then(|table| table.users().next()).unwrap_or(0);
    let mut timeline = vec![culprit.clone(), victim.clone(), marked];
    timeline.sort_by_key(|act| act.time);
    let incident = out.incidents.number(Cause::Generation(race.parent, race.number));
    out.findings.push(Finding {
        confidence: if complete { Confidence::Proven } else { Confidence::Possible },
        generation: Some(race.number),
        message: format!(
            "{} was forked between the opening of fd {fd} ({what}) and its close-on-exec mark, and has run a program with it",
            evidence::shown_process(world, process)
        ),
        culprit: Some(culprit),
        victim: Some(victim),
        timeline,
        complete,
        ..evidence::finding("cloexec-race", incident, &race.marked, fd, world)
    });
}
