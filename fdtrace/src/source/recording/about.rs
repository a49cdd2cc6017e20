//! What a recording says of itself and of the machine it comes from. JSON, so that any tool can read it; fields may be
//! added, and one that a reader does not know is passed over.

use base64::{Engine, prelude::BASE64_STANDARD};
use fdtrace_common::wire;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The first block of each file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Version of the records, see `fdtrace_common::wire`.
    pub wire: u16,
    /// Version of the recorder.
    pub fdtrace: String,
    pub schema: String,
    pub kernel: String,
    /// As the kernel calls it: `x86_64`, `aarch64`.
    pub arch: String,
    pub host: String,
    /// Tells one life of a machine from another: boot times compare only within one.
    pub boot: String,
    /// Tells one run from another on the same boot.
    pub run: u64,
    /// The same moment by the wall clock and by `CLOCK_BOOTTIME`, nanoseconds.
    pub started_wall: u64,
    pub started_boot: u64,
    /// Of a recording in several files: this one's number, from 0.
    pub segment: u32,
    /// The targets are known; before that the rest of this is missing.
    pub introduced: bool,
    pub targets: Vec<Traced>,
    pub already_open: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traced {
    pub pid: u32,
    #[serde(with = "bytes")]
    pub name: Vec<u8>,
    #[serde(with = "bytes")]
    pub cmdline: Vec<u8>,
}

/// The last block of the last file, if the recorder could write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    pub captured: u64,
    pub produced: u64,
    pub lost: Vec<u64>,
    pub duration_ns: u64,
}

/// What findings showed and no record tells: on another machine it cannot be looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Definitions {
    pub lines: Vec<SourceLine>,
    /// Frames of the stacks below, each once.
    pub frames: Vec<NativeFrame>,
    pub stacks: Vec<NativeStack>,
}

/// A frame by the names that its program's files gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct NativeFrame {
    #[serde(with = "bytes")]
    pub function: Vec<u8>,
    /// Empty: not known.
    #[serde(with = "bytes")]
    pub file: Vec<u8>,
    pub line: Option<u32>,
    #[serde(with = "bytes")]
    pub module: Vec<u8>,
}

/// Where a thread was when it made the call that returned at `time`. The copy of its stack is not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NativeStack {
    pub tid: u32,
    pub time: u64,
    /// Innermost first, as places in [`Definitions::frames`].
    pub frames: Vec<u32>,
}

/// A line of a program, as it was when the program began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceLine {
    pub pid: u32,
    #[serde(with = "bytes")]
    pub file: Vec<u8>,
    pub line: u32,
    pub text: String,
}

impl About {
    /// Of this machine, now.
    pub fn here(started_wall: u64, started_boot: u64) -> Self {
        let line = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Self {
            wire: wire::VERSION,
            fdtrace: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: line("/proc/sys/kernel/osrelease"),
            arch: std::env::consts::ARCH.to_owned(),
            host: line("/proc/sys/kernel/hostname"),
            boot: line("/proc/sys/kernel/random/boot_id"),
            run: started_boot,
            started_wall,
            started_boot,
            ..Self::default()
        }
    }

    /// Another file of the same run.
    pub fn same_run(&self, other: &Self) -> bool {
        (&self.boot, self.run) == (&other.boot, other.run)
    }
}

/// Names are bytes, and JSON holds text.
mod bytes {
    use super::*;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}
