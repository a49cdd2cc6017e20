//! Native stacks: which functions led to a system call.
//!
//! The kernel side sends registers and a bounded copy of the user stack; [`AddressSpace`] unwinds them with the unwind
//! tables of the mapped files, [`Symbols`] names the frames when a report needs names, [`stack`] puts Python frames in
//! their place.
//! Files of the traced program are hostile input: they are opened as regular files only, read with bounds and never
//! mapped (a mapped file that shrinks kills its reader), and what they say is checked before it is believed. A stack is
//! cut short rather than guessed.
//! Nothing here stops, changes or runs code of the traced process.

pub mod compress;
pub mod debug;
pub mod demangle;
pub mod elf;
pub mod object;
pub mod perf_map;
pub mod rule;
pub mod space;
pub mod stack;
pub mod symbols;
pub mod symtab;
pub mod unwind;
pub mod variable;

// The tests stop programs by ptrace and read the registers of this processor.
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests;

pub use object::{Object, Objects};
pub use space::{AddressSpace, Module};
pub use stack::NativeFrame;
pub use symbols::Symbols;
pub use unwind::{End, Frame, Lost, Registers, Snapshot, Stack};
pub use variable::Variables;

/// They may be used by whichever thread has them.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<(AddressSpace, Objects)>();
};
