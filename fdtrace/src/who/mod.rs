//! Who did it: interpreters, native stacks, owners. Knows processes' memory and files, not descriptors' lives.

pub mod python;
pub mod sighting;
