//! `fdtrace-exercise`: runs random descriptor syscalls in real processes, alone or under a tracer.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use fdtrace_exercise::compare;
use fdtrace_exercise::driver::{Config, Driver, Order};
use fdtrace_exercise::profile::{Group, Profile};
use fdtrace_exercise::steps::OpCount;
use fdtrace_exercise::{hammer, script, truth, worker};

#[derive(Parser)]
#[command(version, about = "Random descriptor syscalls in real processes; the kernel's tables decide")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one sequence, and hold the exerciser's own account against the kernel after each serial round
    Run(Run),
    /// Run many sequences of every profile, and report what was covered
    Selftest {
        /// Sequences of each profile
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        first: u64,
        #[arg(long)]
        profile: Option<Profile>,
        #[command(flatten)]
        size: Size,
    },
    /// Run a fixed list of calls, after a byte or the end of standard input
    Script,
    /// Open and close on one table from several threads at full speed: a burst for each byte on standard input
    Hammer {
        #[arg(long, default_value_t = 4)]
        threads: usize,
        /// Descriptors that a thread opens in one burst
        #[arg(long, default_value_t = 4000)]
        opens: u32,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Print the kernel's table of a task
    Truth { id: u32 },
}

#[derive(clap::Args)]
struct Run {
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = Profile::Mixed)]
    profile: Profile,
    /// Print every step
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    size: Size,
}

#[derive(clap::Args, Clone, Copy)]
struct Size {
    /// Steps of each task in a round
    #[arg(long, default_value_t = 40)]
    steps: u32,
    #[arg(long, default_value_t = 4)]
    rounds: u32,
    /// Tasks at one time, at most
    #[arg(long, default_value_t = 12)]
    agents: u32,
    /// One task at a time, all at once, or both in turn; as fits the profile if not given
    #[arg(long)]
    order: Option<OrderArg>,
}

#[derive(ValueEnum, Clone, Copy)]
enum OrderArg {
    Serial,
    Parallel,
    Both,
}

fn main() -> ExitCode {
    let outcome = worker::become_one_if_asked().and_then(|()| run(Cli::parse()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.verb {
        Verb::Run(run) => {
            let counts = sequence(&config(run.seed, run.profile, run.size)?, run.verbose)?.counts;
            print_counts(&counts);
            Ok(())
        }
        Verb::Selftest { seeds, first, profile, size } => selftest(seeds, first, profile, size),
        Verb::Script => script::run(),
        Verb::Hammer { threads, opens, seed } => hammer::run(hammer::Plan { threads, opens, seed }),
        Verb::Truth { id } => {
            for held in truth::table_of(id)? {
                println!("{held:?}");
            }
            Ok(())
        }
    }
}

fn config(seed: u64, profile: Profile, size: Size) -> Result<Config> {
    let exe: PathBuf = std::env::current_exe().context("cannot find this program")?;
    let Size { steps, rounds, agents, order } = size;
    let plain = Config::new(exe, seed, profile);
    let order = match order {
        None => plain.order,
        Some(OrderArg::Serial) => Order::Serial,
        Some(OrderArg::Parallel) => Order::Parallel,
        Some(OrderArg::Both) => Order::Both,
    };
    Ok(Config { steps, rounds, agents, order, ..plain })
}

struct Outcome {
    counts: Vec<OpCount>,
    digest: u64,
    slots: usize,
    calls: u64,
    tasks: usize,
}

/// One sequence, without a tracer: the tables have to stand still at quiet points, and to be what the exercising tasks
/// believe as long as only one of them acts at a time.
fn sequence(config: &Config, verbose: bool) -> Result<Outcome> {
    let mut driver = Driver::create(config)?;
    driver.spawn()?;
    let mut exact = true;
    let (mut slots, mut calls, mut tasks) = (0, 0, 0);
    while let Some(quiet) = driver.next_quiet()? {
        exact &= quiet.serial;
        calls = quiet.calls;
        tasks += quiet.tasks.len();
        // A description that a ring, a message or a task killed by its sibling's exec held last goes when the kernel
        // comes round to it, and its registrations with it: no table of ours changes by that.
        let late = !quiet.serial || config.profile.factor(Group::Uring) + config.profile.factor(Group::Pass) > 0;
        let read = || quiet.tasks.iter().map(|task| truth::table_of(task.tid)).collect::<Result<Vec<_>>>();
        let before = read()?;
        if exact {
            let comparison = compare::examine(&driver.accounts());
            slots += comparison.slots;
            if !comparison.differences.is_empty() {
                let pids: Vec<_> = comparison.differences.iter().map(|difference| difference.pid).collect();
                let lines: Vec<_> = comparison.differences.iter().map(ToString::to_string).collect();
                bail!("the account differs from the kernel\n{}\n{}", lines.join("\n"), driver.explain(&pids, 80));
            }
        }
        for ((task, before), after) in quiet.tasks.iter().zip(&before).zip(&read()?) {
            let changed = |one: &[truth::TruthFd], two: &[truth::TruthFd]| -> Vec<_> {
                let settled = |held: &truth::TruthFd| {
                    let interest = if late { Vec::new() } else { held.interest.clone() };
                    truth::TruthFd { interest, ..held.clone() }
                };
                let two: Vec<_> = two.iter().map(settled).collect();
                one.iter().map(settled).filter(|held| !two.contains(held)).collect()
            };
            let (gone, come) = (changed(before, after), changed(after, before));
            if !gone.is_empty() || !come.is_empty() {
                let log = driver.explain(&[task.pid], 60);
                bail!("the table of {} changed at a quiet point: gone {gone:?}, come {come:?}\n{log}", task.tid);
            }
        }
        if verbose {
            println!("quiet point {} after {} calls: {:?}", quiet.round, quiet.calls, quiet.tasks);
        }
        driver.go()?;
    }
    if verbose {
        for step in driver.log(None, usize::MAX) {
            println!("{step}");
        }
    }
    Ok(Outcome { counts: driver.counts(), digest: driver.digest(), slots, calls, tasks })
}

fn selftest(seeds: u64, first: u64, only: Option<Profile>, size: Size) -> Result<()> {
    let mut total: Vec<OpCount> = Vec::new();
    let mut failures = 0;
    for profile in Profile::ALL.into_iter().filter(|profile| only.is_none_or(|only| only == *profile)) {
        let started = std::time::Instant::now();
        let (mut slots, mut calls, mut tasks) = (0, 0, 0);
        for seed in first..first + seeds {
            let config = config(seed, profile, size)?;
            let outcome = sequence(&config, false).and_then(|outcome| {
                // Every tenth serial sequence twice: the same seed has to give the same steps.
                if config.order == Order::Serial && seed % 10 == 0 && sequence(&config, false)?.digest != outcome.digest
                {
                    bail!("two runs of one seed differ: {}", config.replay());
                }
                Ok(outcome)
            });
            match outcome {
                Ok(outcome) => {
                    slots += outcome.slots;
                    calls += outcome.calls;
                    tasks += outcome.tasks;
                    add(&mut total, outcome.counts);
                }
                Err(error) => {
                    failures += 1;
                    eprintln!("{profile}, seed {seed}: {error:#}");
                }
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("{profile}: {seeds} sequences, {calls} calls, {tasks} tasks, {slots} slots compared, {seconds:.1} s");
    }
    print_counts(&total);
    let never: Vec<_> = total.iter().filter(|count| count.ok + count.failed == 0).map(|count| count.name).collect();
    if !never.is_empty() {
        println!("never done: {}", never.join(", "));
    }
    if failures > 0 {
        bail!("{failures} sequences failed");
    }
    Ok(())
}

fn add(total: &mut Vec<OpCount>, counts: Vec<OpCount>) {
    if total.is_empty() {
        *total = counts;
        return;
    }
    for (total, count) in total.iter_mut().zip(counts) {
        total.ok += count.ok;
        total.failed += count.failed;
        if count.failed > 0 {
            total.errno = count.errno;
        }
    }
}

fn print_counts(counts: &[OpCount]) {
    println!("{:<28} {:>9} {:>9}  latest error", "operation", "ok", "failed");
    for OpCount { name, ok, failed, errno } in counts.iter().filter(|count| count.ok + count.failed > 0) {
        let error = match errno {
            0 => String::new(),
            _ => std::io::Error::from_raw_os_error(*errno as i32).to_string(),
        };
        println!("{name:<28} {ok:>9} {failed:>9}  {error}");
    }
}
