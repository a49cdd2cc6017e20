//! Tests of whole stacks: real programs, stopped by ptrace at marked calls.
//!
//! Those that need gdb, a compiler or a runtime say so loudly where it is missing, and pass. More interpreters to test
//! may be named in `FDTRACE_TEST_PYTHONS`, separated by colons; more rounds of broken files in `FDTRACE_TEST_ROUNDS`.

mod compiled;
mod hostile;
mod measure;
mod programs;
mod runtimes;
mod tracee;
mod truth;
