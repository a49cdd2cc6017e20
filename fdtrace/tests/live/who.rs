//! Who did it: lines, objects, native frames; and what must never be told.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

use super::harness::{Scratch, known_pythons, record, trace};

const BLOG: &str = "\
import os
f = open('/dev/zero')
f.read(1)
os.close(f.fileno())

f = open('/dev/zero')
f.read(1)
";

fn line(act: &Value) -> Option<u64> {
    act["python"].as_array()?.first()?["line"].as_u64()
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn object_and_line_on_every_python() {
    let scratch = Scratch::new();
    let script = scratch.write("a.py", BLOG);
    for python in known_pythons() {
        let report = trace(&[], &[python.as_os_str(), script.as_os_str()]);
        let name = python.display();
        let foreign = report.the("foreign-close");
        assert_eq!((foreign["confidence"].as_str(), line(&foreign["culprit"])), (Some("proven"), Some(4)), "{name}");
        let stale = report.the("stale-close");
        assert_eq!((stale["confidence"].as_str(), line(&stale["culprit"])), (Some("proven"), Some(6)), "{name}");
        let [culprit, victim] = ["culprit", "victim"].map(|part| &stale[part]["owner"]);
        assert_eq!((&culprit["kind"], &victim["kind"]), (&"_io.FileIO".into(), &"_io.FileIO".into()), "{name}");
        assert_ne!(culprit["address"], victim["address"], "{name}");
        assert_eq!(foreign["victim"]["owner"], *culprit, "{name}: robbed first, then late");
        assert_eq!(line(&report.the("use-after-close")["victim"]), Some(7), "{name}");
    }
}

/// `rule fd address` of what names an object, with how often.
fn named(lines: &[Value]) -> BTreeMap<String, u32> {
    let mut named = BTreeMap::new();
    for (rule, part) in [("foreign-close", "victim"), ("stale-close", "culprit")] {
        let proven = lines.iter().filter(|line| line["rule"] == rule && line["confidence"] == "proven");
        for finding in proven {
            let address = finding[part]["owner"]["address"].as_str().unwrap_or("?");
            *named.entry(format!("{rule} {} {address}", finding["fd"])).or_default() += 1;
        }
    }
    named
}

/// `FDTRACE_STEPS` makes the runs longer.
#[test]
#[ignore = "needs root and a kernel with BTF"]
fn closes_by_late_owners_are_never_made_up() {
    let scratch = Scratch::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/stress.py");
    let steps = std::env::var("FDTRACE_STEPS").unwrap_or_else(|_| "800".to_owned());
    let (mut all, mut found) = (0, 0);
    for python in known_pythons() {
        for (seed, mistakes) in [("1", "1"), ("2", "1"), ("3", "0")] {
            let arguments = [python.as_os_str(), script.as_os_str(), seed.as_ref(), steps.as_ref(), mistakes.as_ref()];
            let (report, lines) = record(&scratch, &arguments);
            let name = format!("{} seed {seed}", python.display());
            let mut truth: BTreeMap<String, u32> = BTreeMap::new();
            for line in report.stdout.lines().filter(|line| line.split(' ').count() == 3 && line.contains("-close ")) {
                *truth.entry(line.to_owned()).or_default() += 1;
            }
            assert_eq!(truth.is_empty(), mistakes == "0", "{name}\n{}", report.stderr);
            let told = named(&lines);
            for (what, count) in &told {
                assert!(*count <= truth.get(what).copied().unwrap_or(0), "{name}: {what} is not true");
            }
            for (what, count) in &truth {
                all += count;
                found += told.get(what).copied().unwrap_or(0);
            }
        }
    }
    println!("{found} of {all} mistakes");
    assert!(found * 100 >= all * 99, "{found} of {all} mistakes");
}

const SECRETIVE: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static __attribute__((noinline)) int opener(void) { int fd = open("/dev/zero", 0); __asm__ volatile(""); return fd; }
static __attribute__((noinline)) void closer(int fd) { close(fd); __asm__ volatile(""); }
static __attribute__((noinline)) int reader(int fd) { char b[8]; int r = read(fd, b, 8); __asm__ volatile(""); return r; }
int main(void) {
    char secret[64];
    strcpy(secret, "PLANTED-");
    strcat(secret, "SECRET-91233");
    __asm__ volatile("" ::"r"(secret) : "memory");
    int fd = opener();
    closer(fd);
    reader(fd);
    usleep(300000);
    return secret[0] == 'x';
}
"#;

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn native_frames_are_named_and_the_stack_itself_stays() {
    let scratch = Scratch::new();
    let source = scratch.write("t.c", SECRETIVE);
    let program = scratch.path("t");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-g", "-fomit-frame-pointer", "-o"]).arg(&program).arg(&source);
    if !compiler.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no C compiler");
        return;
    }
    let recording = scratch.path("run.fdt");
    let report = trace(&["-o", recording.to_str().expect("a plain path")], &[program.as_os_str()]);
    let hit = report.the("use-after-close");
    for (part, function) in [("victim", "reader"), ("culprit", "closer")] {
        let frames: Vec<&str> = hit[part]["native"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|frame| frame["function"].as_str())
            .collect();
        let at = frames.iter().position(|name| *name == function);
        assert!(at.is_some_and(|at| frames.get(at + 1) == Some(&"main")), "{part}: {frames:?}");
    }
    let secret = b"PLANTED-SECRET";
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    assert!(!holds(report.stdout.as_bytes()) && !holds(report.stderr.as_bytes()));
    assert!(!holds(&std::fs::read(recording).expect("a recording")));
    assert!(!report.lines.iter().any(|line| holds(line.to_string().as_bytes())));
}
