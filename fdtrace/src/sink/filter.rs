//! Lets some of what is told through to another sink.

use std::io;

use memchr::memmem;

use super::{
    Sink,
    lifetime::Lifetime,
    run::{Loss, Mark, RunMeta, Summary},
};
use crate::{detect::finding::Finding, plan::Filter};

pub struct Filtered {
    pub filter: Filter,
    pub sink: Box<dyn Sink>,
}

impl Filtered {
    fn wants(&self, pid: u32, fd: i32, mut objects: impl Iterator<Item = impl AsRef<[u8]>>) -> bool {
        let Filter { pids, fds, path } = &self.filter;
        (pids.is_empty() || pids.contains(&pid))
            && (fds.is_empty() || fds.contains(&fd))
            && path.as_ref().is_none_or(|path| objects.any(|object| memmem::find(object.as_ref(), path).is_some()))
    }
}

impl Sink for Filtered {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.sink.meta(meta)
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let objects = finding.timeline.iter().map(|act| &act.object.0);
        if self.wants(finding.pid, finding.fd, objects) { self.sink.finding(finding) } else { Ok(()) }
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.sink.loss(loss)
    }

    fn mark(&mut self, mark: &Mark) -> io::Result<()> {
        self.sink.mark(mark)
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        let wanted = self.wants(lifetime.pid, lifetime.fd, std::iter::once(&lifetime.object.0));
        if wanted { self.sink.lifetime(lifetime) } else { Ok(()) }
    }

    fn flush_incidents(&mut self, now: u64) -> io::Result<()> {
        self.sink.flush_incidents(now)
    }

    fn process_ended(&mut self, pid: u32) -> io::Result<()> {
        self.sink.process_ended(pid)
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        self.sink.end(summary)
    }
}
