//! What a slot is made of: lives, and the calls that began and ended them.

use std::rc::Rc;

use crate::{
    event::{Interval, Moment},
    syscalls::Syscall,
    who::{
        owner::{Owner, Part},
        sighting::Sighting,
    },
};

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

    /// The object behind the call, if `fd` is the number that it was looked for, and the generation that it is bound to. A
    /// call may be about two: `epoll_ctl` is made by who owns the instance, not by who owns what is registered there.
    pub fn owner_of(&self, fd: i32) -> Option<(&Rc<Owner>, u32)> {
        let about = self.sys?.fd_args(&self.args).next()?;
        self.part.by.as_ref().filter(|_| about == fd).map(|(owner, bound)| (owner, *bound))
    }

    /// The error number, if it failed.
    pub fn errno(&self) -> Option<i32> {
        i32::try_from(self.ret.checked_neg()?).ok().filter(|errno| (1..4096).contains(errno))
    }
}

/// How a life ended.
#[derive(Clone, Debug)]
pub struct End {
    pub by: Rc<Stamp>,
    pub how: How,
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
    /// The call that put it in the place of whoever was there, if it was such a call.
    pub(super) over: Option<Rc<Stamp>>,
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

    /// Do the calls fit as well if this life and a later one of the same slot exchange their beginnings or their ends?
    pub(super) fn can_swap_with(&self, later: &Self) -> bool {
        let Some(end) = self.end() else { return later.born.began_before(self.born.exit.pos) };
        later.born.began_before(end.by.at.exit.pos)
            && (end.by.at.began_before(self.born.exit.pos)
                || later.end().is_some_and(|end| end.by.at.began_before(later.born.exit.pos)))
    }
}
