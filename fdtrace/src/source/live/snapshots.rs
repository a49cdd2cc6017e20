//! Snapshots: the kernel lists descriptors into the ring, on a thread of its own.

use std::{fs::File, io::Read as _};

use anyhow::{Context as _, Result, anyhow};
use aya::programs::Iter;
use fdtrace_common::wire::{self, bytes_of, kind};

use super::{
    Live,
    object::{self, SNAPSHOT},
    user_header,
};
use crate::source::kinds;

impl Live {
    /// Has the kernel list every descriptor of a process, or of all that are traced. Returns at once: the rows come
    /// through the ring.
    pub fn snapshot(&mut self, tgid: Option<u32>) -> Result<()> {
        self.snapshot_of.set(u64::from(tgid.unwrap_or(0))).context("cannot choose the process of the snapshot")?;
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
        self.snapshot_of.set(u64::from(me)).context("cannot choose the process of the snapshot")?;
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
