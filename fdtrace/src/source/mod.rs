//! Where bytes come from: the running kernel. Also all that has to do with processes as such: finding, starting and
//! describing them. Knows nothing of descriptors' lives.

mod bpf;
pub mod btf;
mod child;
pub mod clock;
pub mod doctor;
pub mod ending;
pub mod inherited;
mod interest;
mod kinds;
pub mod launch;
pub mod live;
mod misses;
pub mod names;
pub mod offsets;
pub mod own;
pub mod preflight;
mod process;
pub mod procfs;
mod recipe;
pub mod recording;
pub mod select;
pub mod surroundings;
pub mod target;
pub mod users;
