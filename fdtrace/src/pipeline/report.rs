//! `fdtrace report`: the findings of a recording, told as a live run tells them.

use std::io;

use crate::{
    detect::finding::Confidence,
    plan::{Level, ReportPlan},
    sink::{
        Sink, Sinks,
        fold::Folding,
        json::JsonSink,
        output,
        text::{TextOptions, TextSink},
    },
};

use super::{
    failure::{Failure, INCOMPLETE, Outcome},
    progress::Progress,
    replay::replay,
};

pub fn report(plan: &ReportPlan) -> Result<Outcome, Failure> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    let json = plan.output.json.as_deref();
    if json.is_none_or(|path| path.as_os_str() != "-") {
        let options = TextOptions { notes: plan.output.notes, ..TextOptions::for_stream(&io::stdout()) };
        sinks.push(Box::new(TextSink::new(io::stdout(), io::stderr(), options)));
    }
    if let Some(path) = json {
        let file = output::create(path, plan.output.force).map_err(Failure::usage)?;
        sinks.push(Box::new(Folding::new(JsonSink::new(file), plan.output.notes)));
    }
    let replayed = replay(&plan.reading, &mut Sinks(sinks), Progress::over(&plan.reading, true), false)?;
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
