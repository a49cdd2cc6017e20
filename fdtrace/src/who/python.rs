//! Python frames: which interpreter a process runs, where it keeps its frames, and what their addresses mean.
//!
//! The kernel side walks frames at the moment of a system call, by the offsets made here; this module turns what it
//! sent (code object, instruction) into file, line and name. [`walk`] is the same walk in user space: the reference
//! for tests, and the way to look at a process that stands still.
//! Everything a traced process can influence (its files, its maps, its memory) is read with bounds and without trust.
//! An interpreter that is not known exactly is refused: no frames are better than wrong frames.

pub mod code;
pub mod elf;
pub mod interpreter;
pub mod known;
pub mod lines;
pub mod memory;
pub mod objects;
pub mod offsets;
pub mod tasks;
pub mod types;
pub mod walk;

pub use code::CodeDef;
pub use interpreter::{Interpreter, Unsupported};
pub use lines::LineFormat;
pub use memory::{ProcessMemory, ReadMem};
