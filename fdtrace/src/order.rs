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
//!    and a removal that began before this exit claims it when its own exit comes. Of several, the earliest exit claims
//!    it: they are interchangeable for the table, but not for blame, so the end is marked ambiguous unless the
//!    description that the removal saw, before and after, tells them apart.
//! 2. *Remove on a dead slot.* Somebody installed something and has not returned yet. The removal waits; an install that
//!    began before the removal's exit is born dead. If none comes, something was installed that we did not see.
//! 3. Otherwise the exit order is an order that fits, and any other order that fits has the same table and the same
//!    pairing.
//!
//! *Proof of 3.* Let the sweep meet the exit of operation `p` with the slot in the state that `p` needs. Suppose another
//! legal order has an operation `q` whose exit comes later before `p`. Legal orders alternate, so between `p`'s
//! predecessor and `p` there must then be an even number of such `q`s, pairwise install and remove, all in flight at
//! `p`'s exit: a thread that opened a number which nobody has been told yet, and a removal of that very number by a
//! thread that cannot know it except as stale. The description it saw identifies that case: rule 2 then takes it.
//!
//! *What a call saw in its slot.* A record is made room for first and the slot is looked at then, so of two looks at a
//! slot the one with the higher position is the later one, and the last look shows what the slot holds for good. Some
//! records are put together before they have a place; they say from when their look is ([`Slot::install_seen`]), and one
//! that others overtook does not speak for the slot.
//!
//! A `struct file`'s address proves a difference, never an identity: the kernel hands the same address out again within
//! microseconds. Which slots share a description is settled in [`crate::model`].

use std::{collections::VecDeque, rc::Rc};

use crate::{
    event::{Interval, Moment},
    syscalls::Syscall,
    who::{owner::Part, sighting::Sighting},
};

/// Dead lives kept for each slot: enough to explain an `EBADF` two owners later.
pub const PAST: usize = 4;
/// Removals that wait for their install; more are not worth waiting for.
const EARLY: usize = 4;

/// Who did something, and when. Shared by everything that remembers it.
#[derive(Debug)]
pub struct Stamp {
    pub at: Interval,
    pub tgid: u32,
    pub tid: u32,
    pub comm: Rc<[u8]>,
    /// `None`: not a system call (exec, exit, a snapshot).
    pub sys: Option<&'static Syscall>,
    pub args: [u64; 6],
    pub ret: i64,
    /// What was seen of whoever made the call.
    pub seen: Option<Rc<Sighting>>,
    /// The object behind it.
    pub part: Part,
}

impl Stamp {
    /// It was a call of this name.
    pub fn is(&self, name: &str) -> bool {
        self.sys.is_some_and(|sys| sys.name == name)
    }

    /// The error number, if it failed.
    pub fn errno(&self) -> Option<i32> {
        i32::try_from(-self.ret).ok().filter(|errno| (1..4096).contains(errno))
    }
}

/// How a life ended.
#[derive(Clone, Debug)]
pub struct End {
    pub by: Rc<Stamp>,
    pub how: How,
    /// Another call may have been the one.
    pub ambiguous: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Closed,
    Replaced,
    Exec,
    Exit,
}

#[derive(Clone, Debug)]
pub enum State {
    Live,
    /// Over, because the slot had another occupant before position `before`; by whom is not known yet.
    Implied {
        before: Moment,
    },
    Ended(End),
}

/// One generation of a slot.
#[derive(Clone, Debug)]
pub struct Life<P> {
    /// From 1, in order of installation.
    pub number: u32,
    /// Address of the `struct file`; 0: not seen.
    pub file: u64,
    /// When it was installed, or looked at.
    pub born: Interval,
    /// It was there when looked at; the call that installed it, if it is still to come, began before `born.exit`.
    pub observed: bool,
    pub state: State,
    /// Other orders of the calls around it fit as well.
    pub ambiguous: bool,
    pub data: P,
}

impl<P> Life<P> {
    pub fn end(&self) -> Option<&End> {
        match &self.state {
            State::Ended(end) => Some(end),
            State::Live | State::Implied { .. } => None,
        }
    }
}

/// A successful removal that found nobody.
#[derive(Clone, Debug)]
struct Early {
    end: End,
    before: u64,
}

/// A file descriptor number in one table.
#[derive(Clone, Debug)]
pub struct Slot<P> {
    live: Option<Life<P>>,
    past: VecDeque<Life<P>>,
    early: Vec<Early>,
    numbered: u32,
    /// Just above the position of the last effect; 0: none.
    touched: u64,
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
        Self { live: None, past: VecDeque::new(), early: Vec::new(), numbered: 0, touched: 0, tally: Tally::default() }
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
        self.touched = at.exit.pos + 1;
        let early = self.early.iter().position(|early| at.began_before(early.end.by.at.exit.pos));
        // An early removal explains this life only if the slot does not still show it.
        let is_gone = match &self.live {
            Some(live) => file == 0 || live.file == file || outdated,
            None => file == 0,
        };
        if let (Some(early), true) = (early, is_gone) {
            let early = self.early.remove(early);
            self.tally.forced += 1;
            let file = if early.before == 0 { file } else { early.before };
            let life = self.new_life(at, file, false, data(None));
            self.bury(life, State::Ended(early.end));
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
                self.live = Some(Life { number, file, born: at, observed: false, state: State::Live, ambiguous, data });
                Installed::Explained
            }
            Some(live) if outdated && !live.observed && live.file != file => {
                // Rule 1, the other way round: it had been removed before the occupant came.
                self.tally.forced += 1;
                let before = live.born.exit;
                self.live = Some(live);
                let life = self.new_life(at, file, false, data(None));
                self.bury(life, State::Implied { before });
                Installed::BornDead
            }
            Some(gone) => {
                self.tally.forced += 1;
                // Rule 1. A removal that was too early for another life may be the one.
                let began = gone.born.start();
                let early = self.early.iter().position(|early| early.end.by.at.exit.pos >= began);
                let implied = early.is_none();
                let state = match early {
                    Some(early) => State::Ended(self.early.remove(early).end),
                    None => State::Implied { before: at.exit },
                };
                self.bury(gone, state);
                let life = self.new_life(at, file, false, data(None));
                self.live = Some(life);
                Installed::Live { implied }
            }
        }
    }

    /// A call freed the number. `before` and `after` are the occupants it saw at its start and end, 0 if none or unknown.
    pub fn remove(&mut self, by: &Rc<Stamp>, how: How, before: u64, after: u64) -> Removed {
        let at = by.at;
        self.touched = at.exit.pos + 1;
        let mut end = End { by: Rc::clone(by), how, ambiguous: false };
        let live_file = self.live.as_ref().map_or(0, |live| live.file);
        let still_there = after != 0 && after == live_file;
        let claim = self.past.iter().position(|life| match life.state {
            State::Implied { before: limit } => {
                at.began_before(limit.pos) && (before == 0 || life.file == 0 || before == life.file)
            }
            State::Live | State::Ended(_) => false,
        });
        if let Some(index) = claim {
            end.ambiguous = self.live.is_some() && !still_there && (before == 0 || before == live_file);
            return self.explain(index, end);
        }
        match self.live.take() {
            None => {
                if self.early.len() < EARLY {
                    self.early.push(Early { end, before });
                }
                Removed::Early
            }
            Some(live) => {
                // A dup2 over the number was in flight together with this removal. Who came first is told by what the
                // removal saw: the old occupant at its start and the new one at its end means that it came first.
                let replaced = self.past.back().filter(|old| {
                    matches!(&old.state, State::Ended(end) if end.how == How::Replaced
                        && end.by.at.exit.pos >= at.start() && end.by.at.exit.pos == live.born.exit.pos)
                });
                if let Some(old) = replaced {
                    if still_there && before == old.file && before != live.file {
                        self.live = Some(live);
                        let index = self.past.len() - 1;
                        return self.explain(index, end);
                    }
                    end.ambiguous = before != live.file;
                }
                // It saw another occupant at its start and finds this one at its end: what it removed is forgotten.
                if still_there && before != 0 && before != live.file {
                    self.live = Some(live);
                    return Removed::Early;
                }
                // What it saw at its start is not the one that it is said to have removed.
                end.ambiguous |= before != 0 && live.file != 0 && before != live.file;
                let number = live.number;
                self.bury(live, State::Ended(end));
                Removed::Live(number)
            }
        }
    }

    /// A call put a new occupant in the old one's place in one step. Returns the number of the life that it ended.
    pub fn replace(
        &mut self,
        by: &Rc<Stamp>,
        before: u64,
        file: u64,
        data: impl FnOnce(Option<P>) -> P,
    ) -> (Option<u32>, Installed) {
        let overlaps = |life: &Life<P>| !life.observed && life.born.exit.pos >= by.at.start();
        // Nobody was there at the start, and whoever came since returned before: it was his number that was taken.
        let ended = match self.live.take() {
            // The call found another occupant, or none: whoever removed this one has not returned yet.
            Some(gone) if by.at.enter.is_some() && !overlaps(&gone) && gone.file != 0 && before != gone.file => {
                self.bury(gone, State::Implied { before: by.at.exit });
                None
            }
            Some(live) => {
                let ambiguous = overlaps(&live) && before != live.file;
                let number = live.number;
                let end = End { by: Rc::clone(by), how: How::Replaced, ambiguous };
                self.bury(live, State::Ended(end));
                Some(number)
            }
            None => None,
        };
        (ended, self.install(by.at, file, data))
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
        self.touched = by.at.exit.pos + 1;
        let number = live.number;
        self.bury(live, State::Ended(End { by: Rc::clone(by), how, ambiguous: false }));
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
        while let Some(index) = self.early.iter().position(|early| early.end.by.at.exit.time < limit) {
            let early = self.early.remove(index);
            let life = self.new_life(early.end.by.at, early.before, true, unseen());
            self.bury(life, State::Ended(early.end));
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

    pub fn waits(&self) -> bool {
        !self.early.is_empty()
    }

    fn explain(&mut self, index: usize, end: End) -> Removed {
        let life = &mut self.past[index];
        life.ambiguous |= end.ambiguous;
        life.state = State::Ended(end);
        Removed::Earlier(life.number)
    }

    fn new_life(&mut self, born: Interval, file: u64, observed: bool, data: P) -> Life<P> {
        self.numbered += 1;
        Life { number: self.numbered, file, born, observed, state: State::Live, ambiguous: false, data }
    }

    fn bury(&mut self, mut life: Life<P>, state: State) {
        if let State::Ended(end) = &state {
            life.ambiguous |= end.ambiguous;
        }
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
mod tests;
