//! A live run: find or start the target, trace it, tell what was found.

use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    detect::finding::Name,
    plan::{Plan, Target},
    sink::{self, RunMeta, Sink, Summary},
    source::{
        clock,
        ending::Ended,
        launch::{Held, LaunchError, Running},
        live::{Live, Settings, Totals},
        procfs,
        recording::writer::Recorder,
        surroundings::Surroundings,
        target,
    },
    who::python::known,
};

use super::{
    budget::Limits,
    failure::{Failure, INCOMPLETE, Outcome},
    outputs,
    quiet::Quiet,
    record,
    report::confidence,
    session::Session,
    signals::Signals,
    targets::{self, Started},
};

/// Longest wait for the first snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked whether anything is traced still where no end was told.
const LOOK_FOR_ENDED: Duration = Duration::from_secs(1);

/// Runs a plan to its end.
pub fn run(plan: Plan) -> Result<Outcome, Failure> {
    let (sinks, recorder) = outputs::open(&plan.output)?;
    let quiet = Quiet::of(&plan.output).map_err(Failure::usage)?;
    let started = Started::resolve(&plan.target)?;
    check_privileges()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")
        .map_err(Failure::cannot_observe)?;
    runtime.block_on(async {
        let settings = Settings {
            ring_size: plan.ring_size,
            debug: plan.debug,
            stacks: plan.stacks,
            stack_bytes: plan.stack_bytes,
            arm_at: plan.arm_at,
            twice: None,
        };
        let live = Live::start(&settings).map_err(Failure::cannot_observe)?;
        let limits = Limits { cpu: plan.max_cpu, memory: plan.max_memory };
        let mut session = Session::new(live, sinks, recorder, quiet, limits);
        if !plan.output.exports.is_empty() {
            session.stages = session.stages.with_lifetimes();
        }
        let outcome = session.trace(&plan, started).await;
        session.end(&plan, outcome)
    })
}

/// Without the right to load programs there is no need to try: say what is missing.
pub fn check_privileges() -> Result<(), Failure> {
    let surroundings = Surroundings::read();
    if surroundings.may_load() {
        return Ok(());
    }
    let refused = io::Error::from(io::ErrorKind::PermissionDenied);
    let (why, hint) = surroundings.explain(&refused);
    let failure = Failure::cannot_observe(anyhow::anyhow!("cannot load BPF programs: {why}"));
    Err(match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure.with_hint("run it with sudo"),
    })
}

/// Why tracing stopped.
enum Stop {
    /// Nobody is left to trace.
    Ended(Option<Ended>),
    /// The user, or the clock, said so.
    Asked,
}

impl Session {
    async fn trace(&mut self, plan: &Plan, started: Started) -> Result<Stop, Failure> {
        // Before the command exists, so that no signal finds us without a handler.
        let mut signals = Signals::new().map_err(Failure::cannot_observe)?;
        let deadline = plan.duration.map(|duration| Instant::now() + duration);
        let mut holding = None;
        let targets = match started {
            Started::Command(launch) => {
                self.foresee(plan);
                let held = launch.prepare().map_err(launch_failed)?;
                self.adopt(&[held.pid()], true).await?;
                holding = Some(held);
                Vec::new()
            }
            Started::Running(targets) => targets,
            Started::Awaited { name, choice } => {
                match targets::wait_for(&name, choice, &mut signals, deadline).await? {
                    Some(targets) => targets,
                    None => return Ok(Stop::Asked),
                }
            }
        };
        if !targets.is_empty() {
            let pids: Vec<u32> = targets.iter().map(|target| target.pid).collect();
            self.adopt(&pids, false).await?;
            for target in &targets {
                target.still_same().map_err(Failure::usage)?;
            }
        }
        let held = holding;
        self.introduce(plan, &targets, held.as_ref());
        let command = held.map(Held::release).transpose().map_err(launch_failed)?;
        self.watch(command, &mut signals, deadline).await
    }

    /// Traces processes and waits until what they have open is known.
    async fn adopt(&mut self, pids: &[u32], wait_exec: bool) -> Result<(), Failure> {
        let expected = self.stages.world.snapshots_completed() + 1;
        for pid in pids {
            self.live.adopt(*pid, wait_exec).map_err(Failure::cannot_observe)?;
        }
        self.live.snapshot(None).map_err(Failure::cannot_observe)?;
        let patience = Instant::now() + SNAPSHOT_PATIENCE;
        loop {
            let done = self.live.snapshots_done().map_err(Failure::cannot_observe)?;
            self.drain();
            if done && self.stages.world.snapshots_completed() >= expected {
                return Ok(());
            }
            if done {
                // Its end was lost, in a ring that is too small for it or has not been drained in time.
                self.live.snapshot(None).map_err(Failure::cannot_observe)?;
            }
            if Instant::now() > patience {
                let error = anyhow::anyhow!("the kernel did not finish listing the open descriptors in 30 s");
                return Err(Failure::cannot_observe(error));
            }
            self.wait().await.map_err(Failure::cannot_observe)?;
        }
    }

    /// Tells the sinks what is traced.
    fn introduce(&mut self, plan: &Plan, targets: &[target::Target], held: Option<&Held>) {
        let root = Path::new(procfs::ROOT);
        let mut told: Vec<sink::Target> = targets
            .iter()
            .map(|target| sink::Target {
                pid: target.pid,
                name: Name::new(&procfs::comm(root, target.pid).unwrap_or_default()),
                cmdline: Name::new(&procfs::argv(root, target.pid).unwrap_or_default().join(&0)),
            })
            .collect();
        if let (Some(held), Target::Command { program, args, .. }) = (held, &plan.target) {
            // It is not running its program yet, so /proc would show ours.
            let argv: Vec<&[u8]> = std::iter::once(program).chain(args).map(|arg| arg.as_bytes()).collect();
            let name = Path::new(program).file_name().unwrap_or(program);
            let (name, cmdline) = (Name::new(name.as_bytes()), Name::new(&argv.join(&0)));
            told.push(sink::Target { pid: held.pid(), name, cmdline });
        }
        // What a command is given by whoever starts it is nobody's secret.
        let already_open = match held {
            Some(_) => 0,
            None => self.stages.world.tables.values().map(|table| table.open().count()).sum(),
        };
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let meta = RunMeta {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: sink::run::SCHEMA.to_owned(),
            kernel: kernel.trim().to_owned(),
            started_wall: clock::wall_ns(),
            started_boot: clock::boot_ns(),
            targets: told,
            already_open,
        };
        let written = self.recorder.as_mut().map(|recorder| recorder.introduce(|about| record::describe(about, &meta)));
        self.note_recorder(written.unwrap_or(Ok(())));
        let told = self.sinks.meta(&meta);
        self.note(told);
    }

    /// Tells the kernel side of the interpreters that a command may lead to, before it runs.
    fn foresee(&mut self, plan: &Plan) {
        let Target::Command { program, args, .. } = &plan.target else { return };
        if !self.live.has_stacks() {
            return;
        }
        let search = std::env::var_os("PATH").unwrap_or_default();
        for (key, image) in known::of_command(program, args, &search) {
            if let Err(error) = self.live.add_image(key, &image) {
                log::debug!("{error:#}");
            }
        }
    }

    async fn watch(
        &mut self,
        mut command: Option<Running>,
        signals: &mut Signals,
        deadline: Option<Instant>,
    ) -> Result<Stop, Failure> {
        let mut ended = None;
        let mut seen_exits = None;
        let mut looked = Instant::now();
        loop {
            self.drain();
            self.tick();
            self.keep();
            if let Some(running) = &mut command
                && ended.is_none()
            {
                ended = running.try_wait().context("cannot wait for the command").map_err(Failure::cannot_observe)?;
            }
            // The set of traced processes is asked for only when it can have changed.
            let may_be_over = seen_exits != Some(self.exits) && (command.is_none() || ended.is_some());
            if may_be_over {
                seen_exits = Some(self.exits);
                if !self.live.traces_any() {
                    return Ok(Stop::Ended(ended));
                }
            }
            if self.is_over {
                log::warn!(
                    "tracing ends: it takes more memory than --max-memory allows, and nothing more can be left out"
                );
                return Ok(Stop::Asked);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Stop::Asked);
            }
            let to_write = self.recorder.as_ref().and_then(Recorder::must_wake);
            let to_look = self.pythons.due();
            tokio::select! {
                waited = self.wait() => waited.map_err(Failure::cannot_observe)?,
                asked = signals.next() => {
                    // A key pressed at the terminal reaches the command too, and it is for it to decide.
                    let for_command = asked.from_terminal && command.is_some() && ended.is_none();
                    if !for_command || asked.again {
                        return Ok(Stop::Asked);
                    }
                }
                () = sleep_until(deadline) => {}
                () = sleep_for(to_write) => {}
                () = sleep_until(to_look) => {}
            }
            // The end of the last process may have been lost.
            if looked.elapsed() >= LOOK_FOR_ENDED {
                looked = Instant::now();
                seen_exits = None;
            }
        }
    }

    /// Takes in all that the hooks have told. One that was running when it was taken away is through in a moment. Returns the
    /// totals of that moment: a reading of tables may be under way still, of which the rest is of no use.
    fn take_in_the_rest(&mut self) -> Totals {
        let patience = Instant::now() + LAST_RECORDS;
        loop {
            if self.backlog.room() == 0 {
                self.judge(None);
            }
            if self.take_in() > 0 {
                continue;
            }
            let totals = self.live.totals();
            if totals.produced == totals.captured + totals.lost() || Instant::now() >= patience {
                return totals;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Everything that is still under way is taken in, and the end is told.
    fn end(mut self, plan: &Plan, outcome: Result<Stop, Failure>) -> Result<Outcome, Failure> {
        let stop = outcome?;
        // Nothing new comes then, however busy the target is.
        if let Err(error) = self.live.detach() {
            log::warn!("{error:#}");
        }
        let totals = self.take_in_the_rest();
        self.pass_time();
        self.judge(None);
        self.stages.finish(&mut self.news);
        self.publish();
        if let (count, Some(error)) = &self.stages.undecodable {
            log::error!("{count} records could not be read; the first: {error}");
        }
        let duration_ns = clock::boot_ns().saturating_sub(self.began);
        let written = self.recorder.as_mut().map(|recorder| recorder.end(totals, duration_ns));
        self.note_recorder(written.unwrap_or(Ok(())));
        let [recognised, copied] = self.natives.counts();
        log::debug!("native stacks: {recognised} recognised, {copied} copied");
        let lost = totals.lost();
        let by_class = fdtrace_common::wire::loss::NAMES.into_iter().zip(totals.by_class);
        let summary = Summary {
            events: totals.captured,
            produced: totals.produced,
            lost,
            lost_by_class: by_class.filter(|(_, count)| *count > 0).collect(),
            uncertain_ns: self.stages.uncertain_ns(),
            findings: self.counts.clone(),
            duration_ns,
        };
        let told = self.sinks.end(&summary);
        self.note(told);
        let told = self.quiet.end();
        self.note(told);
        let found = plan.findings_exit.filter(|(level, _)| self.counts.reach(confidence(*level)));
        Ok(match (found, stop) {
            (Some((_, code)), _) => Outcome::Exit(code),
            (None, _) if plan.require_complete && lost > 0 => Outcome::Exit(INCOMPLETE),
            (None, Stop::Ended(Some(ended))) => Outcome::Like(ended),
            (None, Stop::Ended(None) | Stop::Asked) => Outcome::Exit(0),
        })
    }
}

/// How long records are waited for that are being made when the hooks go.
const LAST_RECORDS: Duration = Duration::from_secs(1);

fn launch_failed(error: LaunchError) -> Failure {
    Failure { code: error.exit_code(), error: error.into(), hint: None }
}

async fn sleep_for(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
