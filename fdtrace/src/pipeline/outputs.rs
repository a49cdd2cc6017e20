//! Where the findings of a run go, and its recording.

use std::{io, path::Path};

use crate::{
    plan::Output,
    sink::{
        Sink, Sinks,
        fold::Folding,
        github::GithubSink,
        json::JsonSink,
        junit::JunitSink,
        output,
        sarif::SarifSink,
        text::{TextOptions, TextSink},
    },
    source::{clock, recording::writer::Recorder},
};

use super::{export, failure::Failure, record};

/// Opens every output before anything is traced or read: a file that cannot be written is the user's first answer, not the last.
pub fn open(plan: &Output) -> Result<(Sinks, Option<Recorder>), Failure> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    let json = plan.json.as_deref();
    let record = plan.record.as_ref();
    let is_stdout = |path: &Path| path.as_os_str() == "-";
    let (json_there, record_there) =
        (json.is_some_and(is_stdout), record.is_some_and(|record| is_stdout(&record.path)));
    let exports = &plan.exports;
    let exported_there = exports.iter().filter(|export| is_stdout(&export.path)).count();
    if usize::from(json_there) + usize::from(record_there) + exported_there > 1 {
        return Err(Failure::usage(anyhow::anyhow!("only one output can go to the standard output")));
    }
    // What is on standard output for a program has no report for people in between.
    if record_there || exported_there > 0 {
        let options = TextOptions { notes: plan.notes, ..TextOptions::for_stream(&io::stderr()) };
        sinks.push(Box::new(TextSink::new(io::stderr(), io::stderr(), options)));
    } else if !json_there {
        let options = TextOptions { notes: plan.notes, ..TextOptions::for_stream(&io::stdout()) };
        sinks.push(Box::new(TextSink::new(io::stdout(), io::stderr(), options)));
    }
    let create = |path| output::create(path, plan.force).map_err(Failure::usage);
    if let Some(path) = json {
        sinks.push(Box::new(Folding::new(JsonSink::new(create(path)?), plan.notes)));
    }
    if let Some(path) = &plan.sarif {
        sinks.push(Box::new(Folding::new(SarifSink::new(create(path)?), plan.notes)));
    }
    if let Some(path) = &plan.junit {
        sinks.push(Box::new(Folding::new(JunitSink::new(create(path)?), plan.notes)));
    }
    if plan.github {
        sinks.push(Box::new(Folding::new(GithubSink::new(io::stdout()), plan.notes)));
    }
    for export in exports {
        sinks.push(export::open(export, plan.force, plan.every)?);
    }
    let record = record.map(|plan_of| record::recorder(plan_of, plan.force, clock::wall_ns(), clock::boot_ns()));
    Ok((Sinks(sinks), record.transpose()?))
}
