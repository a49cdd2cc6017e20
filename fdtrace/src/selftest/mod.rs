//! `fdtrace self-test`: does it find on this kernel what it should, and keep quiet where it should?
//!
//! For each rule there are two programs, a few calls long: one that breaks it, and its twin, which does the same in order.
//! They are in this program, so that nothing else is needed: neither a compiler nor, for most, an interpreter. Each runs in
//! a process of its own, all of them one after the other under one trace.

mod closing;
mod drive;
mod epoll;
mod flush;
mod leaking;
mod overwriting;
mod python;
mod sharing;
mod sys;
mod verdict;

pub use drive::{Drive, drive};
pub use verdict::self_test;

/// The two programs of a rule.
#[derive(Debug)]
struct Case {
    rule: &'static str,
    /// What tells it from another case of the same rule; may be empty.
    variant: &'static str,
    /// Other rules that the bad program breaks by necessity.
    also: &'static [&'static str],
    bad: Program,
    twin: Program,
}

#[derive(Debug)]
enum Program {
    Calls(fn()),
    /// A script, for rules about owners.
    Python(&'static str),
}

impl Case {
    const fn new(rule: &'static str, bad: fn(), twin: fn()) -> Self {
        Self { rule, variant: "", also: &[], bad: Program::Calls(bad), twin: Program::Calls(twin) }
    }

    const fn python(rule: &'static str, bad: &'static str, twin: &'static str) -> Self {
        Self { rule, variant: "Python", also: &[], bad: Program::Python(bad), twin: Program::Python(twin) }
    }

    const fn also(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }

    /// As it stands in the table and on the command line.
    fn name(&self) -> String {
        if self.variant.is_empty() { self.rule.to_owned() } else { format!("{}/{}", self.rule, self.variant) }
    }
}

fn cases() -> impl Iterator<Item = &'static Case> {
    [closing::CASES, epoll::CASES, overwriting::CASES, sharing::CASES, leaking::CASES, python::CASES]
        .into_iter()
        .flatten()
}

/// A program by name, `rule:bad` or `rule:twin`, or what such a program starts.
fn part(name: &str) -> Option<fn()> {
    match name {
        "nothing" => return Some(|| {}),
        "linger" => return Some(|| sys::sleep(sys::NOTICE)),
        "complain" => {
            return Some(|| {
                sys::write(2);
            });
        }
        _ => {}
    }
    let (name, which) = name.split_once(':')?;
    let case = cases().find(|case| case.name() == name)?;
    match if which == "bad" { &case.bad } else { &case.twin } {
        Program::Calls(calls) => Some(*calls),
        Program::Python(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::detect::rules::{self, Since};

    #[test]
    fn every_rule_has_its_programs() {
        let with: BTreeSet<&str> = cases().map(|case| case.rule).collect();
        let implemented = rules::all().filter(|rule| rule.since == Since::Implemented).map(|rule| rule.name);
        let without: Vec<&str> = implemented.filter(|rule| !with.contains(rule)).collect();
        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn names_are_rules_and_come_once() {
        let names: BTreeSet<String> = cases().map(Case::name).collect();
        assert_eq!(names.len(), cases().count());
        for rule in cases().flat_map(|case| std::iter::once(&case.rule).chain(case.also)) {
            assert!(rules::find(rule).is_some(), "{rule}");
        }
    }
}
