//! `epoll-stale-ctl`: `epoll_ctl` failed with `EBADF`, with `EPERM` (`MOD`, `DEL`), or with `ENOENT` (`MOD`), for a
//! number whose earlier generation was registered in this instance. *Proof.* The call and the history of the slot.
//! *Look-alikes.* `DEL` with `ENOENT` and `ADD` with `EEXIST`: libuv's way of asking. `MOD` with `ENOENT` that the same
//! thread follows by a successful `ADD`: the loop noticed and mended it, told as `possible`.

use std::rc::Rc;

use crate::{
    collections::Map,
    event::EpollOp,
    model::{Change, World, description::Serial, epoll::Entry, table::SlotId},
    order::{Stamp, State},
    syscalls::errno_name,
};

use super::{
    Cause, Out,
    evidence::{self, act, history, mark, object},
    finding::{Confidence, Finding, Role, Verb},
};

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EBADF: i32 = 9;

/// How long a failed `MOD` waits for the `ADD` that mends it, nanoseconds.
const MENDING: u64 = 100_000_000;
const REMEMBERED: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// What was registered, by instance and number.
    registered: Map<(Serial, i32), Registered>,
    /// `MOD` that found nothing, waiting for a mending `ADD`.
    unmended: Vec<Unmended>,
}

#[derive(Debug)]
struct Registered {
    target: Serial,
    by: Rc<Stamp>,
}

#[derive(Debug)]
struct Unmended {
    epoll: Serial,
    fd: i32,
    tid: u32,
    time: u64,
    finding: Finding,
}

impl Rules {
    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::EpollCtl { epoll, slot, op, fd, entry, by } => {
                self.ctl(*epoll, *slot, *op, *fd, entry.as_ref(), by, world, out);
            }
            Change::TableDied { .. } => {
                self.registered.retain(|(epoll, _), _| world.epolls.contains_key(epoll));
            }
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, world: &World, out: &mut Out<'_>) {
        let limit = world.now().time.saturating_sub(MENDING);
        out.findings.extend(self.unmended.extract_if(.., |held| held.time < limit).map(|held| held.finding));
    }

    pub(super) fn finish(&mut self, out: &mut Out<'_>) {
        out.findings.extend(self.unmended.drain(..).map(|held| held.finding));
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one change")]
    fn ctl(
        &mut self,
        epoll: Serial,
        slot: SlotId,
        op: EpollOp,
        fd: i32,
        entry: Option<&Entry>,
        by: &Rc<Stamp>,
        world: &World,
        out: &mut Out<'_>,
    ) {
        match (op, by.errno()) {
            (EpollOp::Add, None) => {
                if let Some(held) = self.unmended.iter().position(|h| (h.epoll, h.fd, h.tid) == (epoll, fd, by.tid)) {
                    let held = self.unmended.remove(held);
                    out.findings.push(Finding { confidence: Confidence::Possible, ..held.finding });
                }
                let Some(entry) = entry else { return };
                if self.registered.len() < REMEMBERED {
                    let registered = Registered { target: entry.target.serial, by: Rc::clone(by) };
                    self.registered.insert((epoll, fd), registered);
                }
            }
            (EpollOp::Del, None) => {
                self.registered.remove(&(epoll, fd));
            }
            (EpollOp::Mod | EpollOp::Del | EpollOp::Add, Some(EBADF))
            | (EpollOp::Mod | EpollOp::Del, Some(EPERM))
            | (EpollOp::Mod, Some(ENOENT)) => {
                let Some(finding) = self.stale(epoll, slot, op, fd, by, world, out) else { return };
                if by.errno() == Some(ENOENT) {
                    let time = by.at.exit.time;
                    self.unmended.push(Unmended { epoll, fd, tid: by.tid, time, finding });
                } else {
                    out.findings.push(finding);
                }
            }
            _ => {}
        }
    }

    /// `epoll_ctl` for a number that was registered once.
    #[expect(clippy::too_many_arguments, reason = "the parts of one change")]
    fn stale(
        &self,
        epoll: Serial,
        slot: SlotId,
        op: EpollOp,
        fd: i32,
        by: &Rc<Stamp>,
        world: &World,
        out: &mut Out<'_>,
    ) -> Option<Finding> {
        let target = SlotId { table: slot.table, fd };
        let table = world.tables.get(&slot.table)?;
        let registered = self.registered.get(&(epoll, fd));
        // A number that was never registered and never open is an error of another kind.
        if registered.is_none() && op == EpollOp::Add {
            return None;
        }
        let mut dead = world.slot(target)?.past().rev();
        let life = match registered {
            Some(registered) => dead.find(|life| life.data.description.serial == registered.target),
            None => dead.next(),
        }?;
        if matches!(&life.state, State::Ended(end) if end.by.at.exit.pos >= by.at.start()) {
            return None;
        }
        let complete = table.complete_since(life.born.exit.time) && life.end().is_some();
        let confidence = match (complete, registered.is_some()) {
            (true, true) => Confidence::Proven,
            (true, false) => Confidence::Likely,
            (false, _) => Confidence::Possible,
        };
        let error = by.errno().and_then(errno_name).unwrap_or("an error");
        let verb = match op {
            EpollOp::Del => Verb::Unregistered,
            EpollOp::Mod => Verb::Modified,
            _ => Verb::Registered,
        };
        let now = match by.errno() {
            Some(EBADF) => "is closed",
            Some(EPERM) => "is a file that cannot be watched by now",
            _ => "is another file by now",
        };
        let called = match op {
            EpollOp::Del => "EPOLL_CTL_DEL",
            EpollOp::Mod => "EPOLL_CTL_MOD",
            _ => "EPOLL_CTL_ADD",
        };
        let mut timeline = history(world, target, life.number..=life.number);
        if let Some(registered) = registered {
            let mut line = act(&registered.by, fd, Verb::Registered).of_generation(life.number);
            line.object = object(&life.data.description);
            timeline.push(line);
        }
        let victim = act(by, fd, verb).with_role(Role::Victim, "the loop believes that it is registered");
        let culprit = evidence::end(world, target, life)
            .map(|end| end.with_role(Role::Culprit, "closed under the event loop that watches it"));
        if let Some(culprit) = &culprit {
            mark(&mut timeline, culprit);
        }
        timeline.push(victim.clone());
        timeline.sort_by_key(|act| act.time);
        let incident = out.incidents.number(Cause::Generation(target, life.number));
        Some(Finding {
            confidence,
            generation: Some(life.number),
            message: format!(
                "{called} of fd {fd} in epoll fd {} failed with {error}: the number was registered there, and {now}",
                slot.fd
            ),
            culprit,
            victim: Some(victim),
            timeline,
            complete,
            ..evidence::finding("epoll-stale-ctl", incident, by, fd, world)
        })
    }
}
