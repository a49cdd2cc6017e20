//! Section `work`: programs that do something, as commands under fdtrace with its default settings.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    figure::{Samples, Table},
    tracer::{Bench, PEERS},
};
use crate::command;

/// A program, as the shell is told; `$S` is a scratch directory, `$W` the workspace.
const WORK: [(&str, &str, &str); 5] = [
    (
        "git status, log and grep",
        "git",
        "for i in 1 2 3; do git -C $W status --short; git -C $W log --stat -30; git -C $W grep -c fn; done",
    ),
    ("git clone", "git", "rm -rf $S/clone; git clone -q --no-hardlinks $W $S/clone"),
    (
        "find | xargs grep",
        "find",
        "find /usr/include /usr/lib/python3* -type f | head -4000 | xargs -n 50 grep -l socket",
    ),
    (
        "python, start and imports",
        "python3",
        "for i in 1 2 3; do python3 -c 'import asyncio, json, http.server, email, ssl, sqlite3'; done",
    ),
    ("cargo build", "cargo", "rm -rf $S/target; cd $W && CARGO_TARGET_DIR=$S/target cargo build -q -p fdtrace-common"),
];

pub fn section(bench: &Bench) -> Result<Vec<Table>> {
    let mut table =
        Table::new("programs under fdtrace, default settings", &["program", "tool", "wall", "spread", "ratio"]);
    let strace = &PEERS[0];
    for (name, needs, script) in WORK {
        if command::find(needs).is_none() {
            table.note(format!("{needs} is not installed: `{name}` not measured."));
            continue;
        }
        let mut ways = vec![("untraced", Vec::new()), ("fdtrace", bench.around(&[]))];
        if let Some(before) = strace.around() {
            ways.push((strace.name, before));
        }
        let mut samples: Vec<Samples> = ways.iter().map(|_| Samples::default()).collect();
        // What it reads is in memory from now on.
        run(bench, &[], script)?;
        for _ in 0..bench.rounds {
            for ((_, before), samples) in ways.iter().zip(&mut samples) {
                samples.push(run(bench, before, script)?);
            }
        }
        for ((tool, _), taken) in ways.iter().zip(&samples) {
            table.times(&[name, tool], taken, &samples[0], "s");
        }
    }
    table.note("The time is the program's own: fdtrace's start and end are not in it.");
    Ok(vec![table])
}

/// How long a script takes, in seconds, measured inside, so that the tracer's own start is not in it.
fn run(bench: &Bench, before: &[String], script: &str) -> Result<f64> {
    let result: PathBuf = bench.path("seconds");
    let _ = std::fs::remove_file(&result);
    let timed =
        format!("b=$(date +%s.%N); ( {script} ) >/dev/null 2>&1; e=$(date +%s.%N); echo $b $e >{}", result.display());
    let mut words = before.to_vec();
    words.extend(["sh".into(), "-c".into(), timed]);
    let began = Instant::now();
    let status = Command::new(&words[0])
        .args(&words[1..])
        .env("S", &bench.scratch)
        .env("W", command::workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", words[0]))?;
    let text = std::fs::read_to_string(&result).with_context(|| format!("`{script}` came to nothing: {status}"))?;
    let times: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(times.len() == 2, "`{text}` is no result");
    ensure!(times[1] - times[0] <= began.elapsed().as_secs_f64() + 1.0, "the clock was set");
    Ok(times[1] - times[0])
}
