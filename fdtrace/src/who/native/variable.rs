//! Static variables that keep descriptors: owners without an object.
//!
//! A C program keeps the number of its log in `static int log_fd`. Which generation that is can be told where the program
//! itself says so: the variable is written to by nothing but calls that return a new descriptor (and constants), so what it
//! holds is what the last of those calls returned, and those calls are all seen. Who then takes the number from there means
//! that generation, whatever the number has become.
//!
//! That nothing else writes to a variable is read from the code of the file that it is in: all of it is gone through once,
//! and only when a call was seen to leave its result in a variable. A variable is left out where anybody could write to it
//! unseen: an address in the structure that it is part of is in the code or in the data, other files can name it, or it is
//! written to by halves. So it is where its value is compared with another number, for then the program may know what it has.
//!
//! A number is followed through functions that pass it on: from `log_fd` to `full_write(log_fd, …)` to `write`, and from
//! `open` to `xopen` to the variable.
//!
//! x86-64, in files with a symbol table.

mod flow;
mod imports;
mod index;
mod keeper;
mod names;
mod operand;
mod state;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use self::{
    flow::Flow,
    index::{code_len, glance},
    keeper::{Keeper, is_returned, keeps, refused},
    state::Value,
};
use super::{object::Object, stack::is_libc};
use crate::collections::Map;

/// Code that is gone through in all, bytes and instructions: who makes new files all the time does not keep us busy.
const CODE_IN_ALL: u64 = 1 << 30;
const STEPS_IN_ALL: u64 = 1 << 27;
/// Call sites of one file that are remembered, and files.
const SITES_MAX: usize = 1 << 16;
const FILES_MAX: usize = 1024;

/// All files that were asked about.
#[derive(Debug, Default)]
pub struct Variables {
    files: Map<u64, File>,
    gone_through: u64,
    steps: u64,
}

#[derive(Debug, Default)]
struct File {
    /// By the address that a call returns to: what becomes of its result, at a first glance.
    glances: Map<u64, Glance>,
    /// `Some(None)`: it was gone through in vain.
    keeper: Option<Option<Keeper>>,
}

/// What becomes of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Glance {
    Kept,
    Returned,
    Neither,
    /// Nobody looked.
    Unseen,
}

/// Callers that are looked at: a number does not come through more.
pub const CALLERS: usize = 16;

/// One frame of a stack: the file that its code is from, and the address behind its call, in the file's own terms.
pub type Frame<'a> = (&'a Object, u64);

/// A variable, the file that it is in by its place among the frames, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub frame: usize,
    pub address: u64,
    pub name: Rc<str>,
}

/// What is known of where a new number is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    In(Found),
    /// In no variable that a number could be told to come from.
    Nowhere,
    /// It could not be followed.
    Lost,
}

impl Variables {
    /// Where the new number is kept that a call has returned. `frames`: of its callers, innermost first.
    pub fn keeping(&mut self, frames: &[Frame<'_>]) -> Kept {
        let Some(first) = first(frames) else { return Kept::Lost };
        for (object, back) in &frames[first..] {
            match self.glance(object, *back) {
                Glance::Kept => return self.kept(frames, first).unwrap_or(Kept::Lost),
                Glance::Returned => {}
                Glance::Neither => return Kept::Nowhere,
                Glance::Unseen => return Kept::Lost,
            }
        }
        Kept::Lost
    }

    fn kept(&mut self, frames: &[Frame<'_>], first: usize) -> Option<Kept> {
        let mut callee = None;
        for (at, (object, back)) in frames.iter().enumerate().skip(first) {
            let keeper = self.keeper(object)?;
            let known = keeper.flow(object, back.wrapping_sub(1)).ok()?;
            let (function, flow) = &*known;
            let call = flow.calls.get(back)?;
            if callee.is_none() && !keeper.meaning(object, call.target).creates {
                return Some(Kept::Nowhere);
            }
            keeper.given(object, call, within(callee, object)?, 0)?;
            if let Some(address) = keeps(flow, *back).next() {
                let name = keeper.name(object, address);
                return Some(name.map_or(Kept::Nowhere, |name| Kept::In(Found { frame: at, address, name })));
            }
            if !is_returned(flow, *back) {
                return Some(Kept::Nowhere);
            }
            callee = Some((object.id, *function));
        }
        None
    }

    /// Some file has a variable that may keep numbers: nothing comes from one before.
    pub fn any(&self) -> bool {
        self.gone_through > 0
    }

    /// The variable from which the number is that a call was given.
    pub fn giving(&mut self, frames: &[Frame<'_>]) -> Option<Found> {
        let first = first(frames)?;
        let (mut callee, mut argument) = (None, 0);
        for (at, (object, back)) in frames.iter().enumerate().skip(first) {
            // Nothing is known to be kept there before a call was seen to do so.
            let keeper = self.files.get_mut(&object.id)?.keeper.as_mut()?.as_mut()?;
            let known = keeper.flow(object, back.wrapping_sub(1)).ok()?;
            let (function, flow) = &*known;
            let call = flow.calls.get(back)?;
            if callee.is_none() && !keeper.meaning(object, call.target).uses {
                return None;
            }
            match keeper.given(object, call, within(callee, object)?, argument)? {
                Value::Of(address) => {
                    let name = keeper.name(object, address)?;
                    return Some(Found { frame: at, address, name });
                }
                Value::Argument(of_caller) => argument = of_caller,
                _ => return None,
            }
            callee = Some((object.id, *function));
        }
        None
    }

    fn glance(&mut self, object: &Object, back: u64) -> Glance {
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&object.id) {
            self.files.clear();
        }
        let file = self.files.entry(object.id).or_default();
        if let Some(known) = file.glances.get(&back) {
            return *known;
        }
        if self.steps >= STEPS_IN_ALL {
            return Glance::Unseen;
        }
        let (glanced, steps) = Glance::at(object, back);
        self.steps = self.steps.saturating_add(steps);
        if file.glances.len() < SITES_MAX {
            file.glances.insert(back, glanced);
        }
        glanced
    }

    fn keeper(&mut self, object: &Object) -> Option<&mut Keeper> {
        let file = self.files.entry(object.id).or_default();
        if file.keeper.is_none() {
            self.gone_through = self.gone_through.saturating_add(code_len(object));
            let keeper = match self.gone_through {
                0..CODE_IN_ALL => Keeper::load(object),
                _ => Err(refused()),
            };
            if let Err(error) = &keeper {
                log::debug!("the variables of `{}` are not known: {error}", object.path.escape_ascii());
            }
            file.keeper = Some(keeper.ok());
        }
        file.keeper.as_mut()?.as_mut()
    }
}

impl Glance {
    /// With the instructions that were gone through.
    fn at(object: &Object, back: u64) -> (Self, u64) {
        if !cfg!(target_arch = "x86_64") || object.elf.section(b".symtab").is_none() {
            return (Self::Neither, 0);
        }
        match glance(object, back.wrapping_sub(1)) {
            Some((_, flow)) => (Self::of(&flow, back), flow.steps),
            None => (Self::Unseen, 0),
        }
    }

    fn of(flow: &Flow, back: u64) -> Self {
        if keeps(flow, back).next().is_some() {
            Self::Kept
        } else if is_returned(flow, back) {
            Self::Returned
        } else {
            Self::Neither
        }
    }
}

/// The function that was called, in the same file; `Some(None)`: that was the library's. `None`: it is of another file.
fn within(callee: Option<(u64, u64)>, object: &Object) -> Option<Option<u64>> {
    match callee {
        Some((file, function)) => (file == object.id).then_some(Some(function)),
        None => Some(None),
    }
}

/// The first frame that is not the C library's.
fn first(frames: &[Frame<'_>]) -> Option<usize> {
    frames.iter().position(|(object, _)| !is_libc(&String::from_utf8_lossy(&object.path)))
}
