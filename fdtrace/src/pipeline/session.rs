//! One live run while it is under way: what the kernel has is taken in, what was found is told, and time passes.

use std::{
    io,
    time::{Duration, Instant},
};

use fdtrace_common::wire;

use crate::{
    detect::{Want, callsite},
    sink::{FindingCounts, Sink, Sinks},
    source::{clock, live::Live, own, recording::writer::Recorder},
    syscalls::Arch,
};

use super::{
    Stages,
    backlog::Backlog,
    budget::{self, Budget, Limits, Usage},
    checkpoint::checkpoint,
    known::Change,
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
/// The same if no call was told since: there are descriptors that come without one.
const RECONCILE_QUIET: Duration = Duration::from_secs(60);
/// How often memory is returned at most: it takes milliseconds.
const GIVE_BACK: Duration = Duration::from_secs(5);
/// How long is taken in before something else is done, and bytes before the clock is looked at.
const TAKING_IN: Duration = Duration::from_millis(50);
const AT_ONCE: usize = 256 << 10;
/// How long is judged before the ring is looked at again.
const JUDGING: Duration = Duration::from_millis(20);
const JUDGED_BETWEEN_LOOKS: u32 = 64;

pub struct Session {
    pub live: Live,
    pub stages: Stages,
    pub backlog: Backlog,
    pub sinks: Sinks,
    pub recorder: Option<Recorder>,
    pub pythons: Pythons,
    sources: Sources,
    pub natives: Natives,
    pub news: Vec<News>,
    pub counts: FindingCounts,
    pub quiet: Quiet,
    pub began: u64,
    started: Instant,
    ticked: Instant,
    healed: Instant,
    heal: bool,
    reconciled: Instant,
    /// What had happened by then.
    reconciled_at: u64,
    gave_back: Option<Instant>,
    budget: Budget,
    /// What the hooks leave out, and the most that was said of it.
    shed: u64,
    shed_told: u64,
    /// Nothing is done until then.
    rests_until: Option<Instant>,
    /// It is too much memory, whatever is left out.
    pub is_over: bool,
    /// The first error of a sink; later ones are not repeated.
    sink_failed: bool,
    recorder_failed: bool,
    pub exits: u64,
}

impl Session {
    pub fn new(live: Live, sinks: Sinks, recorder: Option<Recorder>, quiet: Quiet, limits: Limits) -> Self {
        Self {
            live,
            stages: Stages::new(Arch::native()),
            backlog: Backlog::default(),
            sinks,
            recorder,
            pythons: Pythons::default(),
            sources: Sources::default(),
            natives: Natives::default(),
            news: Vec::new(),
            counts: FindingCounts::default(),
            quiet,
            began: clock::boot_ns(),
            started: Instant::now(),
            ticked: Instant::now(),
            healed: Instant::now(),
            heal: false,
            reconciled: Instant::now(),
            reconciled_at: 0,
            gave_back: None,
            budget: Budget::new(limits),
            shed: 0,
            shed_told: 0,
            rests_until: None,
            is_over: false,
            sink_failed: false,
            recorder_failed: false,
            exits: 0,
        }
    }

    pub fn drain(&mut self) {
        if self.is_resting() {
            return;
        }
        // A snapshot says what was known when all was judged that is recorded before it.
        let snapshot = self.recorder.as_ref().is_some_and(Recorder::wants_snapshot);
        let until = Instant::now() + TAKING_IN;
        while self.backlog.room() > 0
            && (self.backlog.is_empty() || !snapshot)
            && self.take_in() > 0
            && Instant::now() < until
        {}
        self.judge(Some(JUDGING));
        self.satisfy();
        let Self { pythons, live, natives, .. } = self;
        pythons.look(live, |tgid| natives.told(tgid));
    }

    fn watch_file(&mut self, file: u64, fd: i32, times: u32, every: u32) {
        if let Err(error) = self.live.watches().file(file, fd, times, every) {
            log::debug!("cannot watch the file behind fd {fd}: {error:#}");
        }
    }

    /// Asks the kernel for what the rules want to be told. What cannot be had is not told, and they live with it.
    fn satisfy(&mut self) {
        for want in self.stages.take_wants() {
            match want {
                Want::Uses { tgid, fd, times } => {
                    if let Err(error) = self.live.watches().slot(tgid, fd, times) {
                        log::debug!("cannot watch fd {fd} of process {tgid}: {error:#}");
                    }
                }
                Want::Turns { file, fd, times, every } => self.watch_file(file, fd, times, every),
                // Else it does so itself, and until then uses of such a number cost nothing.
                Want::TurnsAtFork { file, fd, times, every } if !self.live.sees_forked_files() => {
                    self.watch_file(file, fd, times, every);
                }
                Want::TurnsAtFork { .. } => {}
                Want::EpollList { tgid, fd } => self.live.list_epoll(tgid, fd),
            }
        }
    }

    pub fn tick(&mut self) {
        if self.ticked.elapsed() < TICK || self.is_resting() {
            return;
        }
        self.ticked = Instant::now();
        self.pass_time();
        self.judge(Some(JUDGING));
        let flushed = self.sinks.flush_incidents(self.stages.world.now().time);
        self.note(flushed);
        let epolls = self.stages.world.epolls_to_read();
        if !epolls.is_empty() {
            self.live.read_epolls(&epolls, &self.stages.world.tasks_by_table());
        }
        self.reconcile();
        self.give_back();
        self.economise();
        // One that had to wait begins here.
        if let Err(error) = self.live.snapshots_done() {
            log::warn!("cannot read the kernel's tables again: {error:#}");
        }
        if self.heal && self.healed.elapsed() >= HEAL {
            self.healed = Instant::now();
            self.heal = !self.stages.world.is_certain();
            if self.heal
                && let Err(error) = self.live.snapshot(None)
            {
                log::warn!("cannot read the kernel's tables again: {error:#}");
            }
        }
    }

    fn is_resting(&self) -> bool {
        self.rests_until.is_some_and(|until| Instant::now() < until)
    }

    /// Keeps to what the user allows.
    fn economise(&mut self) {
        let limited = self.budget.has_limits();
        let usage = Usage {
            time: self.started.elapsed(),
            cpu: if limited { own::cpu() } else { Duration::ZERO },
            memory: if limited { own::memory().unwrap_or(0) } else { 0 },
            is_flooded: self.live.is_flooded(),
            dead: self.stages.world.dead(),
        };
        let step = self.budget.step(usage);
        if step.shed != self.shed {
            if let Err(error) = self.live.shed(step.shed) {
                log::warn!("{error:#}");
            }
            self.shed = step.shed;
        }
        if step.demanded > self.shed_told {
            self.shed_told = step.demanded;
            log::warn!("{} from here on, as --max-cpu and --max-memory demand", budget::named(step.demanded));
        }
        if let Some(most) = step.keep_dead {
            self.stages.world.keep_dead(most);
            own::trim();
        }
        self.is_over = step.is_over;
        if !step.rest.is_zero() {
            self.rests_until = Some(Instant::now() + step.rest);
        }
    }

    /// Returns memory to the kernel that the start, a reading of large tables or a storm took: the allocator keeps what is
    /// freed, several times of what is in use.
    fn give_back(&mut self) {
        let due = self.gave_back.is_none_or(|then| then.elapsed() >= GIVE_BACK && self.backlog.has_grown());
        if due && self.backlog.is_empty() {
            self.backlog.give_back();
            own::trim();
            self.gave_back = Some(Instant::now());
        }
    }

    /// What happened unseen is looked for in the tables concerned at once, and in all of them now and then.
    fn reconcile(&mut self) {
        let unseen = self.stages.world.take_unseen();
        // A reading makes records as well, and they are no reason for the next one.
        let happened = self.stages.happened;
        let pause = if happened == self.reconciled_at { RECONCILE_QUIET } else { RECONCILE };
        let due = self.reconciled.elapsed() >= pause;
        if due {
            self.reconciled = Instant::now();
            self.reconciled_at = happened;
        }
        let only = match (due, unseen.len()) {
            (false, 0) => return,
            (false, 1) => unseen.first().copied(),
            _ => None,
        };
        if let Err(error) = self.live.snapshot(only) {
            log::warn!("cannot read the kernel's tables: {error:#}");
        }
    }

    /// Takes in what the kernel has, in the order in which it happened, and records it. Returns how many records that were.
    pub fn take_in(&mut self) -> usize {
        let Self { live, backlog, recorder, natives, .. } = self;
        let taken = live.drain(backlog.room().min(AT_ONCE), |pos, record| {
            let half = natives.record(record);
            let kept = half.as_ref().and_then(|half| half.kept(record));
            let record = kept.as_deref().unwrap_or(record);
            if let Some(definition) = half.as_ref().and_then(|half| half.definition.as_deref()) {
                backlog.push_recorded(recorder, pos, wire::bytes_of(definition), None);
            }
            backlog.push_recorded(recorder, pos, record, half.map(|half| (half.tid, half.unwound)));
        });
        for change in natives.changes() {
            match change {
                Change::Add(key, stack) => {
                    if let Err(error) = live.known_stacks().add(&key, &stack) {
                        log::debug!("{error:#}");
                    }
                }
                Change::Remove(key) => live.known_stacks().remove(&key),
            }
        }
        taken
    }

    /// Judges what was taken in: everything, or for so long.
    pub fn judge(&mut self, patience: Option<Duration>) {
        let until = patience.map(|patience| Instant::now() + patience);
        for count in 1.. {
            let Self { stages, backlog, news, .. } = self;
            let judged = backlog.pop(|pos, record, half| {
                if let Some((tid, unwound)) = half {
                    stages.witnesses.unwound(tid, unwound);
                }
                stages.feed(pos, record, news);
            });
            let told = !self.news.is_empty();
            if told {
                self.publish();
            }
            let look = told || count % JUDGED_BETWEEN_LOOKS == 0;
            if judged.is_none() || look && until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
        }
    }

    /// Waits until there may be something to do.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        if let Some(until) = self.rests_until.filter(|_| self.is_resting()) {
            tokio::time::sleep_until(until.into()).await;
            return Ok(());
        }
        if self.backlog.is_empty() {
            return self.live.wait().await;
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    pub fn pass_time(&mut self) {
        let Self { live, backlog, recorder, .. } = self;
        live.tick(|pos, record| backlog.push_recorded(recorder, pos, record, None));
    }

    /// Has the recorder write what is due.
    pub fn keep(&mut self) {
        let Some(recorder) = &mut self.recorder else { return };
        let mut written = Ok(());
        if recorder.due_in().is_some_and(|due| due.is_zero()) {
            written = recorder.flush(self.live.totals());
        }
        if recorder.wants_snapshot() && self.backlog.is_empty() {
            let world = &self.stages.world;
            written = written.and(recorder.snapshot(world.now().pos, |out| checkpoint(world, out)));
        }
        self.note_recorder(written);
    }

    pub fn note_recorder(&mut self, written: io::Result<()>) {
        if let Err(error) = written
            && !std::mem::replace(&mut self.recorder_failed, true)
        {
            log::error!("cannot record, and go on without what could not be written: {error}");
        }
    }

    pub fn publish(&mut self) {
        for news in std::mem::take(&mut self.news) {
            let told = match news {
                News::Finding(mut finding) => {
                    self.natives.fill(&mut finding);
                    self.sources.fill(&mut finding);
                    if let Some(recorder) = &mut self.recorder {
                        record::shown(recorder, &finding);
                    }
                    if !callsite::weigh(&mut finding) || !self.quiet.may_tell(&finding) {
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
                        self.sources.began(pid, wall(since) + INTERPRETER_START);
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
                    self.live.watches().forget(pid);
                    self.sinks.process_ended(pid)
                }
                News::Lifetime(lifetime) => self.sinks.lifetime(&lifetime),
                News::Mark(mark) => self.sinks.mark(&mark),
            };
            self.note(told);
        }
    }

    pub fn note(&mut self, told: io::Result<()>) {
        if let Err(error) = told
            && !std::mem::replace(&mut self.sink_failed, true)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            log::error!("cannot write findings: {error}");
        }
    }
}

/// A script that is written this soon after its process began was not read before: no interpreter is up by then.
/// Without it, whoever writes a script and runs it at once would be at the mercy of how well two clocks agree: `/proc`
/// tells when a process began in ticks of 10 ms, rounded down.
const INTERPRETER_START: i128 = 15_000_000;

/// A moment of `CLOCK_BOOTTIME` on the wall clock, nanoseconds.
fn wall(boot: u64) -> i128 {
    clock::wall_minus_boot() + i128::from(boot)
}
