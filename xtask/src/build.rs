//! `cargo xtask build`: sets up, then builds fdtrace. The eBPF object is built on the way, by its build script.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{command, setup};

#[derive(Args, Default)]
pub struct Options {
    /// Optimised, as shipped
    #[arg(long)]
    pub release: bool,
}

/// Builds fdtrace; the path of the program.
pub fn build(options: &Options) -> Result<PathBuf> {
    setup::setup()?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--package", "fdtrace"]);
    if options.release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    let profile = if options.release { "release" } else { "debug" };
    Ok(command::target_directory()?.join(profile).join("fdtrace"))
}
