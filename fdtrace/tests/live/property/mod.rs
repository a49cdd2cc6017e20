//! Random programs that treat descriptors as they should are not accused of anything, and a single mistake in one of them
//! is found. They run in real processes, one after the other, under one trace.
//!
//! `FDTRACE_PROGRAMS=5000` runs more of them, `FDTRACE_SEED=N` those of an earlier run again. A run prints its seed, and of
//! a program that was misjudged its own, which `FDTRACE_SEED=N FDTRACE_PROGRAMS=1` begins with.

mod play;
mod program;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::harness::{FDTRACE, Scratch};
use program::{Mistake, Random, Shown, correct, mistaken};

/// Marks the lines of the process that runs the programs.
const MARK: &str = "program ";
const PLAYER: &str = "property::player";
const VARIABLE: &str = "FDTRACE_PLAY";

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The programs of a run: each seed once as it is, and once with a mistake.
fn programs(first: u64, count: u64) -> impl Iterator<Item = (u64, Option<Mistake>)> {
    (0..count).flat_map(move |n| {
        let seed = first.wrapping_add(n);
        let mistake = Mistake::ALL[(seed % Mistake::ALL.len() as u64) as usize];
        [(seed, None), (seed, Some(mistake))]
    })
}

/// Not a test: the process that is traced.
#[test]
#[ignore = "the traced side of the property test"]
fn player() {
    let Some((first, count)) = std::env::var(VARIABLE).ok().and_then(|text| {
        let (first, count) = text.split_once(' ')?;
        Some((first.parse().ok()?, count.parse().ok()?))
    }) else {
        return;
    };
    for (seed, mistake) in programs(first, count) {
        let ops = mistake.map_or_else(|| correct(seed), |mistake| mistaken(seed, mistake));
        let began = boot_ns();
        // SAFETY: the other threads of the test harness sleep; the child runs the program and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            play::play(&ops);
            // SAFETY: nothing of ours runs after it.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: a status is there to be written.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        let line = format!("{MARK}{pid} {began} {} {status}\n", boot_ns());
        std::io::stderr().write_all(line.as_bytes()).expect("somebody listens");
    }
}

fn boot_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a time is there to be written.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn correct_programs_are_left_alone_and_mistakes_are_found() {
    let count = from_environment("FDTRACE_PROGRAMS").unwrap_or(60);
    match from_environment("FDTRACE_SEED") {
        Some(seed) => check(seed, count),
        None => {
            check(0, count);
            check(Random::new(boot_ns()).next() >> 16, count);
        }
    }
}

fn check(first: u64, count: u64) {
    println!("seed {first}, {count} programs, each also with a mistake");
    let scratch = Scratch::new();
    let recording = scratch.path("run.fdt");
    let us = std::env::current_exe().expect("our own program");
    let mut fdtrace = Command::new(FDTRACE)
        .args(["--stack-bytes", "0", "-o"])
        .arg(&recording)
        .arg("--")
        .arg(us)
        .args([PLAYER, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, format!("{first} {count}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fdtrace starts");
    let (mut told, mut rest): (Vec<Vec<u64>>, String) = (Vec::new(), String::new());
    for line in BufReader::new(fdtrace.stderr.take().expect("a pipe")).lines() {
        let line = line.expect("a line");
        match line.strip_prefix(MARK) {
            Some(numbers) => {
                told.push(numbers.split(' ').map(|number| number.parse().expect("a number")).collect());
            }
            None => rest.push_str(&format!("{line}\n")),
        }
    }
    assert!(fdtrace.wait().expect("fdtrace ends").success(), "{rest}");
    assert!(rest.contains("lost 0"), "{rest}");
    // Every finding for itself: a report folds equal ones.
    let findings = scratch.path("findings.jsonl");
    let exported = Command::new(FDTRACE)
        .arg("export")
        .arg(&recording)
        .args(["--quiet", "--to", "jsonl", "-o"])
        .arg(&findings)
        .status()
        .expect("fdtrace runs");
    assert!(exported.success());
    let text = std::fs::read_to_string(&findings).expect("findings");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let findings: Vec<Value> = lines.filter(|line| line["type"] == "finding").collect();
    let mut misjudged = Vec::new();
    for ((seed, mistake), told) in programs(first, count).zip(&told) {
        let [pid, began, ended, status] = told[..] else { panic!("{told:?}") };
        assert_eq!(status, 0, "program {seed} {mistake:?} broke");
        let within = |finding: &&Value| last(finding).is_some_and(|time| (began..=ended).contains(&time));
        let found: Vec<&Value> = findings.iter().filter(within).collect();
        let rules: Vec<&str> = found.iter().filter_map(|finding| finding["rule"].as_str()).collect();
        let good = match mistake {
            None => rules.is_empty(),
            Some(mistake) => {
                let (rule, also) = mistake.rules();
                rules.contains(&rule) && rules.iter().all(|found| *found == rule || also.contains(found))
            }
        };
        if !good {
            let ops = mistake.map_or_else(|| correct(seed), |mistake| mistaken(seed, mistake));
            let messages: Vec<String> =
                found.iter().map(|f| format!("{} {}: {}", f["rule"], f["confidence"], f["message"])).collect();
            misjudged.push(format!(
                "seed {seed} {mistake:?} (process {pid}): {}\n{}",
                if messages.is_empty() { "nothing found".to_owned() } else { messages.join("\n  ") },
                Shown(&ops)
            ));
        }
    }
    assert_eq!(told.len() as u64, 2 * count, "{rest}");
    assert!(misjudged.is_empty(), "{} misjudged\n{}", misjudged.len(), misjudged.join("\n"));
}

/// When the last thing happened that a finding tells of.
fn last(finding: &Value) -> Option<u64> {
    let parts = ["culprit", "victim", "root_cause"].into_iter().map(|part| &finding[part]);
    let acts = finding["timeline"].as_array().into_iter().flatten().chain(parts);
    acts.filter_map(|act| act["time"].as_u64()).max().or(finding["time"].as_u64())
}
