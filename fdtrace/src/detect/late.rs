//! What somebody who had an earlier generation of a slot does to a later one: the findings `stale-close` and `stale-use` of
//! those that are known to have had it.

use std::rc::Rc;

use crate::{
    escape,
    model::{
        World,
        table::{Generation, SlotId},
    },
    order::{Life, Stamp},
};

use super::{
    Cause, Incidents,
    evidence::{self, act, mark},
    finding::{Confidence, Finding, Owner, Role, Verb},
    rules,
};

/// An act on generation `number` of a slot by who had generation `bound`.
pub(super) struct Late<'a> {
    pub slot: SlotId,
    pub number: u32,
    pub bound: u32,
    pub by: &'a Rc<Stamp>,
    pub who: Who,
    /// At most. Nothing is proven where events are missing.
    pub confidence: Confidence,
    /// Nothing is missing.
    pub complete: bool,
}

/// Who is late.
pub(super) enum Who {
    Object(Owner),
    /// Whoever takes the number from a static variable.
    Variable(Owner),
}

impl Who {
    fn owner(&self) -> &Owner {
        match self {
            Self::Object(owner) | Self::Variable(owner) => owner,
        }
    }

    /// What is to be said of the end of the generation that it had.
    fn root(&self) -> &'static str {
        match self {
            Self::Object(_) => "closed behind the object's back",
            Self::Variable(_) => "closed, and the variable kept the number",
        }
    }

    fn advice(&self, rule: &str) -> &'static str {
        match self {
            Self::Object(_) => rules::advice(rule),
            Self::Variable(_) => {
                "set the variable to -1 where its number is closed, and let nobody close the number but through the variable"
            }
        }
    }

    fn culprit(&self, bound: u32) -> String {
        match self {
            Self::Object(_) => format!("by the owner of generation {bound}, which was gone"),
            Self::Variable(_) => format!("the number is from a variable that had generation {bound}, which was gone"),
        }
    }
}

impl Late<'_> {
    fn life<'w>(&self, world: &'w World, number: u32) -> Option<&'w Life<Generation>> {
        world.slot(self.slot)?.life(number)
    }

    fn name(&self, world: &World, number: u32) -> String {
        self.life(world, number)
            .map_or_else(String::new, |life| escape::escape_terminal(&evidence::object(&life.data.description).0))
    }

    pub(super) fn close(&self, world: &World, incidents: &mut Incidents) -> Finding {
        let Self { slot, number, bound, .. } = *self;
        let incident = incidents.number(Cause::Generation(slot, bound));
        // What its victim does next follows from the same.
        incidents.join(Cause::Generation(slot, number), incident);
        let fd = slot.fd;
        let owner = self.who.owner();
        let message = match &self.who {
            Who::Object(_) => format!(
                "fd {fd} was closed by an object that no longer owns it: {} {:#x} owned generation {bound}, this is \
                 generation {number}",
                owner.kind, owner.address
            ),
            Who::Variable(_) => format!(
                "fd {fd} was closed through {}, which still had the number of generation {bound}, {}: this is \
                 generation {number}, {}",
                owner.kind,
                self.name(world, bound),
                self.name(world, number)
            ),
        };
        self.finding("stale-close", Verb::Closed, "lost its descriptor", message, incident, world)
    }

    pub(super) fn usage(&self, world: &World, incidents: &mut Incidents) -> Finding {
        let Self { slot, number, bound, .. } = *self;
        let incident = incidents.number(Cause::Generation(slot, bound));
        let call = self.by.sys.map_or("a call", |sys| sys.name);
        let owner = self.who.owner();
        let who = match &self.who {
            Who::Object(_) => format!("by {} {:#x}", owner.kind, owner.address),
            Who::Variable(_) => format!("{} kept the number", owner.kind),
        };
        let message = format!(
            "{call} on fd {} was meant for generation {bound}, {}, and went to generation {number}, {}: {who}",
            slot.fd,
            self.name(world, bound),
            self.name(world, number),
        );
        self.finding("stale-use", Verb::Used, "used by a stranger", message, incident, world)
    }

    fn finding(
        &self,
        rule: &'static str,
        verb: Verb,
        loss: &str,
        message: String,
        incident: u64,
        world: &World,
    ) -> Finding {
        let Self { slot, number, bound, by, .. } = *self;
        let mut culprit = act(by, slot.fd, verb).of_generation(number);
        culprit = culprit.with_role(Role::Culprit, &self.who.culprit(bound));
        culprit.who.owner.get_or_insert_with(|| self.who.owner().clone());
        let [own, hit] = [bound, number].map(|number| self.life(world, number));
        let root = own.and_then(|life| evidence::end(world, slot, life));
        let root = root.map(|root| root.with_role(Role::RootCause, self.who.root()));
        let victim = hit.map(|life| evidence::birth(world, slot, life).with_role(Role::Victim, loss));
        // What came in between matters less, and there may be much of it.
        let mut timeline = Vec::new();
        for life in [own, hit].into_iter().flatten() {
            timeline.push(evidence::birth(world, slot, life));
            timeline.extend(evidence::end(world, slot, life));
        }
        let closes = verb == Verb::Closed;
        for part in [&root, &victim, &Some(culprit.clone()).filter(|_| closes)].into_iter().flatten() {
            mark(&mut timeline, part);
        }
        if !closes {
            timeline.push(culprit.clone());
        }
        Finding {
            confidence: self.confidence,
            generation: Some(number),
            message,
            culprit: Some(culprit),
            victim,
            root_cause: root,
            timeline,
            advice: self.who.advice(rule),
            complete: self.complete,
            ..evidence::finding(rule, incident, by, slot.fd, world)
        }
    }
}
