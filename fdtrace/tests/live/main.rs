//! fdtrace as a user runs it, on this kernel, against real programs. Needs root:
//! `cargo test -p fdtrace --test live -- --ignored --test-threads=1`.

mod attach;
mod blame;
mod blog;
mod budget;
mod ending;
mod fork;
mod harness;
mod killed;
mod kinds;
mod leaks;
mod loss;
mod misuse;
mod namespaces;
mod pipelines;
mod property;
mod recording;
mod selftest;
mod stacks;
mod streams;
mod variables;
mod waits;
mod who;
