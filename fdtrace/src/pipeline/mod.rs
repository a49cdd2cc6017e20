//! Wires the stages. The only part that knows them all.

mod failure;
mod stages;
mod trace;

pub use failure::{Failure, Outcome};
pub use stages::Stages;
pub use trace::run;
