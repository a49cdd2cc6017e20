//! `FILE` and `DIR` of the C library: random mistakes of a C program that knows what it does.
//!
//! `FDTRACE_STEPS` makes the runs longer.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::harness::{self, Scratch, record};

/// `what fd address`, with how often.
type Tally = BTreeMap<String, u32>;

fn compile(scratch: &Scratch, level: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/streams.c");
    let program = scratch.path(&format!("streams{}", level.replace(' ', "")));
    // Without symbols and frame pointers: nothing may depend on them.
    let flags: Vec<&str> = level.split(' ').chain(["-w", "-s", "-fomit-frame-pointer"]).collect();
    harness::compile(&flags, &source, &program).then_some(program)
}

/// What the program says, and every finding and every close of its descriptors.
fn run(scratch: &Scratch, program: &Path, seed: &str, mistakes: &str) -> (Tally, Vec<Value>) {
    let steps = std::env::var("FDTRACE_STEPS").unwrap_or_else(|_| "600".to_owned());
    let arguments = [program.as_os_str(), seed.as_ref(), steps.as_ref(), mistakes.as_ref()];
    let (report, lines) = record(scratch, &arguments);
    assert_eq!(report.status, Some(0), "{}", report.stderr);
    let mut truth = Tally::new();
    let kinds = ["stream", "directory", "foreign-close", "stale-close", "stale-use"];
    for line in report.stdout.lines() {
        if line.split(' ').next().is_some_and(|kind| kinds.contains(&kind)) && line.split(' ').count() == 3 {
            *truth.entry(line.to_owned()).or_default() += 1;
        }
    }
    (truth, lines)
}

fn address(act: &Value) -> &str {
    act["owner"]["address"].as_str().unwrap_or("?")
}

/// What fdtrace says, in the words of the program.
fn told(lines: &[Value]) -> Tally {
    let mut told = Tally::new();
    for line in lines {
        let what = match (line["type"].as_str(), line["rule"].as_str()) {
            (Some("finding"), Some("foreign-close")) => {
                format!("foreign-close {} {}", line["fd"], address(&line["victim"]))
            }
            (Some("finding"), Some(rule @ ("stale-close" | "stale-use"))) => {
                format!("{rule} {} {}", line["fd"], address(&line["culprit"]))
            }
            (Some("lifetime"), _) if line["closed"]["call"] == "close" => {
                match line["closed"]["owner"]["kind"].as_str() {
                    Some("FILE") => format!("stream {} {}", line["fd"], address(&line["closed"])),
                    Some("DIR") => format!("directory {} {}", line["fd"], address(&line["closed"])),
                    _ => continue,
                }
            }
            _ => continue,
        };
        *told.entry(what).or_default() += 1;
    }
    told
}

fn of<'a>(tally: &'a Tally, kind: &str) -> impl Iterator<Item = (&'a String, &'a u32)> {
    tally.iter().filter(move |(what, _)| what.split(' ').next() == Some(kind))
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn streams_and_directories_are_met_again() {
    let scratch = Scratch::new();
    // In a static program the library's functions do not tell from the program's: less is found, and nothing wrong.
    for (level, least) in [("-O0", 99), ("-O1", 99), ("-O2", 99), ("-O3", 99), ("-O2 -static", 0)] {
        let Some(program) = compile(&scratch, level) else {
            eprintln!("skipped: no C compiler");
            return;
        };
        for (seed, mistakes) in [("1", "1"), ("2", "0")] {
            let (truth, lines) = run(&scratch, &program, seed, mistakes);
            let told = told(&lines);
            let name = format!("{level} seed {seed}");
            for kind in ["foreign-close", "stale-close", "stale-use", "stream", "directory"] {
                for (what, count) in of(&told, kind) {
                    // A stream that closes another's number is a mistake in one list and a close in the other.
                    let stale = what.replacen("stream", "stale-close", 1);
                    let mut true_count = truth.get(what).copied().unwrap_or(0);
                    if kind == "stream" {
                        true_count += truth.get(&stale).copied().unwrap_or(0);
                    }
                    assert!(*count <= true_count, "{name}: {what} is not true");
                }
                let (all, found): (u32, u32) = of(&truth, kind).fold((0, 0), |(all, found), (what, count)| {
                    // One object's uses of one generation are told once.
                    let count = if kind == "stale-use" { 1 } else { *count };
                    (all + count, found + count.min(told.get(what).copied().unwrap_or(0)))
                });
                println!("{name}: {kind}: {found} of {all}");
                assert_eq!(all > 0, mistakes == "1" || matches!(kind, "stream" | "directory"), "{name}: {kind}");
                assert!(found * 100 >= all * least, "{name}: {kind}: {found} of {all}");
            }
        }
    }
}
