//! The Python half of "who did it", against the truth told by the interpreters themselves.
//!
//! Interpreters are taken from `FDTRACE_TEST_PYTHONS` (paths, separated by colons), from pyenv, and from the system; at
//! least one must be there. What cannot run under a version is skipped by the scripts, not here.

mod lines;
mod live;
mod pythons;
