//! fdtrace tells you who closed your file descriptor.
//!
//! The stages, left to right; each uses only types of the stages to its left (`cargo xtask check-layers`):
//! `source` → `decode` → `order` → `model` → `detect` → `sink`. `pipeline` knows all of them, `cli` the command line.

pub mod cli;
pub mod collections;
pub mod decode;
pub mod detect;
pub mod escape;
pub mod event;
pub mod model;
pub mod order;
pub mod pipeline;
pub mod plan;
pub mod selftest;
pub mod sink;
pub mod source;
pub mod syscalls;
#[cfg(test)]
mod tests;
pub mod who;
