//! Who did it: interpreters, native stacks, owners. Knows processes' memory and files, not descriptors' lives.

pub mod maps;
pub mod native;
pub mod open;
pub mod owner;
pub mod python;
pub mod sighting;
