//! The corpus: a collection of real descriptor bugs and of correct programs, kept outside this repository.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::command;

const VARIABLE: &str = "FDTRACE_CORPUS";
/// Where it stands in a checkout of everything, relative to the workspace.
const SIBLING: &str = "../shared/corpus";

/// The directory of the corpus, where there is one.
pub fn find() -> Option<PathBuf> {
    let dir = env::var_os(VARIABLE).map_or_else(|| command::workspace().join(SIBLING), PathBuf::from);
    dir.join("run-corpus").is_file().then_some(dir)
}

/// Traces every program of the corpus and compares what fdtrace says with what is known.
pub fn run(corpus: &Path, fdtrace: &Path) -> Result<()> {
    let sudo = if command::is_root() { "" } else { "sudo -E -- " };
    let mut command = Command::new(corpus.join("run-corpus"));
    command.arg("--tool").arg(format!("{sudo}{} --json {{json}} -- ", fdtrace.display()));
    command::run(&mut command)
}
