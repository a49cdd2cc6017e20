//! SARIF 2.1.0, for services that collect findings of many tools. One document, written at the end.
//!
//! A finding without a source line is a result without a location, which the format allows.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::{
    detect::{
        finding::{Act, Confidence, Finding, Severity},
        rules,
    },
    escape::escape_terminal,
};

use super::{Loss, RunMeta, Sink, Summary, fold::Repeat, place::place, shape::Shape};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

pub struct SarifSink<W> {
    out: W,
    version: String,
    results: Vec<Value>,
    complete: bool,
}

impl<W: Write> SarifSink<W> {
    pub fn new(out: W) -> Self {
        Self { out, version: String::new(), results: Vec::new(), complete: true }
    }
}

impl<W: Write> Sink for SarifSink<W> {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.version.clone_from(&meta.version);
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.results.push(result(finding));
        Ok(())
    }

    fn repeated(&mut self, repeat: &Repeat) -> io::Result<()> {
        let same = |result: &&mut Value| {
            result["ruleId"] == repeat.last.rule && result["properties"]["incident"] == repeat.incident
        };
        if let Some(result) = self.results.iter_mut().find(same) {
            result["occurrenceCount"] = json!(repeat.count);
        }
        Ok(())
    }

    fn loss(&mut self, _: &Loss) -> io::Result<()> {
        self.complete = false;
        Ok(())
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        let rules: Vec<Value> = rules::all().map(rule).collect();
        let driver = json!({ "name": "fdtrace", "version": self.version, "rules": rules });
        let invocation = json!({ "executionSuccessful": self.complete && summary.lost == 0 });
        let run = json!({
            "tool": { "driver": driver },
            "invocations": [invocation],
            "results": std::mem::take(&mut self.results),
        });
        let log = json!({ "$schema": SCHEMA, "version": "2.1.0", "runs": [run] });
        serde_json::to_writer_pretty(&mut self.out, &log)?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}

fn rule(rule: &rules::RuleText) -> Value {
    json!({
        "id": rule.name,
        "shortDescription": { "text": rules::sentence(rule.title) },
        "fullDescription": { "text": rule.definition },
        "help": { "text": rules::sentence(rule.advice) },
        "defaultConfiguration": { "level": level(rule.severity) },
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Note => "note",
    }
}

fn result(finding: &Finding) -> Value {
    let confidence = match finding.confidence {
        Confidence::Proven => "proven",
        Confidence::Likely => "likely",
        Confidence::Possible => "possible",
    };
    let mut result = json!({
        "ruleId": finding.rule,
        // What is only possible is nothing to stop for.
        "level": if finding.confidence == Confidence::Possible { "note" } else { level(finding.severity) },
        "message": { "text": finding.message },
        // Services that follow a finding from run to run know it by this.
        "partialFingerprints": { "fdtraceShape/v1": Shape::of(finding).to_string() },
        "properties": {
            "confidence": confidence,
            "incident": finding.incident,
            "pid": finding.pid,
            "fd": finding.fd,
            "generation": finding.generation,
            "complete": finding.complete,
        },
    });
    if let Some((file, line)) = place(finding) {
        result["locations"] = json!([location(&escape_terminal(&file.0), line, None)]);
    }
    let flow: Vec<Value> = finding.timeline.iter().filter_map(step).collect();
    if !flow.is_empty() {
        result["codeFlows"] = json!([{ "threadFlows": [{ "locations": flow }] }]);
    }
    result
}

/// One line of the timeline, if its source line is known.
fn step(act: &Act) -> Option<Value> {
    let mut frames = act.who.frames();
    let (file, line) = frames.find_map(|frame| Some((frame.file.as_ref()?, frame.line?)))?;
    let what = act.remark.clone().unwrap_or_else(|| format!("{} fd {}", act.call, act.fd));
    Some(json!({ "location": location(&escape_terminal(&file.0), line, Some(&what)) }))
}

fn location(file: &str, line: u32, message: Option<&str>) -> Value {
    let mut location = json!({
        "physicalLocation": { "artifactLocation": { "uri": uri(file) }, "region": { "startLine": line } },
    });
    if let Some(message) = message {
        location["message"] = json!({ "text": message });
    }
    location
}

/// A path as a URI reference: what has a meaning there is written in hexadecimal.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => uri.push(char::from(byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        detect::finding::{Role, Verb},
        sink::fixture::{Say, act, finding},
    };

    #[test]
    fn a_finding_is_a_result() {
        let culprit = act(0, 3, 1, Verb::Closed, "close").py("src/a b.py", &[(4, "f")]).is(Role::Culprit, "");
        let mut sink = SarifSink::new(Vec::new());
        let found = finding("use-after-close", Confidence::Proven, "broken", vec![culprit]);
        sink.finding(&found).unwrap();
        sink.end(&Summary::default()).unwrap();
        let log: Value = serde_json::from_slice(&sink.out).unwrap();
        let run = &log["runs"][0];
        let result = &run["results"][0];
        assert_eq!((&log["version"], &result["ruleId"]), (&json!("2.1.0"), &json!("use-after-close")));
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "src/a%20b.py");
        assert_eq!(place["region"]["startLine"], 4);
        // The same mistake in another process, at another time.
        let again = Finding { pid: 77, time: 99, incident: 5, ..found.clone() };
        assert_eq!(super::result(&again)["partialFingerprints"], result["partialFingerprints"]);
        let other = Finding { rule: "stale-use", ..found };
        assert_ne!(super::result(&other)["partialFingerprints"], result["partialFingerprints"]);
        let ids: Vec<&Value> =
            run["tool"]["driver"]["rules"].as_array().unwrap().iter().map(|rule| &rule["id"]).collect();
        assert!(ids.contains(&&json!("use-after-close")) && ids.len() > 20);
    }
}
