//! JSON lines, for programs: one object a line, with `type`, `schema` and a gapless `seq`.
//!
//! Each line is written at once and whole, so that a reader who follows the file, or comes after a crash, finds whole
//! lines. This module knows when a line is written; [`form`] knows what is in it, [`safe`] how strings are spelled.

mod form;
mod safe;

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Sink,
    fold::Repeat,
    lifetime::Lifetime,
    run::{Loss, Mark, RunMeta, SCHEMA, Summary},
};
use crate::detect::finding::Finding;
use form::{EndForm, FindingForm, LifetimeForm, Line, LossForm, MarkForm, MetaForm, Record, RepeatForm};

pub struct JsonSink<W: Write> {
    out: W,
    seq: u64,
    schema: String,
    meta: Option<RunMeta>,
    /// Each line is out before the next is made: somebody may be following.
    at_once: bool,
}

impl<W: Write> JsonSink<W> {
    pub fn new(out: W) -> Self {
        Self { out, seq: 0, schema: SCHEMA.to_owned(), meta: None, at_once: true }
    }

    /// For many lines that nobody waits for: what `out` holds back is flushed at the end.
    pub fn buffered(out: W) -> Self {
        Self { at_once: false, ..Self::new(out) }
    }

    /// Gives the writer back, for a caller that keeps the bytes.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn line(&mut self, record: &impl Record) -> io::Result<()> {
        let line = Line { schema: &self.schema, seq: self.seq, record };
        let mut bytes = Vec::with_capacity(1024);
        line.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, safe::Formatter))?;
        bytes.push(b'\n');
        self.out.write_all(&bytes)?;
        // Counted once it is out: a line that a full disk refused leaves no gap.
        self.seq += 1;
        if self.at_once { self.out.flush() } else { Ok(()) }
    }

    fn wall(&self, boot: u64) -> Option<Timestamp> {
        self.meta.as_ref()?.wall(boot)
    }
}

impl<W: Write> Sink for JsonSink<W> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.schema.clone_from(&meta.schema);
        self.meta = Some(meta.clone());
        self.line(&MetaForm { meta })
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.line(&FindingForm { finding, wall: self.wall(finding.time) })
    }

    fn repeated(&mut self, repeat: &Repeat) -> io::Result<()> {
        let [first_wall, last_wall] = [self.wall(repeat.first), self.wall(repeat.last.time)];
        self.line(&RepeatForm { repeat, first_wall, last_wall })
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.line(&LossForm { loss, wall: self.wall(loss.time) })
    }

    fn mark(&mut self, mark: &Mark) -> io::Result<()> {
        self.line(&MarkForm { mark, wall: self.wall(mark.time) })
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        self.line(&LifetimeForm { lifetime, wall: self.wall(lifetime.opened.time) })
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        self.line(&EndForm { summary })?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
