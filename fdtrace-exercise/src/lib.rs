//! The test instrument "kernel truth decides": random descriptor syscalls in real processes, whose kernel tables are
//! compared with a model of them.
//!
//! * [`driver`] runs the exerciser from quiet point to quiet point: at one, every exercising task is parked and no table
//!   changes.
//! * [`truth`] reads the kernel's tables; [`compare`] holds a model against them.
//! * [`agent`], [`birth`], [`ops`] are the exercising tasks. They use raw syscalls only and share nothing but a mapped
//!   file with the harness, so that every descriptor event of theirs is one they mean.
//!
//! A harness goes from quiet point to quiet point:
//!
//! ```no_run
//! use fdtrace_exercise::{compare, driver::{Config, Driver}, profile::Profile};
//!
//! fn main() -> anyhow::Result<()> {
//!     let mut driver = Driver::create(&Config::new("target/debug/fdtrace-exercise", 7, Profile::Mixed))?;
//!     // Or start `driver.command()` under the tracer. Round 0 is a quiet point before the first step.
//!     driver.spawn()?;
//!     while let Some(quiet) = driver.next_quiet()? {
//!         let model = vec![/* a `ModelTable` for each of `quiet.tasks`, after the tracer has drained its ring */];
//!         let differences = compare::compare(&model);
//!         assert!(differences.is_empty(), "{}\n{}", differences[0], driver.explain(&quiet.pids(), 60));
//!         driver.go()?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! The crate knows no tracer and no wire format. What it does follows from a seed: rounds are serial unless asked
//! otherwise (one task at a time, in an order given by the seed), and a serial run is the same every time.

pub mod account;
pub mod agent;
pub mod birth;
pub mod compare;
pub mod config;
pub mod driver;
pub mod hammer;
pub mod kind;
pub mod mapping;
pub mod nr;
pub mod ops;
pub mod profile;
pub mod quiet;
pub mod ring;
pub mod rng;
pub mod script;
pub mod shared;
pub mod steps;
pub mod sys;
pub mod truth;
pub mod worker;
