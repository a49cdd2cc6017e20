//! Snapshots: the kernel lists descriptors into the ring, on a thread of its own.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use aya::programs::Iter;
use fdtrace_common::wire::{self, Header, bytes_of, flag, kind};

use super::{
    Live,
    object::{self, SNAPSHOT},
    user_header,
    word::Word,
};
use crate::source::{kinds, process};

/// How long a snapshot may take before it is given up where it waits for room in the ring.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits before it looks again.
const PAUSE: Duration = Duration::from_millis(1);
/// To list all threads keeps us from draining, which loses more. What takes longer than this is done for a twentieth of the
/// time at most.
const SOON_LISTED: Duration = Duration::from_millis(10);

/// One is taken at a time: the kernel side has room for one wish, and the rows of two could not be told apart.
pub(super) struct Snapshots {
    /// What the iterator reads: see `shared::SNAPSHOT` of the kernel side.
    wish: Word,
    number: u32,
    running: Option<Running>,
    /// The next one: of a process, or of all.
    next: Option<Option<u32>>,
    /// The next one that may is of all processes, and lists their threads as well.
    threads: bool,
    /// When they were listed last, and how long that took.
    listed: Option<(Instant, Duration)>,
}

struct Running {
    /// Whether it came to its end.
    thread: JoinHandle<std::io::Result<bool>>,
    lists_threads: bool,
}

impl Snapshots {
    pub fn new(wish: Word) -> Self {
        Self { wish, number: 0, running: None, next: None, threads: false, listed: None }
    }

    /// Something was lost, and may have been the end of a thread.
    pub fn doubt_threads(&mut self) {
        self.threads = true;
    }

    /// Does the one that begins now list the threads?
    fn settles_threads(&mut self) -> bool {
        let may = self.listed.is_none_or(|(then, took)| took <= SOON_LISTED || then.elapsed() >= 20 * took);
        may && std::mem::take(&mut self.threads)
    }

    /// The number of a snapshot that begins.
    fn begin(&mut self, tgid: Option<u32>) -> Result<u64> {
        self.number = self.number.wrapping_add(1);
        let number = u64::from(self.number);
        let wish = number << 32 | u64::from(tgid.unwrap_or(0));
        self.wish.set(wish).context("cannot choose the process of the snapshot")?;
        Ok(number)
    }
}

impl Live {
    /// Has the kernel list every descriptor of a process, or of all that are traced. Returns at once: the rows come
    /// through the ring. While another one is being taken, this one waits for its end, and [`Self::snapshots_done`] for
    /// both.
    pub fn snapshot(&mut self, tgid: Option<u32>) -> Result<()> {
        if self.snapshots.running.is_some() {
            let next = &mut self.snapshots.next;
            *next = Some(if next.is_none_or(|next| next == tgid) { tgid } else { None });
            return Ok(());
        }
        // What was lost may be about any process.
        let threads = if self.snapshots.settles_threads() { self.threads() } else { None };
        let lists_threads = threads.is_some();
        let tgid = tgid.filter(|_| !lists_threads);
        let reading = self.snapshots.begin(tgid)?;
        let header = user_header(kind::SNAP_BEGIN, tgid.unwrap_or(0));
        let header = Header { flags: if lists_threads { flag::THREADS } else { 0 }, ..header };
        self.queued.push(bytes_of(&wire::SnapBegin { header, reading }).to_vec());
        self.queued.extend(threads.into_iter().flatten());
        let mut file = self.iterator()?;
        // Rows are drained meanwhile, so the iterator must not run on this thread.
        let thread = std::thread::spawn(move || read_to_end(&mut file));
        self.snapshots.running = Some(Running { thread, lists_threads });
        Ok(())
    }

    /// The threads of all traced processes. `None`: there are processes, and `/proc` knows of none of them, so it says nothing.
    fn threads(&mut self) -> Option<Vec<Vec<u8>>> {
        let begun = Instant::now();
        let traced: Vec<u32> = self.traced.keys().flatten().collect();
        let threads: Vec<Vec<u8>> = traced.iter().flat_map(|tgid| process::threads(*tgid)).collect();
        self.snapshots.listed = Some((begun, begun.elapsed()));
        (traced.is_empty() || !threads.is_empty()).then_some(threads)
    }

    /// No snapshot is being taken. One that has waited for its turn begins here.
    pub fn snapshots_done(&mut self) -> Result<bool> {
        let Some(running) = self.snapshots.running.take_if(|running| running.thread.is_finished()) else {
            return Ok(self.snapshots.running.is_none());
        };
        let ended = running
            .thread
            .join()
            .map_err(|_| anyhow!("the thread that takes the snapshot died"))?
            .context("the kernel's descriptor iterator failed")?;
        // What was listed counts at the end only.
        self.snapshots.threads |= running.lists_threads && !ended;
        let Some(next) = self.snapshots.next.take() else { return Ok(true) };
        self.snapshot(next)?;
        Ok(false)
    }

    fn iterator(&mut self) -> Result<File> {
        let program: &mut Iter = object::program(&mut self.object.ebpf, SNAPSHOT)?;
        let link = program.attach().context("cannot start the descriptor iterator")?;
        let link = program.take_link(link).context("cannot start the descriptor iterator")?;
        link.into_file().context("cannot start the descriptor iterator")
    }

    /// Which file operations mean which kind: the iterator looks at examples that we open ourselves.
    pub(super) fn learn_kinds(&mut self) -> Result<()> {
        let examples = kinds::examples();
        let me = std::process::id();
        self.adopt(me, false)?;
        self.queued.clear();
        self.snapshots.begin(Some(me))?;
        read_to_end(&mut self.iterator()?).context("the kernel's descriptor iterator failed")?;
        let mut learned = Vec::new();
        self.drain(usize::MAX, |_, bytes| {
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

/// An iterator that prints nothing is run by reading it once; it says `EAGAIN` when it was interrupted by its own limit,
/// and when it found the ring half full. Returns whether it came to its end.
fn read_to_end(file: &mut File) -> std::io::Result<bool> {
    let mut buffer = [0u8; 4096];
    let begun = Instant::now();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => {
                std::thread::sleep(PAUSE);
            }
            // Without its end, a snapshot says nothing.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
