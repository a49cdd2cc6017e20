//! The harness's side: starts the exerciser, takes it from quiet point to quiet point, and tells what it did.
//!
//! It is not one of the exercising processes and makes no descriptor in them. Every wait has an end.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::compare::{ModelFd, ModelTable};
pub use crate::config::{Config, Order};
use crate::mapping::Mapping;
use crate::quiet::is_gone;
pub use crate::quiet::{QuietPoint, Task};
use crate::rng::Rng;
use crate::shared::{FINISH, NOBODY, Phase, Region, SLOTS, state};
use crate::steps::{self, OpCount, Step};
use crate::sys;

/// Runs one sequence.
pub struct Driver {
    pub(crate) config: Config,
    dir: PathBuf,
    pub(crate) region: Mapping,
    child: Option<Child>,
    pub(crate) round: u32,
    serial: bool,
    chooser: Rng,
    /// The accounts may be wrong: a parallel round has been.
    guessed: bool,
}

static RUNS: AtomicU64 = AtomicU64::new(0);

impl Driver {
    /// Makes the control file and the scratch directory. Nothing runs yet.
    pub fn create(config: &Config) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;

        let run = RUNS.fetch_add(1, SeqCst);
        let dir = config.base.join(format!("fdtrace-exercise-{}-{run}", std::process::id()));
        let scratch = dir.join("scratch");
        std::fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        let everybody = std::fs::Permissions::from_mode(0o777);
        for path in [&dir, &scratch] {
            std::fs::set_permissions(path, everybody.clone()).context("cannot share the scratch directory")?;
        }
        for index in 0..6 {
            let path = scratch.join(format!("f{index}"));
            std::fs::write(&path, b"contents").with_context(|| format!("cannot write {}", path.display()))?;
            let shared = std::fs::Permissions::from_mode(0o666);
            std::fs::set_permissions(&path, shared).context("cannot share a scratch file")?;
        }
        let control = dir.join("control");
        let region = Mapping::create(&control)?;
        let exe = std::fs::canonicalize(&config.exe);
        let exe = exe.with_context(|| format!("cannot find the exerciser {}", config.exe.display()))?;
        for (field, path) in [(&region.exe, &exe), (&region.control, &control), (&region.scratch, &scratch)] {
            let bytes = path.as_os_str().as_bytes();
            ensure!(bytes.len() < crate::shared::PATH, "the path {} is too long", path.display());
            Region::put_text(field, bytes);
        }
        region.seed.store(config.seed, SeqCst);
        region.profile.store(config.profile as u32, SeqCst);
        region.max_agents.store(config.agents.clamp(1, SLOTS as u32), SeqCst);
        region.driver.store(std::process::id(), SeqCst);
        Ok(Self {
            chooser: Rng::derived(config.seed, u64::MAX - 1),
            config: Config { exe, ..config.clone() },
            dir,
            region,
            child: None,
            round: 0,
            serial: true,
            guessed: false,
        })
    }

    /// The command that becomes the first exercising process: for a tracer that starts it itself.
    pub fn command(&self) -> Vec<OsString> {
        vec![self.config.exe.clone().into(), "run".into(), "--control".into(), self.control().into()]
    }

    /// Starts the exerciser. It parks at quiet point 0 before its first step, for a tracer that attaches.
    pub fn spawn(&mut self) -> Result<u32> {
        let [program, args @ ..] = self.command().try_into().map(|command: [OsString; 4]| command).unwrap_or_default();
        let child = Command::new(&program).args(args).stdin(std::process::Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id();
        self.child = Some(child);
        Ok(pid)
    }

    fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The first exercising process; 0 before it runs.
    pub fn root_pid(&self) -> u32 {
        self.region.root_pid.load(SeqCst)
    }

    /// Waits until every task is parked. `None` after the last round, when all are gone.
    pub fn next_quiet(&mut self) -> Result<Option<QuietPoint>> {
        if self.round > self.config.rounds {
            return Ok(None);
        }
        self.await_that("no quiet point", |driver| driver.is_quiet())?;
        self.sweep();
        let tasks = self.tasks();
        ensure!(!tasks.is_empty(), "every exercising task is gone");
        let calls = self.region.clock.load(SeqCst);
        Ok(Some(QuietPoint { round: self.round, serial: self.serial, tasks, calls }))
    }

    /// Ends a quiet point: the next round begins, or after the last one everybody leaves.
    pub fn go(&mut self) -> Result<()> {
        self.round += 1;
        if self.round > self.config.rounds {
            return self.finish();
        }
        if self.guessed {
            self.correct_accounts()?;
            self.guessed = false;
        }
        self.serial = match self.config.order {
            Order::Serial => true,
            Order::Parallel => false,
            Order::Both => self.chooser.chance(50),
        };
        let region = &self.region;
        let live = self.tasks().len() as u32;
        region.steps.store(self.config.steps, SeqCst);
        region.left.store(self.config.steps * live, SeqCst);
        region.serial.store(u32::from(self.serial), SeqCst);
        region.turn.store(NOBODY, SeqCst);
        region.round.store(self.round, SeqCst);
        sys::futex_wake(&region.round);
        if !self.serial {
            self.guessed = true;
            return Ok(());
        }
        // The turn goes round among those who run: all have to, before the first one is chosen.
        let running = state(Phase::Running, self.round);
        self.await_that("a task does not wake", |driver| {
            let states = driver.region.slots.iter().map(|slot| slot.state.load(SeqCst));
            Ok(states.filter(|state| *state == running).count() as u32 == live)
        })?;
        let region = &self.region;
        let mut scheduler = Rng(region.scheduler.load(SeqCst));
        let chosen = scheduler.below(live as usize);
        region.scheduler.store(scheduler.0, SeqCst);
        let mut slots = region.slots.iter().enumerate().filter(|(_, slot)| slot.state.load(SeqCst) == running);
        if let Some((index, slot)) = slots.nth(chosen) {
            region.turn.store(index as u32, SeqCst);
            slot.wake.fetch_add(1, SeqCst);
            sys::futex_wake(&slot.wake);
        }
        Ok(())
    }

    /// Everybody leaves now; waits until all are gone.
    pub fn finish(&mut self) -> Result<()> {
        self.round = self.config.rounds.saturating_add(1);
        self.region.round.store(FINISH, SeqCst);
        sys::futex_wake(&self.region.round);
        for slot in &self.region.slots {
            slot.wake.fetch_add(1, SeqCst);
            sys::futex_wake(&slot.wake);
        }
        if let Some(mut child) = self.child.take() {
            let deadline = Instant::now() + self.config.patience;
            let status = loop {
                if let Some(status) = child.try_wait().context("cannot wait for the exerciser")? {
                    break status;
                }
                if Instant::now() > deadline {
                    _ = child.kill();
                    _ = child.wait();
                    bail!("the exerciser does not end");
                }
                std::thread::sleep(Duration::from_micros(200));
            };
            ensure!(status.success(), "the exerciser ended with {status}: {}", self.failure());
        }
        let pids: Vec<u32> = self.region.slots.iter().map(|slot| slot.pid.load(SeqCst)).collect();
        let deadline = Instant::now() + self.config.patience;
        while pids.iter().any(|pid| *pid != 0 && !is_gone(*pid, *pid)) {
            ensure!(Instant::now() < deadline, "exercising processes do not end");
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    // What happened.

    /// The latest steps, of one process or of all; at most `count`, oldest first.
    pub fn log(&self, pid: Option<u32>, count: usize) -> Vec<Step> {
        let mut steps = steps::read(&self.region);
        steps.retain(|step| pid.is_none_or(|pid| step.pid == pid));
        steps.split_off(steps.len().saturating_sub(count))
    }

    /// How often each operation was done.
    pub fn counts(&self) -> Vec<OpCount> {
        steps::counts(&self.region)
    }

    /// A number that two serial runs of one seed share.
    pub fn digest(&self) -> u64 {
        self.region.digest.load(SeqCst)
    }

    /// Everything one needs about a failure: how to do it again, and the latest steps of the processes concerned.
    pub fn explain(&self, pids: &[u32], count: usize) -> String {
        let mut text =
            format!("seed {}, round {}: again with\n  {}\n", self.config.seed, self.round, self.config.replay());
        let steps = self.log(None, usize::MAX);
        let concerned = |step: &&Step| pids.is_empty() || pids.contains(&step.pid) || pids.contains(&step.tid);
        let steps: Vec<_> = steps.iter().filter(concerned).collect();
        for step in &steps[steps.len().saturating_sub(count)..] {
            _ = writeln!(text, "  {step}");
        }
        text
    }

    /// The exercising tasks' own account as a model: exact while all rounds were serial. For the instrument's own test.
    pub fn accounts(&self) -> Vec<ModelTable> {
        let table = |task: &Task| {
            let index = self.region.slots[task.slot].table.load(SeqCst);
            let fds = self.region.tables[index as usize].live().map(|(fd, held)| ModelFd {
                fd,
                cloexec: Some(held.cloexec()),
                description: Some(u64::from(held.description())),
                kind: held.kind().class().map(str::to_owned),
                ..ModelFd::default()
            });
            ModelTable { pid: task.tid, table: u64::from(index), fds: fds.collect() }
        };
        self.tasks().iter().map(table).collect()
    }

    fn await_that(&mut self, what: &str, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + self.config.patience;
        while !done(self)? {
            let failure = self.failure();
            if !failure.is_empty() {
                bail!("an exercising task gave up: {failure}\n{}", self.explain(&[], 40));
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().context("cannot wait for the exerciser")?
            {
                self.child = None;
                bail!("the exerciser ended with {status}: {}\n{}", self.failure(), self.explain(&[], 40));
            }
            if Instant::now() > deadline {
                bail!("{what} in time\n{}\n{}", self.states(), self.explain(&[], 60));
            }
            std::thread::sleep(Duration::from_micros(60));
        }
        Ok(())
    }

    fn failure(&self) -> String {
        String::from_utf8_lossy(&Region::text(&self.region.failure)).into_owned()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.region.round.store(FINISH, SeqCst);
        sys::futex_wake(&self.region.round);
        for slot in &self.region.slots {
            slot.wake.fetch_add(1, SeqCst);
            sys::futex_wake(&slot.wake);
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        let control = self.control();
        let left = |region: &Region| -> Vec<u32> {
            let pids = region.slots.iter().map(|slot| slot.pid.load(SeqCst));
            pids.filter(|pid| *pid != 0 && is_ours(*pid, &control)).collect()
        };
        while !left(&self.region).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        for pid in left(&self.region) {
            // SAFETY: a signal to a process whose command line names this run's control file.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        }
        if let Some(mut child) = self.child.take() {
            _ = child.kill();
            _ = child.wait();
        }
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn is_ours(pid: u32, control: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word == control.as_os_str().as_bytes())
}
