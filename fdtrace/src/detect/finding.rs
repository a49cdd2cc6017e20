//! What a rule reports: a broken lifetime rule with its evidence. Plain data, complete in itself: a sink needs nothing
//! else, and a finding outlives the process it is about.

use std::{fmt, rc::Rc};

use serde::Serialize;

use crate::who::sighting::Unwound;

/// Bytes that a traced program chose: a path, a command name, a task name. Not trusted to be UTF-8, short or true;
/// sinks escape them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Name(pub Rc<[u8]>);

impl Name {
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// How sure a finding is. Ordered: `Possible < Likely < Proven`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// A heuristic, or events are missing from the window.
    Possible,
    /// Call sites or types agree; one inference.
    Likely,
    /// The recorded facts admit no other reading.
    Proven,
}

/// How much it matters. Ordered: `Note < Medium < High`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// True, and usually harmless: told as a consequence of something else or on request.
    Note,
    Medium,
    High,
}

/// Part an act plays in a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The mistake that made the rest possible.
    RootCause,
    /// Who broke the rule.
    Culprit,
    /// Who was hit.
    Victim,
}

/// One line of a finding's timeline: somebody did something to a descriptor.
#[derive(Clone, Debug)]
pub struct Act {
    /// `CLOCK_BOOTTIME` nanoseconds at which the call returned.
    pub time: u64,
    /// When it began, if that was seen.
    pub enter_time: Option<u64>,
    pub pid: u32,
    pub tid: u32,
    /// Command name of the process at that time.
    pub process: Name,
    pub fd: i32,
    /// Life of the slot this is about, from 1; `None`: no life is known.
    pub generation: Option<u32>,
    pub verb: Verb,
    /// The system call, e.g. `close`; empty when there was none (exec, exit, inherited).
    pub call: &'static str,
    /// Name of the error if the call failed, e.g. `EBADF`.
    pub error: Option<&'static str>,
    /// What the descriptor was: a path, `pipe`, `socket`, `eventpoll`, …
    pub object: Name,
    pub role: Option<Role>,
    /// What a reader should know of this line, e.g. "closed behind the object's back".
    pub remark: Option<String>,
    /// Events race here: the order given is one of several that fit.
    pub ambiguous: bool,
    pub who: Who,
}

/// What happened to the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// A new description, a new number.
    Opened,
    /// A new number for a description that existed.
    Duplicated,
    /// Through fork.
    Inherited,
    /// From another process, in a message or through a pidfd.
    Received,
    /// Open before the trace began.
    AlreadyOpen,
    /// It was there when looked at; how it came is not known.
    UnseenOrigin,
    Closed,
    /// By `dup2` or `dup3` over it.
    Replaced,
    ClosedByExec,
    ClosedByExit,
    /// It was gone when looked at; how it went is not known.
    UnseenEnd,
    Used,
    Registered,
    Modified,
    Unregistered,
    Waited,
    Forked,
}

/// Who did it, from the three witnesses; each may be missing.
#[derive(Clone, Debug, Default)]
pub struct Who {
    pub owner: Option<Owner>,
    /// asyncio task or the like.
    pub task: Option<Name>,
    /// Innermost first.
    pub python: Rc<[Frame]>,
    /// Innermost first. Filled in by whoever may read files, from `unwound`.
    pub native: Rc<[Frame]>,
    pub unwound: Option<Rc<Unwound>>,
}

impl Who {
    /// Python's frames, then the native ones.
    pub fn frames(&self) -> impl DoubleEndedIterator<Item = &Frame> {
        self.python.iter().chain(self.native.iter())
    }

    /// Changes each of them, in this copy of what other acts may have as well.
    pub fn change_frames(&mut self, mut change: impl FnMut(&mut Frame)) {
        for frames in [&mut self.python, &mut self.native] {
            Rc::make_mut(frames).iter_mut().for_each(&mut change);
        }
    }
}

/// The user-space thing that believes it must close the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Type as its runtime calls it, e.g. `_io.FileIO`.
    pub kind: String,
    pub address: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub function: Name,
    pub file: Option<Name>,
    pub line: Option<u32>,
    /// Object file, for native frames.
    pub module: Option<Name>,
    /// The text of that line, where the file could be read and is older than the process.
    pub source: Option<Rc<str>>,
}

/// A broken lifetime rule.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Stable name, e.g. `stale-close`.
    pub rule: &'static str,
    pub confidence: Confidence,
    pub severity: Severity,
    /// Findings with one root cause carry one number.
    pub incident: u64,
    /// The process that was hit, or in which it happened.
    pub pid: u32,
    /// Numbers that processes in it go by in their own pid namespaces, where these are not the initial one.
    pub inside: Vec<(u32, u32)>,
    pub process: Name,
    pub fd: i32,
    pub generation: Option<u32>,
    /// One sentence, names already escaped.
    pub message: String,
    pub culprit: Option<Act>,
    pub victim: Option<Act>,
    pub root_cause: Option<Act>,
    /// Chronological.
    pub timeline: Vec<Act>,
    /// What to do about it.
    pub advice: &'static str,
    /// Nothing is missing from the events that the finding rests on.
    pub complete: bool,
    /// Time at which the rule was seen broken.
    pub time: u64,
}

impl Finding {
    /// Every act that it tells of; those that play a part come twice.
    pub fn acts(&self) -> impl Iterator<Item = &Act> {
        [&self.culprit, &self.victim, &self.root_cause].into_iter().flatten().chain(&self.timeline)
    }

    pub fn acts_mut(&mut self) -> impl Iterator<Item = &mut Act> {
        let parts = [&mut self.culprit, &mut self.victim, &mut self.root_cause];
        parts.into_iter().flatten().chain(&mut self.timeline)
    }
}

/// The names are those of the JSON form; they never change once released.
impl Confidence {
    pub fn name(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Proven => "proven",
        }
    }
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::RootCause => "root-cause",
            Self::Culprit => "culprit",
            Self::Victim => "victim",
        }
    }
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Duplicated => "duplicated",
            Self::Inherited => "inherited",
            Self::Received => "received",
            Self::AlreadyOpen => "already-open",
            Self::UnseenOrigin => "unseen-origin",
            Self::Closed => "closed",
            Self::Replaced => "replaced",
            Self::ClosedByExec => "closed-by-exec",
            Self::ClosedByExit => "closed-by-exit",
            Self::UnseenEnd => "unseen-end",
            Self::Used => "used",
            Self::Registered => "registered",
            Self::Modified => "modified",
            Self::Unregistered => "unregistered",
            Self::Waited => "waited",
            Self::Forked => "forked",
        }
    }
}
