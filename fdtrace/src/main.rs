//! Parse, run, exit.

use std::process::ExitCode;

use clap::Parser;

use fdtrace::{
    cli::{Cli, Verb},
    pipeline::{self, Failure, Outcome},
    sink::explain,
    source::{doctor, inherited, preflight},
};

fn main() -> ExitCode {
    // First of all: a command that we start is to be given what we were given.
    inherited::remember_inherited();
    let cli = Cli::parse();
    let level = if cli.verbose == 0 { "warn" } else { "debug" };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("FDTRACE_LOG", level)).init();
    match run(cli) {
        Ok(Outcome::Exit(code)) => exit_code(code),
        Ok(Outcome::Like(ended)) => ended.imitate(),
        Err(failure) => {
            eprintln!("{failure}");
            exit_code(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<Outcome, Failure> {
    match &cli.verb {
        Some(Verb::Doctor { json }) => {
            let checks = preflight::run();
            let text = if *json { format!("{:#}\n", doctor::json(&checks)) } else { doctor::text(&checks) };
            anstream::print!("{text}");
            Ok(Outcome::Exit(doctor::verdict(&checks).exit_code()))
        }
        Some(Verb::Explain { rule }) => {
            let options = fdtrace::sink::text::TextOptions::for_stream(&std::io::stdout());
            let text = match rule {
                Some(rule) => explain::explain(rule, options.width, options.colour).map_err(Failure::usage)?,
                None => explain::list(options.width, options.colour),
            };
            anstream::print!("{text}");
            Ok(Outcome::Exit(0))
        }
        None => {
            let plan = cli.plan().map_err(|error| {
                Failure::usage(anyhow::Error::msg(error)).with_hint("`fdtrace --help` shows examples")
            })?;
            pipeline::run(plan)
        }
    }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
