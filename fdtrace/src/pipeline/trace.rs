//! A live run: find or start the target, trace it, tell what was found.

use std::{
    io,
    os::unix::ffi::OsStrExt,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    detect::{Want, finding::Name},
    plan::{Level, Plan, Several, Target, User},
    sink::{
        self, FindingCounts, RunMeta, Sink, Sinks, Summary,
        fold::Folding,
        github::GithubSink,
        json::JsonSink,
        junit::JunitSink,
        output,
        sarif::SarifSink,
        text::{TextOptions, TextSink},
    },
    source::{
        clock,
        ending::Ended,
        launch::{Held, Launch, Running},
        live::{Live, Settings},
        procfs,
        recording::writer::Recorder,
        select::{self, Choice, SelectError},
        surroundings::Surroundings,
        target,
        users::RunAs,
    },
    syscalls::Arch,
    who::python::known,
};

use super::{
    Stages,
    checkpoint::checkpoint,
    failure::{Failure, INCOMPLETE, Outcome},
    natives::Natives,
    pythons::Pythons,
    quiet::Quiet,
    record,
    sources::Sources,
    stages::News,
};

/// How often time is passed on to the rules and sinks.
const TICK: Duration = Duration::from_millis(100);
/// How often the kernel's tables are read again after a loss.
const HEAL: Duration = Duration::from_millis(500);
/// How often the kernel's tables are read although nothing seems to be missing.
const RECONCILE: Duration = Duration::from_secs(10);
/// Longest wait for the first snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(30);

/// Runs a plan to its end.
pub fn run(plan: Plan) -> Result<Outcome, Failure> {
    let (sinks, recorder) = open_outputs(&plan)?;
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
        };
        let live = Live::start(&settings).map_err(Failure::cannot_observe)?;
        let mut session = Session { quiet, ..Session::new(live, sinks, recorder) };
        let outcome = session.trace(&plan, started).await;
        session.end(&plan, outcome)
    })
}

/// Without the right to load programs there is no need to try: say what is missing.
fn check_privileges() -> Result<(), Failure> {
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

fn open_outputs(plan: &Plan) -> Result<(Sinks, Option<Recorder>), Failure> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    let json = plan.output.json.as_deref();
    let record = plan.output.record.as_ref();
    let is_stdout = |path: &std::path::Path| path.as_os_str() == "-";
    let (json_there, record_there) =
        (json.is_some_and(is_stdout), record.is_some_and(|record| is_stdout(&record.path)));
    if json_there && record_there {
        return Err(Failure::usage(anyhow::anyhow!("findings and recording cannot both go to the standard output")));
    }
    // What is on standard output for a program has no report for people in between.
    if record_there {
        let options = TextOptions { notes: plan.output.notes, ..TextOptions::for_stream(&io::stderr()) };
        sinks.push(Box::new(TextSink::new(io::stderr(), io::stderr(), options)));
    } else if !json_there {
        let options = TextOptions { notes: plan.output.notes, ..TextOptions::for_stream(&io::stdout()) };
        sinks.push(Box::new(TextSink::new(io::stdout(), io::stderr(), options)));
    }
    if let Some(path) = json {
        let file = output::create(path, plan.output.force).map_err(Failure::usage)?;
        sinks.push(Box::new(Folding::new(JsonSink::new(file), plan.output.notes)));
    }
    if let Some(path) = &plan.output.sarif {
        let file = output::create(path, plan.output.force).map_err(Failure::usage)?;
        sinks.push(Box::new(Folding::new(SarifSink::new(file), plan.output.notes)));
    }
    if let Some(path) = &plan.output.junit {
        let file = output::create(path, plan.output.force).map_err(Failure::usage)?;
        sinks.push(Box::new(Folding::new(JunitSink::new(file), plan.output.notes)));
    }
    if plan.output.github {
        sinks.push(Box::new(Folding::new(GithubSink::new(io::stdout()), plan.output.notes)));
    }
    let record = record.map(|plan_of| record::recorder(plan_of, plan.output.force, clock::wall_ns(), clock::boot_ns()));
    Ok((Sinks(sinks), record.transpose()?))
}

/// What is to be traced, found but not touched yet.
enum Started {
    Command(Launch),
    Running(Vec<target::Target>),
    /// Not there yet.
    Awaited {
        name: Vec<u8>,
        choice: Choice,
    },
}

impl Started {
    fn resolve(target: &Target) -> Result<Self, Failure> {
        match target {
            Target::Command { program, args, user } => {
                let user = match user {
                    User::Caller => RunAs::Sudo,
                    User::Root => RunAs::Root,
                    User::Named(name) => RunAs::User(name.clone()),
                };
                Ok(Self::Command(Launch { program: program.clone(), args: args.clone(), user }))
            }
            Target::Pids(pids) => {
                let targets: Result<Vec<_>, _> = pids.iter().map(|pid| target::by_pid(*pid)).collect();
                targets.map(Self::Running).map_err(Failure::usage)
            }
            Target::Name { name, several, wait } => {
                let choice = match several {
                    Several::Refuse => Choice::One,
                    Several::All => Choice::All,
                    Several::Newest => Choice::Newest,
                };
                match choose(name.as_bytes(), choice) {
                    Ok(targets) => Ok(Self::Running(targets)),
                    Err(Missing::NotThere(_)) if *wait => Ok(Self::Awaited { name: name.as_bytes().to_vec(), choice }),
                    Err(Missing::NotThere(failure) | Missing::Other(failure)) => Err(failure),
                }
            }
        }
    }
}

enum Missing {
    NotThere(Failure),
    Other(Failure),
}

fn choose(name: &[u8], choice: Choice) -> Result<Vec<target::Target>, Missing> {
    let candidates = select::choose(name, choice).map_err(|error| match error {
        SelectError::NoMatch { .. } => Missing::NotThere(Failure::usage(error)),
        error => Missing::Other(Failure::usage(error)),
    })?;
    let held: Result<Vec<_>, _> = candidates.iter().map(select::Candidate::hold).collect();
    held.map_err(|error| Missing::Other(Failure::usage(error)))
}

/// Why tracing stopped.
enum Stop {
    /// Nobody is left to trace.
    Ended(Option<Ended>),
    /// The user, or the clock, said so.
    Asked,
}

struct Session {
    live: Live,
    stages: Stages,
    sinks: Sinks,
    recorder: Option<Recorder>,
    pythons: Pythons,
    sources: Sources,
    natives: Natives,
    news: Vec<News>,
    counts: FindingCounts,
    quiet: Quiet,
    began: u64,
    ticked: Instant,
    healed: Instant,
    heal: bool,
    reconciled: Instant,
    /// Events at that time.
    reconciled_at: u64,
    /// The first error of a sink; later ones are not repeated.
    sink_failed: bool,
    recorder_failed: bool,
    exits: u64,
}

impl Session {
    fn new(live: Live, sinks: Sinks, recorder: Option<Recorder>) -> Self {
        Self {
            live,
            stages: Stages::new(Arch::native()),
            sinks,
            recorder,
            pythons: Pythons::default(),
            sources: Sources::default(),
            natives: Natives::default(),
            news: Vec::new(),
            counts: FindingCounts::default(),
            quiet: Quiet::default(),
            began: clock::boot_ns(),
            ticked: Instant::now(),
            healed: Instant::now(),
            heal: false,
            reconciled: Instant::now(),
            reconciled_at: 0,
            sink_failed: false,
            recorder_failed: false,
            exits: 0,
        }
    }

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
            Started::Awaited { name, choice } => match await_target(&name, choice, &mut signals, deadline).await? {
                Some(targets) => targets,
                None => return Ok(Stop::Asked),
            },
        };
        if !targets.is_empty() {
            let pids: Vec<u32> = targets.iter().map(|target| target.pid).collect();
            self.adopt(&pids, false).await?;
            for target in &targets {
                target.still_same().map_err(|error| {
                    Failure::usage(
                        anyhow::Error::new(error)
                            .context(format!("process {} ended while fdtrace attached to it", target.pid)),
                    )
                })?;
            }
        }
        let held = holding;
        self.introduce(plan, &targets, held.as_ref());
        let command = held.map(Held::release).transpose().map_err(launch_failed)?;
        self.watch(command, &mut signals, deadline).await
    }

    /// Traces processes and waits until what they have open is known.
    async fn adopt(&mut self, pids: &[u32], wait_exec: bool) -> Result<(), Failure> {
        let expected = self.stages.snapshots_completed + 1;
        for pid in pids {
            self.live.adopt(*pid, wait_exec).map_err(Failure::cannot_observe)?;
        }
        self.live.snapshot(None).map_err(Failure::cannot_observe)?;
        let patience = Instant::now() + SNAPSHOT_PATIENCE;
        loop {
            self.drain();
            let done = self.live.snapshots_done().map_err(Failure::cannot_observe)?;
            if done && self.stages.snapshots_completed >= expected {
                return Ok(());
            }
            if Instant::now() > patience {
                let error = anyhow::anyhow!("the kernel did not finish listing the open descriptors in 30 s");
                return Err(Failure::cannot_observe(error));
            }
            self.live.wait().await.map_err(Failure::cannot_observe)?;
        }
    }

    /// Tells the sinks what is traced.
    fn introduce(&mut self, plan: &Plan, targets: &[target::Target], held: Option<&Held>) {
        let root = std::path::Path::new(procfs::ROOT);
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
            let name = std::path::Path::new(program).file_name().unwrap_or(program);
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
                if self.live.traced().is_empty() {
                    return Ok(Stop::Ended(ended));
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Stop::Asked);
            }
            tokio::select! {
                waited = self.live.wait() => waited.map_err(Failure::cannot_observe)?,
                asked = signals.next() => {
                    // A key pressed at the terminal reaches the command too, and it is for it to decide.
                    let for_command = asked.from_terminal && command.is_some() && ended.is_none();
                    if !for_command || asked.again {
                        return Ok(Stop::Asked);
                    }
                }
                () = sleep_until(deadline) => {}
                () = sleep_for(self.recorder.as_ref().and_then(Recorder::must_wake)) => {}
                () = sleep_until(self.pythons.due()) => {}
            }
            // Time passes for the rules even if nothing happens.
            if self.live.traced().is_empty() {
                seen_exits = None;
            }
        }
    }

    fn drain(&mut self) {
        self.take_in();
        self.satisfy();
        self.publish();
        self.pythons.look(&mut self.live);
    }

    /// Asks the kernel for what the rules want to be told. What cannot be had is not told, and they live with it.
    fn satisfy(&mut self) {
        for want in self.stages.take_wants() {
            match want {
                Want::Uses { tgid, fd, times } => {
                    if let Err(error) = self.live.watch(tgid, fd, times) {
                        log::debug!("cannot watch fd {fd} of process {tgid}: {error:#}");
                    }
                }
                Want::Turns { file, fd, times } => {
                    if let Err(error) = self.live.watch_file(file, fd, times) {
                        log::debug!("cannot watch the file behind fd {fd}: {error:#}");
                    }
                }
                Want::EpollList { tgid, fd } => self.live.list_epoll(tgid, fd),
            }
        }
    }

    fn tick(&mut self) {
        if self.ticked.elapsed() < TICK {
            return;
        }
        self.ticked = Instant::now();
        self.pass_time();
        self.publish();
        let flushed = self.sinks.flush_incidents(self.stages.world.now().time);
        self.note(flushed);
        for (tid, epoll) in self.stages.world.epolls_to_read() {
            self.live.read_epoll(tid, epoll);
        }
        self.reconcile();
        if self.heal && self.healed.elapsed() >= HEAL {
            self.healed = Instant::now();
            self.heal = !self.stages.world.is_certain();
            if self.heal
                && let Err(error) = self.live.snapshot(None)
            {
                log::warn!("cannot read the kernel's tables again: {error:#}");
            }
            if let Err(error) = self.live.snapshots_done() {
                log::warn!("cannot read the kernel's tables again: {error:#}");
            }
        }
    }

    /// What happened unseen is looked for in the tables concerned at once, and in all of them now and then.
    fn reconcile(&mut self) {
        let unseen = self.stages.world.take_unseen();
        let events = self.live.totals().captured;
        let due = self.reconciled.elapsed() >= RECONCILE && events != self.reconciled_at;
        if due {
            self.reconciled = Instant::now();
            self.reconciled_at = events;
        }
        let only = match (due, unseen.len()) {
            (false, 0) => return,
            (false, 1) => unseen.first().copied(),
            _ => None,
        };
        if let Err(error) = self.live.snapshot(only).and_then(|()| self.live.snapshots_done()) {
            log::warn!("cannot read the kernel's tables: {error:#}");
        }
    }

    /// Takes in what the kernel has, in the order in which it happened. Returns how many records that were.
    fn take_in(&mut self) -> usize {
        let Self { live, stages, recorder, natives, news, .. } = self;
        live.drain(|pos, record| {
            if let Some((tid, unwound)) = natives.record(record) {
                stages.witnesses.unwound(tid, unwound);
            }
            if let Some(recorder) = recorder {
                recorder.record(pos, record);
            }
            stages.feed(pos, record, news);
        })
    }

    fn pass_time(&mut self) {
        let Self { live, stages, recorder, news, .. } = self;
        live.tick(|pos, record| {
            if let Some(recorder) = recorder {
                recorder.record(pos, record);
            }
            stages.feed(pos, record, news);
        });
    }

    /// Has the recorder write what is due.
    fn keep(&mut self) {
        let Some(recorder) = &mut self.recorder else { return };
        let mut written = Ok(());
        if recorder.due_in().is_some_and(|due| due.is_zero()) {
            written = recorder.flush(self.live.totals());
        }
        if recorder.wants_snapshot() {
            let world = &self.stages.world;
            written = written.and(recorder.snapshot(world.now().pos, |out| checkpoint(world, out)));
        }
        self.note_recorder(written);
    }

    fn note_recorder(&mut self, written: io::Result<()>) {
        if let Err(error) = written
            && !std::mem::replace(&mut self.recorder_failed, true)
        {
            log::error!("cannot record, and go on without what could not be written: {error}");
        }
    }

    fn publish(&mut self) {
        for news in std::mem::take(&mut self.news) {
            let told = match news {
                News::Finding(mut finding) => {
                    self.natives.fill(&mut finding);
                    self.sources.fill(&mut finding);
                    if let Some(recorder) = &mut self.recorder {
                        record::shown(recorder, &finding);
                    }
                    if !self.quiet.may_tell(&finding) {
                        continue;
                    }
                    self.counts.add(&finding);
                    self.sinks.finding(&finding)
                }
                News::Loss(loss) => {
                    self.heal = true;
                    self.sinks.loss(&loss)
                }
                News::ProcessBegan { pid, since } => {
                    if self.live.has_stacks() {
                        self.pythons.began(pid);
                        self.sources.began(pid, wall(since));
                    }
                    Ok(())
                }
                News::ProcessForked { parent, child } => {
                    self.sources.forked(parent, child);
                    Ok(())
                }
                News::ProcessEnded(pid) => {
                    self.pythons.ended(pid);
                    self.exits += 1;
                    self.live.unwatch(pid);
                    self.sinks.process_ended(pid)
                }
                News::Lifetime(lifetime) => self.sinks.lifetime(&lifetime),
            };
            self.note(told);
        }
    }

    fn note(&mut self, told: io::Result<()>) {
        if let Err(error) = told
            && !std::mem::replace(&mut self.sink_failed, true)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            log::error!("cannot write findings: {error}");
        }
    }

    /// Everything that is still under way is taken in, and the end is told.
    fn end(mut self, plan: &Plan, outcome: Result<Stop, Failure>) -> Result<Outcome, Failure> {
        let stop = outcome?;
        let mut quiet = 0;
        while quiet < 2 {
            quiet = if self.take_in() == 0 { quiet + 1 } else { 0 };
        }
        self.pass_time();
        self.stages.finish(&mut self.news);
        self.publish();
        if let (count, Some(error)) = &self.stages.undecodable {
            log::error!("{count} records could not be read; the first: {error}");
        }
        let totals = self.live.totals();
        let duration_ns = clock::boot_ns().saturating_sub(self.began);
        let written = self.recorder.as_mut().map(|recorder| recorder.end(totals, duration_ns));
        self.note_recorder(written.unwrap_or(Ok(())));
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
        let found = plan.findings_exit.filter(|(level, _)| match level {
            Level::Possible => self.counts.total > 0,
            Level::Likely => self.counts.likely + self.counts.proven > 0,
            Level::Proven => self.counts.proven > 0,
        });
        Ok(match (found, stop) {
            (Some((_, code)), _) => Outcome::Exit(code),
            (None, _) if plan.require_complete && lost > 0 => Outcome::Exit(INCOMPLETE),
            (None, Stop::Ended(Some(ended))) => Outcome::Like(ended),
            (None, Stop::Ended(None) | Stop::Asked) => Outcome::Exit(0),
        })
    }
}

/// A moment of `CLOCK_BOOTTIME` on the wall clock, nanoseconds.
fn wall(boot: u64) -> i128 {
    i128::from(clock::wall_ns()) - i128::from(clock::boot_ns()) + i128::from(boot)
}

fn launch_failed(error: crate::source::launch::LaunchError) -> Failure {
    Failure { code: error.exit_code(), error: error.into(), hint: None }
}

async fn await_target(
    name: &[u8],
    choice: Choice,
    signals: &mut Signals,
    deadline: Option<Instant>,
) -> Result<Option<Vec<target::Target>>, Failure> {
    loop {
        match choose(name, choice) {
            Ok(targets) => return Ok(Some(targets)),
            Err(Missing::NotThere(_)) => {}
            Err(Missing::Other(failure)) => return Err(failure),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
        tokio::select! {
            _ = signals.next() => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
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

/// The signals that ask us to stop.
struct Signals {
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    hangup: Signal,
    interrupts: u32,
}

/// Somebody asked.
struct Asked {
    /// With a key, so that the command was asked too.
    from_terminal: bool,
    /// For the second time.
    again: bool,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            interrupts: 0,
        })
    }

    async fn next(&mut self) -> Asked {
        let from_terminal = tokio::select! {
            _ = self.interrupt.recv() => true,
            _ = self.quit.recv() => true,
            _ = self.terminate.recv() => false,
            _ = self.hangup.recv() => false,
        };
        if from_terminal {
            self.interrupts += 1;
        }
        Asked { from_terminal, again: self.interrupts > 1 }
    }
}
