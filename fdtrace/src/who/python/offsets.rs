//! Which version keeps what where: [`PyOffsets`] of each CPython.
//!
//! Up to 3.12 the offsets are a table per minor version, taken from debug information of release builds. From 3.13 on
//! interpreters describe themselves, and only what they leave out comes from a table. A description is believed only
//! if it is consistent; pre-releases, free-threaded builds and unknown versions are refused.

mod described;
mod tables;

use fdtrace_common::python::{NONE, PyOffsets, flag};
use thiserror::Error;

use super::elf::ASYNCIO_WORDS;

/// A version of Python, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: u8,
    pub minor: u8,
    /// Micro version and release level, `PY_VERSION_HEX & 0xffff`, if the file tells.
    pub detail: Option<u16>,
}

impl Version {
    pub fn from_hex(hex: u32) -> Self {
        let [major, minor, micro, level] = hex.to_be_bytes();
        Self { major, minor, detail: Some(u16::from_be_bytes([micro, level])) }
    }

    pub fn new(major: u8, minor: u8) -> Self {
        Self { major, minor, detail: None }
    }

    /// Alphas and betas change their structures from one to the next; release candidates do not.
    fn is_preview(self) -> bool {
        self.detail.is_some_and(|detail| (detail >> 4) & 0xf < 0xc)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { major, minor, detail } = self;
        write!(out, "{major}.{minor}")?;
        let Some(detail) = detail else { return Ok(()) };
        write!(out, ".{}", detail >> 8)?;
        let serial = detail & 0xf;
        match (detail >> 4) & 0xf {
            0xa => write!(out, "a{serial}"),
            0xb => write!(out, "b{serial}"),
            0xc => write!(out, "rc{serial}"),
            _ => Ok(()),
        }
    }
}

/// Why there are no offsets for an interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OffsetsError {
    #[error("Python {version} is a free-threaded build")]
    FreeThreaded { version: Version },
    #[error("Python {version} is not known")]
    Unknown { version: Version },
    #[error("the interpreter's description of itself is not consistent (Python {version})")]
    Inconsistent { version: Version },
}

/// The offsets of `version`; from 3.13 on `debug_offsets` is needed, `asyncio_debug` makes task names sure.
pub fn find(
    version: Version,
    debug_offsets: Option<&[u64]>,
    asyncio_debug: Option<&[u64; ASYNCIO_WORDS]>,
) -> Result<PyOffsets, OffsetsError> {
    if version.major != 3 || version.is_preview() {
        return Err(OffsetsError::Unknown { version });
    }
    let mut offsets = match version.minor {
        6 => tables::V3_6,
        7 => tables::V3_7,
        8 => tables::V3_8,
        9 => tables::V3_9,
        10 => tables::V3_10,
        11 => tables::V3_11,
        12 => tables::V3_12,
        13.. => {
            let words = debug_offsets.ok_or(OffsetsError::Unknown { version })?;
            described::read(version, words)?
        }
        _ => return Err(OffsetsError::Unknown { version }),
    };
    if cfg!(not(target_arch = "x86_64")) {
        offsets.runtime_tss_key = NONE;
    }
    if let Some(words) = asyncio_debug {
        apply_asyncio(&mut offsets, words);
    }
    Ok(offsets)
}

/// Takes the offsets of tasks from `.AsyncioDebug`, if they make sense.
pub fn apply_asyncio(offsets: &mut PyOffsets, words: &[u64; ASYNCIO_WORDS]) {
    let [task_size, task_name, _, _, _, _, _, _, _, thread_size, _, running_task, _] = *words;
    let fits = |at: u64, size: u64| size <= 1 << 16 && at.is_multiple_of(8) && at >= 16 && at < size;
    if !fits(task_name, task_size) || !fits(running_task, thread_size) {
        return;
    }
    // Both are below 65536.
    offsets.task_name = task_name as u32;
    offsets.tstate_running_task = running_task as u32;
    offsets.flags |= flag::RUNNING_TASK;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_versions_are_refused() {
        for hex in [0x0207_12f0, 0x0305_00f0, 0x030b_00b3, 0x030c_00a1, 0x0400_00f0] {
            let version = Version::from_hex(hex);
            assert_eq!(find(version, None, None), Err(OffsetsError::Unknown { version }), "{version}");
        }
        assert!(find(Version::from_hex(0x030b_00c1), None, None).is_ok());
    }

    #[test]
    fn versions_are_written_as_people_do() {
        for (hex, text) in [(0x030b_02f0, "3.11.2"), (0x030d_00b3, "3.13.0b3"), (0x030e_00c1, "3.14.0rc1")] {
            assert_eq!(Version::from_hex(hex).to_string(), text);
        }
        assert_eq!(Version::new(3, 9).to_string(), "3.9");
    }
}
