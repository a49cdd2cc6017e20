//! `fdtrace self-test`: each rule has a program that breaks it and a twin that does not.

use serde_json::Value;

use super::harness::plain;

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn every_rule_is_found_in_its_program_and_not_in_its_twin() {
    let report = plain(&["self-test", "--json"]);
    let outcome: Value = serde_json::from_str(&report.stdout).unwrap_or_else(|_| panic!("no JSON: {}", report.stderr));
    assert_eq!((report.status, &outcome["ok"]), (Some(0), &Value::Bool(true)), "{outcome:#}\n{}", report.stderr);
    let rules = outcome["rules"].as_array().expect("rules");
    let skipped: Vec<_> = rules.iter().filter(|rule| rule["skipped"] == true).map(|rule| &rule["name"]).collect();
    // What is missing is told; the kernel's own rules need nothing that could be.
    let owners = ["foreign-close", "two-owners", "stale-use", "stale-close", "close-after-eintr"];
    let may_be = |name: &Value| owners.iter().any(|owner| name.as_str().is_some_and(|name| name.starts_with(owner)));
    assert!(skipped.iter().all(|name| may_be(name)), "{skipped:?}");
    assert!(rules.len() > 20, "{outcome:#}");
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_rule_that_is_not_there_is_refused() {
    let report = plain(&["self-test", "no-such-rule"]);
    assert_eq!(report.status, Some(2));
    assert!(report.stderr.contains("no-such-rule") && report.stderr.contains("ghost-event"), "{}", report.stderr);
}
