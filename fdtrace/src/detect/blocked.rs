//! Closed under somebody's feet: `close-while-blocked` and `bulk-close`.
//!
//! * `close-while-blocked`: a number was closed while another thread waited in a call on it. Closing wakes nobody: the
//!   waiter keeps the file, and the number goes to somebody else. *Proof.* Times and identity: the waiter's call began on
//!   this generation before the close began and returned after it. *Look-alikes.* A socket that was shut down before, for
//!   that wakes its waiters; `dup2` over the number, which never changes hands; a call that was on its way out, having
//!   got what it waited for.
//! * `bulk-close`: the same, or an `EBADF` of another task, where the number was closed by `close_range` or as one of many
//!   neighbouring ones. *Proof.* As above, and the closes around it. *Look-alikes.* A child with one thread between fork
//!   and exec, and numbers that nobody uses any more: nothing is said before somebody is hit.

use std::{collections::VecDeque, rc::Rc};

use crate::{
    collections::{Bounded, Told},
    model::{
        Change, World,
        description::{Kind, Serial},
        table::SlotId,
    },
    order::{End, How, Stamp},
};

use super::{
    Cause, Out,
    evidence::{self, act, history, mark},
    finding::{Confidence, Finding, Role, Severity, Verb},
    same_program,
};

/// Closes in a row that are no longer single closes.
const BULK: usize = 8;
/// Rows of closes remembered for each thread.
const ROWS: usize = 4;
/// A waiter that leaves this soon after the close, with a result, was on its way out. Nanoseconds.
const LEAVING: u64 = 5_000_000;
const REMEMBERED: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Rows of closes of neighbouring numbers, by process and thread, newest last.
    rows: Bounded<(u32, u32), VecDeque<Row>, REMEMBERED>,
    /// Sockets that were shut down.
    shut: Told<Serial, REMEMBERED>,
    told: Told<(SlotId, u32, &'static str), REMEMBERED>,
}

#[derive(Debug)]
struct Row {
    first_pos: u64,
    last_pos: u64,
    last_fd: i32,
    step: i32,
    length: usize,
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.rows.forgotten() + self.shut.forgotten() + self.told.forgotten()
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Removed { slot, how: How::Closed, by, .. } if by.is("close") => self.closed(slot.fd, by),
            Change::BadFd { by, .. } if by.is("close") => self.closed(crate::syscalls::fd(by.args[0]), by),
            Change::BadFd { by, met, .. } if by.sys.is_some_and(|sys| !sys.is_probe(&by.args)) => {
                for met in met {
                    let Some(life) = world.slot(met.slot).and_then(|slot| slot.life(met.number)) else { continue };
                    let Some(end) = life.end() else { continue };
                    if self.is_bulk(end) && end.by.tid != by.tid && same_program(end, by, world) {
                        self.tell(met.slot, met.number, end, by, Confidence::Proven, world, out);
                    }
                }
            }
            Change::Used { slot, number, by } if by.is("shutdown") && by.ret == 0 => {
                let life = world.slot(*slot).and_then(|slot| slot.life(*number));
                if let Some(life) = life {
                    self.shut.insert(life.data.description.serial);
                }
            }
            Change::Used { slot, number, by } => self.used(*slot, *number, by, world, out),
            Change::Exited { process, .. } => self.rows.retain(|(tgid, _), _| tgid != process),
            _ => {}
        }
    }

    fn closed(&mut self, fd: i32, by: &Stamp) {
        let rows = self.rows.or_insert_with((by.tgid, by.tid), VecDeque::new);
        let pos = by.at.exit.pos;
        if let Some(row) = rows.back_mut() {
            let step = fd.wrapping_sub(row.last_fd);
            // Numbers that are left alone make gaps in a row.
            let goes_on = (1..=3).contains(&step.unsigned_abs()) && (row.length == 1 || step.signum() == row.step);
            if goes_on {
                (row.last_pos, row.last_fd, row.step) = (pos, fd, step.signum());
                row.length += 1;
                return;
            }
        }
        if rows.len() == ROWS {
            rows.pop_front();
        }
        rows.push_back(Row { first_pos: pos, last_pos: pos, last_fd: fd, step: 0, length: 1 });
    }

    /// Was this end one of many?
    fn is_bulk(&self, end: &End) -> bool {
        if end.by.is("close_range") {
            return true;
        }
        let pos = end.by.at.exit.pos;
        end.by.is("close")
            && self.rows.get(&(end.by.tgid, end.by.tid)).is_some_and(|rows| {
                rows.iter().any(|row| row.length >= BULK && (row.first_pos..=row.last_pos).contains(&pos))
            })
    }

    /// A call that waited has returned, or one that was asked for.
    fn used(&mut self, slot: SlotId, number: u32, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let Some(life) = world.slot(slot).and_then(|slot| slot.life(number)) else { return };
        let Some(end) = life.end() else { return };
        let (Some(began), Some(closing)) = (by.at.enter, end.by.at.enter) else { return };
        // Two calls that began with nothing reported in between have one position.
        let before = began.pos < closing.pos || (began.pos == closing.pos && began.time < closing.time);
        let inside = before && end.by.at.exit.pos < by.at.exit.pos;
        if !inside || end.how != How::Closed || end.by.tid == by.tid || !same_program(end, by, world) {
            return;
        }
        let is_socket = matches!(life.data.description.kind(), Kind::Socket { .. });
        if is_socket && self.shut.contains(&life.data.description.serial) {
            return;
        }
        let stayed = by.at.exit.time.saturating_sub(end.by.at.exit.time);
        if by.ret >= 0 && stayed < LEAVING {
            return;
        }
        let confidence = if life.ambiguous { Confidence::Likely } else { Confidence::Proven };
        self.tell(slot, number, end, by, confidence, world, out);
    }

    #[expect(clippy::too_many_arguments, reason = "what both rules have to say")]
    fn tell(
        &mut self,
        slot: SlotId,
        number: u32,
        end: &End,
        by: &Rc<Stamp>,
        confidence: Confidence,
        world: &World,
        out: &mut Out<'_>,
    ) {
        let bulk = self.is_bulk(end);
        let rule = if bulk { "bulk-close" } else { "close-while-blocked" };
        if !self.told.insert((slot, number, rule)) {
            return;
        }
        let (Some(table), Some(state)) = (world.tables.get(&slot.table), world.slot(slot)) else { return };
        let Some(life) = state.life(number) else { return };
        let fd = slot.fd;
        let complete = table.complete_since(life.born.exit.time);
        let call = by.sys.map_or("a call", |sys| sys.name);
        let failed = by.ret == -9;
        let recycled = state.lives().any(|next| next.number > number && next.born.exit.pos < by.at.exit.pos);
        let what = evidence::shown(&life.data.description);
        let message = match (bulk, failed) {
            (true, true) => format!(
                "a sweep over all numbers closed fd {fd} ({what}), which thread {} still uses: its {call} failed with EBADF",
                by.tid
            ),
            (true, false) => {
                format!("a sweep over all numbers closed fd {fd} ({what}) while thread {} was in {call} on it", by.tid)
            }
            (false, _) => format!(
                "thread {} closed fd {fd} ({what}) while thread {} was waiting in {call} on it{}",
                end.by.tid,
                by.tid,
                if recycled { ", and the number was given out again" } else { "" }
            ),
        };
        let culprit = evidence::end(world, slot, life)
            .map(|end| end.with_role(Role::Culprit, if bulk { "one of many" } else { "wakes nobody" }));
        let mut timeline = history(world, slot, number..=number);
        if let Some(culprit) = &culprit {
            mark(&mut timeline, culprit);
        }
        let remark = if failed { "found it closed" } else { "was inside the call" };
        let victim = act(by, fd, Verb::Used).of_generation(number).with_role(Role::Victim, remark);
        timeline.push(victim.clone());
        let incident = out.incidents.number(Cause::Generation(slot, number));
        let base = evidence::finding(rule, incident, by, fd, world);
        out.findings.push(Finding {
            confidence: if complete { confidence } else { Confidence::Possible },
            severity: if recycled { Severity::High } else { base.severity },
            generation: Some(number),
            message,
            culprit,
            victim: Some(victim),
            timeline,
            complete,
            ..base
        });
    }
}
