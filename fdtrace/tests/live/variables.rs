//! Numbers that a C program keeps in static variables.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::harness::{self, Scratch, record};

fn compile(scratch: &Scratch, how: &[&str]) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/variables.c");
    let program = scratch.path(&format!("variables{}", how.concat()));
    harness::compile(&[how, &["-g", "-pthread"]].concat(), &source, &program).then_some(program)
}

/// What is said of a run: rule, call of the culprit, and the variable.
fn told(scratch: &Scratch, program: &Path, what: &str, pause: &str) -> Vec<String> {
    // The program leaves its files where it is started.
    let script = format!("cd '{}' && rm -f log db && exec \"$0\" {what} {pause}", scratch.path("").display());
    let (report, lines) = record(scratch, &["sh", "-c", &script, &program.display().to_string()]);
    assert_eq!(report.status, Some(0), "{what}: {}", report.stderr);
    let findings = lines.iter().filter(|line| line["type"] == "finding");
    let mut told: Vec<String> = findings
        .map(|finding| {
            let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
            let culprit = &finding["culprit"];
            format!("{} {} {}", text(&finding["rule"]), text(&culprit["call"]), text(&culprit["owner"]["kind"]))
        })
        .collect();
    told.sort();
    told
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_stale_variable_is_told_from_one_that_was_given_the_number() {
    let scratch = Scratch::new();
    // Milliseconds: with time, user space asks for the uses; without, the kernel side tells them unasked.
    let (at_once, both_ways) = (&["0"][..], &["0", "120"][..]);
    for (how, pauses, with_twins) in [
        (&["-O0"][..], at_once, true),
        (&["-O2"], both_ways, true),
        // By way of functions that hand the number on.
        (&["-O0", "-DWRAPPED"], at_once, false),
        (&["-O1", "-DWRAPPED"], at_once, false),
        (&["-O2", "-DWRAPPED"], at_once, true),
    ] {
        let Some(program) = compile(&scratch, how) else { return };
        for pause in pauses {
            let told = |what| told(&scratch, &program, what, pause);
            let both = ["stale-close close variable log_fd", "stale-use write variable log_fd"];
            assert_eq!(told("stale"), both, "{how:?}, {pause} ms");
            assert_eq!(told("threads"), both, "{how:?}, {pause} ms");
            let used = told("child");
            assert!(used.contains(&both[1].to_owned()), "{how:?}, {pause} ms: {used:?}");
            let twins = ["forgotten", "again", "over", "swapped", "reset", "asked", "forked"];
            for fine in twins.into_iter().filter(|_| with_twins) {
                assert_eq!(told(fine), [""; 0], "{fine}, {how:?}, {pause} ms");
            }
        }
    }
}
