//! What both sides of fdtrace agree on: the records that travel through the ring buffer.
//!
//! `no_std` and without dependencies, because the same source is compiled for the kernel (BPF) and for user space.
//! Everything here is plain data in the byte order of the machine. Sizes and alignments are asserted at compile time:
//! a change of layout is a change of [`wire::VERSION`].
#![no_std]

pub mod class;
pub mod globals;
pub mod next;
pub mod python;
pub mod wire;
pub mod witness;
