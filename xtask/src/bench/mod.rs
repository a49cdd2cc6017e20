//! `cargo xtask bench`: what fdtrace costs, beside what its peers cost, in one run.
//!
//! Runs of one table are interleaved, so that whatever else the machine does hits all of them; medians and spread are
//! shown, and ratios to the untraced run. Nothing in here fails because something is slow.

mod attach;
mod bystanders;
mod figure;
mod floor;
mod kept;
pub mod load;
mod loops;
mod own;
mod rate;
mod recording;
mod servers;
mod tracer;
mod work;

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{build, command};
use figure::Table;
use tracer::Bench;

#[derive(Args)]
pub struct Options {
    /// Only these sections, separated by commas (default: all)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Fewer iterations and rounds: for a look, not for a document
    #[arg(long)]
    quick: bool,
    /// How often each run is repeated
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Where the same goes as JSON (default: bench.json in the target directory)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A fdtrace that is built already
    #[arg(long, value_name = "PROGRAM")]
    fdtrace: Option<PathBuf>,
}

type Section = fn(&Bench) -> Result<Vec<Table>>;

/// Name, what it measures, and how.
const SECTIONS: [(&str, &str, Section); 9] = [
    ("loops", "traced loops that do nothing but descriptor calls, and peers", loops::section),
    ("bystanders", "processes that are not traced", bystanders::section),
    ("work", "traced programs: git, find and grep, cargo", work::section),
    ("servers", "traced servers under load: asyncio, PostgreSQL, redis", servers::section),
    ("rate", "events a second without loss", rate::section),
    ("cpu", "processor time of fdtrace, by event and at rest", own::cpu),
    ("memory", "memory of fdtrace, by descriptor, process and lifetime", own::memory),
    ("attach", "start-up, and attaching to many descriptors", attach::section),
    ("recording", "writing and reading recordings", recording::section),
];

pub fn bench(options: &Options) -> Result<()> {
    let names: Vec<&str> = SECTIONS.iter().map(|(name, ..)| *name).collect();
    for name in &options.only {
        ensure!(names.contains(&name.as_str()), "there is no section `{name}`: they are {}", names.join(", "));
    }
    ensure!(command::is_root(), "tracing needs root: run this as root");
    let fdtrace = match &options.fdtrace {
        Some(fdtrace) => fdtrace.clone(),
        None => build::build(&build::Options { release: true })?,
    };
    let scratch = env::temp_dir().join(format!("fdtrace-bench-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let bench = Bench {
        fdtrace,
        xtask: build::load()?,
        scratch,
        quick: options.quick,
        rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 5 }),
    };
    let chosen =
        SECTIONS.iter().filter(|(name, ..)| options.only.is_empty() || options.only.iter().any(|only| only == name));
    let machine = machine();
    println!("{}", machine["text"].as_str().unwrap_or_default());
    let mut sections = Vec::new();
    for (name, about, section) in chosen {
        eprintln!("== {name}: {about}");
        // One section that cannot be measured here must not take the others along.
        let tables = section(&bench).unwrap_or_else(|error| {
            let mut table = Table::new(format!("{name}: not measured"), &["why"]);
            table.row(&[format!("{error:#}")], json!({ "error": format!("{error:#}") }));
            vec![table]
        });
        tables.iter().for_each(|table| print!("{}", table.markdown()));
        sections.push(json!({ "name": name, "tables": tables.iter().map(Table::json).collect::<Vec<_>>() }));
    }
    let path = match &options.json {
        Some(path) => path.clone(),
        None => command::target_directory()?.join("bench.json"),
    };
    let all = json!({ "machine": machine, "quick": options.quick, "rounds": bench.rounds, "sections": sections });
    fs::write(&path, format!("{all:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("the same as JSON: {}", path.display());
    fs::remove_dir_all(&bench.scratch)?;
    Ok(())
}

/// Where and when this was measured.
fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let (model, cores) = (model.map_or("unknown processor", |(_, name)| name), num_cores());
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let load = read("/proc/loadavg").trim().to_owned();
    let stats = read("/proc/sys/kernel/bpf_stats_enabled").trim() == "1";
    let date = command::output(std::process::Command::new("date").arg("+%F %R")).unwrap_or_default();
    let date = date.trim();
    let slow = if stats { "; kernel.bpf_stats_enabled is on, which costs 35 ns per program run" } else { "" };
    let text = format!("{date}, Linux {kernel}, {cores} × {model}; load at the start: {load}{slow}");
    json!({ "text": text, "date": date, "kernel": kernel, "cores": cores, "model": model, "load": load })
}

fn num_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
