//! A recording through the same stages as a live run: the same findings, by today's rules.
//!
//! Where the file is damaged, events are missing, and that is told like any other loss; the next snapshot in the file
//! says what was open by then.

mod lines;

use std::ops::ControlFlow;

use fdtrace_common::wire::{self, Header, Lost, bytes_of, kind};

use crate::{
    detect::callsite,
    plan::{Point, Range, Reading},
    sink::{FindingCounts, Loss, RunMeta, Sink, Sinks, Summary},
    source::recording::{
        about::{About, End},
        frame::{Head, block},
        reader::{Block, Damage},
        unpack::unpack,
    },
    syscalls::Arch,
};
use lines::Lines;

use super::{
    Stages,
    failure::Failure,
    progress::Progress,
    quiet::Quiet,
    reading::{blocks, no_recording, remarks},
    record,
    stages::News,
};

/// Class of loss for what a damaged file does not have.
const DAMAGED: &str = "recording damaged";

/// What became of a replay.
#[derive(Debug, Default)]
pub struct Replayed {
    pub summary: Summary,
    pub damage: Damage,
    /// The recorder could say that it was over.
    pub ended: bool,
}

/// Tells the sinks what a recording tells, but for what is to be quiet.
pub fn replay(
    reading: &Reading,
    sinks: &mut Sinks,
    quiet: &mut Quiet,
    progress: Progress,
    lifetimes: bool,
) -> Result<Replayed, Failure> {
    let mut replayer = Replayer::new(sinks, quiet, reading.range, lifetimes);
    for path in &reading.files {
        replayer.lines.look_ahead(path)?;
    }
    let read = blocks(reading, progress, |block| {
        replayer.block(block)?;
        Ok(if replayer.past_range { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if replayer.about.is_none() {
        return Err(no_recording(reading, read.damage));
    }
    let replayed = replayer.end(read.damage)?;
    if !reading.quiet {
        remark(&replayed);
    }
    Ok(replayed)
}

fn remark(replayed: &Replayed) {
    for remark in remarks(replayed.damage, replayed.ended) {
        log::warn!("{remark}");
    }
}

struct Replayer<'a> {
    lines: Lines,
    sinks: &'a mut Sinks,
    quiet: &'a mut Quiet,
    range: Range,
    /// The range as boot time, once the clocks are known.
    bounds: (u64, u64),
    about: Option<About>,
    introduced: bool,
    stages: Stages,
    lifetimes: bool,
    news: Vec<News>,
    counts: FindingCounts,
    last: Head,
    last_time: u64,
    /// Nothing is missing since the last block. At first everything is.
    continuous: bool,
    /// Records that damage took.
    damaged: u64,
    end: Option<End>,
    past_range: bool,
    error: Option<std::io::Error>,
}

impl<'a> Replayer<'a> {
    fn new(sinks: &'a mut Sinks, quiet: &'a mut Quiet, range: Range, lifetimes: bool) -> Self {
        Self {
            lines: Lines::default(),
            sinks,
            quiet,
            range,
            bounds: (0, u64::MAX),
            about: None,
            introduced: false,
            stages: Stages::new(Arch::native()),
            lifetimes,
            news: Vec::new(),
            counts: FindingCounts::default(),
            last: Head::default(),
            last_time: 0,
            continuous: false,
            damaged: 0,
            end: None,
            past_range: false,
            error: None,
        }
    }

    fn block(&mut self, block: Block) -> anyhow::Result<()> {
        let Block { head, content, gap } = block;
        let missing = gap.is_some_and(|gap| gap.missing > 0);
        if missing {
            self.continuous = false;
        }
        match head.block {
            block::ABOUT => return self.about(&head, &content),
            // Nothing can be said of records from nobody knows where.
            _ if self.about.is_none() => return Ok(()),
            block::DATA => {
                if head.first_time > self.bounds.1 {
                    self.past_range = true;
                    return Ok(());
                }
                if !self.continuous {
                    self.tell_gap(&head);
                }
                let unpacked = unpack(&content, |pos, record| self.record(pos, record));
                self.continuous = unpacked.is_ok();
                self.last = head;
                self.publish();
            }
            block::SNAPSHOT if !self.continuous => {
                self.tell_gap(&head);
                // What can be read of it is worth having.
                let _ = unpack(&content, |pos, record| self.record(pos, record));
                self.continuous = true;
                self.last = head;
                self.publish();
            }
            block::DEFINITIONS => self.lines.learn(&content),
            block::END => {
                self.end = serde_json::from_slice(&content).ok();
                self.last = head;
            }
            _ => {}
        }
        match self.error.take() {
            Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(anyhow::Error::new(error).context("cannot write what was found"))
            }
            _ => Ok(()),
        }
    }

    fn about(&mut self, head: &Head, content: &[u8]) -> anyhow::Result<()> {
        let Ok(about) = serde_json::from_slice::<About>(content) else { return Ok(()) };
        match &self.about {
            Some(known) if !known.same_run(&about) => {
                anyhow::bail!("it belongs to another run than the files before it")
            }
            Some(_) => {}
            None => {
                anyhow::ensure!(
                    about.wire <= wire::VERSION,
                    "its records have version {}, and this fdtrace knows versions up to {}",
                    about.wire,
                    wire::VERSION
                );
                let arch = if about.arch == "aarch64" { Arch::Aarch64 } else { Arch::X86_64 };
                let stages = Stages::new(arch);
                self.stages = if self.lifetimes { stages.with_lifetimes() } else { stages };
                // The very first block: there is nothing before it that could be missing.
                self.continuous = head.seq == 0;
                let bound = |point: Option<Point>, otherwise| point.map_or(otherwise, |point| boot(&about, point));
                self.bounds = (bound(self.range.from, 0), bound(self.range.to, u64::MAX));
            }
        }
        if about.introduced && !self.introduced {
            self.introduced = true;
            self.publish();
            self.meta(&record::meta(&about));
        }
        self.about = Some(about);
        Ok(())
    }

    fn meta(&mut self, meta: &RunMeta) {
        let told = self.sinks.meta(meta);
        self.note(told);
    }

    /// Says that events are missing before this block, and how many.
    fn tell_gap(&mut self, head: &Head) {
        let taken = head.captured.saturating_sub(self.last.captured).saturating_sub(u64::from(head.records));
        // A file that begins in the middle of a run has lost nothing: the files before it have it.
        if self.last == Head::default() {
            return;
        }
        self.damaged += taken;
        let until = head.first_time.saturating_sub(1);
        let since = self.last_time.min(until);
        let header = Header { kind: kind::LOST, time: until, ..Header::default() };
        self.stages.feed(head.first_pos, bytes_of(&Lost { header, since, ..Lost::default() }), &mut self.news);
        for news in &mut self.news {
            if let News::Loss(Loss { by_class, .. }) = news
                && by_class.is_empty()
            {
                by_class.push((DAMAGED, taken));
            }
        }
    }

    fn record(&mut self, pos: u64, record: &[u8]) {
        let header = wire::read::<Header>(record).map(|(header, _)| header).unwrap_or_default();
        if header.time > self.bounds.1 {
            self.past_range = true;
            return;
        }
        self.last_time = header.time;
        self.stages.feed(pos, record, &mut self.news);
        if header.kind == kind::TICK {
            self.publish();
            let told = self.sinks.flush_incidents(self.stages.world.now().time);
            self.note(told);
        }
    }

    fn publish(&mut self) {
        let (from, to) = self.bounds;
        for news in std::mem::take(&mut self.news) {
            let told = match news {
                News::Finding(mut finding) if (from..=to).contains(&finding.time) => {
                    self.lines.fill(&mut finding);
                    if !callsite::weigh(&mut finding) || !self.quiet.may_tell(&finding) {
                        continue;
                    }
                    self.counts.add(&finding);
                    self.sinks.finding(&finding)
                }
                News::Loss(loss) if loss.time >= from && loss.since <= to => self.sinks.loss(&loss),
                News::Lifetime(lifetime)
                    if lifetime.ended().is_none_or(|ended| ended >= from) && lifetime.opened.time <= to =>
                {
                    self.sinks.lifetime(&lifetime)
                }
                News::ProcessEnded(pid) => self.sinks.process_ended(pid),
                News::Mark(mark) if (from..=to).contains(&mark.time) => self.sinks.mark(&mark),
                News::Finding(_)
                | News::Loss(_)
                | News::Lifetime(_)
                | News::Mark(_)
                | News::ProcessBegan { .. }
                | News::ProcessForked { .. } => Ok(()),
            };
            self.note(told);
        }
    }

    fn note(&mut self, told: std::io::Result<()>) {
        if let Err(error) = told {
            self.error.get_or_insert(error);
        }
    }

    fn end(mut self, damage: Damage) -> Result<Replayed, Failure> {
        self.publish();
        if !self.introduced {
            // Killed before it knew what it traced.
            let meta = self.about.as_ref().map(record::meta);
            if let Some(meta) = meta {
                self.meta(&meta);
            }
        }
        self.stages.finish(&mut self.news);
        self.publish();
        if let (count, Some(error)) = &self.stages.undecodable {
            log::error!("{count} records could not be read; the first: {error}");
        }
        let began = self.about.as_ref().map_or(0, |about| about.started_boot);
        let ended = self.end.is_some();
        let (end, last) = (self.end.take().unwrap_or_default(), self.last);
        let (captured, produced, duration_ns) = if ended {
            (end.captured, end.produced, end.duration_ns)
        } else {
            (last.captured, last.captured + last.lost(), self.last_time.saturating_sub(began))
        };
        let by_class = wire::loss::NAMES.into_iter().zip(last.lost).chain([(DAMAGED, self.damaged)]);
        let summary = Summary {
            events: captured.saturating_sub(self.damaged),
            produced,
            lost: last.lost().saturating_add(self.damaged),
            lost_by_class: by_class.filter(|(_, count)| *count > 0).collect(),
            uncertain_ns: self.stages.uncertain_ns(),
            findings: self.counts.clone(),
            duration_ns,
        };
        let told = self.sinks.end(&summary);
        self.note(told);
        match self.error.take() {
            Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::usage(anyhow::Error::new(error).context("cannot write what was found")))
            }
            _ => Ok(Replayed { summary, damage, ended }),
        }
    }
}

/// A moment as boot time.
fn boot(about: &About, point: Point) -> u64 {
    let nanos = match point {
        Point::After(time) => i128::from(about.started_boot) + time.as_nanos().cast_signed(),
        Point::Wall(wall) => wall - i128::from(about.started_wall) + i128::from(about.started_boot),
    };
    u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
