//! What is not told: reads the files of suppressions, asks them about each finding, and says at the end what they were good
//! for. Writes new ones where that is asked for.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Write},
};

use anyhow::Context;

use crate::{
    detect::finding::Finding,
    plan::Output,
    sink::{output, suppress},
    source::clock,
};

/// Suppressions that are written; who has more should mend the program.
const WRITTEN: usize = 1000;

#[derive(Debug, Default)]
pub struct Quiet {
    suppressions: suppress::Suppressions,
    generated: Option<File>,
    written: BTreeSet<String>,
}

impl Quiet {
    pub fn of(plan: &Output) -> anyhow::Result<Self> {
        let mut suppressions = suppress::Suppressions::default();
        let now = i128::from(clock::wall_ns());
        let today = jiff::Timestamp::from_nanosecond(now).map(|now| now.to_zoned(jiff::tz::TimeZone::UTC).date());
        let today = today.context("the clock shows a time that no calendar has")?;
        for path in &plan.suppressions {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read suppressions from `{}`", path.display()))?;
            suppressions
                .add(&text, today)
                .with_context(|| format!("cannot understand the suppressions in `{}`", path.display()))?;
        }
        let generated = plan.gen_suppressions.as_ref().map(|path| output::create(path, plan.force)).transpose()?;
        Ok(Self { suppressions, generated, written: BTreeSet::new() })
    }

    /// Nobody has said that it is not to be told.
    pub fn may_tell(&mut self, finding: &Finding) -> bool {
        if self.suppressions.covers(finding) {
            return false;
        }
        if self.generated.is_some() && self.written.len() < WRITTEN {
            self.written.insert(suppress::generate(finding));
        }
        true
    }

    /// The run is over.
    pub fn end(&mut self) -> io::Result<()> {
        for remark in self.suppressions.remarks() {
            writeln!(io::stderr(), "fdtrace: {remark}")?;
        }
        if let Some(file) = &mut self.generated {
            for suppression in &self.written {
                file.write_all(suppression.as_bytes())?;
            }
        }
        Ok(())
    }
}
