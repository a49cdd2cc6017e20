//! `cargo xtask stress`: fdtrace over stress-ng's descriptor stressors, then over opens and closes at the rate that it
//! promises. Every record is counted: produced is captured plus lost. At that rate, with default sizes, nothing is lost.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::{build, command};

/// Descriptor events a second at which nothing may be lost.
const PROMISED: u64 = 100_000;
const STRESSORS: [&str; 8] = ["--open", "--dup", "--close", "--fork", "--vfork", "--epoll", "--sockfd", "--pipe"];

#[derive(Args)]
pub struct Options {
    /// How long each part takes, seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Instances of each of stress-ng's stressors
    #[arg(long, default_value_t = 1)]
    instances: u32,
    /// Of fdtrace, in place of what it chooses
    #[arg(long)]
    ring_size: Option<String>,
}

pub fn stress(options: &Options) -> Result<ExitCode> {
    let Some(stress_ng) = command::find("stress-ng") else {
        bail!("there is no stress-ng here: `apt-get install stress-ng`");
    };
    let directory = command::target_directory()?.join("stress");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let traced =
        Traced { fdtrace: build::build(&build::Options { release: true })?, json: directory.join("end.json"), options };
    let seconds = options.seconds.to_string();

    let mut stressors: Vec<OsString> = vec![stress_ng.into(), "--temp-path".into(), directory.into()];
    for stressor in STRESSORS {
        stressors.extend([stressor.into(), options.instances.to_string().into()]);
    }
    stressors.extend(["--timeout", &format!("{seconds}s"), "--quiet"].map(OsString::from));
    traced.run("stress-ng", &stressors)?;

    let us = std::env::current_exe().context("cannot tell which program this is")?;
    let rate = PROMISED.to_string();
    let mut storm: Vec<OsString> = vec![us.into()];
    storm.extend(["load", "storm", "--count", &seconds, "--rate", &rate].map(OsString::from));
    let lost = traced.run("open and close", &storm)?;
    ensure!(lost == 0 || options.ring_size.is_some(), "{lost} lost at {PROMISED} events a second: nothing may be");
    Ok(ExitCode::SUCCESS)
}

struct Traced<'a> {
    fdtrace: PathBuf,
    json: PathBuf,
    options: &'a Options,
}

impl Traced<'_> {
    /// Runs `program` under fdtrace; how many records were lost.
    fn run(&self, name: &str, program: &[OsString]) -> Result<u64> {
        let mut traced = command::as_root(&self.fdtrace)?;
        traced.arg("--force").arg("--json").arg(&self.json);
        if let Some(size) = &self.options.ring_size {
            traced.args(["--ring-size", size]);
        }
        // How a stressor ends, and what fdtrace makes of it, is not the question: the count is.
        command::status(traced.arg("--").args(program).stdout(Stdio::null()))?;
        let Count { produced, captured, lost } = Count::read(&self.json)?;
        let seconds = self.options.seconds;
        let rate = produced / seconds;
        println!("{name}: produced {produced}, captured {captured}, lost {lost}; {rate} a second for {seconds} s");
        ensure!(produced == captured + lost, "{produced} produced, but {captured} captured and {lost} lost");
        Ok(lost)
    }
}

/// Records, as fdtrace counts them at its end.
struct Count {
    produced: u64,
    captured: u64,
    lost: u64,
}

impl Count {
    fn read(json: &Path) -> Result<Self> {
        let text = fs::read_to_string(json).with_context(|| format!("cannot read {}", json.display()))?;
        let last = text.lines().next_back().unwrap_or_default();
        let end: Value = serde_json::from_str(last).with_context(|| format!("the last line of {}", json.display()))?;
        ensure!(end["type"] == "end", "fdtrace did not come to its end: {last}");
        let count = |key: &str| end[key].as_u64().with_context(|| format!("no `{key}` in {last}"));
        Ok(Self { produced: count("produced")?, captured: count("events")?, lost: count("lost")? })
    }
}
