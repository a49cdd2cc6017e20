//! What is told of the findings, and where: the same for a run and for its recording.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::plan::{Level, Output};

#[derive(Debug, Args)]
pub struct Told {
    /// Write findings as JSON lines (`-`: standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write findings as SARIF 2.1.0
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// Write findings as JUnit XML, a test case for each rule
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Annotate a run of GitHub Actions, on standard output
    #[arg(long)]
    github: bool,
    /// Do not tell findings that a TOML file lists (may be given again)
    #[arg(long, value_name = "FILE")]
    suppressions: Vec<PathBuf>,
    /// Write suppressions for all that is found
    #[arg(long, value_name = "FILE")]
    gen_suppressions: Option<PathBuf>,
    /// Replace output files that exist
    #[arg(long)]
    force: bool,
    /// Also report what is true but usually harmless
    #[arg(long)]
    notes: bool,
}

impl From<Told> for Output {
    fn from(told: Told) -> Self {
        let Told { json, sarif, junit, github, suppressions, gen_suppressions, force, notes } = told;
        Self { json, sarif, junit, github, suppressions, gen_suppressions, force, notes, ..Self::default() }
    }
}

/// What the exit status says of the findings.
#[derive(Debug, Args)]
pub struct Verdict {
    /// How sure a finding must be for --error-exitcode; notes never count
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "likely")]
    fail_on: FailOn,
    /// Exit with this status when something was found
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    error_exitcode: Option<u8>,
}

impl Verdict {
    /// From which level on, and with which status.
    pub fn exit(&self) -> Option<(Level, i32)> {
        Some((self.fail_on.into(), i32::from(self.error_exitcode?)))
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FailOn {
    Possible,
    Likely,
    Proven,
}

impl From<FailOn> for Level {
    fn from(level: FailOn) -> Self {
        match level {
            FailOn::Possible => Self::Possible,
            FailOn::Likely => Self::Likely,
            FailOn::Proven => Self::Proven,
        }
    }
}
