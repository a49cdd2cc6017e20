//! The verbs that trace nothing.

use anyhow::Context;

use crate::{
    selftest::{self, Drive},
    sink::{explain as text, text::TextOptions},
    source::{doctor as checks, preflight},
};

use super::{Failure, Outcome, trace::check_privileges};

/// Can this machine run fdtrace?
pub fn doctor(json: bool) -> Outcome {
    let found = preflight::run();
    if json {
        anstream::println!("{:#}", checks::json(&found));
    } else {
        anstream::print!("{}", checks::text(&found));
    }
    Outcome::Exit(checks::verdict(&found).exit_code())
}

/// What a rule means; without one, all rules.
pub fn explain(rule: Option<&str>) -> Result<Outcome, Failure> {
    let TextOptions { width, colour, .. } = TextOptions::for_stream(&std::io::stdout());
    let page = match rule {
        Some(rule) => text::explain(rule, width, colour).map_err(Failure::usage)?,
        None => text::list(width, colour),
    };
    anstream::print!("{page}");
    Ok(Outcome::Exit(0))
}

/// Does it find what it should?
pub fn self_test(rules: &[String], json: bool) -> Result<Outcome, Failure> {
    check_privileges()?;
    let status = selftest::self_test(rules, json).context("cannot test").map_err(Failure::cannot_observe)?;
    Ok(Outcome::Exit(status))
}

/// The traced side of a self-test.
pub fn drive(what: &Drive<'_>) -> Outcome {
    Outcome::Exit(selftest::drive(what))
}
