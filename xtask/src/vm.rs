//! `cargo xtask vm`: fdtrace on other kernels, in virtual machines that live for a minute.
//!
//! Each kernel is a Debian kernel as Debian ships it. Process 1 of its machine runs `fdtrace doctor`, a fixed list of
//! calls under fdtrace (whose findings must be those of every other kernel), and the live tests of fdtrace-exercise; we
//! read the console. Nothing runs as root here, and no kernel module, network or disk is needed.

mod cpio;
mod guest;
mod kernels;
mod machine;

use std::{collections::BTreeSet, env, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{command, setup::debian, test::Tally};

use guest::Guest;
use kernels::Kernel;
use machine::{Ending, Session};

#[derive(Args)]
pub struct Options {
    /// Which kernels; all if not given. May be repeated
    #[arg(long = "kernel", value_enum)]
    kernels: Vec<Kernel>,
    /// Random sequences of each profile
    #[arg(long, default_value_t = 4)]
    runs: u32,
    /// The first seed of the random sequences; half of them fixed and half fresh if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Run the processors of a machine in threads of their own: more races, and now and then a failed boot
    #[arg(long)]
    multi: bool,
    /// Show everything that the machines print
    #[arg(long)]
    show: bool,
}

impl Options {
    fn wanted(&self) -> Vec<Kernel> {
        if self.kernels.is_empty() { Kernel::ALL.to_vec() } else { self.kernels.clone() }
    }

    /// What `cargo xtask test` runs.
    pub fn for_tests() -> Self {
        Self { kernels: vec![Kernel::USUAL], runs: 2, seed: None, multi: false, show: false }
    }
}

pub fn vm(options: &Options) -> Result<ExitCode> {
    let tally = run(options)?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Gets what the machines need: an emulator, and the kernels. An error says what cannot be had here.
pub fn prepare(options: &Options) -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!("the machines are x86-64 and their test programs are built natively: run this on x86-64");
    }
    if command::find(machine::QEMU).is_none() {
        eprintln!("vm: no {} here: installing qemu-system-x86", machine::QEMU);
        debian::install(&["qemu-system-x86"])
            .with_context(|| format!("no {} to run other kernels with", machine::QEMU))?;
    }
    options.wanted().into_iter().try_for_each(|kernel| kernels::image(kernel).map(drop))
}

/// Boots every kernel that was asked for; prints a table of what came of it.
pub fn run(options: &Options) -> Result<Tally> {
    prepare(options)?;
    let guest = Guest::build(options.runs, options.seed)?;
    let mut rows = Vec::new();
    let mut findings = BTreeSet::new();
    let mut total = Tally::default();
    for kernel in options.wanted() {
        let start = Instant::now();
        let row = match one(kernel, &guest, options) {
            Ok(session) => {
                if !session.findings.is_empty() {
                    findings.insert(session.findings.clone());
                }
                Row { kernel, seconds: start.elapsed().as_secs_f64(), tally: session.tally(), session: Some(session) }
            }
            Err(err) => {
                eprintln!("error: {kernel}: {err:#}");
                let tally = Tally { passed: 0, failed: 1 };
                Row { kernel, seconds: start.elapsed().as_secs_f64(), tally, session: None }
            }
        };
        total.add(row.tally);
        rows.push(row);
    }
    println!();
    rows.iter().for_each(Row::print);
    if findings.len() > 1 {
        println!("the findings of the scripted run differ between kernels:");
        for of_one in &findings {
            println!("  {}", of_one.join(", "));
        }
        total.add(Tally { passed: 0, failed: 1 });
    }
    Ok(total)
}

fn one(kernel: Kernel, guest: &Guest, options: &Options) -> Result<Session> {
    let image = kernels::image(kernel)?;
    eprintln!("\n== {kernel}: {}", image.package);
    let mut session = machine::boot(&image, guest, options.multi, options.show)?;
    if session.ending == Ending::BeforeStart {
        eprintln!("vm: the kernel did not come up; once more");
        session = machine::boot(&image, guest, options.multi, options.show)?;
    }
    Ok(session)
}

/// What is told of one kernel.
struct Row {
    kernel: Kernel,
    seconds: f64,
    tally: Tally,
    session: Option<Session>,
}

impl Row {
    fn print(&self) {
        let Self { kernel, seconds, tally: Tally { passed, failed }, session } = self;
        let verdict = if *failed == 0 { "ok" } else { "FAILED" };
        println!("{verdict:<6} {seconds:7.1} s  Linux {kernel} ({passed} passed, {failed} failed)");
        let Some(session) = session else { return };
        println!("       {}, up in {:.1} s, {}", session.release, session.up_in.as_secs_f64(), session.ending);
        for step in &session.steps {
            let verdict = if step.passed() { "ok" } else { "FAILED" };
            println!("       {verdict:<6} {:5} s  {}: {}", step.seconds, step.name, step.status);
        }
        if let Some(complaint) = session.unsaid {
            println!("       FAILED fdtrace did not say `{complaint}`");
        }
        for remark in &session.remarks {
            println!("       {remark}");
        }
    }
}
