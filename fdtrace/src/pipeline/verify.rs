//! Looks through a recording without asking what it means: is every block there and in good order, and what does it hold?

use std::{collections::BTreeMap, fmt, ops::ControlFlow, time::Instant};

use fdtrace_common::wire::loss;

use crate::{
    plan::Reading,
    sink::run::LEFT_OUT,
    source::recording::{
        about::About,
        frame::{Head, block},
        reader::Damage,
        unpack::unpack,
    },
};

use super::{
    failure::{Failure, Outcome, USAGE},
    progress::Progress,
    reading::{blocks, no_recording, remarks},
};

#[derive(Debug, Default)]
struct Verified {
    about: About,
    bytes: u64,
    /// By type.
    blocks: BTreeMap<u8, u64>,
    records: u64,
    raw: u64,
    malformed: u64,
    first_time: u64,
    last: Head,
    damage: Damage,
    ended: bool,
}

impl Verified {
    /// Nothing is damaged. A recorder that was killed leaves a good file.
    fn is_whole(&self) -> bool {
        self.malformed == 0 && self.damage == Damage::default()
    }
}

/// `fdtrace verify`.
pub fn verify(reading: &Reading) -> Result<Outcome, Failure> {
    let mut verified = Verified::default();
    let began = Instant::now();
    let read = blocks(reading, Progress::over(reading, false), |block| {
        verified.take(block.head, &block.content);
        Ok(ControlFlow::Continue(()))
    })?;
    (verified.bytes, verified.damage) = (read.bytes, read.damage);
    if verified.blocks.is_empty() {
        return Err(no_recording(reading, read.damage));
    }
    log::info!("{} records read and unpacked in {:.3} s", verified.records, began.elapsed().as_secs_f64());
    if !reading.quiet {
        anstream::print!("{verified}");
    }
    Ok(Outcome::Exit(if verified.is_whole() { 0 } else { USAGE }))
}

impl Verified {
    fn take(&mut self, head: Head, content: &[u8]) {
        *self.blocks.entry(head.block).or_default() += 1;
        match head.block {
            block::ABOUT => match serde_json::from_slice(content) {
                Ok(about) => self.about = about,
                Err(_) => self.malformed += 1,
            },
            block::DATA | block::SNAPSHOT => {
                let mut raw = 0;
                match unpack(content, |_, record| raw += record.len() as u64) {
                    Ok(records) if records == head.records => {}
                    _ => self.malformed += 1,
                }
                if head.block == block::DATA {
                    self.raw += raw;
                    self.records += u64::from(head.records);
                    if self.first_time == 0 {
                        self.first_time = head.first_time;
                    }
                    self.last = head;
                }
            }
            block::END => {
                self.ended = true;
                self.last = Head { last_time: self.last.last_time, ..head };
            }
            _ => {}
        }
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { about, bytes, blocks, records, raw, malformed, first_time, last, damage, ended } = self;
        let count = |block| blocks.get(&block).copied().unwrap_or(0);
        let seconds = last.last_time.saturating_sub(*first_time) as f64 / 1e9;
        writeln!(
            f,
            "recorded by fdtrace {} on {} {}, wire version {}",
            crate::escape::escape_terminal(about.fdtrace.as_bytes()),
            crate::escape::escape_terminal(about.kernel.as_bytes()),
            crate::escape::escape_terminal(about.arch.as_bytes()),
            about.wire
        )?;
        writeln!(
            f,
            "{records} records in {} blocks, {} snapshots, {seconds:.3} s",
            count(block::DATA),
            count(block::SNAPSHOT)
        )?;
        let each = *bytes as f64 / (*records).max(1) as f64;
        writeln!(f, "{bytes} bytes, {each:.1} for each record; {raw} before packing")?;
        let lost: Vec<String> = loss::NAMES
            .iter()
            .zip(last.lost)
            .filter(|(name, count)| *count > 0 && **name != LEFT_OUT)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let lost = if lost.is_empty() { "0".to_owned() } else { lost.join(", ") };
        writeln!(f, "lost while recording: {lost}")?;
        if last.lost[loss::RING_STACK] > 0 {
            writeln!(f, "left out: {} (stacks, paths)", last.lost[loss::RING_STACK])?;
        }
        if *malformed > 0 {
            writeln!(f, "{malformed} blocks cannot be unpacked although their checksums are right")?;
        }
        for remark in remarks(*damage, *ended) {
            writeln!(f, "{remark}")?;
        }
        writeln!(f, "{}", if self.is_whole() { "in good order" } else { "damaged" })
    }
}
