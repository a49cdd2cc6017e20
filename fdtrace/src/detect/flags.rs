//! Flags of one description in two hands: `shared-flags`.
//!
//! * `shared-flags`: one side set `O_NONBLOCK` on a file that was blocking, and another side, which never did, got `EAGAIN`;
//!   pipes and terminals too. *Look-alikes.* Descriptions in an event loop's hands; flags that are put back; flags that
//!   were there before.

use std::rc::Rc;

use fdtrace_common::wire::Watch;

use crate::{
    collections::Map,
    model::{
        Change, World,
        description::{Description, Kind, Serial},
        table::{SlotId, TableId},
    },
    order::Stamp,
};

use super::{
    Cause, Out, Want,
    evidence::{self, act, object},
    finding::{Confidence, Finding, Role, Verb},
    share::moves,
};

const REMEMBERED: usize = 16_384;
const O_NONBLOCK: u32 = 0o4000;
const EAGAIN: i32 = 11;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// What somebody made non-blocking.
    set: Map<Serial, Set>,
}

#[derive(Debug)]
struct Set {
    description: Rc<Description>,
    setter: TableId,
    by: Rc<Stamp>,
    told: bool,
}

impl Rules {
    pub(super) fn on(&mut self, change: &Change, world: &World, out: &mut Out<'_>) {
        match change {
            Change::Used { slot, number, by } if by.errno() == Some(EAGAIN) => {
                self.eagain(*slot, *number, by, world, out);
            }
            Change::FlagsSet { slot, flags, before, by, .. } => self.flags_set(*slot, *flags, *before, by, world, out),
            Change::TableDied { .. } => self.set.retain(|_, set| set.description.holders.get() > 0),
            _ => {}
        }
    }

    fn flags_set(
        &mut self,
        slot: SlotId,
        flags: u32,
        before: Option<u32>,
        by: &Rc<Stamp>,
        world: &World,
        out: &mut Out<'_>,
    ) {
        let Some(live) = world.slot(slot).and_then(|slot| slot.live()) else { return };
        let description = &live.data.description;
        let wanted = flags & O_NONBLOCK != 0;
        let changes = wanted && before.is_some_and(|before| before & O_NONBLOCK == 0);
        if wanted && !changes {
            // It was so before: whoever asks for it once more agrees.
            if self.set.get(&description.serial).is_some_and(|set| set.setter != slot.table && !set.told) {
                self.set.remove(&description.serial);
            }
            return;
        }
        if !changes {
            self.set.retain(|serial, set| *serial != description.serial || set.told);
            return;
        }
        let may_wait = matches!(description.kind(), Kind::Socket { .. } | Kind::Pipe | Kind::CharDevice);
        let told = self.set.get(&description.serial).is_some_and(|set| set.told);
        if !may_wait || told || description.holders.get() < 2 || self.set.len() >= REMEMBERED {
            return;
        }
        let set = Set { description: Rc::clone(description), setter: slot.table, by: Rc::clone(by), told: false };
        self.set.insert(description.serial, set);
        out.wants.push(Want::Turns { file: description.file, fd: slot.fd, times: Watch::TURNS, every: 0 });
    }

    /// A call found nothing ready, and would have waited had nobody touched the flags.
    fn eagain(&mut self, slot: SlotId, number: u32, by: &Rc<Stamp>, world: &World, out: &mut Out<'_>) {
        let Some(life) = world.slot(slot).and_then(|slot| slot.life(number)) else { return };
        let Some(set) = self.set.get_mut(&life.data.description.serial) else { return };
        let call = by.sys.map_or("", |sys| sys.name);
        if !moves(call) || set.setter == slot.table || set.told || set.description.watched.get() > 0 {
            return;
        }
        set.told = true;
        let description = &set.description;
        let complete = world.tables.get(&slot.table).is_some_and(|table| table.complete_since(set.by.at.exit.time));
        let mut culprit = act(&set.by, crate::syscalls::fd(set.by.args[0]), Verb::Modified)
            .with_role(Role::Culprit, "made it non-blocking for everybody");
        culprit.object = object(description);
        let mut victim =
            act(by, slot.fd, Verb::Used).of_generation(number).with_role(Role::Victim, "did not ask for EAGAIN");
        victim.object = object(description);
        let incident = out.incidents.number(Cause::Description(description.serial));
        out.findings.push(Finding {
            confidence: if complete { Confidence::Proven } else { Confidence::Possible },
            generation: Some(number),
            message: format!(
                "{} set O_NONBLOCK on {}, which {} uses too and got EAGAIN from",
                evidence::shown_process(world, set.by.tgid),
                evidence::shown(description),
                evidence::shown_process(world, by.tgid)
            ),
            timeline: vec![culprit.clone(), victim.clone()],
            culprit: Some(culprit),
            victim: Some(victim),
            complete,
            ..evidence::finding("shared-flags", incident, by, slot.fd, world)
        });
    }
}
