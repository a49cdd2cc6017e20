//! Open ends: which call pays which, what can be exchanged, and what stays in doubt. See the head of [`super`].

use std::rc::Rc;

use super::{End, How, Life, Removed, Slot, Stamp, State};
use crate::event::Interval;

impl<P> Slot<P> {
    /// Rule 2: the removal that had ended a newcomer's life before its call returned, if one must have.
    pub(super) fn removal_of_newcomer(&mut self, at: Interval, outdated: bool, file: u64) -> Option<End> {
        // Of several the one that returned first: it is the one that fewest of the installs to come can explain.
        let early = self.early.iter().position(|early| at.began_before(early.by.at.exit.pos));
        let Some(early) = early else { return self.replacement_of_newcomer(at, outdated, file) };
        // What the call saw in the slot after that removal had returned was somebody: itself, unless others came since.
        let is_gone = match &self.live {
            Some(live) => {
                file == 0 || live.file == file || outdated || !live.born.began_before(self.early[early].by.at.exit.pos)
            }
            None => file == 0 || outdated,
        };
        is_gone.then(|| self.early.remove(early))
    }

    /// The same with a call that replaces, and that seems to have found nobody.
    pub(super) fn replacement_of_newcomer(&self, at: Interval, outdated: bool, file: u64) -> Option<End> {
        let mut begun = self.lives().filter_map(|life| life.over.as_ref().map(|over| (life, over)));
        let (begun, over) =
            begun.find(|(_, over)| at.began_before(over.at.exit.pos) && self.replaced_by(over).is_none())?;
        let fits = match begun.state {
            // It sees the one that came in its place, or saw itself before.
            State::Live => (outdated || file == 0 || file == begun.file) && self.early_for(begun).is_none(),
            State::Implied { .. } | State::Ended(_) => outdated || file == 0,
        };
        fits.then(|| End { by: Rc::clone(over), how: How::Replaced })
    }

    /// The removal found the slot's occupant gone.
    pub(super) fn take_newer(&mut self, mut gone: Life<P>, end: End) -> Removed {
        // An end that was given to another life may be its.
        let other = self.past.iter().position(|life| {
            life.end().is_some_and(|end| {
                gone.born.began_before(end.by.at.exit.pos) && end.by.at.began_before(life.born.exit.pos)
            })
        });
        let Some(other) = other.and_then(|index| self.past.remove(index)) else {
            self.bury(gone, State::Implied { before: end.by.at.exit });
            self.wait_for_install(end);
            return Removed::Early;
        };
        let (number, state) = (other.number, other.state.clone());
        gone.ambiguous = true;
        self.bury(gone, state);
        self.bury(Life { ambiguous: true, ..other }, State::Ended(end));
        Removed::Earlier(number)
    }

    /// A removal known already that can have ended this life: one that waits, or one that a replacing call can stand in for.
    pub(super) fn end_for(&mut self, gone: &Life<P>) -> Option<End> {
        match self.early_for(gone) {
            Some(early) => Some(self.early.remove(early)),
            None => self.exchange_with_replacing(gone),
        }
    }

    /// The life that a replacing call is said to have ended.
    pub(super) fn replaced_by(&self, over: &Rc<Stamp>) -> Option<usize> {
        self.past.iter().position(|life| life.end().is_some_and(|end| Rc::ptr_eq(&end.by, over)))
    }

    /// A replacing call that seems to have found nobody may have ended the last life, and the removal that is said to have
    /// ended that one the life that the call began.
    pub(super) fn exchange_with_replacing(&mut self, begun: &Life<P>) -> Option<End> {
        let over = begun.over.as_ref().filter(|over| self.replaced_by(over).is_none())?;
        let last = self.past.back_mut()?;
        let end =
            last.end().filter(|end| end.how == How::Closed && begun.born.began_before(end.by.at.exit.pos))?.clone();
        last.state = State::Ended(End { by: Rc::clone(over), how: How::Replaced });
        last.ambiguous = true;
        Some(end)
    }

    /// A removal that found nobody may have ended the life that a replacing call began, or the one that it is said to have
    /// ended. Returns the number of the life that the removal ended.
    pub(super) fn exchange_for_removal(&mut self, end: End) -> Result<u32, End> {
        for index in 0..self.past.len() {
            let begun = &self.past[index];
            let (Some(over), Some(by)) = (&begun.over, begun.end()) else { continue };
            let Some(old) = self.replaced_by(over).filter(|_| by.how == How::Closed) else { continue };
            let by = by.clone();
            let ended = if by.by.at.began_before(over.at.exit.pos) {
                // It was closed, replaced with nobody there, and closed now.
                self.past[old].state = State::Ended(by);
                self.past[index].state = State::Ended(end);
                index
            } else if by.by.at.began_before(self.past[old].born.exit.pos) {
                // It came after the replaced one.
                self.past[old].state = State::Ended(end);
                old
            } else {
                continue;
            };
            self.past[old].ambiguous = true;
            self.past[index].ambiguous = true;
            return Ok(self.past[ended].number);
        }
        Err(end)
    }

    /// Of the removals that wait for their install, the one that can have ended this life and has fewest others to end.
    pub(super) fn early_for(&self, life: &Life<P>) -> Option<usize> {
        self.early.iter().position(|early| life.born.began_before(early.by.at.exit.pos))
    }

    /// Marks the lives for which another order of the calls fits as well, if there was a race.
    pub(super) fn doubt(&mut self, raced: bool) {
        if !raced {
            return;
        }
        let mut doubted = 0_u32;
        let lives: Vec<&Life<P>> = self.lives().collect();
        for (index, first) in lives.iter().enumerate() {
            // A removal that waits for its install may have ended this one.
            let may_be_waiting = |early: &End| {
                first.born.began_before(early.by.at.exit.pos)
                    && first.end().is_none_or(|end| early.by.at.began_before(end.by.at.exit.pos))
            };
            if self.early.iter().any(may_be_waiting) {
                doubted |= 1 << index;
            }
            for (other, second) in lives.iter().enumerate().skip(index + 1) {
                if first.can_swap_with(second) {
                    doubted |= 1 << index | 1 << other;
                }
            }
        }
        for (index, life) in self.past.iter_mut().chain(&mut self.live).enumerate() {
            life.ambiguous |= doubted & 1 << index != 0;
        }
    }
}
