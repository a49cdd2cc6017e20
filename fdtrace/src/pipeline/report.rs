//! `fdtrace report`: the findings of a recording, told as a live run tells them.

use anyhow::Context;

use crate::{
    detect::finding::Confidence,
    plan::{Level, ReportPlan},
};

use super::{
    failure::{Failure, INCOMPLETE, Outcome},
    outputs,
    progress::Progress,
    quiet::Quiet,
    replay::replay,
};

pub fn report(plan: &ReportPlan) -> Result<Outcome, Failure> {
    let (mut sinks, _) = outputs::open(&plan.output)?;
    let mut quiet = Quiet::of(&plan.output).map_err(Failure::usage)?;
    let replayed = replay(&plan.reading, &mut sinks, &mut quiet, Progress::over(&plan.reading, true), false)?;
    quiet.end().context("cannot write the suppressions").map_err(Failure::usage)?;
    let found = plan.findings_exit.filter(|(level, _)| replayed.summary.findings.reach(confidence(*level)));
    let incomplete = replayed.summary.lost > 0 || replayed.damage != Default::default() || !replayed.ended;
    Ok(Outcome::Exit(match found {
        Some((_, code)) => code,
        None if plan.require_complete && incomplete => INCOMPLETE,
        None => 0,
    }))
}

pub fn confidence(level: Level) -> Confidence {
    match level {
        Level::Possible => Confidence::Possible,
        Level::Likely => Confidence::Likely,
        Level::Proven => Confidence::Proven,
    }
}
