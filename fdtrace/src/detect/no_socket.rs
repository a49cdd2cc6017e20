//! `stale-use` that the kind gives away: a socket call on a number that was a socket and is none now.
//!
//! *Proof.* The call failed with `ENOTSOCK`, and an earlier generation of the number was a socket that this program
//! closed. `Likely` if another thread than the caller's gave the number away, and else `possible`, for the caller may not
//! care what the number is. *Look-alikes.* Programs that try `send` on whatever they have and fall back to `write`: they
//! do it to numbers that never were sockets, too. Questions (`getsockname`, `getsockopt`). The standard streams.

use crate::{
    collections::Told,
    model::{Change, World, description::Kind, table::SlotId},
    order::{How, Life, Stamp},
};

use super::{
    Cause, Out,
    evidence::{self, act, mark},
    finding::{Confidence, Finding, Role, Verb},
    same_program,
};

const ENOTSOCK: i32 = 88;
const STDERR: i32 = 2;
const REMEMBERED: usize = 4096;

/// Calls that mean a socket, and do not ask whether it is one.
const MEANT: [&str; 12] = [
    "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg", "accept", "accept4", "connect", "bind",
    "listen", "shutdown",
];

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Processes that make socket calls on what never was a socket.
    careless: Told<u32, REMEMBERED>,
    told: Told<(SlotId, u32), REMEMBERED>,
}

impl Rules {
    /// What was forgotten because there was too much of it.
    pub(super) fn forgotten(&self) -> u64 {
        self.careless.forgotten() + self.told.forgotten()
    }

    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        let Change::Used { slot, number, by } = change else { return };
        let meant = by.sys.is_some_and(|sys| MEANT.contains(&sys.name));
        if meant && by.errno() == Some(ENOTSOCK) && slot.fd > STDERR {
            self.used(*slot, *number, by, world, out);
        }
    }

    fn used(&mut self, slot: SlotId, number: u32, by: &Stamp, world: &World, out: &mut Out<'_>) {
        let (Some(table), Some(state)) = (world.tables.get(&slot.table), world.slot(slot)) else { return };
        let Some(life) = state.life(number) else { return };
        let was_socket = |old: &&Life<_>| old.number < number && is_socket(old);
        let was = state.past().rev().find(was_socket);
        let ended = |old: &&Life<_>| old.end().is_some_and(|end| same_program(end, by, world));
        let Some(old) = was.filter(ended) else {
            self.careless.insert(by.tgid);
            return;
        };
        // Who was overwritten is a matter of `clobbered-fd`.
        let replaced = old.end().is_some_and(|end| end.how == How::Replaced);
        if replaced || self.careless.contains(&by.tgid) || !self.told.insert((slot, number)) {
            return;
        }
        let begun = life.data.by.as_ref();
        let by_others =
            old.end().is_some_and(|end| end.by.tid != by.tid) || begun.is_some_and(|begun| begun.tid != by.tid);
        let call = by.sys.map_or("a call", |sys| sys.name);
        let complete = table.complete_since(old.born.exit.time);
        let culprit = act(by, slot.fd, Verb::Used)
            .of_generation(number)
            .with_role(Role::Culprit, &format!("means the socket of generation {}", old.number));
        let root = evidence::end(world, slot, old).map(|root| root.with_role(Role::RootCause, "ended the socket"));
        let victim = evidence::birth(world, slot, life).with_role(Role::Victim, "used by a stranger");
        let mut timeline = Vec::new();
        for life in [old, life] {
            timeline.push(evidence::birth(world, slot, life));
            timeline.extend(evidence::end(world, slot, life));
        }
        for part in [&root, &Some(victim.clone())].into_iter().flatten() {
            mark(&mut timeline, part);
        }
        timeline.push(culprit.clone());
        let incident = out.incidents.number(Cause::Generation(slot, old.number));
        let base = evidence::finding("stale-use", incident, by, slot.fd, world);
        out.findings.push(Finding {
            confidence: if complete && by_others { Confidence::Likely } else { Confidence::Possible },
            generation: Some(number),
            message: format!(
                "{call} on fd {} was meant for a socket, {} of generation {}, and met generation {number}, which is none: {}",
                slot.fd,
                evidence::shown(&old.data.description),
                old.number,
                evidence::shown(&life.data.description),
            ),
            culprit: Some(culprit),
            victim: Some(victim),
            root_cause: root,
            timeline,
            complete,
            ..base
        });
    }
}

fn is_socket(life: &Life<crate::model::table::Generation>) -> bool {
    matches!(life.data.description.kind(), Kind::Socket { .. })
}
