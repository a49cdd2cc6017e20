//! Everything between the bytes and the sinks, as one function: no clock, no file, no kernel. Live runs, recordings and
//! tests all go through here.

use crate::{
    decode::{DecodeError, decode},
    detect::{Detector, Want, finding::Finding},
    event::{Call, Event, What},
    model::{Change, World},
    sink::{
        Loss, Mark,
        lifetime::{Lifetime, Lifetimes},
    },
    syscalls::{self, Arch},
    who::sighting::Witnesses,
};

use fdtrace_common::wire::loss;

/// What the sinks are to be told.
#[derive(Debug)]
pub enum News {
    Finding(Box<Finding>),
    Loss(Loss),
    ProcessEnded(u32),
    Lifetime(Box<Lifetime>),
    Mark(Mark),
    /// A process was found, or runs a new program; `since` when, nanoseconds of `CLOCK_BOOTTIME`.
    ProcessBegan {
        pid: u32,
        since: u64,
    },
    ProcessForked {
        parent: u32,
        child: u32,
    },
}

#[derive(Debug)]
pub struct Stages {
    arch: Arch,
    pub world: World,
    pub witnesses: Witnesses,
    detector: Detector,
    /// Told only where a sink wants them.
    lifetimes: Option<Lifetimes>,
    changes: Vec<Change>,
    findings: Vec<Finding>,
    /// What programs did: all but readings of the kernel's lists and the passing of time.
    pub happened: u64,
    /// Records that could not be decoded, and the first of the reasons.
    pub undecodable: (u64, Option<DecodeError>),
    /// Nanoseconds during which some table was not known with certainty, up to `uncertain_since`.
    uncertain: u64,
    uncertain_since: Option<u64>,
}

impl Stages {
    pub fn new(arch: Arch) -> Self {
        Self {
            arch,
            world: World::new(),
            witnesses: Witnesses::default(),
            detector: Detector::new(),
            lifetimes: None,
            changes: Vec::new(),
            findings: Vec::new(),
            happened: 0,
            undecodable: (0, None),
            uncertain: 0,
            uncertain_since: None,
        }
    }

    /// Tells lifetimes too.
    pub fn with_lifetimes(self) -> Self {
        Self { lifetimes: Some(Lifetimes::default()), ..self }
    }

    /// Takes one record.
    pub fn feed(&mut self, pos: u64, record: &[u8], news: &mut Vec<News>) {
        match decode(pos, record, self.arch) {
            Ok(Some(event)) => self.event(&event, news),
            Ok(None) => {}
            Err(error) => {
                self.undecodable.0 += 1;
                self.undecodable.1.get_or_insert(error);
            }
        }
    }

    /// Takes one event.
    pub fn event(&mut self, event: &Event, news: &mut Vec<News>) {
        let seen = self.witnesses.event(event);
        self.world.apply_seen(event, seen, &mut self.changes);
        if let What::Bind { class, .. } = event.what
            && let Some(class) = self.witnesses.class(event.tgid, class)
        {
            self.world.bind(event, class, &mut self.changes);
        }
        for change in &self.changes {
            self.detector.on(change, &self.world, &mut self.findings);
            if let Some(lifetimes) = &mut self.lifetimes {
                lifetimes.on(change, &self.world, |lifetime| news.push(News::Lifetime(Box::new(lifetime))));
            }
        }
        let happens = matches!(event.what, What::Call(_) | What::Fork { .. } | What::Exec { .. } | What::Exit { .. });
        self.happened += u64::from(happens);
        match &event.what {
            What::Tick => self.detector.tick(&self.world, &mut self.findings),
            What::Process { start, .. } => news.push(News::ProcessBegan { pid: event.tgid, since: *start }),
            What::Call(call) => {
                // Behind what was found by now.
                self.tell_findings(news);
                news.extend(mark(event, call).map(News::Mark));
            }
            What::Lost { since, by_class } => {
                let by_class = loss::NAMES.into_iter().zip(*by_class).filter(|(_, count)| *count > 0).collect();
                news.push(News::Loss(Loss { time: event.at.exit.time, since: *since, by_class }));
                self.uncertain_since.get_or_insert(*since);
            }
            _ => {}
        }
        let mut healed = false;
        for change in self.changes.drain(..) {
            match change {
                Change::Exited { process, .. } => news.push(News::ProcessEnded(process)),
                Change::Healed { .. } => healed = true,
                Change::Execed { process: pid } => {
                    news.push(News::ProcessBegan { pid, since: event.at.exit.time });
                }
                Change::Forked { parent, child, .. } => news.push(News::ProcessForked { parent, child }),
                _ => {}
            }
        }
        if healed && self.world.is_certain() {
            self.close_uncertain(event.at.exit.time);
        }
        self.tell_findings(news);
    }

    fn tell_findings(&mut self, news: &mut Vec<News>) {
        // Nearly always there are none, and to go through nothing costs as much as to look at an event.
        if !self.findings.is_empty() {
            news.extend(self.findings.drain(..).map(Box::new).map(News::Finding));
        }
    }

    /// What the rules want to be told from now on.
    pub fn take_wants(&mut self) -> Vec<Want> {
        self.detector.take_wants()
    }

    /// Nothing more will come.
    pub fn finish(&mut self, news: &mut Vec<News>) {
        self.detector.finish(&self.world, &mut self.findings);
        self.tell_findings(news);
        if let Some(lifetimes) = &mut self.lifetimes {
            lifetimes.finish(&self.world, |lifetime| news.push(News::Lifetime(Box::new(lifetime))));
        }
        self.close_uncertain(self.world.now().time);
    }

    /// Nanoseconds of uncertainty so far.
    pub fn uncertain_ns(&self) -> u64 {
        let open = self.uncertain_since.map_or(0, |since| self.world.now().time.saturating_sub(since));
        self.uncertain + open
    }

    fn close_uncertain(&mut self, now: u64) {
        if let Some(since) = self.uncertain_since.take() {
            self.uncertain += now.saturating_sub(since);
        }
    }
}

/// A call that fails and does nothing, by which a traced program tells whoever reads the findings that it is here:
/// `lseek(-1, MARK << 32 | number, …)`.
fn mark(event: &Event, call: &Call) -> Option<Mark> {
    const MARK: u64 = 0x0fd7_ace0;
    let [fd, offset, ..] = call.args;
    let marks = call.sys.name == "lseek" && syscalls::fd(fd) == -1 && offset >> 32 == MARK;
    marks.then_some(Mark { time: event.at.exit.time, pid: event.tgid, tid: event.tid, number: offset as u32 })
}
