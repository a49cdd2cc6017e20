//! The chores of the workspace: `cargo xtask --help`. One file for each.

#[path = "../../fdtrace/build/toolchain.rs"]
mod toolchain;

mod bench;
mod build;
mod check_layers;
mod command;
mod corpus;
mod demo;
mod exports;
mod run;
mod scan;
mod setup;
mod stress;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// The chores of the fdtrace workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
enum Chore {
    /// Install what the eBPF build needs and is missing
    Setup,
    /// Set up and build fdtrace
    Build(build::Options),
    /// Build fdtrace and run it as root: cargo xtask run -- -p 1234
    Run(run::Options),
    /// Build fdtrace and show it on a program with a descriptor bug
    Demo,
    /// Check everything: format, lints, layers, unit tests, tests on the running kernel
    Test(test::Options),
    /// Run fdtrace over stress-ng's descriptor stressors, and count every record
    Stress(stress::Options),
    /// Run the tests on other kernels, in virtual machines
    Vm(vm::Options),
    /// Measure what fdtrace costs, beside its peers
    Bench(bench::Options),
    /// The loops that `bench` measures
    #[command(hide = true)]
    Load(bench::load::Options),
    /// Open exports with the tools that they are made for
    Exports(exports::Options),
    /// Trace the corpus of known bugs and of correct programs ($FDTRACE_CORPUS)
    Corpus(corpus::Options),
    /// Check that every module of fdtrace keeps to the data flow
    CheckLayers,
}

fn main() -> ExitCode {
    match perform(&Chore::parse()) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(chore: &Chore) -> Result<ExitCode> {
    match chore {
        Chore::Setup => setup::setup().map(|_| ExitCode::SUCCESS),
        Chore::Build(options) => build::build(options).map(|_| ExitCode::SUCCESS),
        Chore::Run(options) => run::run(options),
        Chore::Demo => demo::demo().map(|()| ExitCode::SUCCESS),
        Chore::Test(options) => test::test(options),
        Chore::Stress(options) => stress::stress(options),
        Chore::Vm(options) => vm::vm(options),
        Chore::Bench(options) => bench::bench(options).map(|()| ExitCode::SUCCESS),
        Chore::Load(options) => bench::load::load(options).map(|()| ExitCode::SUCCESS),
        Chore::Exports(options) => exports::exports(options).map(|()| ExitCode::SUCCESS),
        Chore::Corpus(options) => corpus::corpus(options),
        Chore::CheckLayers => check_layers::check_layers().map(|()| ExitCode::SUCCESS),
    }
}
