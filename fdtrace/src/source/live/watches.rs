//! What user space asks the kernel side to tell of: uses of a slot, or of a file.

use std::collections::{BTreeSet, VecDeque};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData};
use fdtrace_common::wire;

use super::word::Word;

/// Files watched at a time.
const WATCHED_FILES: usize = 16_384;

pub struct Watches {
    map: HashMap<MapData, u64, [u32; 4]>,
    numbers: Word,
    /// The slots in the map, by process.
    slots: BTreeSet<(u32, u32)>,
    /// The files in the map, oldest first.
    files: VecDeque<u64>,
}

impl Watches {
    pub fn new(map: HashMap<MapData, u64, [u32; 4]>, numbers: Word) -> Self {
        Self { map, numbers, slots: BTreeSet::new(), files: VecDeque::new() }
    }

    /// Has the next `times` uses of a number by a process reported. A use is told by its own end, also if it succeeds.
    pub fn slot(&mut self, tgid: u32, fd: i32, times: u32) -> Result<()> {
        let Some(number) = self.mark(fd)? else { return Ok(()) };
        self.slots.insert((tgid, number));
        self.map.insert(wire::watch_key(tgid, number), [times, times, 0, 0], 0).context("cannot watch the slot")
    }

    /// Has uses of a file reported, at most `times`: the next `every`, and then whenever another process than the last one
    /// makes them. `fd` is a number that it has; under others of which nobody has told it is not seen.
    pub fn file(&mut self, file: u64, fd: i32, times: u32, every: u32) -> Result<()> {
        if file == 0 || self.mark(fd)?.is_none() {
            return Ok(());
        }
        // Their addresses are used again, so the oldest say nothing any more.
        if !self.files.contains(&file) {
            self.files.push_back(file);
        }
        if self.files.len() > WATCHED_FILES
            && let Some(old) = self.files.pop_front()
            && let Err(error) = self.map.remove(&old)
        {
            log::debug!("cannot stop watching a file: {error}");
        }
        // The kernel side may have begun by itself, at a fork of which we have not read yet.
        let begun = self.map.get(&file, 0).map_or(0, |[_, every, ..]| every);
        self.map.insert(file, [times, every.max(begun), 0, 0], 0).context("cannot watch the file")
    }

    /// Marks a number as one that is worth a look-up.
    fn mark(&mut self, fd: i32) -> Result<Option<u32>> {
        let Ok(number) = u32::try_from(fd) else { return Ok(None) };
        // Bits are set and never cleared: a number that is watched once costs a look-up for good.
        self.numbers.set(self.numbers.get() | 1 << (number & 63)).context("cannot mark the number")?;
        Ok(Some(number))
    }

    /// Forgets what was watched in a process that is gone.
    pub fn forget(&mut self, tgid: u32) {
        let keys: Vec<(u32, u32)> = self.slots.range((tgid, 0)..=(tgid, u32::MAX)).copied().collect();
        for (tgid, number) in keys {
            self.slots.remove(&(tgid, number));
            if let Err(error) = self.map.remove(&wire::watch_key(tgid, number)) {
                log::debug!("cannot stop watching fd {number} of process {tgid}: {error}");
            }
        }
    }
}
