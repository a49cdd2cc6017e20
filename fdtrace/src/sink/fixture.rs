//! Findings made by hand, for tests.

use std::{env, fs, path::Path};

use super::run::{RunMeta, SCHEMA, Target};
use crate::detect::{
    finding::{Act, Confidence, Finding, Frame, Name, Owner, Role, Severity, Verb, Who},
    rules,
};

/// The trace began at this boot time; acts are told in microseconds since.
pub const START: u64 = 5_000_000_000_000;

/// Main process of all fixtures.
pub const PID: u32 = 4242;

pub fn act(micros: u64, fd: i32, generation: u32, verb: Verb, call: &'static str) -> Act {
    Act {
        time: START + micros * 1000,
        enter_time: None,
        pid: PID,
        tid: PID,
        process: "python3".into(),
        fd,
        generation: Some(generation),
        verb,
        call,
        error: None,
        object: Name::default(),
        role: None,
        remark: None,
        ambiguous: false,
        who: Who::default(),
    }
}

/// Says more about an act.
pub trait Say: Sized {
    fn of(self, object: &str) -> Self;
    fn by(self, pid: u32, tid: u32) -> Self;
    fn named(self, process: &str) -> Self;
    fn fails(self, error: &'static str) -> Self;
    fn own(self, kind: &str, address: u64) -> Self;
    /// Interpreter frames, innermost first.
    fn py(self, file: &str, frames: &[(u32, &str)]) -> Self;
    /// Native frames, innermost first.
    fn c(self, file: &str, frames: &[(u32, &str)]) -> Self;
    fn is(self, role: Role, remark: &str) -> Self;
    fn remark(self, remark: &str) -> Self;
}

impl Say for Act {
    fn of(mut self, object: &str) -> Self {
        self.object = object.into();
        self
    }

    fn by(mut self, pid: u32, tid: u32) -> Self {
        (self.pid, self.tid) = (pid, tid);
        self
    }

    fn named(mut self, process: &str) -> Self {
        self.process = process.into();
        self
    }

    fn fails(mut self, error: &'static str) -> Self {
        self.error = Some(error);
        self
    }

    fn own(mut self, kind: &str, address: u64) -> Self {
        self.who.owner = Some(Owner { kind: kind.to_owned(), address });
        self
    }

    fn py(mut self, file: &str, frames: &[(u32, &str)]) -> Self {
        let frames = frames.iter().map(|(line, function)| frame(file, *line, function));
        self.who.python = self.who.python.iter().cloned().chain(frames).collect();
        self
    }

    fn c(mut self, file: &str, frames: &[(u32, &str)]) -> Self {
        let libc = Frame {
            function: self.call.into(),
            file: None,
            line: None,
            module: Some("/lib/libc.so.6".into()),
            source: None,
        };
        let frames = frames.iter().map(|(line, function)| frame(file, *line, function));
        self.who.native = self.who.native.iter().cloned().chain([libc]).chain(frames).collect();
        self
    }

    fn is(mut self, role: Role, remark: &str) -> Self {
        self.role = Some(role);
        if remark.is_empty() { self } else { self.remark(remark) }
    }

    fn remark(mut self, remark: &str) -> Self {
        self.remark = Some(remark.to_owned());
        self
    }
}

pub fn frame(file: &str, line: u32, function: &str) -> Frame {
    Frame { function: function.into(), file: Some(file.into()), line: Some(line), module: None, source: None }
}

/// A finding about the last act of the timeline, with the parts that its acts play.
pub fn finding(rule: &'static str, confidence: Confidence, message: &str, timeline: Vec<Act>) -> Finding {
    let played = |role| timeline.iter().find(|act| act.role == Some(role)).cloned();
    let last = timeline.last().unwrap();
    Finding {
        rule,
        confidence,
        severity: rules::find(rule).map_or(Severity::High, |rule| rule.severity),
        incident: 1,
        pid: last.pid,
        inside: Vec::new(),
        process: last.process.clone(),
        fd: last.fd,
        generation: last.generation,
        message: message.to_owned(),
        culprit: played(Role::Culprit),
        victim: played(Role::Victim),
        root_cause: played(Role::RootCause),
        advice: rules::advice(rule),
        complete: true,
        time: last.time,
        timeline,
    }
}

/// Puts the source lines of an example into the frames that are about it.
pub fn with_source(mut finding: Finding, file: &str, source: &str) -> Finding {
    let parts = [&mut finding.root_cause, &mut finding.culprit, &mut finding.victim];
    for act in finding.timeline.iter_mut().chain(parts.into_iter().flatten()) {
        act.who.change_frames(|frame| {
            if frame.file.as_ref().is_some_and(|known| known.0.ends_with(file.as_bytes())) {
                let line = frame.line.and_then(|line| source.lines().nth(line as usize - 1));
                frame.source = line.map(Into::into);
            }
        });
    }
    finding
}

pub fn meta(cmdline: &str) -> RunMeta {
    RunMeta {
        version: "0.1.0".to_owned(),
        schema: SCHEMA.to_owned(),
        kernel: "6.18.0".to_owned(),
        started_wall: 1_763_895_600_000_000_000,
        started_boot: START,
        targets: vec![Target { pid: PID, name: "python3".into(), cmdline: cmdline.replace(' ', "\0").as_str().into() }],
        already_open: 0,
    }
}

/// Compares with a file that is part of the source. With `FDTRACE_UPDATE=1` writes it.
#[track_caller]
pub fn matches_file(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if env::var_os("FDTRACE_UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{} differs; FDTRACE_UPDATE=1 writes it anew. It would be:\n{text}", path.display());
}

/// One second of a descriptor's life.
pub fn lifetime(fd: i32, generation: u32, object: &[u8]) -> crate::sink::lifetime::Lifetime {
    let at = u64::from(generation) * 1_000_000;
    crate::sink::lifetime::Lifetime {
        pid: PID,
        process: "python3".into(),
        table: 0,
        fd,
        generation,
        description: u64::from(generation),
        kind: "file",
        object: Name::new(object),
        cloexec: true,
        opened: act(at, fd, generation, Verb::Opened, "openat"),
        closed: Some(act(at + 900_000, fd, generation, Verb::Closed, "close")),
        successor: None,
        folded: None,
    }
}
