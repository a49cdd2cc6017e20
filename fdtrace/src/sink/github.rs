//! GitHub workflow commands: findings as annotations of a run, on the line that did it where a source line is known.
//!
//! GitHub shows ten annotations of a kind for a step and drops the rest without a word, so at most ten are written, and then
//! one that counts the others.

use std::io::{self, Write};

use crate::{
    detect::finding::{Confidence, Finding, Severity},
    escape::escape_terminal,
};

use super::{Loss, RunMeta, Sink, Summary, place::place};

/// As many as GitHub shows.
const SHOWN: u64 = 10;

pub struct GithubSink<W> {
    out: W,
    told: u64,
}

impl<W: Write> GithubSink<W> {
    pub fn new(out: W) -> Self {
        Self { out, told: 0 }
    }
}

impl<W: Write> Sink for GithubSink<W> {
    fn meta(&mut self, _: &RunMeta) -> io::Result<()> {
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.told += 1;
        if self.told > SHOWN {
            return Ok(());
        }
        // What is only possible is nothing to stop for.
        let level = match (finding.severity, finding.confidence) {
            (Severity::Note, _) | (_, Confidence::Possible) => "notice",
            (Severity::High, _) => "error",
            (Severity::Medium, _) => "warning",
        };
        let mut properties = format!("title={}", property(finding.rule));
        if let Some((file, line)) = place(finding) {
            properties = format!("file={},line={line},{properties}", property(&escape_terminal(&file.0)));
        }
        writeln!(self.out, "::{level} {properties}::{}", message(&format!("{} ({})", finding.message, finding.advice)))
    }

    fn loss(&mut self, _: &Loss) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: &Summary) -> io::Result<()> {
        if let Some(more @ 1..) = self.told.checked_sub(SHOWN) {
            writeln!(self.out, "::warning title=fdtrace::and {more} more findings, which GitHub would not show")?;
        }
        self.out.flush()
    }
}

/// <https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts>
fn message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        detect::finding::{Role, Verb},
        sink::fixture::{Say, act, finding},
    };

    #[test]
    fn ten_and_a_count() {
        let culprit = act(0, 3, 1, Verb::Closed, "close").py("a,b.py", &[(4, "f")]).is(Role::Culprit, "");
        let finding = finding("use-after-close", Confidence::Proven, "100% broken\nreally", vec![culprit]);
        let mut sink = GithubSink::new(Vec::new());
        (0..12).for_each(|_| sink.finding(&finding).unwrap());
        sink.end(&Summary::default()).unwrap();
        let text = String::from_utf8(sink.out).unwrap();
        assert_eq!(text.lines().count(), 11, "{text}");
        let first = text.lines().next().unwrap();
        assert!(first.contains("file=a%2Cb.py,line=4,title=use-after-close::100%25 broken%0Areally"), "{first}");
        assert!(text.ends_with("and 2 more findings, which GitHub would not show\n"), "{text}");
        assert!(text.starts_with("::error "), "{text}");
        let mut sink = GithubSink::new(Vec::new());
        sink.finding(&Finding { confidence: Confidence::Possible, ..finding }).unwrap();
        assert!(sink.out.starts_with(b"::notice "));
    }
}
