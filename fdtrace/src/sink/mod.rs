//! Where findings go. A sink turns findings into bytes for a reader, a person or a program; it judges nothing, opens
//! nothing but its own output, and asks nobody: all it tells was handed to it.
//!
//! Of the other stages a sink knows [`Finding`] only. Names in it were chosen by the traced program; every sink escapes
//! them in the way of its form.

pub mod alike;
pub mod csv;
pub mod explain;
pub mod filter;
#[cfg(test)]
pub(crate) mod fixture;
pub mod fold;
pub mod github;
pub mod html;
pub mod json;
pub mod junit;
pub mod lanes;
pub mod lifetime;
pub mod output;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod perfetto;
mod place;
pub mod run;
pub mod sarif;
mod shape;
pub mod sqlite;
pub mod suppress;
pub mod text;

use std::io;

use crate::detect::finding::Finding;
use lifetime::Lifetime;

pub use run::{FindingCounts, Loss, Mark, RunMeta, Summary, Target};

/// Takes what a run has to say, in the order in which it is said: `meta` first, `end` last.
///
/// An error is one of writing. The sink stays usable: a full disk may have room again.
pub trait Sink {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()>;

    fn finding(&mut self, finding: &Finding) -> io::Result<()>;

    fn loss(&mut self, loss: &Loss) -> io::Result<()>;

    /// A traced program has said that it is here. For programs that follow.
    fn mark(&mut self, _mark: &Mark) -> io::Result<()> {
        Ok(())
    }

    /// A generation is over, or the run is and it is not. For exports; live runs do not tell them.
    fn lifetime(&mut self, _lifetime: &Lifetime) -> io::Result<()> {
        Ok(())
    }

    /// An earlier finding has come again, this often; told once, near the end.
    fn repeated(&mut self, _repeat: &fold::Repeat) -> io::Result<()> {
        Ok(())
    }

    /// The time of events has come to `now`. A sink that holds findings back, to tell what belongs together at once,
    /// tells those that are ripe. To be called now and then, also while nothing is found.
    fn flush_incidents(&mut self, _now: u64) -> io::Result<()> {
        Ok(())
    }

    /// The process is gone, and with it the hope for further consequences in it.
    fn process_ended(&mut self, _pid: u32) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()>;
}

/// Several sinks as one. Each is served, whatever became of those before it; the first error is returned.
#[derive(Default)]
pub struct Sinks(pub Vec<Box<dyn Sink>>);

impl Sinks {
    fn each(&mut self, mut tell: impl FnMut(&mut dyn Sink) -> io::Result<()>) -> io::Result<()> {
        let mut told = Ok(());
        for sink in &mut self.0 {
            told = told.and(tell(sink.as_mut()));
        }
        told
    }
}

impl Sink for Sinks {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.each(|sink| sink.meta(meta))
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.each(|sink| sink.finding(finding))
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.each(|sink| sink.loss(loss))
    }

    fn mark(&mut self, mark: &Mark) -> io::Result<()> {
        self.each(|sink| sink.mark(mark))
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        self.each(|sink| sink.lifetime(lifetime))
    }

    fn repeated(&mut self, repeat: &fold::Repeat) -> io::Result<()> {
        self.each(|sink| sink.repeated(repeat))
    }

    fn flush_incidents(&mut self, now: u64) -> io::Result<()> {
        self.each(|sink| sink.flush_incidents(now))
    }

    fn process_ended(&mut self, pid: u32) -> io::Result<()> {
        self.each(|sink| sink.process_ended(pid))
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        self.each(|sink| sink.end(summary))
    }
}
