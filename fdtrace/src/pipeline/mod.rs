//! Wires the stages. The only part that knows them all.

mod backlog;
mod budget;
mod checkpoint;
mod export;
mod failure;
mod known;
mod loaded;
mod maker;
mod natives;
mod outputs;
mod progress;
mod pythons;
mod quiet;
mod reading;
mod record;
mod relative;
mod replay;
mod report;
mod session;
mod signals;
mod sources;
mod stages;
mod targets;
mod trace;
mod verbs;
mod verify;

pub use crate::selftest::Drive;
pub use export::{export, timeline};
pub use failure::{Failure, Outcome};
pub use report::report;
pub use stages::Stages;
pub use trace::run;
pub use verbs::{doctor, drive, explain, self_test};
pub use verify::verify;

/// To be called first in `main`: a command that we start is to be given what we were given.
pub fn remember_inherited() {
    crate::source::inherited::remember_inherited();
}
