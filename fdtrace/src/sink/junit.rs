//! JUnit's XML, which every build server reads: a test case for each rule, failed for each of its findings, written at the
//! end. A run that lost events has an error of its own, so that it does not pass for a clean one.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
};

use crate::detect::{finding::Finding, rules};

use super::{Loss, RunMeta, Sink, Summary, place::place};

/// Findings of one rule that are written out.
const SHOWN: usize = 50;

pub struct JunitSink<W> {
    out: W,
    findings: BTreeMap<&'static str, Vec<String>>,
}

impl<W: Write> JunitSink<W> {
    pub fn new(out: W) -> Self {
        Self { out, findings: BTreeMap::new() }
    }
}

impl<W: Write> Sink for JunitSink<W> {
    fn meta(&mut self, _: &RunMeta) -> io::Result<()> {
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let mut text = format!("{}\nprocess {} fd {}", finding.message, finding.pid, finding.fd);
        if let Some((file, line)) = place(finding) {
            text = format!("{}:{line}: {text}", crate::escape::escape_terminal(&file.0));
        }
        self.findings.entry(finding.rule).or_default().push(text);
        Ok(())
    }

    fn loss(&mut self, _: &Loss) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        let tests = rules::all().count() + 1;
        let failures = self.findings.len();
        let errors = usize::from(summary.lost > 0);
        let seconds = summary.duration_ns / 1_000_000_000;
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"fdtrace\" tests=\"{tests}\" \
             failures=\"{failures}\" errors=\"{errors}\" time=\"{seconds}\">\n"
        );
        // Writing to a string does not fail.
        for rule in rules::all() {
            let _ = write!(xml, "  <testcase classname=\"fdtrace\" name=\"{}\"", rule.name);
            let Some(findings) = self.findings.get(rule.name) else {
                xml.push_str("/>\n");
                continue;
            };
            let first = findings.first().and_then(|text| text.lines().next()).unwrap_or_default();
            let text = findings.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n\n");
            let (first, text) = (escaped(first), escaped(&text));
            let _ = write!(xml, ">\n    <failure message=\"{first}\">{text}</failure>\n  </testcase>\n");
        }
        xml.push_str("  <testcase classname=\"fdtrace\" name=\"complete\"");
        if summary.lost > 0 {
            let lost = summary.lost;
            let _ = write!(xml, ">\n    <error message=\"{lost} events were lost\"/>\n  </testcase>\n");
        } else {
            xml.push_str("/>\n");
        }
        xml.push_str("</testsuite>\n");
        self.out.write_all(xml.as_bytes())?;
        self.out.flush()
    }
}

/// Text as XML has it. Control characters are not allowed there at all.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            character if character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        detect::finding::{Confidence, Verb},
        sink::fixture::{act, finding},
    };

    #[test]
    fn rules_are_test_cases() {
        let act = act(0, 3, 1, Verb::Closed, "close");
        let mut sink = JunitSink::new(Vec::new());
        sink.finding(&finding("stale-use", Confidence::Proven, "a <b> & \"c\" \u{1}", vec![act])).unwrap();
        sink.end(&Summary { lost: 3, ..Summary::default() }).unwrap();
        let text = String::from_utf8(sink.out).unwrap();
        assert!(text.contains("failures=\"1\" errors=\"1\""), "{text}");
        assert!(text.contains("message=\"a &lt;b&gt; &amp; &quot;c&quot; \u{fffd}\""), "{text}");
        assert_eq!(text.matches("<testcase").count(), rules::all().count() + 1);
    }
}
