//! `fdtrace export` and `fdtrace timeline`: a recording in another form.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    path::Path,
};

use anyhow::Context;

use crate::{
    plan::{ExportFile, ExportPlan, Format, TimelinePlan},
    sink::{
        Sink, Sinks, alike::FoldLives, csv::CsvSink, filter::Filtered, html::HtmlSink, json::JsonSink,
        lanes::LanesSink, output, perfetto::PerfettoSink, sqlite::SqliteSink, text::TextOptions,
    },
};

use super::{
    failure::{Failure, Outcome},
    progress::Progress,
    quiet::Quiet,
    replay::replay,
};

pub fn export(plan: &ExportPlan) -> Result<Outcome, Failure> {
    let sink = open(&plan.file, plan.force, plan.every)?;
    let filtered = Filtered { filter: plan.filter.clone(), sink };
    let progress = Progress::over(&plan.reading, plan.file.path == Path::new("-"));
    replay(&plan.reading, &mut Sinks(vec![Box::new(filtered)]), &mut Quiet::default(), progress, true)?;
    Ok(Outcome::Exit(0))
}

/// Begins an export, of a recording or of a live run. `every`: lives that are alike are told one by one.
pub fn open(export: &ExportFile, force: bool, every: bool) -> Result<Box<dyn Sink>, Failure> {
    let ExportFile { format, path } = export;
    let is_text = matches!(format, Format::JsonLines | Format::Csv(_));
    if !is_text && path == Path::new("-") && io::stdout().is_terminal() {
        return Err(Failure::usage(anyhow::anyhow!("this format is not for a terminal")).with_hint("name a file"));
    }
    if matches!(format, Format::Parquet(_)) && !cfg!(feature = "parquet") {
        return Err(Failure::usage(anyhow::anyhow!("this fdtrace was built without Parquet"))
            .with_hint("build it with `cargo build --release --features parquet`"));
    }
    let file = output::create(path, force).map_err(Failure::usage)?;
    let sink = sink(*format, BufWriter::with_capacity(1 << 18, file)).context("cannot begin the export");
    let sink = sink.map_err(Failure::usage)?;
    Ok(if every { sink } else { Box::new(FoldLives::new(sink)) })
}

fn sink(format: Format, out: impl Write + Send + 'static) -> io::Result<Box<dyn Sink>> {
    Ok(match format {
        Format::JsonLines => Box::new(JsonSink::buffered(out)),
        Format::Csv(table) => Box::new(CsvSink::new(out, table)),
        Format::Sqlite => Box::new(SqliteSink::new(out)?),
        Format::Perfetto => Box::new(PerfettoSink::new(out)),
        Format::Html => Box::new(HtmlSink::new(out)?),
        #[cfg(feature = "parquet")]
        Format::Parquet(table) => Box::new(crate::sink::parquet::ParquetSink::new(out, table)?),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet(_) => {
            return Err(io::ErrorKind::Unsupported.into());
        }
    })
}

pub fn timeline(plan: &TimelinePlan) -> Result<Outcome, Failure> {
    let options = TextOptions::for_stream(&io::stdout());
    let width = plan.width.unwrap_or(options.width);
    let sink = Box::new(LanesSink::new(BufWriter::new(io::stdout()), width, options.colour));
    let filtered = Filtered { filter: plan.filter.clone(), sink };
    // The picture is drawn when all is known.
    let progress = Progress::over(&plan.reading, false);
    replay(&plan.reading, &mut Sinks(vec![Box::new(filtered)]), &mut Quiet::default(), progress, true)?;
    Ok(Outcome::Exit(0))
}
