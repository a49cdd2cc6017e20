//! The running kernel as a source: loads the BPF object, attaches its hooks, drains the ring.
//!
//! The only module that knows aya. What it hands on are bytes, with the ring position of each record; losses, ticks and
//! what user space knows of processes become records of the same stream, so that a recording has everything.

mod known;
mod object;
mod producer;
mod snapshots;
mod watches;
mod word;

use std::{os::fd::AsFd as _, time::Duration};

use anyhow::{Context, Result, anyhow};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use fdtrace_common::{
    python::PyProcess,
    wire::{self, Header, TracedProcess, bytes_of, gate, kind, loss, shared, traced},
    witness::{ImageKey, PyEntry, PyImage},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{clock, interest, process, procfs};
pub use known::KnownStacks;
use object::Object;
use producer::Producer;
use snapshots::Snapshots;
pub use watches::Watches;
use word::{Word, Words};

/// How long to sleep between two drains while records keep coming.
const BUSY: Duration = Duration::from_millis(1);
/// Drains without a record after which the kernel is asked to wake us.
const IDLE_DRAINS: u32 = 16;
/// Longest sleep: losses are looked for and time is passed on at least this often.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes; the kernel wants a power of two of pages.
    pub ring_size: u32,
    /// Kernel-side diagnostics through aya-log.
    pub debug: bool,
    /// Capture who makes the calls.
    pub stacks: bool,
    /// Bytes of user stack to copy: where Python frames are known too, and elsewhere.
    pub stack_bytes: [u32; 2],
    /// Capture who makes the calls only for numbers from here on.
    pub arm_at: u32,
    /// Attach the hooks on system calls twice, because the kernel preempts them; `None`: as this kernel needs it.
    pub twice: Option<bool>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ring_size: 16 << 20, debug: false, stacks: true, stack_bytes: [0, 0], arm_at: 0, twice: None }
    }
}

/// What was produced, and where it went. `produced = captured + lost` at any quiet moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub produced: u64,
    pub captured: u64,
    pub by_class: [u64; loss::CLASSES],
}

impl Totals {
    /// Records that should have come and did not.
    pub fn lost(&self) -> u64 {
        loss::records(&self.by_class)
    }
}

pub struct Live {
    // Dropped first: the descriptor must leave the reactor before the map closes it.
    ring: AsyncFd<RingBuf<MapData>>,
    producer: Producer,
    object: Object,
    traced: HashMap<MapData, u32, Words<{ size_of::<TracedProcess>() / 8 }>>,
    gates: Array<MapData, u64>,
    watches: Watches,
    lost: Word,
    armed: Word,
    shed: Word,
    ring_size: u64,
    snapshots: Snapshots,
    per_cpu: PerCpuArray<MapData, [u64; 1 + loss::CLASSES]>,
    python: HashMap<MapData, u32, Words<{ size_of::<PyEntry>() / 8 }>>,
    images: HashMap<MapData, [u64; 2], Words<{ size_of::<PyImage>() / 8 }>>,
    known: KnownStacks,
    /// Position of the next record.
    pos: u64,
    captured: u64,
    lost_epoch: u32,
    counted: [u64; loss::CLASSES],
    /// Of the last record that was drained.
    last_time: u64,
    /// What was recorded up to this moment has been drained.
    drained_until: u64,
    empty_drains: u32,
    /// Records made here, to be passed on before those in the ring.
    queued: Vec<Vec<u8>>,
}

impl Live {
    /// Loads and attaches everything. Nothing is traced yet. Must be called inside a tokio runtime.
    pub fn start(settings: &Settings) -> Result<Self> {
        let mut object = object::load(settings)?;
        let ebpf = &mut object.ebpf;
        let ring = RingBuf::try_from(object::map(ebpf, "EVENTS")?)?;
        let traced = HashMap::try_from(object::map(ebpf, "TRACED")?)?;
        let gates = Array::try_from(object::map(ebpf, "GATES")?)?;
        let watched = HashMap::try_from(object::map(ebpf, "WATCHED")?)?;
        let watches = Watches::new(watched, Word::take(ebpf, shared::WATCHED_NUMBERS)?);
        let lost = Word::take(ebpf, shared::LOST_EPOCH)?;
        let armed = Word::take(ebpf, shared::ARMED)?;
        let shed = Word::take(ebpf, shared::SHED)?;
        let snapshots = Snapshots::new(Word::take(ebpf, shared::SNAPSHOT)?);
        let per_cpu = PerCpuArray::try_from(object::map(ebpf, "PER_CPU")?)?;
        let python = HashMap::try_from(object::map(ebpf, "PYTHON")?)?;
        let images = HashMap::try_from(object::map(ebpf, "IMAGES")?)?;
        let known = KnownStacks::new(HashMap::try_from(object::map(ebpf, "KNOWN")?)?);
        let producer = Producer::map(ring.as_fd()).context("cannot map the ring buffer")?;
        // SAFETY: the ring owns its descriptor and keeps it open for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(|error| anyhow!("cannot watch the ring buffer: {error}"))?;
        let mut live = Self {
            ring,
            producer,
            object,
            traced,
            gates,
            watches,
            lost,
            armed,
            shed,
            ring_size: u64::from(settings.ring_size),
            snapshots,
            per_cpu,
            python,
            images,
            known,
            pos: 0,
            captured: 0,
            lost_epoch: 0,
            counted: [0; loss::CLASSES],
            last_time: clock::boot_ns(),
            drained_until: 0,
            empty_drains: 0,
            queued: Vec::new(),
        };
        live.learn_kinds()?;
        live.object.attach()?;
        Ok(live)
    }

    /// Traces a process from now on. `wait_exec`: from its next exec on.
    pub fn adopt(&mut self, tgid: u32, wait_exec: bool) -> Result<()> {
        let flags = if wait_exec { traced::ON | traced::WAIT_EXEC } else { traced::ON };
        let layout = TracedProcess::found(tgid);
        self.gate(tgid, gate::WAITS_LEFT, gate::WAITS)?;
        self.gate(tgid, gate::TRACED, 1)?;
        self.traced
            .insert(tgid, Words::of(&TracedProcess { flags, layout, ..TracedProcess::default() }), 0)
            .with_context(|| format!("cannot add process {tgid} to the set of traced processes"))?;
        self.queued.push(process::record(tgid));
        self.queued.extend(process::namespaced(tgid));
        // A thread born meanwhile is reported by its fork.
        self.queued.extend(process::threads(tgid));
        Ok(())
    }

    /// Stacks are captured.
    pub fn has_stacks(&self) -> bool {
        self.object.has_stacks
    }

    /// Takes the hooks away. What they have told is still to be drained.
    pub fn detach(&mut self) -> Result<()> {
        self.object.detach()
    }

    /// The kernel preempts the hooks on system calls, and skips some: they are attached twice.
    pub fn hooks_are_preempted(&self) -> bool {
        self.object.twice
    }

    /// The kernel side asks for the uses of what a fork shares by itself.
    pub fn sees_forked_files(&self) -> bool {
        self.object.sees_forked_files
    }

    /// Stores one word of what most calls of a process are asked.
    fn gate(&mut self, tgid: u32, word: u32, value: u64) -> Result<()> {
        let stored = self.gates.set(gate::index(tgid, word), value, 0);
        stored.with_context(|| format!("cannot set the filters of process {tgid}"))
    }

    /// How many programs a traced process has run: to be asked for before its memory is looked at.
    pub fn execs(&self, tgid: u32) -> Option<u32> {
        Some(self.traced.get(&tgid, 0).ok()?.read::<TracedProcess>()?.execs)
    }

    /// Tells the kernel side where a process keeps its Python frames. Has no effect on a program that the process has
    /// begun to run since `execs`.
    pub fn set_python(&mut self, tgid: u32, execs: u32, process: &PyProcess) -> Result<()> {
        let entry = PyEntry { process: *process, execs, reserved: 0 };
        self.gate(tgid, gate::PYTHON, 1)?;
        self.python
            .insert(tgid, Words::of(&entry), 0)
            .with_context(|| format!("cannot tell the kernel side of the interpreter of process {tgid}"))
    }

    /// Takes back what was said of a process's interpreter.
    pub fn forget_python(&mut self, tgid: u32) {
        // It may be gone already.
        let _ = self.python.remove(&tgid);
    }

    /// Tells the kernel side of a file that contains an interpreter.
    pub fn add_image(&mut self, key: ImageKey, image: &PyImage) -> Result<()> {
        self.images
            .insert([key.inode, u64::from(key.dev)], Words::of(image), 0)
            .context("cannot tell the kernel side of an interpreter's file")
    }

    /// Stacks of which no copies are needed.
    pub fn known_stacks(&mut self) -> &mut KnownStacks {
        &mut self.known
    }

    /// What is told of only when asked.
    pub fn watches(&mut self) -> &mut Watches {
        &mut self.watches
    }

    /// Puts the entries of an epoll instance into the stream. A process that is gone has none.
    pub fn list_epoll(&mut self, tgid: u32, fd: i32) {
        let list = interest::read(std::path::Path::new(procfs::ROOT), tgid, fd);
        if let Some(rows) = list {
            let header = user_header(kind::EPOLL_LIST, tgid);
            let list = wire::EpollList { header, fd, rows: u32::try_from(rows.len()).unwrap_or(0) };
            let mut record = bytes_of(&list).to_vec();
            rows.iter().for_each(|row| record.extend_from_slice(bytes_of(row)));
            self.queued.push(record);
        }
    }

    /// Is any process traced now? The kernel looks through the whole of a set that is mostly empty: not for every turn.
    pub fn traces_any(&self) -> bool {
        self.traced.keys().any(|key| key.is_ok())
    }

    /// Passes on the records there are, in order, each with its position, until `most` bytes have been taken out of the ring.
    /// Returns how many came from there.
    pub fn drain(&mut self, most: usize, mut out: impl FnMut(u64, &[u8])) -> usize {
        for record in std::mem::take(&mut self.queued) {
            out(self.pos, &record);
        }
        let mut count = 0;
        let begun = clock::boot_ns();
        let until = self.pos.saturating_add(most as u64);
        while self.pos < until {
            let (pos, lost) = {
                let Some(item) = self.ring.get_mut().next() else {
                    self.drained_until = begun;
                    break;
                };
                let header = wire::read::<Header>(&item).map(|(header, _)| header).unwrap_or_default();
                if header.lost_epoch == self.lost_epoch {
                    out(self.pos, &item);
                    self.last_time = header.time;
                    (self.pos + ring_bytes(item.len()), None)
                } else {
                    // The gap is before this record: say so first.
                    (self.pos + ring_bytes(item.len()), Some((header, item.to_vec())))
                }
            };
            if let Some((header, record)) = lost {
                self.lost_epoch = header.lost_epoch;
                let gap = self.gap(header.time);
                out(self.pos, bytes_of(&gap));
                out(self.pos, &record);
                self.last_time = header.time;
            }
            self.pos = pos;
            count += 1;
        }
        self.captured += count as u64;
        self.empty_drains = if count == 0 { self.empty_drains + 1 } else { 0 };
        count
    }

    /// The ring is nearly full.
    pub fn is_flooded(&self) -> bool {
        let produced = self.producer.position();
        debug_assert!(produced >= self.pos, "more was read of the ring than there was: {} of {produced}", self.pos);
        produced.saturating_sub(self.pos) >= self.ring_size / 8 * 7
    }

    /// Has the hooks leave out what `level`, one of [`wire::shed`], says.
    pub fn shed(&mut self, level: u64) -> Result<()> {
        self.shed.set(level).context("cannot tell the hooks what to leave out")
    }

    /// Passes on losses that no record has told of, and the time: up to where everything was drained, not that of the clock,
    /// for whoever was kept from draining has not seen what happened meanwhile.
    pub fn tick(&mut self, mut out: impl FnMut(u64, &[u8])) {
        let epoch = self.lost.get() as u32;
        let skipped = self.totals().by_class[loss::SKIPPED];
        if epoch != self.lost_epoch || skipped != self.counted[loss::SKIPPED] {
            self.lost_epoch = epoch;
            let gap = self.gap(clock::boot_ns());
            out(self.pos, bytes_of(&gap));
        }
        let header = Header { time: self.drained_until.max(self.last_time), ..user_header(kind::TICK, 0) };
        out(self.pos, bytes_of(&wire::Tick { header }));
    }

    fn gap(&mut self, until: u64) -> wire::Lost {
        let counted = self.totals().by_class;
        let mut by_class = [0; loss::CLASSES];
        for (class, count) in by_class.iter_mut().enumerate() {
            *count = counted[class].saturating_sub(self.counted[class]);
        }
        self.counted = counted;
        // The end of a thread may be among it.
        self.snapshots.doubt_threads();
        let header = Header { time: until, ..user_header(kind::LOST, 0) };
        wire::Lost { header, since: self.last_time, by_class }
    }

    /// Waits until there may be something to drain: a moment under load, else until the kernel wakes us or a second is
    /// over.
    pub async fn wait(&mut self) -> Result<()> {
        if self.empty_drains < IDLE_DRAINS {
            tokio::time::sleep(BUSY).await;
            return Ok(());
        }
        self.armed.set(1).context("cannot ask the kernel to wake us")?;
        // A record that came before the kernel knew that we sleep would not wake us.
        if !self.queued.is_empty() || self.has_records() {
            return Ok(());
        }
        if let Ok(ready) = tokio::time::timeout(IDLE, self.ring.readable_mut()).await {
            ready.context("cannot watch the ring buffer")?.clear_ready();
        }
        Ok(())
    }

    /// The kernel has made records that were not drained yet.
    fn has_records(&self) -> bool {
        let totals = self.totals();
        totals.produced > totals.captured + totals.lost()
    }

    /// Asks for the entries of epoll instances that were there before: tasks and the number of each. `tables`: the tasks that
    /// use each of the tables there are.
    pub fn read_epolls(&mut self, wanted: &[(Vec<u32>, i32)], tables: &[Vec<u32>]) {
        self.queued.extend(interest::entries(wanted, tables));
    }

    /// How often the kernel skipped each hook: of those that are attached twice nearly all is made up for.
    pub fn skips(&self) -> Vec<(&'static str, u64)> {
        self.object.skips()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals { captured: self.captured, ..Totals::default() };
        let skipped = self.object.skipped();
        totals.by_class[loss::SKIPPED] = skipped;
        totals.produced = skipped;
        if let Ok(values) = self.per_cpu.get(&0, 0) {
            for value in values.iter() {
                totals.produced += value[0];
                for (class, count) in totals.by_class.iter_mut().enumerate() {
                    *count += value[1 + class];
                }
            }
        }
        totals
    }
}

/// Space that a record takes in the ring: an 8-byte header, and padding to 8 bytes.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/ringbuf.c#L437>
fn ring_bytes(len: usize) -> u64 {
    (len as u64 + 8).next_multiple_of(8)
}

fn user_header(kind: u16, tgid: u32) -> Header {
    Header { kind, tgid, time: clock::boot_ns(), ..Header::default() }
}

const _: () = assert!(size_of::<wire::PerCpu>() == 8 * (1 + loss::CLASSES));
