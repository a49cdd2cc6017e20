//! Numbers that a C program keeps in static variables.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::harness::{Scratch, record};

fn compile(scratch: &Scratch, level: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/variables.c");
    let program = scratch.path(&format!("variables{level}"));
    let mut compiler = Command::new("cc");
    compiler.args([level, "-g", "-pthread", "-o"]).arg(&program).arg(&source);
    compiler.status().is_ok_and(|status| status.success()).then_some(program)
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
    for (level, pauses) in [("-O0", &["0"][..]), ("-O1", &["0", "120"]), ("-O2", &["0"])] {
        let Some(program) = compile(&scratch, level) else { return };
        for pause in pauses {
            let told = |what| told(&scratch, &program, what, pause);
            let both = ["stale-close close variable log_fd", "stale-use write variable log_fd"];
            assert_eq!(told("stale"), both, "{level}, {pause} ms");
            assert_eq!(told("threads"), both, "{level}, {pause} ms");
            let used = told("child");
            assert!(used.contains(&both[1].to_owned()), "{level}, {pause} ms: {used:?}");
            for fine in ["forgotten", "again", "over", "swapped", "reset", "forked"] {
                assert_eq!(told(fine), [""; 0], "{fine}, {level}, {pause} ms");
            }
        }
    }
}
