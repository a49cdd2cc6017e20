//! Parse, run, exit.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use fdtrace::{
    cli::{Cli, SelfTest, Verb},
    pipeline::{self, Drive, Failure, Outcome},
};

fn main() -> ExitCode {
    pipeline::remember_inherited();
    let cli = Cli::read();
    let level = if cli.verbose == 0 { "warn" } else { "debug" };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("FDTRACE_LOG", level)).format(remark).init();
    match run(cli) {
        Ok(Outcome::Exit(code)) => exit_code(code),
        Ok(Outcome::Like(ended)) => ended.imitate(),
        Err(failure) => {
            eprintln!("{failure}");
            exit_code(failure.code)
        }
    }
}

/// Like the other remarks: who says it, how grave it is, and what.
fn remark(out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>) -> io::Result<()> {
    let level = match record.level() {
        log::Level::Error => "error: ",
        log::Level::Warn => "warning: ",
        log::Level::Info => "",
        log::Level::Debug | log::Level::Trace => "debug: ",
    };
    writeln!(out, "fdtrace: {level}{}", record.args())
}

fn run(cli: Cli) -> Result<Outcome, Failure> {
    match cli.verb {
        Some(Verb::Doctor { json }) => Ok(pipeline::doctor(json)),
        Some(Verb::SelfTest(SelfTest { rules, json, drive, python, part })) => match (part, drive) {
            (Some(part), _) => Ok(pipeline::drive(&Drive::Part(&part))),
            (None, true) => Ok(pipeline::drive(&Drive::Run { only: &rules, python: python.as_deref() })),
            (None, false) => pipeline::self_test(&rules, json),
        },
        Some(Verb::Explain { rule }) => pipeline::explain(rule.as_deref()),
        Some(Verb::Report(report)) => pipeline::report(&report.plan()),
        Some(Verb::Timeline(timeline)) => pipeline::timeline(&timeline.plan()),
        Some(Verb::Export(export)) => pipeline::export(&export.plan()),
        Some(Verb::Verify(verify)) => pipeline::verify(&verify.plan()),
        None => {
            let plan = cli.plan().map_err(Failure::wrong_use)?;
            pipeline::run(plan)
        }
    }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
