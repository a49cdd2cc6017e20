//! One machine: started, watched, ended. What it has to say comes over its serial line, in lines that begin with `vm:`
//! (see the program `fdtrace-vm-init`), as results of tests, and as JSON lines of fdtrace.

use std::{
    fmt,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{command, test::Tally};

use super::{
    guest::{Guest, Step},
    kernels::Image,
};

pub const QEMU: &str = "qemu-system-x86_64";

/// Emulated processors do not know this instruction well, and kernels that use it die early.
const PROCESSOR: &str = "max,-cx16";
/// A panic ends the machine. An emulated timer that a busy host delays is no reason for one.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 no_timer_check";
/// A kernel that has not started process 1 by then never will.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Longest silence of a machine that is up: longer than any step may take.
const SILENCE_LIMIT: Duration = Duration::from_secs(960);
/// Lines of the console that are shown when something failed.
const SHOWN: usize = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every step was run and the machine switched itself off.
    PoweredOff,
    /// The kernel did not come as far as process 1.
    BeforeStart,
    /// The machine ended before process 1 was through.
    Died,
    /// It hung, and was ended by us.
    Hung,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PoweredOff => "powered off",
            Self::BeforeStart => "the kernel did not come up",
            Self::Died => "the machine died",
            Self::Hung => "the machine hung",
        })
    }
}

/// What came of a step.
pub struct Done {
    pub name: &'static str,
    pub seconds: String,
    pub status: String,
    expected: String,
    /// Tests, where it runs tests.
    tests: Option<Tally>,
}

impl Done {
    pub fn passed(&self) -> bool {
        self.status == self.expected && self.tests.is_none_or(|tests| tests.failed == 0)
    }
}

/// What a machine said.
pub struct Session {
    pub ending: Ending,
    pub release: String,
    pub up_in: Duration,
    pub steps: Vec<Done>,
    /// The findings of the scripted run, in few words.
    pub findings: Vec<String>,
    /// Sentences of tests about themselves: what was compared, what was missed.
    pub remarks: Vec<String>,
    expected_steps: usize,
    /// What fdtrace has to say of the kernel, until it has said it.
    pub unsaid: Option<&'static str>,
}

impl Session {
    /// Tests by their number, other steps as one; a machine that did not get through has failed once more.
    pub fn tally(&self) -> Tally {
        let mut total = Tally::default();
        for step in &self.steps {
            match step.tests {
                Some(tests) if tests.failed > 0 || step.passed() => total.add(tests),
                _ if step.passed() => total.add(Tally::ONE),
                _ => total.add(Tally { passed: 0, failed: 1 }),
            }
        }
        if self.ending != Ending::PoweredOff || self.steps.len() < self.expected_steps {
            total.add(Tally { passed: 0, failed: 1 });
        }
        if self.unsaid.is_some() {
            total.add(Tally { passed: 0, failed: 1 });
        }
        total
    }
}

/// Ends the machine whatever happens to us.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It is usually over already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn boot(image: &Image, guest: &Guest, multi: bool, show: bool) -> Result<Session> {
    let mut qemu = Command::new(QEMU);
    qemu.args(["-accel", if multi { "tcg,thread=multi" } else { "tcg,thread=single" }, "-cpu", PROCESSOR])
        .args(["-m", "1024", "-smp", "2", "-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-serial", "stdio", "-no-reboot", "-append", COMMAND_LINE])
        .arg("-kernel")
        .arg(&image.path)
        .arg("-initrd")
        .arg(&guest.archive);
    command::announce(&qemu);
    let start = Instant::now();
    let child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command::shown(&qemu)))?;
    let mut machine = Machine(child);
    let output = machine.0.stdout.take().context("the machine has no console")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let log = image.directory.join("console.log");
    let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut listener = Listener::new(image, guest, show, log, start);
    listener.listen(&lines);
    let session = listener.session;
    if session.tally().failed > 0 && session.ending != Ending::BeforeStart && !show {
        for line in listener.recent {
            eprintln!("    {line}");
        }
    }
    Ok(session)
}

struct Listener<'a> {
    steps: &'a [Step],
    show: bool,
    log: File,
    start: Instant,
    session: Session,
    /// Tests of the step that is running.
    tests: Option<Tally>,
    recent: Vec<String>,
}

impl<'a> Listener<'a> {
    fn new(image: &Image, guest: &'a Guest, show: bool, log: File, start: Instant) -> Self {
        let session = Session {
            ending: Ending::BeforeStart,
            release: "unknown release".to_owned(),
            up_in: Duration::ZERO,
            steps: Vec::new(),
            findings: Vec::new(),
            remarks: Vec::new(),
            expected_steps: guest.steps.len(),
            unsaid: image.kernel.complaint(),
        };
        Self { steps: &guest.steps, show, log, start, session, tests: None, recent: Vec::new() }
    }

    fn listen(&mut self, lines: &Receiver<String>) {
        loop {
            let up = self.session.ending != Ending::BeforeStart;
            let limit = if up { SILENCE_LIMIT } else { START_LIMIT.saturating_sub(self.start.elapsed()) };
            match lines.recv_timeout(limit) {
                Ok(line) => self.line(&line),
                // The machine is off.
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    if up {
                        self.session.ending = Ending::Hung;
                    }
                    return;
                }
            }
        }
    }

    fn line(&mut self, line: &str) {
        // A full disk costs the log and nothing else.
        let _ = writeln!(self.log, "{line}");
        if self.recent.len() == SHOWN {
            self.recent.remove(0);
        }
        self.recent.push(line.to_owned());
        if self.show {
            println!("    {line}");
        }
        if let Some(complaint) = self.session.unsaid.take_if(|complaint| line.contains(*complaint)) {
            self.session.remarks.push(format!("as it should, fdtrace said `{complaint}`"));
        }
        if let Some(word) = line.strip_prefix("vm: ") {
            if !self.show {
                eprintln!("  {:6.1} s  {word}", self.start.elapsed().as_secs_f64());
            }
            self.word(word);
        } else if line.starts_with('{') {
            self.json(line);
        } else if line.contains("BPF programs skipped") {
            self.session.remarks.push(line.to_owned());
        } else if line.starts_with("test result: ") {
            self.tests.get_or_insert_default().add(Tally::of(line));
        }
    }

    fn word(&mut self, word: &str) {
        match word.split_once(' ').unwrap_or((word, "")) {
            ("start", _) => {
                self.session.ending = Ending::Died;
                self.session.up_in = self.start.elapsed();
            }
            ("kernel", release) => self.session.release = release.to_owned(),
            ("done", about) => self.done(about),
            ("end", _) => self.session.ending = Ending::PoweredOff,
            _ => {}
        }
    }

    /// `NAME after SECONDS s: STATUS`.
    fn done(&mut self, about: &str) {
        let tests = self.tests.take();
        let Some((name, rest)) = about.split_once(" after ") else { return };
        let Some((seconds, status)) = rest.split_once(" s: ") else { return };
        let Some(step) = self.steps.iter().find(|step| step.name == name) else { return };
        self.session.steps.push(Done {
            name: step.name,
            seconds: seconds.to_owned(),
            status: status.to_owned(),
            expected: step.expected.clone(),
            tests,
        });
    }

    fn finding(&mut self, finding: &serde_json::Value) {
        let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let (rule, confidence) = (word("rule"), word("confidence"));
        self.session.findings.push(format!("{rule} ({confidence}) on {}#{}", finding["fd"], finding["generation"]));
        self.session.findings.sort();
    }

    fn json(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { return };
        match line["type"].as_str() {
            Some("finding") => self.finding(&line),
            // Without stacks more of them are equal, and folded into one.
            Some("repeat") => self.finding(&line["last"]),
            Some("end") => {
                let (produced, lost) = (&line["produced"], &line["lost"]);
                self.session.remarks.push(format!("scripted run: {produced} records, {lost} lost"));
            }
            _ => {}
        }
    }
}
