//! Turns what the model remembers into the lines of a finding's timeline.

use std::{ops::RangeInclusive, rc::Rc};

use crate::{
    escape,
    event::Moment,
    model::{
        World,
        description::Description,
        table::{Generation, Origin, SlotId},
    },
    order::{End, How, Life, Stamp, State},
    syscalls::errno_name,
};

use super::{
    finding::{Act, Confidence, Finding, Frame, Name, Owner, Role, Severity, Verb, Who},
    rules,
};

/// An act of `stamp`'s, with nothing said about the descriptor.
pub fn act(stamp: &Stamp, fd: i32, verb: Verb) -> Act {
    let errno = stamp.errno().map(i32::cast_unsigned);
    Act {
        time: stamp.at.exit.time,
        enter_time: stamp.at.enter.map(|enter| enter.time),
        pid: stamp.tgid,
        tid: stamp.tid,
        process: Name(Rc::clone(&stamp.comm)),
        fd,
        generation: None,
        verb,
        call: stamp.sys.map_or("", |sys| sys.name),
        error: errno.and_then(|errno| errno_name(errno.cast_signed())),
        object: Name::default(),
        role: None,
        remark: None,
        ambiguous: false,
        who: who(stamp),
    }
}

/// Whoever made the call, as the witnesses have it.
fn who(stamp: &Stamp) -> Who {
    let owner = stamp.part.by.as_ref().map(|(by, _)| owner(by));
    let Some(seen) = stamp.seen.as_deref() else { return Who { owner, ..Who::default() } };
    let python = seen.python.iter().map(|frame| Frame {
        function: Name(Rc::clone(&frame.code.name)),
        file: Some(Name(Rc::clone(&frame.code.file))),
        line: frame.line(),
        module: None,
        source: None,
    });
    Who {
        owner,
        task: seen.task.clone().map(Name),
        python: python.collect(),
        native: Rc::default(),
        unwound: seen.native.clone(),
    }
}

/// An object that owns a number.
pub fn owner(owner: &crate::who::owner::Owner) -> Owner {
    Owner { kind: escape::escape_terminal(&owner.class.name), address: owner.object }
}

/// How a generation came to be.
pub fn birth(world: &World, slot: SlotId, life: &Life<Generation>) -> Act {
    let verb = match life.data.origin {
        Origin::Opened => Verb::Opened,
        Origin::Duplicated { .. } => Verb::Duplicated,
        Origin::Inherited { .. } => Verb::Inherited,
        Origin::Received => Verb::Received,
        Origin::AlreadyOpen => Verb::AlreadyOpen,
        Origin::Unseen => Verb::UnseenOrigin,
    };
    let mut act = match &life.data.by {
        Some(by) => act(by, slot.fd, verb),
        None => unattributed(world, slot, verb, life.born.exit.time),
    };
    act.generation = Some(life.number);
    act.object = object(&life.data.description);
    act.ambiguous = is_ambiguous(life);
    act.who.owner = act.who.owner.or_else(|| life.data.owner.get().map(|known| owner(known)));
    if let Origin::Duplicated { from } = life.data.origin {
        act.remark = Some(format!("from fd {from}"));
    }
    act
}

/// How a generation ended; `None`: it has not.
pub fn end(world: &World, slot: SlotId, life: &Life<Generation>) -> Option<Act> {
    let mut act = match &life.state {
        State::Live => return None,
        State::Implied { before } => unattributed(world, slot, Verb::UnseenEnd, before.time),
        State::Ended(end) => act(&end.by, slot.fd, ended(end)),
    };
    act.generation = Some(life.number);
    act.object = object(&life.data.description);
    act.ambiguous = is_ambiguous(life);
    Some(act)
}

/// Other orders of the calls fit, or other slots' holding the same description.
fn is_ambiguous(life: &Life<Generation>) -> bool {
    life.ambiguous || life.data.description.is_doubted()
}

fn ended(end: &End) -> Verb {
    match end.how {
        How::Closed => Verb::Closed,
        How::Replaced => Verb::Replaced,
        How::Exec => Verb::ClosedByExec,
        How::Exit => Verb::ClosedByExit,
    }
}

/// Something that no call is known for.
fn unattributed(world: &World, slot: SlotId, verb: Verb, time: u64) -> Act {
    let process = world.tables.get(&slot.table).and_then(|table| table.users().next()).unwrap_or(0);
    Act {
        time,
        enter_time: None,
        pid: process,
        tid: process,
        process: comm(world, process),
        fd: slot.fd,
        generation: None,
        verb,
        call: "",
        error: None,
        object: Name::default(),
        role: None,
        remark: None,
        ambiguous: false,
        who: Who::default(),
    }
}

/// A finding of this rule with what does not depend on the circumstances: `by` is the call at which it was seen.
pub fn finding(rule: &'static str, incident: u64, by: &Stamp, fd: i32, world: &World) -> Finding {
    let text = rules::find(rule);
    Finding {
        rule,
        confidence: Confidence::Possible,
        severity: text.map_or(Severity::Note, |text| text.severity),
        incident,
        pid: by.tgid,
        inside: Vec::new(),
        process: comm(world, by.tgid),
        fd,
        generation: None,
        message: String::new(),
        culprit: None,
        victim: None,
        root_cause: None,
        timeline: Vec::new(),
        advice: rules::advice(rule),
        complete: true,
        time: by.at.exit.time,
    }
}

/// When the program that a process runs was started: by its own exec, or by that of the process that it was forked from.
pub fn program_began(tgid: u32, world: &World) -> Option<Moment> {
    let mut process = world.processes.get(&tgid)?;
    // A line of descent is no longer than there are processes.
    for _ in 0..world.processes.len() {
        if process.execed.is_some() {
            return process.execed;
        }
        process = world.processes.get(&process.parent?)?;
    }
    None
}

/// An object's name as it may stand in a message.
pub fn shown(description: &Description) -> String {
    crate::escape::escape_terminal(&description.object()).to_string()
}

/// A process as it may stand in a message.
pub fn shown_process(world: &World, tgid: u32) -> String {
    format!("{} ({tgid})", crate::escape::escape_terminal(&comm(world, tgid).0))
}

pub fn object(description: &Description) -> Name {
    Name(description.object())
}

pub fn comm(world: &World, tgid: u32) -> Name {
    world.processes.get(&tgid).map_or_else(Name::default, |process| Name(Rc::clone(&process.comm)))
}

/// These generations of a slot, as acts. A reader takes every line for a part of the story: no others belong in it.
pub fn history(world: &World, slot: SlotId, generations: RangeInclusive<u32>) -> Vec<Act> {
    let Some(state) = world.slot(slot) else { return Vec::new() };
    let mut acts = Vec::new();
    for life in state.lives().filter(|life| generations.contains(&life.number)) {
        acts.push(birth(world, slot, life));
        acts.extend(end(world, slot, life));
    }
    acts
}

/// Gives the line of the timeline that is this act its role.
pub fn mark(timeline: &mut [Act], act: &Act) {
    let same = |line: &&mut Act| line.time == act.time && line.tid == act.tid && line.verb == act.verb;
    if let Some(line) = timeline.iter_mut().find(same) {
        line.role = act.role;
        line.remark = act.remark.clone();
        if line.who.owner.is_none() {
            line.who.owner = act.who.owner.clone();
        }
    }
}

impl Act {
    pub fn with_role(mut self, role: Role, remark: &str) -> Self {
        self.role = Some(role);
        self.remark = Some(remark.to_owned());
        self
    }

    pub fn of_generation(mut self, number: u32) -> Self {
        self.generation = Some(number);
        self
    }
}
