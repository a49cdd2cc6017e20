//! `fdtrace explain`: what a rule means, how it is proven, how to mend what it found. Draws the texts that stand with the
//! rules; has none of its own.

use super::text::paint::{Line, Tone, paragraph};
use crate::{
    detect::{
        finding::Severity,
        rules::{self, RuleText, Since, sentence},
    },
    escape::escape_terminal,
};

/// Text wider than this is hard to read, however wide the terminal is.
const READABLE: usize = 100;
const INDENT: usize = 2;

/// There is no rule of this name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no rule `{}`; {}", escape_terminal(.name.as_bytes()), hint(.nearest))]
pub struct UnknownRule {
    pub name: String,
    /// The rule that was probably meant.
    pub nearest: Option<&'static str>,
}

fn hint(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(name) => format!("did you mean `{name}`?"),
        None => "`fdtrace explain` lists them".to_owned(),
    }
}

/// One rule, in full.
pub fn explain(name: &str, width: usize, colour: bool) -> Result<String, UnknownRule> {
    match rules::find(name) {
        Some(rule) => Ok(draw(&page(rule, width.min(READABLE)), colour)),
        None => Err(UnknownRule { name: name.to_owned(), nearest: nearest(name) }),
    }
}

/// All rules, a line for each.
pub fn list(width: usize, colour: bool) -> String {
    let width = width.min(READABLE);
    let names = rules::all().map(|rule| rule.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for family in &rules::FAMILIES {
        lines.push(Line::of(Tone::Strong, family.title));
        for rule in family.rules {
            let (tone, _) = severity(rule.severity);
            let first = Line::new().padded(INDENT).and(tone, rule.name).padded(INDENT + names + 2);
            let planned = if rule.since == Since::Planned { " (planned)" } else { "" };
            lines.extend(paragraph(first, INDENT + names + 2, Tone::Plain, &format!("{}{planned}", rule.title), width));
        }
        lines.push(Line::new());
    }
    lines.push(Line::of(Tone::Dim, "`fdtrace explain RULE` says more."));
    draw(&lines, colour)
}

fn page(rule: &RuleText, width: usize) -> Vec<Line> {
    let (tone, severity) = severity(rule.severity);
    let mut lines = vec![Line::of(tone, rule.name).padded(width.saturating_sub(severity.len())).and(tone, severity)];
    lines.extend(paragraph(Line::new(), 0, Tone::Strong, &sentence(rule.title), width));
    if rule.since == Since::Planned {
        lines.push(Line::of(Tone::Note, "Planned: fdtrace does not look for it yet."));
    }

    section(&mut lines, "What it means", rule.definition, width);
    section(&mut lines, "What to do", &sentence(rule.advice), width);
    section(&mut lines, "How it is proven", rule.proof, width);
    if !rule.severity_varies.is_empty() {
        section(&mut lines, "Severity", &sentence(&format!("{severity}; {}", rule.severity_varies)), width);
    }
    lines.push(Line::new());
    lines.push(Line::of(Tone::Strong, "What it stays silent about"));
    for look_alike in rule.look_alikes {
        let bullet = Line::new().padded(INDENT).and(Tone::Dim, "- ");
        lines.extend(paragraph(bullet, INDENT + 2, Tone::Plain, look_alike, width));
    }

    let example = &rule.example;
    lines.push(Line::new());
    lines.push(Line::of(Tone::Strong, "Example: ").and(Tone::Plain, example.file));
    for (number, text) in (1..).zip(example.source.lines()) {
        lines.push(Line::of(Tone::Gutter, format!("  {number:>3} │ ")).and(Tone::Plain, text));
    }
    lines.push(Line::new());
    for text in example.report.lines() {
        lines.push(Line::new().and(Tone::Plain, text));
    }
    lines
}

fn section(lines: &mut Vec<Line>, title: &str, text: &str, width: usize) {
    lines.push(Line::new());
    lines.push(Line::of(Tone::Strong, title));
    lines.extend(paragraph(Line::new().padded(INDENT), INDENT, Tone::Plain, text, width));
}

fn severity(severity: Severity) -> (Tone, &'static str) {
    let tone = match severity {
        Severity::High => Tone::Error,
        Severity::Medium => Tone::Warning,
        Severity::Note => Tone::Note,
    };
    (tone, rules::severity_word(severity))
}

/// The rule whose name is most like this one, if any is like it at all.
fn nearest(name: &str) -> Option<&'static str> {
    let name = name.trim().to_lowercase().replace(['_', ' '], "-");
    // Half a name is a better clue than the number of letters that differ.
    let part = |is_part: fn(&str, &str) -> bool| rules::all().find(|rule| name.len() >= 3 && is_part(rule.name, &name));
    let partly = part(|rule, name| rule.starts_with(name)).or_else(|| part(|rule, name| rule.contains(name)));
    let similar = || {
        let score = |rule: &RuleText| strsim::jaro_winkler(&name, rule.name);
        rules::all().filter(|rule| score(rule) > 0.75).max_by(|a, b| score(a).total_cmp(&score(b)))
    };
    partly.or_else(similar).map(|rule| rule.name)
}

fn draw(lines: &[Line], colour: bool) -> String {
    lines.iter().map(|line| line.paint(colour) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::fixture::matches_file;

    #[test]
    fn docs_are_generated() {
        matches_file("../docs/rules.md", &rules::markdown());
    }

    #[test]
    fn each_rule_is_explained_within_the_width() {
        for rule in rules::all() {
            for width in [60, 80, 140] {
                let text = explain(rule.name, width, false).unwrap();
                let prose = text.split("\nExample: ").next().unwrap();
                assert!(prose.lines().all(|line| line.chars().count() <= width), "{} at {width}", rule.name);
                assert!(text.lines().all(|line| line.chars().count() <= 100), "{} at {width}:\n{text}", rule.name);
            }
            assert!(list(80, false).contains(rule.name));
        }
        assert!(list(80, false).lines().all(|line| line.chars().count() <= 80));
        assert!(!explain("stale-close", 80, false).unwrap().contains('\x1b'));
        assert!(explain("stale-close", 80, true).unwrap().contains('\x1b'));
    }

    #[test]
    fn suggests_what_was_meant() {
        for (typed, meant) in [
            ("stale_close", "stale-close"),
            ("stale-clsoe", "stale-close"),
            ("Double-Close", "double-close"),
            ("doubleclose", "double-close"),
            ("epoll-shared", "epoll-shared-across-fork"),
            ("leak", "fd-leak"),
            ("use-after-free", "use-after-close"),
        ] {
            assert_eq!(nearest(typed), Some(meant), "{typed}");
        }
        let error = explain("stale-clsoe", 80, false).unwrap_err().to_string();
        assert_eq!(error, "there is no rule `stale-clsoe`; did you mean `stale-close`?");
        let error = explain("\x1b[31mzzz", 80, false).unwrap_err().to_string();
        assert_eq!(error, r"there is no rule `\x1b[31mzzz`; `fdtrace explain` lists them");
    }
}
