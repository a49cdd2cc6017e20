//! What the rules mean, for people: the text behind `fdtrace explain`, `docs/rules.md` and the advice in reports.
//! Detectors are written elsewhere; they take a rule's name and advice from here, so that each is spelled once.

mod closing;
mod epoll;
mod leaking;
mod overwriting;
mod sharing;
mod using;

use std::fmt::Write;

use super::finding::Severity;

/// All there is to say about one rule.
#[derive(Debug)]
pub struct RuleText {
    /// Stable: suppressions and pipelines rest on it.
    pub name: &'static str,
    /// What has happened where it is reported, in a line.
    pub title: &'static str,
    pub definition: &'static str,
    /// What must be on record for each confidence.
    pub proof: &'static str,
    /// Legal patterns that resemble it, and about which it says nothing.
    pub look_alikes: &'static [&'static str],
    /// What to do about it, in a line: reports end with it.
    pub advice: &'static str,
    /// Unless the circumstances change it.
    pub severity: Severity,
    /// How they do; may be empty.
    pub severity_varies: &'static str,
    pub since: Since,
    pub example: Example,
}

/// Whether fdtrace looks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Implemented,
    Planned,
}

/// A small program that breaks the rule, and what is said about it.
#[derive(Debug)]
pub struct Example {
    pub file: &'static str,
    pub source: &'static str,
    /// Drawn by the text sink; a test compares.
    pub report: &'static str,
}

impl Example {
    /// Name of the language in a fenced block.
    pub fn language(&self) -> &'static str {
        match self.file.rsplit('.').next() {
            Some("py") => "python",
            Some("js") => "js",
            Some("rs") => "rust",
            Some("pl") => "perl",
            _ => "c",
        }
    }
}

/// Rules that are about the same thing.
#[derive(Debug)]
pub struct Family {
    pub title: &'static str,
    pub rules: &'static [RuleText],
}

pub const FAMILIES: [Family; 6] = [
    Family { title: "Closing", rules: closing::RULES },
    Family { title: "Using", rules: using::RULES },
    Family { title: "Overwriting", rules: overwriting::RULES },
    Family { title: "epoll", rules: epoll::RULES },
    Family { title: "Sharing", rules: sharing::RULES },
    Family { title: "Leaking", rules: leaking::RULES },
];

pub fn all() -> impl Iterator<Item = &'static RuleText> {
    FAMILIES.iter().flat_map(|family| family.rules)
}

pub fn find(name: &str) -> Option<&'static RuleText> {
    all().find(|rule| rule.name == name)
}

/// The advice of a rule; empty for a name that no rule has.
pub fn advice(name: &str) -> &'static str {
    find(name).map_or("", |rule| rule.advice)
}

pub fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Medium => "medium",
        Severity::High => "high",
    }
}

/// A title or an advice with a capital and a full stop.
pub fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", characters.as_str())
}

/// The text of `docs/rules.md`.
pub fn markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    for family in &FAMILIES {
        // Writing to a string does not fail.
        let _ = write!(out, "\n| {} | severity | |\n|---|---|---|\n", family.title);
        for rule in family.rules {
            let name = rule.name;
            let _ = writeln!(out, "| [`{name}`](#{name}) | {} | {} |", severity_word(rule.severity), rule.title);
        }
    }
    for family in &FAMILIES {
        let _ = write!(out, "\n## {}\n", family.title);
        for rule in family.rules {
            section(&mut out, rule);
        }
    }
    out
}

const INTRODUCTION: &str = "\
# Rules

<!-- Generated from fdtrace/src/detect/rules. `FDTRACE_UPDATE=1 cargo test`, run twice, writes it anew. -->

What fdtrace looks for, what proves it, what resembles it and is legal, and what to do.
`fdtrace explain RULE` prints the same in a terminal.

A *slot* is a number in a table of descriptors, and a *generation* one life of it, from the call that opened it to the one
that closed it.
A *description* is the open file behind it, which several slots can share after `dup` or `fork`.
An *owner* is the object that believes it must close the number: a Python file, a `FILE*`, an `OwnedFd`.

A finding is `proven` if what was recorded admits no other reading, `likely` if one inference is needed, and `possible` if it is
a heuristic or if events are missing from the window.
Severity says how much it usually matters. A `note` is shown only with the incident that it explains.
";

fn section(out: &mut String, rule: &RuleText) {
    let RuleText { name, title, definition, proof, look_alikes, advice, severity, severity_varies, since, example } =
        rule;
    let severity = severity_word(*severity);
    let varies = if severity_varies.is_empty() { String::new() } else { format!(": {severity_varies}") };
    let planned = match since {
        Since::Implemented => "",
        Since::Planned => "\n*Planned: fdtrace does not look for it yet.*\n",
    };
    let (title, advice) = (sentence(title), sentence(advice));
    // Writing to a string does not fail.
    let _ = write!(out, "\n### {name}\n\n**{title}** Severity {severity}{varies}.\n{planned}\n{definition}\n");
    let _ = write!(out, "\n*Proof.* {proof}\n\n*Advice.* {advice}\n");
    if !look_alikes.is_empty() {
        let _ = write!(out, "\nStays silent about\n\n");
        for look_alike in *look_alikes {
            let _ = writeln!(out, "- {look_alike}");
        }
    }
    let (file, source, report) = (example.file, example.source.trim_end(), example.report.trim_end());
    let _ = write!(out, "\nExample: `{file}`\n\n```{}\n{source}\n```\n\n```text\n{report}\n```\n", example.language());
}

#[cfg(test)]
mod tests;
