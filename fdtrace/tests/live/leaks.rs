//! Descriptors that pile up, and where they are opened.

use serde_json::Value;

use super::harness::{Report, known_pythons, scripted};

const OPENED_AGAIN_AND_AGAIN: &str = "\
import os, time
def settings():
    return os.open('/etc/hostname', os.O_RDONLY)
for second in range(4):
    for _ in range(12): settings()
    time.sleep(1.05)
";

fn line_of<'a>(report: &'a Report, role: &str) -> &'a Value {
    let lines = report.the("fd-leak")["timeline"].as_array().expect("a timeline");
    lines.iter().find(|line| line["role"] == role).expect("a line of this role")
}

fn innermost(line: &Value) -> Option<u64> {
    line["python"].get(0)?["line"].as_u64()
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn one_place_that_opens_one_file_again_and_again() {
    for (name, report) in scripted(&[], "again.py", OPENED_AGAIN_AND_AGAIN, known_pythons()) {
        let leak = report.the("fd-leak");
        assert_eq!(leak["confidence"], "likely", "{name}: {leak:#}");
        let message = leak["message"].as_str().unwrap_or_default();
        assert!(message.starts_with("48 of /etc/hostname") && message.contains("one place"), "{name}: {message}");
        assert_eq!(innermost(line_of(&report, "culprit")), Some(3), "{name}: {leak:#}");
    }
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn stacks_are_armed_by_the_size_of_the_table() {
    for (name, report) in scripted(&["--arm-at", "30"], "again.py", OPENED_AGAIN_AND_AGAIN, known_pythons().take(1)) {
        let [first, last] = ["root-cause", "culprit"].map(|role| innermost(line_of(&report, role)));
        assert_eq!((first, last), (None, Some(3)), "{name}: {:#}", report.the("fd-leak"));
    }
}
