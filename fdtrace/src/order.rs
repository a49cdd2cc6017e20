//! The order of things within one slot.
//!
//! # The problem
//!
//! A call changes the table at some moment between its enter and its exit, and only those two are seen. `close` frees
//! the number long before it returns, so another thread's `open` can take the number and return first: the order of the
//! exits is not the order of the table.
//!
//! # The clock
//!
//! A record's position in the ring is a total order that agrees with happens-before: if one call returned before another
//! one began, its position is lower than the position the other read at its start. So each effect lies in the interval
//! `(enter position, exit position)`, and two effects whose intervals do not overlap are ordered by them.
//!
//! # The rule
//!
//! A slot's life alternates: install, remove, install, … ([`Slot`] holds the last few lives.) Exits are taken in ring
//! order and each effect is applied at its own exit, unless alternation forces another one before it:
//!
//! 1. *Install on a live slot.* Somebody removed the occupant and has not returned yet. The occupant's end is **implied**,
//!    and a removal that began before this exit claims it when its own exit comes.
//! 2. *Remove on a dead slot.* Somebody installed something and has not returned yet. The removal **waits**; an install
//!    that began before the removal's exit is born dead. If none comes, something was installed that we did not see.
//! 3. *Replace.* A removal, if there is somebody, and an install in one step. Whether there was somebody is settled like
//!    the rest: the call can stand in for a removal that another life needs, and give its own victim to one that has none.
//! 4. Otherwise the exit order is an order that fits.
//!
//! Open ends are paid as deadlines are kept. A removal can pay each implied end whose limit it began before, so it pays
//! the one with the lowest limit; an install can pay each waiting removal that returned after it began, so it pays the
//! one that returned first; and where an open end can be paid or another one be made, it is paid. An exchange of two calls
//! that fit both ways then never leaves one of them without a partner: whatever order was the true one, every call is
//! explained once all have returned. `races.rs` drives the rule with a machine that knows the truth.
//!
//! # What stays open
//!
//! Two lives whose beginnings or ends can be exchanged under the intervals are marked **ambiguous**, both of them
//! ([`Slot::doubt`]); so is a life that was over before its call returned, one that another removal may have ended that
//! still waits, and one whose removal began before the install returned. No `proven` verdict rests on an ambiguous life.
//!
//! *What a call saw in its slot* decides between orders that fit. At its start a call reads the position first and the slot
//! then, so the look falls into the interval; at its end the record is made room for first and the slot is looked at
//! then, so all that calls with lower positions did is seen, and perhaps what others did since. Some records are put
//! together before they have a place; they say from when their look is ([`Slot::install_seen`]).
//!
//! A `struct file`'s address proves a difference, never an identity: the kernel hands the same address out again within
//! microseconds. Which slots share a description is settled in [`crate::model`].

mod ends;
mod life;

use std::{collections::VecDeque, rc::Rc};

pub use self::life::{End, How, Life, Stamp, State};
use crate::event::Interval;

/// Dead lives kept for each slot: enough to explain an `EBADF` two owners later.
pub const PAST: usize = 4;
/// Removals that wait for their install; more are not worth waiting for.
const EARLY: usize = 8;

/// A file descriptor number in one table.
#[derive(Clone, Debug)]
pub struct Slot<P> {
    live: Option<Life<P>>,
    past: VecDeque<Life<P>>,
    /// Successful removals that found nobody.
    early: Vec<End>,
    numbered: u32,
    /// Just above the position of the last effect; 0: none.
    touched: u64,
    /// The same of the last call that registered the number somewhere.
    registered: u64,
    tally: Tally,
}

/// How often the order of the returns was not that of the effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// An effect was taken before its call returned.
    pub forced: u64,
    /// The call that must have been there never returned.
    pub unexplained: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.forced += other.forced;
        self.unexplained += other.unexplained;
    }
}

impl<P> Default for Slot<P> {
    fn default() -> Self {
        Self {
            live: None,
            past: VecDeque::new(),
            early: Vec::new(),
            numbered: 0,
            touched: 0,
            registered: 0,
            tally: Tally::default(),
        }
    }
}

/// What an install turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Installed {
    /// The slot has this occupant now. `implied`: its predecessor's end is not explained yet.
    Live { implied: bool },
    /// The occupant was known from a look at the table; now its origin is known too.
    Explained,
    /// It came and went before the call returned.
    BornDead,
}

/// What a removal turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Removed {
    /// The occupant is gone.
    Live(u32),
    /// It explains the end of an earlier life; today's occupant stays.
    Earlier(u32),
    /// Nobody was there: an install is in flight, or was not seen.
    Early,
}

/// What a look at the kernel's table told.
#[derive(Debug, PartialEq, Eq)]
pub enum Observed {
    /// As known.
    Confirmed,
    /// Older than what the events say.
    Stale,
    /// Nobody was known to be here.
    New,
    /// Somebody else was known to be here: `Implied` now.
    Replaced,
}

/// The life that a failed call must have met.
#[derive(Debug)]
pub struct Subject<'a, P> {
    pub life: &'a Life<P>,
    /// The slot was certainly closed when the call looked.
    pub certain: bool,
}

impl<P> Slot<P> {
    pub fn live(&self) -> Option<&Life<P>> {
        self.live.as_ref()
    }

    pub fn live_mut(&mut self) -> Option<&mut Life<P>> {
        self.live.as_mut()
    }

    /// Dead lives, oldest first.
    pub fn past(&self) -> impl DoubleEndedIterator<Item = &Life<P>> + ExactSizeIterator {
        self.past.iter()
    }

    pub fn past_mut(&mut self) -> impl Iterator<Item = &mut Life<P>> {
        self.past.iter_mut()
    }

    /// All lives, oldest first.
    pub fn lives(&self) -> impl DoubleEndedIterator<Item = &Life<P>> {
        self.past.iter().chain(&self.live)
    }

    /// The number of the life that a call began.
    pub fn begun(&self, installed: &Installed) -> u32 {
        match (installed, &self.live) {
            (Installed::Explained, Some(live)) => live.number,
            _ => self.numbered,
        }
    }

    pub fn life(&self, number: u32) -> Option<&Life<P>> {
        self.lives().find(|life| life.number == number)
    }

    /// What still waits for its call counts as unexplained.
    pub fn tally(&self) -> Tally {
        let implied = self.past.iter().filter(|life| life.end().is_none()).count() + self.early.len();
        Tally { unexplained: self.tally.unexplained + implied as u64, ..self.tally }
    }

    /// Nothing is held that a later record could need.
    pub fn is_empty(&self) -> bool {
        self.live.is_none() && self.past.is_empty() && self.early.is_empty()
    }

    /// A call made this the occupant, and saw `file` in the slot when it returned.
    pub fn install(&mut self, at: Interval, file: u64, data: impl FnOnce(Option<P>) -> P) -> Installed {
        self.install_seen(at, at.exit.pos, file, data)
    }

    /// The same, if the slot was looked at a little before the call returned: what other calls that returned before the
    /// position `looked` did is in `file`. `data` is given the occupant that a look at the table had found already.
    pub fn install_seen(
        &mut self,
        at: Interval,
        looked: u64,
        file: u64,
        data: impl FnOnce(Option<P>) -> P,
    ) -> Installed {
        // Whoever returned in between saw the slot later than this call did.
        let outdated = self.touched > looked;
        let raced = self.touch(at);
        let installed = self.place(at, outdated, file, data);
        self.doubt(raced);
        installed
    }

    fn place(&mut self, at: Interval, outdated: bool, file: u64, data: impl FnOnce(Option<P>) -> P) -> Installed {
        if let Some(end) = self.removal_of_newcomer(at, outdated, file) {
            self.tally.forced += 1;
            let mut life = self.new_life(at, file, false, data(None));
            // The removal may have met another newcomer, whose call has not returned yet.
            life.ambiguous = true;
            self.bury(life, State::Ended(end));
            return Installed::BornDead;
        }
        match self.live.take() {
            None => {
                let life = self.new_life(at, file, false, data(None));
                self.live = Some(life);
                Installed::Live { implied: false }
            }
            Some(seen) if seen.observed && seen.file == file && at.began_before(seen.born.exit.pos) => {
                let Life { number, ambiguous, data: old, .. } = seen;
                let data = data(Some(old));
                let (observed, state, over) = (false, State::Live, None);
                self.live = Some(Life { number, file, born: at, observed, state, over, ambiguous, data });
                Installed::Explained
            }
            Some(live) if outdated && !live.observed && live.file != file && self.early_for(&live).is_none() => {
                // Rule 1, the other way round: it had been removed before the occupant came. The limit is that of the
                // usual way, because this one is not proven.
                self.tally.forced += 1;
                self.live = Some(live);
                let life = self.new_life(at, file, false, data(None));
                self.bury(life, State::Implied { before: at.exit });
                Installed::BornDead
            }
            Some(gone) => {
                self.tally.forced += 1;
                // Rule 1. A removal that waits may be the one, or one that a replacing call can stand in for.
                let end = self.end_for(&gone);
                let implied = end.is_none();
                let state = end.map_or(State::Implied { before: at.exit }, State::Ended);
                self.bury(gone, state);
                let life = self.new_life(at, file, false, data(None));
                self.live = Some(life);
                Installed::Live { implied }
            }
        }
    }

    /// A call freed the number. `before` and `after` are the occupants it saw at its start and end, 0 if there was none;
    /// `before` is `None` if it did not look.
    pub fn remove(&mut self, by: &Rc<Stamp>, how: How, before: Option<u64>, after: u64) -> Removed {
        let raced = self.touch(by.at);
        let removed = self.take_away(End { by: Rc::clone(by), how }, before, after);
        self.doubt(raced);
        removed
    }

    fn take_away(&mut self, end: End, before: Option<u64>, after: u64) -> Removed {
        let at = end.by.at;
        let still_there = after != 0 && self.live.as_ref().is_some_and(|live| live.file == after);
        // Of several ends the one that fewest of the removals to come can explain.
        let claim = self.past.iter().position(|life| match life.state {
            State::Implied { before: limit } => at.began_before(limit.pos),
            State::Live | State::Ended(_) => false,
        });
        if let Some(index) = claim {
            // It may have ended the occupant instead, and one that is still to return this life.
            self.past[index].ambiguous |= self.live.is_some() && !still_there;
            return self.explain(index, end);
        }
        let Some(mut live) = self.live.take() else {
            return match self.exchange_for_removal(end) {
                Ok(number) => Removed::Earlier(number),
                Err(end) => {
                    self.wait_for_install(end);
                    Removed::Early
                }
            };
        };
        // A dup2 over the number was in flight together with this removal. Who came first is told by what the removal
        // saw: the old occupant at its start and the new one at its end means that it came first.
        let replaced = self.past.back().filter(|old| {
            matches!(&old.state, State::Ended(end) if end.how == How::Replaced
                && end.by.at.exit.pos >= at.start() && end.by.at.exit.pos == live.born.exit.pos)
        });
        if let Some(old) = replaced
            && still_there
            && before == Some(old.file)
            && old.file != live.file
        {
            self.live = Some(live);
            let index = self.past.len() - 1;
            return self.explain(index, end);
        }
        if at.enter.is_some() && before == Some(0) && live.born.exit.pos < at.start() {
            // This one was gone when it began, so it removed one that came since.
            return self.take_newer(live, end);
        }
        let saw_another = before.is_some_and(|before| before != 0 && live.file != 0 && before != live.file);
        if saw_another && still_there {
            // It saw another occupant at its start and finds this one at its end.
            self.live = Some(live);
            self.wait_for_install(end);
            return Removed::Early;
        }
        if still_there && at.enter.is_none() {
            // Its beginning was not seen: whom it removed may be long forgotten, and this one is there.
            self.live = Some(live);
            return Removed::Early;
        }
        live.ambiguous |= saw_another;
        // It seems to be there still, or was not there when the removal began: it may have removed one that was there before,
        // whose install has not returned yet.
        live.ambiguous |= still_there || at.began_before(live.born.exit.pos);
        // One that waits for its install may be the one; it has fewer installs to wait for.
        let end = match self.early_for(&live) {
            Some(early) => {
                live.ambiguous = true;
                let waiting = self.early.remove(early);
                self.wait_for_install(end);
                waiting
            }
            None => end,
        };
        let number = live.number;
        self.bury(live, State::Ended(end));
        Removed::Live(number)
    }

    /// A call put a new occupant in the old one's place in one step. Returns the number of the life that it ended.
    pub fn replace(
        &mut self,
        by: &Rc<Stamp>,
        before: u64,
        file: u64,
        data: impl FnOnce(Option<P>) -> P,
    ) -> (Option<u32>, Installed) {
        let raced = self.touch(by.at);
        // Who was there at the start may have gone since, but nobody at the start means that the occupant was gone, or came
        // since: then it was his number that was taken, unless there is a removal that waits for him.
        let ended = match self.live.take() {
            Some(gone)
                if before == 0
                    && by.at.enter.is_some()
                    && (gone.born.exit.pos < by.at.start() || self.early_for(&gone).is_some()) =>
            {
                let end = self.end_for(&gone);
                self.bury(gone, end.map_or(State::Implied { before: by.at.exit }, State::Ended));
                None
            }
            Some(mut live) => {
                live.ambiguous |= before != live.file;
                let number = live.number;
                self.bury(live, State::Ended(End { by: Rc::clone(by), how: How::Replaced }));
                Some(number)
            }
            None => None,
        };
        let installed = self.place(by.at, false, file, data);
        if let Some(live) = self.live.as_mut().filter(|live| live.born == by.at) {
            live.over = Some(Rc::clone(by));
        }
        // Nobody is there any more.
        if file == 0
            && let Some(live) = self.live.take_if(|live| live.born == by.at)
        {
            match self.exchange_with_replacing(&live) {
                Some(end) => self.bury(live, State::Ended(end)),
                None => self.live = Some(live),
            }
        }
        self.doubt(raced);
        (ended, installed)
    }

    /// The kernel's table showed `file` here at some moment in `seen`.
    pub fn observe(&mut self, seen: Interval, file: u64, data: impl FnOnce() -> P) -> Observed {
        match &self.live {
            Some(live) if live.file == file => return Observed::Confirmed,
            Some(live) if live.file == 0 => return Observed::Confirmed,
            _ if self.touched > seen.start() => return Observed::Stale,
            _ => {}
        }
        let replaced = self.live.take();
        let outcome = if replaced.is_some() { Observed::Replaced } else { Observed::New };
        if let Some(gone) = replaced {
            self.bury(gone, State::Implied { before: seen.exit });
        }
        let life = self.new_life(seen, file, true, data());
        self.live = Some(life);
        outcome
    }

    /// The kernel's table showed nobody here. Returns the number of the life that is over.
    pub fn vacate(&mut self, by: &Rc<Stamp>, how: How) -> Option<u32> {
        let live = self.live.take()?;
        self.touched = by.at.exit.pos.saturating_add(1);
        let number = live.number;
        self.bury(live, State::Ended(End { by: Rc::clone(by), how }));
        Some(number)
    }

    /// The kernel's table, looked at from `seen` on, shows nobody here. Whoever removed the occupant may still return.
    /// Returns the number of the life that is over; `None`: the events know better.
    pub fn missing(&mut self, seen: Interval) -> Option<u32> {
        if self.touched > seen.start() || self.live.as_ref()?.born.exit.pos >= seen.start() {
            return None;
        }
        let live = self.live.take()?;
        let number = live.number;
        self.bury(live, State::Implied { before: seen.exit });
        Some(number)
    }

    /// The life that a call which failed with `EBADF` must have met: the one closed last, if the slot was closed at some
    /// moment of the call. `None`: it was open all the time, so the error means something else; or nobody is known.
    pub fn subject(&self, at: Interval) -> Option<Subject<'_, P>> {
        if let Some(live) = &self.live
            && (live.observed || live.born.exit.pos < at.start())
        {
            return None;
        }
        let life = self.past.back()?;
        let over = match &life.state {
            State::Ended(end) => end.by.at.exit.pos < at.start(),
            State::Implied { before } => before.pos < at.start(),
            State::Live => false,
        };
        Some(Subject { life, certain: over && self.live.is_none() && self.early.is_empty() })
    }

    /// Gives up waiting for the installs of removals older than `limit`: they ended something that was not seen to begin.
    pub fn expire(&mut self, limit: u64, mut unseen: impl FnMut() -> P) -> usize {
        let mut given_up = 0;
        while let Some(index) = self.early.iter().position(|early| early.by.at.exit.time < limit) {
            let end = self.early.remove(index);
            let life = self.new_life(end.by.at, 0, true, unseen());
            self.bury(life, State::Ended(end));
            given_up += 1;
            self.tally.unexplained += 1;
        }
        given_up
    }

    /// Forgets the life that has been over for longest.
    pub fn forget_oldest(&mut self) -> bool {
        self.past.pop_front().is_some()
    }

    /// A call has changed it since.
    pub fn touched_since(&self, pos: u64) -> bool {
        self.touched > pos
    }

    /// A call made, changed or dropped a registration under this number.
    pub fn register(&mut self, at: Interval) {
        self.registered = at.exit.pos.saturating_add(1);
    }

    /// Such a call may have come before or after one that was made in this interval.
    pub fn raced_with_registration(&self, at: Interval) -> bool {
        self.registered > at.start()
    }

    pub fn waits(&self) -> bool {
        !self.early.is_empty()
    }

    /// Marks the moment of an effect. `true`: other effects may have come after it that are known already.
    fn touch(&mut self, at: Interval) -> bool {
        let raced = self.touched > at.start();
        self.touched = at.exit.pos.saturating_add(1);
        raced
    }

    fn wait_for_install(&mut self, end: End) {
        if self.early.len() < EARLY {
            self.early.push(end);
        } else {
            self.tally.unexplained += 1;
        }
    }

    fn explain(&mut self, index: usize, end: End) -> Removed {
        let life = &mut self.past[index];
        life.state = State::Ended(end);
        Removed::Earlier(life.number)
    }

    fn new_life(&mut self, born: Interval, file: u64, observed: bool, data: P) -> Life<P> {
        self.numbered += 1;
        let (state, over, ambiguous) = (State::Live, None, false);
        Life { number: self.numbered, file, born, observed, state, over, ambiguous, data }
    }

    fn bury(&mut self, mut life: Life<P>, state: State) {
        life.state = state;
        if self.past.len() == PAST {
            // An end that is still to be explained is kept, if another can go.
            let oldest = self.past.iter().position(|life| life.end().is_some()).unwrap_or(0);
            if self.past.remove(oldest).is_some_and(|life| life.end().is_none()) {
                self.tally.unexplained += 1;
            }
        }
        self.past.push_back(life);
    }
}

#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;
