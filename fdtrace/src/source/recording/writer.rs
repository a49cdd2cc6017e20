//! Writes a recording. Each block goes out in one write, so what a killed recorder leaves ends with a whole block, but
//! for the last moments: [`FLUSH_BYTES`] or [`FLUSH_AFTER`].
//!
//! A block that a full disk refused is dropped; its number is not used again, so the reader knows what is missing.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    time::{Duration, Instant},
};

use fdtrace_common::wire::{self, Header, kind};
use serde::Serialize;

use super::{
    about::{About, Definitions, End, NativeFrame, NativeStack, SourceLine},
    frame::{COMPRESSED, Head, RAW_MAX, VERSION, block},
    harmless, may_be_recorded,
    pack::Packer,
    took_room,
};
use crate::source::live::Totals;

/// A block is written when its records, packed, are so many bytes, or its first is so old. Half of the 200 ms that a killed
/// recorder may lose: the other half is for the way from the kernel, and for a machine with more to do than cores.
pub const FLUSH_BYTES: usize = 256 << 10;
pub const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// Blocks that say nothing but that time passes may wait longer: losing one loses nothing.
const IDLE_FLUSH_AFTER: Duration = Duration::from_secs(5);
/// How often a snapshot is written, if anything was.
const SNAPSHOT_AFTER: Duration = Duration::from_secs(30);
const SNAPSHOT_BYTES: u64 = 16 << 20;
/// zstd's fastest level but one: what is packed already gains little from the others.
const LEVEL: i32 = 1;

/// Makes the files, from number 0.
pub type OpenFile = Box<dyn FnMut(u32) -> io::Result<Box<dyn Write>>>;

/// When to begin another file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation {
    pub bytes: Option<u64>,
    pub time: Option<Duration>,
}

pub struct Recorder {
    open: OpenFile,
    out: Box<dyn Write>,
    about: About,
    rotation: Rotation,
    packer: Packer,
    /// Of the block being filled.
    head: Head,
    /// When its first record came, and the first that is more than a tick.
    first: Option<Instant>,
    first_of_weight: Option<Instant>,
    totals: Totals,
    captured: u64,
    seq: u64,
    /// Bytes of this file, and since when it is written.
    written: u64,
    opened: Instant,
    since_snapshot: u64,
    last_snapshot: Instant,
    /// Records that explain others, for snapshots.
    definitions: Vec<Vec<u8>>,
    /// Lines of source that are in this file, and those that wait to be.
    known_lines: HashSet<(u32, Box<[u8]>, u32)>,
    lines: Definitions,
    known_stacks: HashSet<(u32, u64)>,
    /// Places in the definitions that wait.
    frames: HashMap<NativeFrame, u32>,
    compressor: zstd::bulk::Compressor<'static>,
    /// The first error of a flush that nobody could be told of.
    pending: Option<io::Error>,
}

/// Definitions kept for snapshots.
const DEFINITIONS_MAX: usize = 1024;
/// Lines of source in one file.
const LINES_MAX: usize = 100_000;

impl Recorder {
    pub fn new(mut open: OpenFile, about: About, rotation: Rotation) -> io::Result<Self> {
        let out = open(0)?;
        let now = Instant::now();
        let mut recorder = Self {
            open,
            out,
            about,
            rotation,
            packer: Packer::default(),
            head: Head::default(),
            first: None,
            first_of_weight: None,
            totals: Totals::default(),
            captured: 0,
            seq: 0,
            written: 0,
            opened: now,
            since_snapshot: 0,
            last_snapshot: now,
            definitions: Vec::new(),
            known_lines: HashSet::new(),
            lines: Definitions::default(),
            known_stacks: HashSet::new(),
            frames: HashMap::new(),
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            pending: None,
        };
        recorder.write_about()?;
        Ok(recorder)
    }

    /// Takes a record, as it came. Never fails: an error of writing is told by the next [`Recorder::flush`].
    pub fn record(&mut self, pos: u64, record: &[u8]) {
        let Some((header, _)) = wire::read::<Header>(record) else { return };
        if took_room(header.kind) {
            self.captured += 1;
        }
        if !may_be_recorded(header.kind) {
            return;
        }
        let Some(record) = harmless(header.kind, record) else { return };
        let record = &*record;
        if header.kind == kind::FOP_KIND && self.definitions.len() < DEFINITIONS_MAX {
            self.definitions.push(record.to_vec());
        }
        if self.packer.is_empty() {
            (self.head.first_time, self.head.first_pos) = (header.time, pos);
            self.first = Some(Instant::now());
        }
        if header.kind != kind::TICK && self.first_of_weight.is_none() {
            self.first_of_weight = Some(Instant::now());
        }
        if self.packer.push(pos, record) {
            self.head.last_time = header.time;
        }
        // While much is taken in at once, nobody comes to ask what is due.
        let is_due = self.first_of_weight.is_some()
            && u128::from(header.time.saturating_sub(self.head.first_time)) >= FLUSH_AFTER.as_nanos();
        if (is_due || self.packer.is_full(FLUSH_BYTES))
            && let Err(error) = self.write_data()
        {
            self.pending.get_or_insert(error);
        }
    }

    /// Takes the text of a line of source that a finding shows.
    pub fn source_line(&mut self, pid: u32, file: &[u8], line: u32, text: &str) {
        if self.known_lines.len() >= LINES_MAX || !self.known_lines.insert((pid, file.into(), line)) {
            return;
        }
        self.lines.lines.push(SourceLine { pid, file: file.to_vec(), line, text: text.to_owned() });
        self.first_of_weight.get_or_insert_with(Instant::now);
    }

    /// Takes the native stack of an act that a finding shows, innermost frame first.
    pub fn native_stack(&mut self, tid: u32, time: u64, frames: impl Iterator<Item = NativeFrame>) {
        if self.known_stacks.len() >= LINES_MAX || !self.known_stacks.insert((tid, time)) {
            return;
        }
        let Definitions { frames: table, stacks, .. } = &mut self.lines;
        let places = frames.map(|frame| {
            *self.frames.entry(frame).or_insert_with_key(|frame| {
                table.push(frame.clone());
                table.len() as u32 - 1
            })
        });
        let frames = places.collect();
        stacks.push(NativeStack { tid, time, frames });
        self.first_of_weight.get_or_insert_with(Instant::now);
    }

    /// How long the records that wait may wait yet; `None`: none waits.
    pub fn due_in(&self) -> Option<Duration> {
        let weighty = self.first_of_weight.map(|first| FLUSH_AFTER.saturating_sub(first.elapsed()));
        weighty.or_else(|| self.first.map(|first| IDLE_FLUSH_AFTER.saturating_sub(first.elapsed())))
    }

    /// Records wait that somebody would miss.
    pub fn must_wake(&self) -> Option<Duration> {
        self.first_of_weight.map(|first| FLUSH_AFTER.saturating_sub(first.elapsed()))
    }

    /// Writes what waits.
    pub fn flush(&mut self, totals: Totals) -> io::Result<()> {
        self.totals = totals;
        let written = self.write_lines().and(self.write_data());
        match self.pending.take() {
            Some(error) => Err(error),
            None => written,
        }
    }

    /// Time for [`Recorder::snapshot`].
    pub fn wants_snapshot(&self) -> bool {
        self.must_rotate()
            || self.since_snapshot >= SNAPSHOT_BYTES
            || (self.since_snapshot > 0 && self.last_snapshot.elapsed() >= SNAPSHOT_AFTER)
    }

    fn must_rotate(&self) -> bool {
        self.rotation.bytes.is_some_and(|bytes| self.written >= bytes)
            || self.rotation.time.is_some_and(|time| self.opened.elapsed() >= time)
    }

    /// Writes a snapshot, in a new file if it is time for one. `state` hands over the records that rebuild what is known,
    /// as of position `pos`.
    pub fn snapshot(&mut self, pos: u64, state: impl FnOnce(&mut dyn FnMut(&[u8]))) -> io::Result<()> {
        self.write_data()?;
        let rotated = if self.must_rotate() { self.rotate() } else { Ok(()) };
        let mut packer = Packer::default();
        let mut head = Head { first_pos: pos, ..Head::default() };
        let mut add = |record: &[u8]| {
            // What is too big for a block is cut off; the kernel's limit on descriptors is far below.
            if packer.len() < RAW_MAX / 2 {
                let time = wire::read::<Header>(record).map_or(0, |(header, _)| header.time);
                if packer.is_empty() {
                    head.first_time = time;
                }
                head.last_time = head.last_time.max(time);
                packer.push(pos, record);
            }
        };
        for definition in &self.definitions {
            add(definition);
        }
        state(&mut add);
        (head.block, head.records) = (block::SNAPSHOT, packer.records());
        self.since_snapshot = 0;
        self.last_snapshot = Instant::now();
        self.write(head, &packer.take())?;
        self.since_snapshot = 0;
        rotated
    }

    /// Goes on in another file. The old one is left only when there is a new one; if there is none, it is gone on with
    /// for as long as another would have been.
    fn rotate(&mut self) -> io::Result<()> {
        (self.written, self.opened) = (0, Instant::now());
        let next = self.about.segment + 1;
        let out = (self.open)(next)?;
        self.out.flush()?;
        self.out = out;
        self.about.segment = next;
        self.known_lines.clear();
        self.known_stacks.clear();
        self.write_about()
    }

    /// Tells what is traced, now that it is known.
    pub fn introduce(&mut self, introduce: impl FnOnce(&mut About)) -> io::Result<()> {
        self.write_data()?;
        introduce(&mut self.about);
        self.about.introduced = true;
        self.write_about()
    }

    /// The end, in good order.
    pub fn end(&mut self, totals: Totals, duration_ns: u64) -> io::Result<()> {
        self.flush(totals)?;
        let Totals { produced, captured, by_class } = totals;
        let end = End { captured, produced, lost: by_class.to_vec(), duration_ns };
        self.write_json(block::END, &end)?;
        self.out.flush()
    }

    fn write_lines(&mut self) -> io::Result<()> {
        if self.lines == Definitions::default() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        self.frames.clear();
        self.first_of_weight = self.first;
        self.write_json(block::DEFINITIONS, &lines)
    }

    fn write_data(&mut self) -> io::Result<()> {
        if self.packer.is_empty() {
            return Ok(());
        }
        let head = Head { block: block::DATA, records: self.packer.records(), ..std::mem::take(&mut self.head) };
        (self.first, self.first_of_weight) = (None, None);
        let raw = self.packer.take();
        self.write(head, &raw)
    }

    fn write_about(&mut self) -> io::Result<()> {
        let about = self.about.clone();
        self.write_json(block::ABOUT, &about)
    }

    fn write_json(&mut self, block: u8, content: &impl Serialize) -> io::Result<()> {
        let raw = serde_json::to_vec(content)?;
        self.write(Head { block, ..Head::default() }, &raw)
    }

    fn write(&mut self, head: Head, raw: &[u8]) -> io::Result<()> {
        let packed = self.compressor.compress(raw)?;
        let (flags, stored) = if packed.len() < raw.len() { (COMPRESSED, &packed[..]) } else { (0, raw) };
        let mut lost = [0; 8];
        lost[..self.totals.by_class.len()].copy_from_slice(&self.totals.by_class);
        let head = Head {
            version: VERSION,
            flags,
            stored: u32::try_from(stored.len()).map_err(|_| io::ErrorKind::FileTooLarge)?,
            raw: u32::try_from(raw.len()).map_err(|_| io::ErrorKind::FileTooLarge)?,
            seq: self.seq,
            captured: self.captured,
            lost,
            checksum: crc32c::crc32c(stored),
            ..head
        };
        self.seq += 1;
        let bytes = [&head.to_bytes(), stored].concat();
        self.written += bytes.len() as u64;
        self.since_snapshot += bytes.len() as u64;
        self.out.write_all(&bytes)
    }
}
