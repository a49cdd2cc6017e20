//! Wires the stages. The only part that knows them all.

mod failure;
mod stages;
mod trace;
mod verbs;

pub use failure::{Failure, Outcome};
pub use stages::Stages;
pub use trace::run;
pub use verbs::{doctor, explain};

/// To be called first in `main`: a command that we start is to be given what we were given.
pub fn remember_inherited() {
    crate::source::inherited::remember_inherited();
}
