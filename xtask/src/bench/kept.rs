//! What others make of the same loop when they keep it: bytes, what writing costs, how fast it is read, what is missing.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    figure::{Table, short},
    tracer::Bench,
};
use crate::command;

/// Rounds of the loop: an `openat` and a `close` each.
const ROUNDS: u64 = 100_000;

/// A way to keep a run.
struct Keeper {
    name: &'static str,
    /// `FILE` stands for the file.
    write: Vec<String>,
    /// What reads the file and tells of every event. None: it is text, and nothing reads it.
    read: Option<Vec<String>>,
    /// One line that is told for each of the calls contains one of these.
    line: &'static [&'static str],
    /// It makes calls so much slower that fewer must do.
    slower: u64,
}

fn keepers(bench: &Bench) -> Vec<Keeper> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let fdtrace = bench.fdtrace.display().to_string();
    let ours = |name, options: &[&str]| Keeper {
        name,
        write: bench.around(&[options, &["--force", "--json", "/dev/null", "-o", "FILE"]].concat()),
        read: Some(vec![fdtrace.clone(), "report".into(), "FILE".into()]),
        line: &[],
        slower: 1,
    };
    let perf = |name, options: &[&str]| Keeper {
        name,
        write: [
            words(&[
                "perf",
                "record",
                "-q",
                "-e",
                "raw_syscalls:sys_enter",
                "-e",
                "raw_syscalls:sys_exit",
                "-o",
                "FILE",
            ]),
            words(options),
            words(&["--"]),
        ]
        .concat(),
        read: Some(words(&["perf", "script", "-i", "FILE"])),
        line: &["sys_exit: NR 3 ", "sys_exit: NR 257 "],
        slower: 4,
    };
    vec![
        ours("fdtrace --no-stacks", &["--no-stacks"]),
        ours("fdtrace", &[]),
        perf("perf record", &[]),
        perf("perf record --call-graph fp", &["--call-graph", "fp"]),
        Keeper {
            name: "strace -f -ttt",
            write: words(&["strace", "-f", "-ttt", "-o", "FILE", "-e", "trace=%desc"]),
            read: None,
            line: &["openat(", "close("],
            slower: 20,
        },
        Keeper {
            name: "sysdig",
            write: words(&["sysdig", "-w", "FILE", "--"]),
            read: Some(words(&["sysdig", "-r", "FILE"])),
            line: &["< openat", "< close"],
            slower: 4,
        },
    ]
}

pub fn table(bench: &Bench) -> Result<Table> {
    let mut table = Table::new(
        "the loop `openclose`, kept",
        &["tool", "bytes per call", "time per call while it is written", "read", "missing"],
    );
    let mut missing = Vec::new();
    for keeper in keepers(bench) {
        if command::find(&keeper.write[0]).is_none() && !Path::new(&keeper.write[0]).is_file() {
            missing.push(keeper.name);
            continue;
        }
        match one(bench, &keeper) {
            Ok(kept) => {
                let read = kept.read.map_or_else(|| "by nothing".into(), |read| format!("{} calls/s", short(read)));
                let cells = [
                    keeper.name.to_owned(),
                    short(kept.bytes),
                    format!("{} ns", short(kept.wall)),
                    read,
                    format!("{:.1} %", kept.missing * 100.0),
                ];
                let data = json!({ "tool": keeper.name, "bytes_per_call": kept.bytes, "wall_ns_per_call": kept.wall,
                    "calls_read_per_second": kept.read, "missing": kept.missing });
                table.row(&cells, data);
            }
            Err(error) => table.note(format!("{} failed: {error:#}.", keeper.name)),
        }
    }
    if !missing.is_empty() {
        table.note(format!("Not installed: {}.", missing.join(", ")));
    }
    Ok(table)
}

struct Kept {
    bytes: f64,
    wall: f64,
    read: Option<f64>,
    missing: f64,
}

fn one(bench: &Bench, keeper: &Keeper) -> Result<Kept> {
    let rounds = bench.scaled(ROUNDS) / keeper.slower;
    let calls = (2 * rounds) as f64;
    let path = bench.path("kept");
    let file = path.display().to_string();
    let filled = |words: &[String]| -> Vec<String> {
        words.iter().map(|word| if word == "FILE" { file.clone() } else { word.clone() }).collect()
    };
    let _ = fs::remove_file(&path);
    let timing = bench.time(&filled(&keeper.write), &bench.load("openclose", rounds))?;
    let bytes = fs::metadata(&path).context("it wrote no file")?.len() as f64;
    let (read, told) = match &keeper.read {
        Some(words) => {
            let (told, seconds) = lines_told(&filled(words), keeper.line)?;
            (Some(calls / seconds), told)
        }
        None => (None, lines_of(BufReader::new(fs::File::open(&path)?), keeper.line)?),
    };
    let missing = if keeper.line.is_empty() { lost(&file, bench)? / calls } else { 1.0 - told as f64 / calls };
    Ok(Kept { bytes: bytes / calls, wall: timing.wall / 2.0, read, missing: missing.max(0.0) })
}

/// Runs a reader and counts the lines that tell of a call; also how long it took.
fn lines_told(words: &[String], like: &[&str]) -> Result<(u64, f64)> {
    let began = Instant::now();
    let mut reader = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", words[0]))?;
    let told = lines_of(BufReader::new(reader.stdout.take().context("no output")?), like)?;
    let status = reader.wait()?;
    ensure!(status.success(), "{} cannot read what it wrote: {status}", words[0]);
    Ok((told, began.elapsed().as_secs_f64()))
}

fn lines_of(mut text: impl BufRead, like: &[&str]) -> Result<u64> {
    let (mut line, mut count) = (Vec::new(), 0);
    while text.read_until(b'\n', &mut line)? > 0 {
        let shown = String::from_utf8_lossy(&line);
        count += u64::from(like.iter().any(|like| shown.contains(like)));
        line.clear();
    }
    Ok(count)
}

/// Records that fdtrace says were lost.
fn lost(file: &str, bench: &Bench) -> Result<f64> {
    let output = Command::new(&bench.fdtrace).args(["verify", file]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("lost while recording: "));
    // By class, with the number behind its name.
    let classes = line.context("`verify` does not say what was lost")?.split(", ");
    Ok(classes.filter_map(|class| class.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
