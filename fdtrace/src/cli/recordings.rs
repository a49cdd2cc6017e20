//! The verbs that read recordings.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use crate::plan::{Level, Output, Point, Range, Reading, ReportPlan};

use super::{FailOn, seconds};

/// Which recording, and how much of it.
#[derive(Debug, Args)]
pub struct Source {
    /// Files of one recording, in order (`-`: standard input)
    #[arg(required = true, value_name = "FILE.fdt")]
    files: Vec<PathBuf>,
    /// Leave out what came before: seconds since the start (`90`, `1.5s`, `3m`, `2h`) or a time (`2025-11-23T03:00:00Z`)
    #[arg(long, value_name = "WHEN", value_parser = point)]
    from: Option<Point>,
    /// Leave out what came after
    #[arg(long, value_name = "WHEN", value_parser = point)]
    to: Option<Point>,
    /// No progress bar and no remarks on the file
    #[arg(short, long)]
    quiet: bool,
}

impl Source {
    pub(super) fn plan(self) -> Reading {
        let Self { files, from, to, quiet } = self;
        Reading { files, range: Range { from, to }, quiet }
    }
}

#[derive(Debug, Args)]
pub struct Report {
    #[command(flatten)]
    source: Source,
    /// Write findings as JSON lines (`-`: standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace output files that exist
    #[arg(long)]
    force: bool,
    /// Also report what is true but usually harmless
    #[arg(long)]
    notes: bool,
    /// How sure a finding must be for --error-exitcode
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "likely")]
    fail_on: FailOn,
    /// Exit with this status when something was found
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    error_exitcode: Option<u8>,
    /// Exit with status 4 when events were lost or the file is damaged
    #[arg(long)]
    require_complete: bool,
}

impl Report {
    pub fn plan(self) -> ReportPlan {
        let Self { source, json, force, notes, fail_on, error_exitcode, require_complete } = self;
        ReportPlan {
            reading: source.plan(),
            output: Output { json, record: None, force, notes },
            require_complete,
            findings_exit: error_exitcode.map(|code| (Level::from(fail_on), i32::from(code))),
        }
    }
}

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    source: Source,
}

impl Verify {
    pub fn plan(self) -> Reading {
        self.source.plan()
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
    fn moments() {
        assert_eq!(point("1.5s"), Ok(Point::After(Duration::from_millis(1500))));
        assert_eq!(point("+3m"), Ok(Point::After(Duration::from_secs(180))));
        assert_eq!(point("1970-01-01T00:00:01Z"), Ok(Point::Wall(1_000_000_000)));
        assert!(point("yesterday").is_err() && point("-1").is_err());
    }
}
