//! The running kernel as a source: loads the BPF object, attaches its hooks, drains the ring.
//!
//! The only module that knows aya. What it hands on are bytes, with the ring position of each record; losses, ticks and
//! what user space knows of processes become records of the same stream, so that a recording has everything.

use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    io::Read,
    os::fd::AsFd,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray, RingBuf},
    programs::{BtfTracePoint, Iter},
    util::KernelVersion,
};
use fdtrace_common::{
    globals,
    python::PyProcess,
    wire::{self, Header, Plain, bytes_of, kind, loss, shared, traced},
    witness::{ImageKey, PyEntry, PyImage},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::syscalls::{self, Arch};

use super::{clock, interest, kinds, misses, offsets, process, procfs};

/// The BPF object, built by the build script or handed in by a packager.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fdtrace"));

/// Hooks of the main object: program, tracepoint.
const HOOKS: [&str; 5] = ["sched_process_fork", "sched_process_exec", "sched_process_exit", "sys_exit", "sys_enter"];

/// Programs that the hooks reach by tail call: program, tracepoint, where it stands. Kernels before 5.17 have no loops
/// and refuse those that capture stacks; then there are none.
const NEXT: [(&str, &str, u32); 3] = [
    // The record's before the stack's: what captures a stack at the return of a call relies on it.
    ("record_at_exit", "sys_exit", 1),
    ("stack_at_exit", "sys_exit", 0),
    ("stack_at_enter", "sys_enter", 0),
];

/// How long to sleep between two drains while records keep coming.
const BUSY: Duration = Duration::from_millis(1);
/// Drains without a record after which the kernel is asked to wake us.
const IDLE_DRAINS: u32 = 16;
/// Files watched at a time.
const WATCHED_FILES: usize = 16_384;
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
}

impl Default for Settings {
    fn default() -> Self {
        Self { ring_size: 16 << 20, debug: false, stacks: true, stack_bytes: [0, 0] }
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
        let classes = self.by_class.iter().enumerate();
        classes.filter(|(class, _)| !matches!(*class, loss::INFLIGHT | loss::RING_STACK)).map(|(_, count)| count).sum()
    }
}

pub struct Live {
    // Dropped first: the descriptor must leave the reactor before the map closes it.
    ring: AsyncFd<RingBuf<MapData>>,
    ebpf: Ebpf,
    traced: HashMap<MapData, u32, [u32; 4]>,
    sieve: Array<MapData, u32>,
    shared: Array<MapData, u64>,
    watched: HashMap<MapData, u64, [u32; 2]>,
    /// The slots in `watched`, by process.
    watching: BTreeSet<(u32, u32)>,
    /// The files in `watched`, oldest first.
    watched_files: VecDeque<u64>,
    per_cpu: PerCpuArray<MapData, [u64; 1 + loss::CLASSES]>,
    python: HashMap<MapData, u32, Words<{ size_of::<PyEntry>() / 8 }>>,
    images: HashMap<MapData, [u64; 2], Words<{ size_of::<PyImage>() / 8 }>>,
    /// The programs that capture stacks are in place as long as these are.
    next: Vec<ProgramArray<MapData>>,
    /// Position of the next record.
    pos: u64,
    captured: u64,
    lost_epoch: u32,
    counted: [u64; loss::CLASSES],
    last_time: u64,
    empty_drains: u32,
    /// Records made here, to be passed on before those in the ring.
    queued: Vec<Vec<u8>>,
    snapshots: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Live {
    /// Loads and attaches everything. Nothing is traced yet. Must be called inside a tokio runtime.
    pub fn start(settings: &Settings) -> Result<Self> {
        raise_memlock();
        let offsets = offsets::of_running_kernel()?;
        let btf = Btf::from_sys_fs().context("cannot read the kernel's type information (BTF)")?;
        let classes = syscalls::classes(Arch::native());
        let compat = Arch::native().compat().map_or([0; globals::SYSCALLS], syscalls::classes);
        // Before 5.11 there is no helper that returns a typed task.
        let have_task_btf = u32::from(KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(5, 11, 0)));
        let debug = u32::from(settings.debug);
        let witnesses = if settings.stacks { syscalls::witnesses(Arch::native()) } else { [0; globals::SYSCALLS] };
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&btf))
            .override_global(globals::OFFSETS, offsets.words(), true)
            .override_global(globals::CLASSES, &classes, true)
            .override_global(globals::CLASSES_COMPAT, &compat, true)
            .override_global(globals::HAVE_TASK_BTF, &have_task_btf, true)
            .override_global(globals::DEBUG, &debug, true)
            .override_global(globals::WITNESSES, &witnesses, true)
            .override_global(globals::STACK_BYTES, &settings.stack_bytes, true)
            .map_max_entries("EVENTS", settings.ring_size);
        let mut ebpf =
            loader.load(OBJECT).map_err(|error| explain(&error, "the kernel refused fdtrace's BPF object"))?;
        if settings.debug {
            start_logger(&mut ebpf)?;
        }
        let snapshot: &mut Iter = program(&mut ebpf, "snapshot")?;
        snapshot
            .load("task_file", &btf)
            .map_err(|error| explain(&error, "the kernel refused the snapshot iterator"))?;
        for hook in HOOKS {
            let program: &mut BtfTracePoint = program(&mut ebpf, hook)?;
            program.load(hook, &btf).map_err(|error| explain(&error, &format!("the kernel refused hook `{hook}`")))?;
        }
        let ring = RingBuf::try_from(map(&mut ebpf, "EVENTS")?)?;
        let traced = HashMap::try_from(map(&mut ebpf, "TRACED")?)?;
        let sieve = Array::try_from(map(&mut ebpf, "SIEVE")?)?;
        let shared = Array::try_from(map(&mut ebpf, "SHARED")?)?;
        let watched = HashMap::try_from(map(&mut ebpf, "WATCHED")?)?;
        let per_cpu = PerCpuArray::try_from(map(&mut ebpf, "PER_CPU")?)?;
        let python = HashMap::try_from(map(&mut ebpf, "PYTHON")?)?;
        let images = HashMap::try_from(map(&mut ebpf, "IMAGES")?)?;
        let next = if settings.stacks { chain(&mut ebpf, &btf)? } else { Vec::new() };
        // SAFETY: the ring owns its descriptor and keeps it open for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(|error| anyhow!("cannot watch the ring buffer: {error}"))?;
        let mut live = Self {
            ring,
            ebpf,
            traced,
            sieve,
            shared,
            watched,
            watching: BTreeSet::new(),
            watched_files: VecDeque::new(),
            per_cpu,
            python,
            images,
            next,
            pos: 0,
            captured: 0,
            lost_epoch: 0,
            counted: [0; loss::CLASSES],
            last_time: clock::boot_ns(),
            empty_drains: 0,
            queued: Vec::new(),
            snapshots: Vec::new(),
        };
        live.learn_kinds()?;
        for hook in HOOKS {
            let program: &mut BtfTracePoint = program(&mut live.ebpf, hook)?;
            program
                .attach()
                .map_err(|error| explain(&error, &format!("the kernel refused to attach hook `{hook}`")))?;
        }
        Ok(live)
    }

    /// Traces a process from now on. `wait_exec`: from its next exec on.
    pub fn adopt(&mut self, tgid: u32, wait_exec: bool) -> Result<()> {
        let flags = if wait_exec { traced::ON | traced::WAIT_EXEC } else { traced::ON };
        let entries = self.sieve.len();
        self.sieve.set(tgid % entries, 1, 0).context("cannot set the process filter")?;
        self.traced
            .insert(tgid, [flags, 0, 0, 0], 0)
            .with_context(|| format!("cannot add process {tgid} to the set of traced processes"))?;
        self.queued.push(process::record(tgid));
        // A thread born meanwhile is reported by its fork.
        self.queued.extend(process::threads(tgid));
        Ok(())
    }

    /// Stacks are captured.
    pub fn has_stacks(&self) -> bool {
        !self.next.is_empty()
    }

    /// How many programs a traced process has run: to be asked for before its memory is looked at.
    pub fn execs(&self, tgid: u32) -> Option<u32> {
        self.traced.get(&tgid, 0).ok().map(|[_, execs, ..]| execs)
    }

    /// Tells the kernel side where a process keeps its Python frames. Has no effect on a program that the process has
    /// begun to run since `execs`.
    pub fn set_python(&mut self, tgid: u32, execs: u32, process: &PyProcess) -> Result<()> {
        let entry = PyEntry { process: *process, execs, reserved: 0 };
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

    /// Has the next `times` uses of a number by a process reported. A use is told by its own end, also if it succeeds.
    pub fn watch(&mut self, tgid: u32, fd: i32, times: u32) -> Result<()> {
        let Some(number) = self.mark(fd)? else { return Ok(()) };
        self.watching.insert((tgid, number));
        let watch = [times, wire::Watch::EVERY];
        self.watched.insert(wire::watch_key(tgid, number), watch, 0).context("cannot watch the slot")
    }

    /// Has uses of a file reported, at most `times`, whenever another process than the last one makes them. `fd` is a number
    /// that it has; under others of which nobody has told it is not seen.
    pub fn watch_file(&mut self, file: u64, fd: i32, times: u32) -> Result<()> {
        if file == 0 || self.mark(fd)?.is_none() {
            return Ok(());
        }
        // Their addresses are used again, so the oldest say nothing any more.
        if !self.watched_files.contains(&file) {
            self.watched_files.push_back(file);
        }
        if self.watched_files.len() > WATCHED_FILES
            && let Some(old) = self.watched_files.pop_front()
            && let Err(error) = self.watched.remove(&old)
        {
            log::debug!("cannot stop watching a file: {error}");
        }
        self.watched.insert(file, [times, 0], 0).context("cannot watch the file")
    }

    /// Marks a number as one that is worth a look-up.
    fn mark(&mut self, fd: i32) -> Result<Option<u32>> {
        let Ok(number) = u32::try_from(fd) else { return Ok(None) };
        let numbers = self.shared.get(&shared::WATCHED_NUMBERS, 0).unwrap_or(0);
        // Bits are set and never cleared: a number that is watched once costs a look-up for good.
        self.shared.set(shared::WATCHED_NUMBERS, numbers | 1 << (number & 63), 0).context("cannot mark the number")?;
        Ok(Some(number))
    }

    /// Forgets what was watched in a process that is gone.
    pub fn unwatch(&mut self, tgid: u32) {
        let keys: Vec<(u32, u32)> = self.watching.range((tgid, 0)..=(tgid, u32::MAX)).copied().collect();
        for (tgid, number) in keys {
            self.watching.remove(&(tgid, number));
            if let Err(error) = self.watched.remove(&wire::watch_key(tgid, number)) {
                log::debug!("cannot stop watching fd {number} of process {tgid}: {error}");
            }
        }
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

    /// Processes that are traced now.
    pub fn traced(&self) -> Vec<u32> {
        self.traced.keys().filter_map(Result::ok).collect()
    }

    /// Has the kernel list every descriptor of a process, or of all that are traced. Returns at once: the rows come
    /// through the ring.
    pub fn snapshot(&mut self, tgid: Option<u32>) -> Result<()> {
        self.shared
            .set(shared::SNAPSHOT_TGID, u64::from(tgid.unwrap_or(0)), 0)
            .context("cannot choose the process of the snapshot")?;
        let header = user_header(kind::SNAP_BEGIN, tgid.unwrap_or(0));
        self.queued.push(bytes_of(&wire::SnapBegin { header }).to_vec());
        let mut file = self.iterator()?;
        // Rows are drained meanwhile, so the iterator must not run on this thread.
        self.snapshots.push(std::thread::spawn(move || read_to_end(&mut file)));
        Ok(())
    }

    /// No snapshot is being taken.
    pub fn snapshots_done(&mut self) -> Result<bool> {
        let mut running = Vec::new();
        for snapshot in self.snapshots.drain(..) {
            if snapshot.is_finished() {
                snapshot
                    .join()
                    .map_err(|_| anyhow!("the thread that takes the snapshot died"))?
                    .context("the kernel's descriptor iterator failed")?;
            } else {
                running.push(snapshot);
            }
        }
        self.snapshots = running;
        Ok(self.snapshots.is_empty())
    }

    fn iterator(&mut self) -> Result<File> {
        let program: &mut Iter = program(&mut self.ebpf, "snapshot")?;
        let link = program.attach().context("cannot start the descriptor iterator")?;
        let link = program.take_link(link).context("cannot start the descriptor iterator")?;
        link.into_file().context("cannot start the descriptor iterator")
    }

    /// Passes on every record there is, in order, with its position. Returns how many came from the ring.
    pub fn drain(&mut self, mut out: impl FnMut(u64, &[u8])) -> usize {
        for record in std::mem::take(&mut self.queued) {
            out(self.pos, &record);
        }
        let mut count = 0;
        loop {
            let (pos, lost) = {
                let Some(item) = self.ring.get_mut().next() else { break };
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

    /// Passes on losses that no record has told of, and the time.
    pub fn tick(&mut self, mut out: impl FnMut(u64, &[u8])) {
        let epoch = self.shared.get(&shared::LOST_EPOCH, 0).unwrap_or(0) as u32;
        let skipped = self.skipped();
        if epoch != self.lost_epoch || skipped != self.counted[loss::SKIPPED] {
            self.lost_epoch = epoch;
            let gap = self.gap(clock::boot_ns());
            out(self.pos, bytes_of(&gap));
        }
        out(self.pos, bytes_of(&wire::Tick { header: user_header(kind::TICK, 0) }));
    }

    fn gap(&mut self, until: u64) -> wire::Lost {
        let counted = self.totals().by_class;
        let mut by_class = [0; loss::CLASSES];
        for (class, count) in by_class.iter_mut().enumerate() {
            *count = counted[class].saturating_sub(self.counted[class]);
        }
        self.counted = counted;
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
        self.shared.set(shared::ARMED, 1, 0).context("cannot ask the kernel to wake us")?;
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

    /// Asks for the entries of an epoll instance that was there before.
    pub fn read_epoll(&mut self, tid: u32, epoll: i32) {
        self.queued.extend(process::epoll_entries(tid, epoll));
    }

    /// How often the kernel skipped a hook.
    fn skipped(&self) -> u64 {
        let programs = HOOKS.iter().filter_map(|hook| self.ebpf.program(hook)?.fd().ok());
        programs.map(|fd| misses::of(fd.as_fd())).sum()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals { captured: self.captured, ..Totals::default() };
        let skipped = self.skipped();
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

    /// Which file operations mean which kind: the iterator looks at examples that we open ourselves.
    fn learn_kinds(&mut self) -> Result<()> {
        let examples = kinds::examples();
        let me = std::process::id();
        self.adopt(me, false)?;
        self.queued.clear();
        self.shared
            .set(shared::SNAPSHOT_TGID, u64::from(me), 0)
            .context("cannot choose the process of the snapshot")?;
        read_to_end(&mut self.iterator()?).context("the kernel's descriptor iterator failed")?;
        let mut learned = Vec::new();
        self.drain(|_, bytes| {
            if let Some((row, _)) = wire::read::<wire::SnapRow>(bytes)
                && row.header.kind == kind::SNAP_ROW
                && let Some(name) = kinds::name_of(&examples, row.fd)
            {
                let header = user_header(kind::FOP_KIND, 0);
                learned.push(bytes_of(&wire::FopKind { header, fop: row.file.fop, name }).to_vec());
            }
        });
        self.traced.remove(&me).context("cannot stop looking at ourselves")?;
        self.queued = learned;
        Ok(())
    }
}

/// A structure as the words of a map's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Words<const N: usize>([u64; N]);

// SAFETY: integers.
unsafe impl<const N: usize> aya::Pod for Words<N> {}

impl<const N: usize> Words<N> {
    fn of<T: Plain>(value: &T) -> Self {
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes_of(value).as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Self(words)
    }
}

/// Loads the programs that capture stacks and puts them where the hooks look. None where the kernel refuses them.
fn chain(ebpf: &mut Ebpf, btf: &Btf) -> Result<Vec<ProgramArray<MapData>>> {
    // They loop with `bpf_loop`. Older verifiers complain of something else, which would help nobody.
    if KernelVersion::current().is_ok_and(|running| running < KernelVersion::new(5, 17, 0)) {
        log::warn!("no stacks and no owners, only calls: they need Linux 5.17 or later");
        return Ok(Vec::new());
    }
    for (name, tracepoint, _) in NEXT {
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        if let Err(error) = program.load(tracepoint, btf) {
            let error = explain(&error, &format!("the kernel refused program `{name}`"));
            log::warn!("no stacks and no owners, only calls: {error:#}");
            return Ok(Vec::new());
        }
    }
    let mut arrays: [ProgramArray<MapData>; 2] =
        [ProgramArray::try_from(map(ebpf, "ENTER_NEXT")?)?, ProgramArray::try_from(map(ebpf, "EXIT_NEXT")?)?];
    for (name, tracepoint, index) in NEXT {
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        let fd = program.fd().with_context(|| format!("program `{name}` is not loaded"))?;
        let array = &mut arrays[usize::from(tracepoint == "sys_exit")];
        array.set(index, fd, 0).with_context(|| format!("cannot put program `{name}` in its place"))?;
    }
    Ok(arrays.into())
}

/// Space that a record takes in the ring: an 8-byte header, and padding to 8 bytes.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/ringbuf.c#L437>
fn ring_bytes(len: usize) -> u64 {
    (len as u64 + 8).next_multiple_of(8)
}

fn user_header(kind: u16, tgid: u32) -> Header {
    Header { kind, tgid, time: clock::boot_ns(), ..Header::default() }
}

/// An iterator that prints nothing is run by reading it once; it says `EAGAIN` when it was interrupted by its own limit.
fn read_to_end(file: &mut File) -> std::io::Result<()> {
    let mut buffer = [0u8; 4096];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).with_context(|| format!("the BPF object has no program `{name}`"))?;
    program.try_into().with_context(|| format!("program `{name}` of the BPF object has another type"))
}

fn map(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("the BPF object has no map `{name}`"))
}

/// Passes the kernel side's own diagnostics on to our log.
fn start_logger(ebpf: &mut Ebpf) -> Result<()> {
    let logger = aya_log::EbpfLogger::init(ebpf).context("cannot start the kernel-side log")?;
    // SAFETY: the logger owns its descriptor and keeps it open for as long as it lives.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = logger.map_err(|error| anyhow!("cannot watch the kernel-side log: {error}"))?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}

/// Before 5.11 maps count against a limit that is small by default; later it does not matter that this fails.
fn raise_memlock() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid pointer to a plain structure.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
        log::debug!("cannot raise RLIMIT_MEMLOCK: {}", std::io::Error::last_os_error());
    }
}

/// An error of the loader, with the last lines of the verifier's log instead of all of them.
fn explain(error: &dyn std::error::Error, what: &str) -> anyhow::Error {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let line = error.to_string();
        log::debug!("{line}");
        let lines: Vec<&str> = line.lines().collect();
        let tail = lines.len().saturating_sub(20);
        let line = lines[tail..].join("\n");
        if !text.contains(&line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&line);
        }
        cause = error.source();
    }
    anyhow!("{text}").context(what.to_owned())
}

const _: () = assert!(size_of::<wire::TracedProcess>() == 16 && size_of::<wire::PerCpu>() == 8 * (1 + loss::CLASSES));
