//! The verbs that read recordings.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use crate::plan::{ExportFile, ExportPlan, Filter, Format, Point, Range, Reading, ReportPlan, Table, TimelinePlan};

use super::{
    seconds,
    told::{Told, Verdict},
};

/// Which recording.
#[derive(Debug, Args)]
pub struct Source {
    /// Files of one recording, in order (`-`: standard input)
    #[arg(required = true, value_name = "FILE.fdt")]
    files: Vec<PathBuf>,
    /// No progress bar and no remarks on the file
    #[arg(short, long)]
    quiet: bool,
}

impl Source {
    fn plan(self, range: Range) -> Reading {
        let Self { files, quiet } = self;
        Reading { files, range, quiet }
    }
}

/// How much of it.
#[derive(Debug, Args)]
pub struct Part {
    /// Leave out what came before: seconds since the start (`90`, `1.5s`, `3m`, `2h`) or a time (`2025-11-23T03:00:00Z`)
    #[arg(long, value_name = "WHEN", value_parser = point)]
    from: Option<Point>,
    /// Leave out what came after
    #[arg(long, visible_alias = "until", value_name = "WHEN", value_parser = point)]
    to: Option<Point>,
}

impl Part {
    fn range(&self) -> Range {
        Range { from: self.from, to: self.to }
    }
}

#[derive(Debug, Args)]
pub struct Report {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    part: Part,
    #[command(flatten)]
    told: Told,
    #[command(flatten)]
    verdict: Verdict,
    /// Exit with status 4 when events were lost or the file is damaged
    #[arg(long)]
    require_complete: bool,
}

impl Report {
    pub fn plan(self) -> ReportPlan {
        let Self { source, part, told, verdict, require_complete } = self;
        ReportPlan {
            reading: source.plan(part.range()),
            output: told.into(),
            require_complete,
            findings_exit: verdict.exit(),
        }
    }
}

/// Which descriptors.
#[derive(Debug, Args)]
pub struct Select {
    /// Of these processes only
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',')]
    pids: Vec<u32>,
    /// These numbers only
    #[arg(long = "fd", value_name = "FD", value_delimiter = ',')]
    fds: Vec<i32>,
    /// Only what has this in its path or name
    #[arg(long, value_name = "TEXT")]
    path: Option<OsString>,
}

impl Select {
    fn plan(self) -> Filter {
        let Self { pids, fds, path } = self;
        Filter { pids, fds, path: path.map(OsString::into_vec) }
    }
}

#[derive(Debug, Args)]
pub struct Timeline {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    part: Part,
    #[command(flatten)]
    select: Select,
    /// Columns, instead of those of the terminal
    #[arg(long, value_name = "COLUMNS", value_parser = clap::value_parser!(u16).range(40..))]
    width: Option<u16>,
}

impl Timeline {
    pub fn plan(self) -> TimelinePlan {
        let Self { source, part, select, width } = self;
        TimelinePlan { reading: source.plan(part.range()), filter: select.plan(), width: width.map(usize::from) }
    }
}

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    select: Select,
    /// The form
    #[arg(long, value_name = "FORMAT", value_enum)]
    to: To,
    /// Leave out what came before: seconds since the start (`90`, `1.5s`, `3m`, `2h`) or a time (`2025-11-23T03:00:00Z`)
    #[arg(long, value_name = "WHEN", value_parser = point)]
    from: Option<Point>,
    /// Leave out what came after
    #[arg(long, value_name = "WHEN", value_parser = point)]
    until: Option<Point>,
    /// Where it goes (`-`: standard output)
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Tell every generation for itself, also in a loop that opens and closes the same thing many times
    #[arg(long)]
    every: bool,
    /// Replace an output file that exists
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    /// JSON lines: lifetimes, findings, losses (docs/schema)
    Jsonl,
    /// Lifetimes, for a spreadsheet
    Csv,
    /// Findings, for a spreadsheet
    CsvFindings,
    /// A database with views for the usual questions
    Sqlite,
    /// A trace for ui.perfetto.dev
    Perfetto,
    /// One page to look at in a browser, without a network
    Html,
    /// Lifetimes, for data lakes (a fdtrace built with `--features parquet`)
    Parquet,
    /// Findings, for data lakes
    ParquetFindings,
}

impl From<To> for Format {
    fn from(to: To) -> Self {
        match to {
            To::Jsonl => Self::JsonLines,
            To::Csv => Self::Csv(Table::Lifetimes),
            To::CsvFindings => Self::Csv(Table::Findings),
            To::Sqlite => Self::Sqlite,
            To::Perfetto => Self::Perfetto,
            To::Html => Self::Html,
            To::Parquet => Self::Parquet(Table::Lifetimes),
            To::ParquetFindings => Self::Parquet(Table::Findings),
        }
    }
}

/// `html=run.html`: a form of [`To`], and where it goes.
pub fn export_file(text: &str) -> Result<ExportFile, String> {
    let (format, path) = text.split_once('=').filter(|(_, path)| !path.is_empty()).ok_or("it is not FORMAT=FILE")?;
    let to = To::from_str(format, false).map_err(|_| {
        let names = To::value_variants().iter().filter_map(|to| Some(to.to_possible_value()?.get_name().to_owned()));
        format!("`{format}` is none of {}", names.collect::<Vec<_>>().join(", "))
    })?;
    Ok(ExportFile { format: to.into(), path: path.into() })
}

impl Export {
    pub fn plan(self) -> ExportPlan {
        let Self { source, select, to, from, until, output, every, force } = self;
        let file = ExportFile { format: to.into(), path: output };
        ExportPlan { reading: source.plan(Range { from, to: until }), filter: select.plan(), file, every, force }
    }
}

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    source: Source,
}

impl Verify {
    pub fn plan(self) -> Reading {
        self.source.plan(Range::default())
    }
}

fn point(text: &str) -> Result<Point, String> {
    let text = text.trim_start_matches('+');
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Point::Wall(time.as_nanosecond()));
    }
    let (number, factor) = match text.strip_suffix('m') {
        Some(number) => (number, 60),
        None => match text.strip_suffix('h') {
            Some(number) => (number, 3600),
            None => (text, 1),
        },
    };
    let time = seconds(number).map_err(|_| format!("`{text}` is neither seconds since the start nor a time"))?;
    time.checked_mul(factor).map(Point::After).ok_or_else(|| format!("`{text}` is too long"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn forms_and_where_they_go() {
        let file = |format, path: &str| Ok(ExportFile { format, path: path.into() });
        assert_eq!(export_file("html=a=b.html"), file(Format::Html, "a=b.html"));
        assert_eq!(export_file("jsonl=-"), file(Format::JsonLines, "-"));
        assert!(export_file("html=").is_err() && export_file("html").is_err());
        assert!(export_file("pdf=x").is_err_and(|why| why.contains("csv-findings")));
    }

    #[test]
    fn moments() {
        assert_eq!(point("1.5s"), Ok(Point::After(Duration::from_millis(1500))));
        assert_eq!(point("+3m"), Ok(Point::After(Duration::from_secs(180))));
        assert_eq!(point("1970-01-01T00:00:01Z"), Ok(Point::Wall(1_000_000_000)));
        assert!(point("yesterday").is_err() && point("-1").is_err());
    }
}
