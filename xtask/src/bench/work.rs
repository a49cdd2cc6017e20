//! Section `work`: programs that do something, as commands under fdtrace with its default settings.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{
    figure::{Samples, Table, short},
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
    let mut table = Table::new(
        "programs under fdtrace, default settings",
        &["program", "tool", "wall", "spread", "ratio", "CPU", "CPU ratio"],
    );
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
        let mut samples: Vec<[Samples; 2]> = ways.iter().map(|_| Default::default()).collect();
        // What it reads is in memory from now on.
        run(bench, &[], script)?;
        for _ in 0..bench.rounds {
            for ((_, before), samples) in ways.iter().zip(&mut samples) {
                for (samples, seconds) in samples.iter_mut().zip(run(bench, before, script)?) {
                    samples.push(seconds);
                }
            }
        }
        let [plain_wall, plain_cpu] = &samples[0];
        for ((tool, _), [wall, cpu]) in ways.iter().zip(&samples) {
            let (ratio, cpu_ratio) = (wall.median() / plain_wall.median(), cpu.median() / plain_cpu.median());
            let cells = [
                name.to_owned(),
                (*tool).to_owned(),
                format!("{} s", short(wall.median())),
                format!("{}–{}", short(wall.low()), short(wall.high())),
                format!("{ratio:.2}×"),
                format!("{} s", short(cpu.median())),
                format!("{cpu_ratio:.2}×"),
            ];
            let data = json!({ "of": [name, tool], "wall_s": wall.0, "cpu_s": cpu.0, "ratio": ratio,
                "cpu_ratio": cpu_ratio });
            table.row(&cells, data);
        }
    }
    table.note("The times are the program's own: fdtrace's start and end are not in them, nor is its processor time.");
    Ok(vec![table])
}

/// How long a script takes, and processor time of it, in seconds, measured inside, so that the tracer's own start is not in
/// it.
fn run(bench: &Bench, before: &[String], script: &str) -> Result<[f64; 2]> {
    let result: PathBuf = bench.path("seconds");
    let _ = std::fs::remove_file(&result);
    let timed = format!(
        "b=$(date +%s.%N); ( {script} ) >/dev/null 2>&1; e=$(date +%s.%N); {{ echo $b $e; times; }} >{}",
        result.display()
    );
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
    let (clock, times) = text.split_once('\n').unwrap_or_default();
    let clock: Vec<f64> = clock.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // In user mode and in the kernel, `MmS.SSSs`: of the shell, then of its children.
    let cpu: Vec<f64> = times.split_whitespace().skip(2).filter_map(minutes).collect();
    let ([began_at, ended_at], [user, system]) = (&clock[..], &cpu[..]) else { bail!("`{text}` is no result") };
    ensure!(ended_at - began_at <= began.elapsed().as_secs_f64() + 1.0, "the clock was set");
    Ok([ended_at - began_at, user + system])
}

/// `1m2.5s`, as seconds.
fn minutes(text: &str) -> Option<f64> {
    let (minutes, seconds) = text.strip_suffix('s')?.split_once('m')?;
    Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
}
