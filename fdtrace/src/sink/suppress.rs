//! Suppressions: findings that somebody has looked at and does not want to hear of again.
//!
//! ```toml
//! [[suppress]]
//! rule = "fd-leak"                  # `*` for any
//! process = "gunicorn*"             # command name; all keys below may be left out
//! path = "/var/cache/*"             # what the descriptor was, in any line of the timeline
//! frames = ["*/vendor/*", "main"]   # file or function of frames of one act, innermost first, others may lie between
//! expires = "2027-01-31"            # from that day on it has no effect
//! reason = "vendor bug 42"
//! ```
//!
//! `*` stands for any text, `?` for one character. Nothing here reads a file or a clock.

use std::fmt::Write;

use jiff::civil::Date;
use serde::Deserialize;

use crate::{
    detect::finding::{Act, Finding, Frame},
    escape::escape_terminal,
};

/// Frames that a generated suppression has.
const FRAMES: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum BadSuppressions {
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    #[error("suppression {number} expires on `{text}`, which is no date: write it as 2027-01-31")]
    Date { number: usize, text: String },
    #[error("suppression {number} is for rule `{rule}`, which does not exist")]
    Rule { number: usize, rule: String },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    suppress: Vec<Suppression>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Suppression {
    rule: String,
    process: Option<String>,
    path: Option<String>,
    #[serde(default)]
    frames: Vec<String>,
    expires: Option<String>,
    reason: Option<String>,
    #[serde(skip)]
    used: u64,
    #[serde(skip)]
    expired: bool,
}

/// All suppressions of a run.
#[derive(Clone, Debug, Default)]
pub struct Suppressions(Vec<Suppression>);

impl Suppressions {
    /// Adds those of a file's text. `today` decides which have expired.
    pub fn add(&mut self, text: &str, today: Date) -> Result<(), BadSuppressions> {
        let file: File = toml::from_str(text)?;
        for mut suppression in file.suppress {
            let number = self.0.len() + 1;
            if suppression.rule != "*" && crate::detect::rules::find(&suppression.rule).is_none() {
                return Err(BadSuppressions::Rule { number, rule: suppression.rule });
            }
            if let Some(text) = &suppression.expires {
                let date: Date = text.parse().map_err(|_| BadSuppressions::Date { number, text: text.clone() })?;
                suppression.expired = date <= today;
            }
            self.0.push(suppression);
        }
        Ok(())
    }

    /// Is it not to be told? Counts as a use.
    pub fn covers(&mut self, finding: &Finding) -> bool {
        match self.0.iter_mut().find(|suppression| !suppression.expired && suppression.fits(finding)) {
            Some(suppression) => {
                suppression.used += 1;
                true
            }
            None => false,
        }
    }

    /// What is to be said of them at the end: how many findings were not told, and which were for nothing.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let used: u64 = self.0.iter().map(|suppression| suppression.used).sum();
        if used > 0 {
            remarks.push(format!("findings suppressed: {used}"));
        }
        for (suppression, number) in self.0.iter().zip(1..).filter(|(suppression, _)| suppression.used == 0) {
            let Suppression { rule, reason, expired, .. } = suppression;
            let what = if *expired { "has expired" } else { "was not used" };
            let reason = reason.as_ref().map_or_else(String::new, |reason| format!(", \"{reason}\""));
            let line = format!("suppression {number} ({rule}{reason}) {what}");
            remarks.push(escape_terminal(line.as_bytes()).to_string());
        }
        remarks
    }
}

impl Suppression {
    fn fits(&self, finding: &Finding) -> bool {
        let acts: Vec<&Act> = [&finding.root_cause, &finding.culprit, &finding.victim]
            .into_iter()
            .flatten()
            .chain(&finding.timeline)
            .collect();
        wild(&self.rule, finding.rule)
            && self.process.as_ref().is_none_or(|name| wild(name, &escape_terminal(&finding.process.0)))
            && self.path.as_ref().is_none_or(|path| acts.iter().any(|act| wild(path, &escape_terminal(&act.object.0))))
            && (self.frames.is_empty() || acts.iter().any(|act| self.frames_fit(act)))
    }

    /// The patterns match frames of the act, in their order.
    fn frames_fit(&self, act: &Act) -> bool {
        [&act.who.python, &act.who.native].into_iter().any(|frames| {
            let mut frames = frames.iter();
            self.frames.iter().all(|pattern| frames.any(|frame| names(frame).iter().any(|name| wild(pattern, name))))
        })
    }
}

fn names(frame: &Frame) -> Vec<String> {
    let names = [Some(&frame.function), frame.file.as_ref(), frame.module.as_ref()];
    names.into_iter().flatten().map(|name| escape_terminal(&name.0).to_string()).collect()
}

/// Does the text match the pattern?
fn wild(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // Where the last star is, and how much of the text it has been given: that is all there is to go back to.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, given)) => {
                    star = Some((at, given + 1));
                    (p, t) = (at + 1, given + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// A suppression for a finding, as text for a file.
pub fn generate(finding: &Finding) -> String {
    let mut text = String::from("[[suppress]]\n");
    // Writing to a string does not fail.
    let _ = writeln!(text, "rule = {}", quoted(finding.rule));
    let _ = writeln!(text, "process = {}", quoted(&escape_terminal(&finding.process.0)));
    let act = [&finding.root_cause, &finding.culprit, &finding.victim].into_iter().flatten().next();
    let frames = act.map(|act| if act.who.python.is_empty() { &act.who.native } else { &act.who.python });
    let functions: Vec<String> = frames
        .into_iter()
        .flat_map(|frames| frames.iter())
        .take(FRAMES)
        .map(|frame| quoted(&escape_terminal(&frame.function.0)))
        .collect();
    if !functions.is_empty() {
        let _ = writeln!(text, "frames = [{}]", functions.join(", "));
    }
    let _ = writeln!(text, "reason = {}\n", quoted(&finding.message));
    text
}

/// A string as TOML has it. In a pattern the wildcards of a name stand for themselves too.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        detect::finding::{Confidence, Role, Verb},
        sink::fixture::{Say, act, finding},
    };

    fn example() -> Finding {
        let frames = [(4, "close_all"), (9, "main")];
        let culprit = act(0, 3, 1, Verb::Closed, "close").of("/tmp/x \"y\"").py("vendor/a.py", &frames);
        finding("use-after-close", Confidence::Proven, "broken \"badly\"", vec![culprit.is(Role::Culprit, "")])
    }

    fn covered(text: &str) -> bool {
        let mut suppressions = Suppressions::default();
        suppressions.add(text, jiff::civil::date(2026, 6, 1)).unwrap();
        suppressions.covers(&example())
    }

    #[test]
    fn wildcards() {
        for (pattern, text) in [("*", ""), ("a*c", "abbc"), ("a?c", "abc"), ("*/x/*", "/a/x/b"), ("**", "q")] {
            assert!(wild(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a?c", "ac"), ("a*c", "abd"), ("?", "")] {
            assert!(!wild(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn every_key_must_fit() {
        let rule = "[[suppress]]\nrule = \"use-after-close\"\n";
        assert!(covered(rule));
        assert!(covered(&format!("{rule}path = \"/tmp/*\"\nframes = [\"vendor/*\", \"main\"]")));
        assert!(!covered(&format!("{rule}frames = [\"main\", \"close_all\"]")));
        assert!(!covered(&format!("{rule}path = \"/var/*\"")));
        assert!(!covered(&format!("{rule}process = \"nobody\"")));
        assert!(!covered("[[suppress]]\nrule = \"fd-leak\""));
        assert!(!covered(&format!("{rule}expires = \"2026-06-01\"")));
        assert!(covered(&format!("{rule}expires = \"2026-06-02\"")));
    }

    #[test]
    fn mistakes_are_told() {
        let mut suppressions = Suppressions::default();
        let today = jiff::civil::date(2026, 6, 1);
        for text in ["[[suppress]]\nrule = \"no-such\"", "[[suppress]]\nrule = \"*\"\nfoo = 1", "[[suppress]]", "x"] {
            assert!(suppressions.add(text, today).is_err(), "{text}");
        }
        suppressions.add("[[suppress]]\nrule = \"fd-leak\"\nreason = \"old\"", today).unwrap();
        assert_eq!(suppressions.remarks(), ["suppression 1 (fd-leak, \"old\") was not used"]);
    }

    #[test]
    fn what_is_generated_fits() {
        assert!(covered(&generate(&example())), "{}", generate(&example()));
    }
}
