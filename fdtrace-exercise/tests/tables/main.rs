//! Kernel truth decides: random descriptor calls in real processes, traced for real; at quiet points the model's tables
//! must equal the kernel's. Needs root: `cargo test -p fdtrace-exercise --test tables -- --ignored`.
//!
//! `FDTRACE_RUNS=N` sets the number of seeds per profile, `FDTRACE_SEED=N` the first of them (a fresh one otherwise), and
//! `FDTRACE_ORDER=serial|parallel|both` whether tasks act one at a time, where that is not to be as fits the profile.
//! `FDTRACE_LOG=FILE` is where all events of the run are written when something differs.

#[path = "../common/mod.rs"]
mod common;
mod story;

use std::time::{Duration, Instant};

use fdtrace::{
    decode::decode,
    event::Event,
    model::{World, description::Kind, table::Table},
    pipeline::Stages,
    source::live::{Live, Settings, Totals},
    syscalls::Arch,
};
use fdtrace_common::wire::loss;
use fdtrace_exercise::{
    compare::{self, Aspect, ModelFd, ModelInterest, ModelTable},
    config::{Config, Order},
    driver::{Driver, Task},
    profile::Profile,
};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Between two looks at files that nobody holds and that the kernel has not put yet.
const SETTLED: Duration = Duration::from_millis(100);

/// By then it has, also on a machine whose processors all have something else to do.
const PUT_BY: Duration = Duration::from_secs(5);

/// The first seed: fixed ones for half of the runs, fresh ones for the other half.
fn seeds(runs: u64) -> impl Iterator<Item = u64> {
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_secs()) << 16;
    let given = number("FDTRACE_SEED");
    let runs = number("FDTRACE_RUNS").unwrap_or(runs);
    (0..runs).map(move |run| match given {
        Some(first) => first + run,
        None if run % 2 == 0 => run / 2 + 1,
        None => fresh + run,
    })
}

struct Tracer {
    live: Live,
    stages: Stages,
    /// Everything of the current run, to be told if it fails.
    log: Vec<Event>,
    /// Quiet points at which the model asked for a reading of the tables, or the profile needs one.
    readings: usize,
    /// The longest that the kernel took to put files that nobody held.
    longest_wait: Duration,
}

impl Tracer {
    fn start(settings: &Settings) -> Self {
        let live = Live::start(settings).expect("fdtrace starts (as root)");
        Self { live, stages: Stages::new(Arch::native()), log: Vec::new(), readings: 0, longest_wait: Duration::ZERO }
    }

    fn drain(&mut self) {
        let Self { live, stages, log, .. } = self;
        let mut news = Vec::new();
        live.drain(usize::MAX, |pos, record| {
            if let Ok(Some(event)) = decode(pos, record, Arch::native()) {
                log.push(event);
            }
            stages.feed(pos, record, &mut news);
        });
    }

    fn compare(&self, tasks: &[Task]) -> compare::Comparison {
        let model: Vec<ModelTable> = tasks.iter().map(|task| as_model(&self.stages.world, task)).collect();
        compare::examine(&model)
    }

    /// Takes in everything that was produced.
    fn catch_up(&mut self) -> Totals {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.drain();
            let totals = self.live.totals();
            if totals.produced == totals.captured + totals.lost() {
                // What was lost last, no record tells of.
                self.live.tick(|pos, record| self.stages.feed(pos, record, &mut Vec::new()));
                return totals;
            }
            assert!(Instant::now() < deadline, "records that never come: {totals:?}");
        }
    }

    fn attach(&mut self, pid: u32) {
        self.live.adopt(pid, false).expect("the process can be traced");
        self.read_tables(Some(pid));
    }

    /// What no hook sees is found when the tables are read again, as the daemon does it.
    fn reconcile(&mut self) {
        self.read_tables(None);
        let epolls = self.stages.world.epolls_to_read();
        self.live.read_epolls(&epolls, &self.stages.world.tasks_by_table());
        self.catch_up();
    }

    /// After a loss: one reading that loses nothing itself makes every table certain. A ring that is forced tiny can be
    /// too small for the reading, too, which then is repeated. Returns whether all are certain.
    fn heal(&mut self) -> bool {
        for _ in 0..20 {
            if self.stages.world.is_certain() {
                return true;
            }
            self.reconcile();
        }
        false
    }

    fn read_tables(&mut self, pid: Option<u32>) {
        let expected = self.stages.world.snapshots_completed() + 1;
        self.live.snapshot(pid).expect("a snapshot can be taken");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let done = self.live.snapshots_done().expect("the snapshot works");
            self.drain();
            if done && self.stages.world.snapshots_completed() >= expected {
                return;
            }
            if done {
                // Its end was lost.
                self.live.snapshot(pid).expect("a snapshot can be taken");
            }
            assert!(Instant::now() < deadline, "the snapshot does not end");
        }
    }
}

fn table_of<'a>(world: &'a World, task: &Task) -> Option<&'a Table> {
    world.table_of_task(task.tid).or_else(|| world.table_of_process(task.pid))
}

fn as_model(world: &World, task: &Task) -> ModelTable {
    let Some(table) = table_of(world, task) else {
        return ModelTable { pid: task.tid, table: u64::MAX, fds: Vec::new() };
    };
    let fds = table.open().map(|(fd, life)| {
        let description = &life.data.description;
        let info = description.details().map(|details| details.info);
        let kind = (description.kind() != Kind::Unknown && description.kind() != Kind::Anonymous)
            .then(|| description.kind().name().trim_end_matches("-device").to_owned());
        let interest = world.epolls.get(&description.serial).filter(|epoll| epoll.creator.is_some()).map(|epoll| {
            let entries = epoll.entries.values().map(|entry| ModelInterest {
                fd: entry.fd,
                ino: entry.target.details().map(|details| details.info.inode),
                data: Some(entry.data),
                description: Some(entry.target.serial.0),
            });
            entries.collect()
        });
        ModelFd {
            fd,
            ino: info.map(|info| info.inode),
            dev: info.map(|info| info.dev),
            cloexec: Some(life.data.cloexec),
            description: Some(description.serial.0),
            kind,
            interest,
        }
    });
    ModelTable { pid: task.tid, table: u64::from(table.id.0), fds: fds.collect() }
}

/// Profiles with operations that no hook sees: io_uring, descriptors in structures, seccomp, all but the first of several messages.
fn sees_less(profile: Profile) -> bool {
    matches!(profile, Profile::Passing | Profile::Uring | Profile::Rare | Profile::All)
}

/// Runs one seed under the tracer; the differences found, as text.
fn run(tracer: &mut Tracer, config: &Config, slots: &mut usize) -> Result<(), String> {
    let mut driver = Driver::create(config).map_err(|error| format!("{error:#}"))?;
    let pid = driver.spawn().map_err(|error| format!("{error:#}"))?;
    let first = driver.next_quiet().map_err(|error| format!("{error:#}"))?;
    assert!(first.is_some(), "the exerciser parks before its first step");
    tracer.log.clear();
    tracer.attach(pid);
    loop {
        driver.go().map_err(|error| format!("{error:#}"))?;
        let Some(quiet) = driver.next_quiet().map_err(|error| format!("{error:#}"))? else { break };
        tracer.catch_up();
        // As the daemon does it: when the model asks for it, and now and then.
        let asked = !tracer.stages.world.take_unseen().is_empty();
        let gap = !tracer.stages.world.is_certain();
        if asked || gap || sees_less(config.profile) {
            tracer.readings += 1;
            tracer.reconcile();
        }
        if gap && !tracer.heal() {
            return Err("the tables are uncertain after they were read again".to_owned());
        }
        let mut comparison = tracer.compare(&quiet.tasks);
        // A registration goes with the last reference to its file, which the kernel may put later than the call that
        // gave it up: io_uring's, and those in messages, on a thread of its own.
        let is_interest = |difference: &compare::Difference| difference.aspect == Aspect::Interest;
        let deadline = Instant::now() + PUT_BY;
        let began = Instant::now();
        while !comparison.differences.is_empty()
            && comparison.differences.iter().all(is_interest)
            && Instant::now() < deadline
        {
            std::thread::sleep(SETTLED);
            if sees_less(config.profile) {
                tracer.reconcile();
            }
            comparison = tracer.compare(&quiet.tasks);
        }
        tracer.longest_wait = tracer.longest_wait.max(began.elapsed());
        // A task that seccomp or a signal ended between the quiet point and the comparison has no table to compare.
        comparison.differences.retain(|difference| {
            difference.aspect != Aspect::Unreadable || !difference.kernel.contains("No such process")
        });
        *slots += comparison.slots;
        if !comparison.differences.is_empty() {
            let pids: Vec<u32> = comparison.differences.iter().map(|difference| difference.pid).collect();
            let lines: Vec<String> = comparison.differences.iter().map(ToString::to_string).collect();
            let story = story::of(&tracer.stages.world, &tracer.log, &quiet.tasks, &comparison.differences);
            return Err(format!("{}\n{story}{}", lines.join("\n"), driver.explain(&pids, 60)));
        }
    }
    tracer.catch_up();
    Ok(())
}

/// A sequence, its rounds ordered as asked for.
fn config(seed: u64, profile: Profile) -> Config {
    let plain = Config::new(common::exerciser(), seed, profile);
    let order = match std::env::var("FDTRACE_ORDER").ok().as_deref() {
        None => plain.order,
        Some("serial") => Order::Serial,
        Some("parallel") => Order::Parallel,
        Some("both") => Order::Both,
        Some(other) => panic!("FDTRACE_ORDER is serial, parallel or both, not `{other}`"),
    };
    Config { order, ..plain }
}

fn profile(profile: Profile, runs: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut tracer = Tracer::start(&Settings::default());
        let (mut failed, mut slots, mut count) = (0, 0, 0);
        for seed in seeds(runs) {
            let config = config(seed, profile);
            count += 1;
            if let Err(why) = run(&mut tracer, &config, &mut slots) {
                failed += 1;
                eprintln!("{profile}: {why}");
                if failed >= 3 {
                    break;
                }
            }
        }
        let totals = tracer.live.totals();
        println!(
            "{profile}: {count} sequences, {slots} slots compared, {failed} differ, {} readings asked for, {} ms for files \
             that nobody held; {totals:?}; {}",
            tracer.readings,
            tracer.longest_wait.as_millis(),
            common::misses()
        );
        // From Linux 7 on hooks are preempted, and skipped; the tables have to be as they are all the same.
        let skipped = if tracer.live.hooks_are_preempted() { totals.by_class[loss::SKIPPED] } else { 0 };
        assert_eq!(totals.lost() - skipped, 0, "events were lost: the comparison is worth nothing");
        assert_eq!(failed, 0, "{profile}: the model's tables differ from the kernel's");
    });
}

/// A ring far too small, and tables that equal the kernel's all the same as soon as they have been read again.
#[test]
#[ignore = "needs root and a kernel with BTF"]
fn healing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut tracer = Tracer::start(&Settings { ring_size: 64 << 10, ..Settings::default() });
        let (mut failed, mut slots, mut count) = (0, 0, 0);
        for seed in seeds(10) {
            for profile in [Profile::Mixed, Profile::Threads, Profile::Fork] {
                let config = config(seed, profile);
                count += 1;
                if let Err(why) = run(&mut tracer, &config, &mut slots) {
                    failed += 1;
                    eprintln!("{profile}: {why}");
                }
            }
        }
        let totals = tracer.live.totals();
        println!(
            "healing: {count} sequences, {slots} slots compared, {failed} differ, {} readings; {totals:?}",
            tracer.readings
        );
        assert!(totals.lost() > 0, "nothing was lost: the test tests nothing");
        assert_eq!(totals.produced, totals.captured + totals.lost());
        assert_eq!(failed, 0, "the model's tables differ from the kernel's after a reading");
    });
}

macro_rules! profiles {
    ($($name:ident = $profile:ident, $runs:expr;)+) => { $(
        #[test]
        #[ignore = "needs root and a kernel with BTF"]
        fn $name() {
            profile(Profile::$profile, $runs);
        }
    )+ };
}

profiles! {
    mixed = Mixed, 60;
    fork = Fork, 40;
    clone_files = Clone, 40;
    threads = Threads, 40;
    exec = Exec, 40;
    epoll = Epoll, 40;
    storm = Storm, 40;
    passing = Passing, 40;
    uring = Uring, 40;
    rare = Rare, 40;
    all = All, 40;
}
