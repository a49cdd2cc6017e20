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
    package("fdtrace", options.release)
}

/// Builds this program as one to be measured; its path. In a debug build the standard library asks the kernel about a
/// descriptor before it closes it, and what is measured would be another program.
pub fn load() -> Result<PathBuf> {
    package("xtask", true)
}

fn package(name: &str, release: bool) -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--package", name]);
    if release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    let profile = if release { "release" } else { "debug" };
    Ok(command::target_directory()?.join(profile).join(name))
}
