//! `cargo xtask run`: builds fdtrace and runs it as root. Its exit status is ours.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, ExitStatus},
};

use anyhow::Result;
use clap::Args;

use crate::{build, command};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    build: build::Options,
    /// Arguments of fdtrace
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let program = build::build(&options.build)?;
    let status = command::status(command::as_root(program)?.args(&options.arguments))?;
    Ok(code(status))
}

/// As a shell puts it: a program that died by signal N ended with 128 + N.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
