//! How the text report says things: verbs, places, owners, times, numbers. Everything that the traced program chose is
//! escaped here, at the point where it becomes text.

use std::collections::BTreeSet;

use crate::{
    detect::finding::{Act, Confidence, Finding, Frame, Name, Role, Severity, Verb},
    escape::{columns, escape_terminal, shorten_middle},
    sink::{run::Target, text::paint::Tone},
    who::native::stack::below_python,
};

pub fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Proven => "proven",
        Confidence::Likely => "likely",
        Confidence::Possible => "possible",
    }
}

/// The first word of a report, like a compiler's. A heuristic is never called an error.
pub fn level(finding: &Finding) -> (Tone, &'static str) {
    match (finding.severity, finding.confidence) {
        (Severity::Note, _) => (Tone::Note, "note"),
        (Severity::Medium, _) | (Severity::High, Confidence::Possible) => (Tone::Warning, "warning"),
        (Severity::High, _) => (Tone::Error, "error"),
    }
}

pub fn role(role: Role) -> (Tone, &'static str) {
    match role {
        Role::RootCause => (Tone::RootCause, "root cause"),
        Role::Culprit => (Tone::Culprit, "culprit"),
        Role::Victim => (Tone::Victim, "victim"),
    }
}

/// What happened, in as few words as a column has.
pub fn verb(act: &Act) -> String {
    if let Some(error) = act.error {
        let call = if act.call.is_empty() { verb_alone(act.verb) } else { act.call };
        return format!("{call} = {error}");
    }
    match act.verb {
        Verb::Used | Verb::Waited if !act.call.is_empty() => act.call.to_owned(),
        verb => verb_alone(verb).to_owned(),
    }
}

fn verb_alone(verb: Verb) -> &'static str {
    match verb {
        Verb::Opened => "opened",
        Verb::Duplicated => "duplicated",
        Verb::Inherited => "inherited",
        Verb::Received => "received",
        Verb::AlreadyOpen => "already open",
        Verb::UnseenOrigin => "seen open",
        Verb::Closed => "closed",
        Verb::Replaced => "replaced",
        Verb::ClosedByExec => "closed by exec",
        Verb::ClosedByExit => "closed by exit",
        Verb::UnseenEnd => "seen gone",
        Verb::Used => "used",
        Verb::Registered => "registered",
        Verb::Modified => "modified",
        Verb::Unregistered => "unregistered",
        Verb::Waited => "waited",
        Verb::Forked => "forked",
    }
}

/// The object that did it or, where none did, the call that ended the life: past an object, this is the mistake itself.
pub fn actor(act: &Act, addresses: &Addresses) -> String {
    match &act.who.owner {
        Some(owner) => format!("{} {}", kind(&owner.kind), addresses.short(owner.address)),
        None if act.error.is_some() || act.call.is_empty() => String::new(),
        None if matches!(act.verb, Verb::Closed | Verb::Replaced) => format!("{}()", act.call),
        None => String::new(),
    }
}

/// The type without its module: `_io.FileIO` is a `FileIO` to everybody.
fn kind(kind: &str) -> String {
    let last = kind.rsplit('.').next().filter(|last| !last.is_empty()).unwrap_or(kind);
    shorten_middle(&escape_terminal(last.as_bytes()), 24)
}

/// How to print the addresses of one report: shortened, and still different from each other.
#[derive(Debug, Default)]
pub struct Addresses {
    tail: usize,
}

impl Addresses {
    pub fn of<'a>(acts: impl IntoIterator<Item = &'a Act>) -> Self {
        let all: BTreeSet<u64> = acts.into_iter().filter_map(|act| act.who.owner.as_ref()).map(|o| o.address).collect();
        let tail = (3..16).find(|&tail| {
            let short: BTreeSet<String> = all.iter().map(|&address| shorten_address(address, tail)).collect();
            short.len() == all.len()
        });
        Self { tail: tail.unwrap_or(16) }
    }

    fn short(&self, address: u64) -> String {
        shorten_address(address, self.tail)
    }
}

fn shorten_address(address: u64, tail: usize) -> String {
    let digits = format!("{address:x}");
    match digits.len().checked_sub(tail) {
        Some(cut @ 4..) => format!("0x{}…{}", &digits[..2], &digits[cut..]),
        _ => format!("0x{digits}"),
    }
}

/// The frames that tell a reader most: those of the interpreter, else the native ones without the C library, whose
/// name for the system call is known already.
pub fn chain(act: &Act) -> Vec<&Frame> {
    if !act.who.python.is_empty() {
        return act.who.python.iter().collect();
    }
    let telling: Vec<&Frame> = act.who.native.iter().filter(|frame| !is_c_library(frame)).collect();
    if telling.is_empty() { act.who.native.iter().collect() } else { telling }
}

/// The native frames below Python's, where an extension makes the call: innermost first.
pub fn below(act: &Act) -> Vec<&Frame> {
    if act.who.python.is_empty() {
        return Vec::new();
    }
    fn text(name: &Name) -> &str {
        std::str::from_utf8(&name.0).unwrap_or("")
    }
    below_python(&act.who.native, |frame| (text(&frame.function), frame.module.as_ref().map_or("", text)))
}

/// Position in a chain of the frame to name: the first that does not belong to the standard library of its language,
/// for that one only did what it was told.
pub fn telling(chain: &[&Frame]) -> usize {
    chain.iter().position(|frame| !is_standard_library(frame)).unwrap_or(0)
}

fn is_standard_library(frame: &Frame) -> bool {
    let Some(file) = frame.file.as_ref().map(|file| String::from_utf8_lossy(&file.0)) else {
        return false;
    };
    let is_python =
        file.contains("/lib/python") && !file.contains("/site-packages/") && !file.contains("/dist-packages/");
    is_python || file.starts_with("<frozen ") || file.starts_with("/rustc/")
}

fn is_c_library(frame: &Frame) -> bool {
    let Some(module) = &frame.module else {
        return false;
    };
    let name = module.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    ["libc.so", "libc-", "libc.musl", "libpthread", "ld-linux", "ld-musl", "[vdso]", "linux-vdso"]
        .iter()
        .any(|known| name.starts_with(known.as_bytes()))
}

/// File and line, or the object file where there is no line.
pub fn place(frame: &Frame, width: usize) -> String {
    match (&frame.file, frame.line) {
        (Some(file), Some(line)) => {
            let line = format!(":{line}");
            format!("{}{line}", path(file, width.saturating_sub(line.len())))
        }
        (Some(file), None) => path(file, width),
        (None, _) => frame.module.as_ref().map_or_else(String::new, |module| path(module, width)),
    }
}

/// The path, or as many of its last names as there is room for.
pub fn path(name: &Name, width: usize) -> String {
    let full = escape_terminal(&name.0);
    if columns(&full) <= width {
        return full;
    }
    let ends = full.match_indices('/').map(|(at, _)| format!("…{}", &full[at..]));
    let fitting = ends.into_iter().find(|end| columns(end) <= width);
    fitting.unwrap_or_else(|| {
        let last = full.rsplit('/').next().unwrap_or(&full);
        shorten_middle(last, width.max(1))
    })
}

pub fn function(frame: &Frame) -> String {
    shorten_middle(&escape_terminal(&frame.function.0), 32)
}

/// A process as a user knows it: the command line of a target, the command name of others.
pub fn process(pid: u32, inside: Option<u32>, name: &Name, targets: &[Target], width: usize) -> String {
    let cmdline = targets.iter().find(|target| {
        // After an exec the old arguments are no longer true.
        target.pid == pid && target.name == *name && !target.cmdline.is_empty()
    });
    let text = match cmdline {
        Some(target) => {
            let bytes = target.cmdline.0.strip_suffix(b"\0").unwrap_or(&target.cmdline.0);
            bytes.split(|byte| *byte == 0).map(escape_terminal).collect::<Vec<_>>().join(" ")
        }
        None => escape_terminal(&name.0),
    };
    let pid = match inside {
        Some(inside) => format!("  (pid {pid}, {inside} in its namespace)"),
        None => format!("  (pid {pid})"),
    };
    shorten_middle(&text, width.saturating_sub(pid.len()).max(8)) + &pid
}

/// Text that a person wrote, or that is escaped already: kept as it is but for what would harm the terminal.
pub fn tame(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => out.push('\\'),
            '\t' => out.push_str("    "),
            _ => out.push_str(&escape_terminal(character.encode_utf8(&mut [0; 4]).as_bytes())),
        }
    }
    out
}

/// The time since the first act, in one unit for a whole timeline.
pub fn since(nanos: u64, span: u64) -> String {
    let (micros, millis) = (nanos / 1_000, nanos / 1_000_000);
    if span < 10_000_000 {
        format!("+{} µs", thousands(micros))
    } else if span < 600_000_000_000 {
        format!("+{}.{:03} s", millis / 1000, millis % 1000)
    } else {
        let seconds = millis / 1000;
        format!("+{}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, millis % 1000)
    }
}

/// A length of time, where the exact one does not matter: `0 s`, `0.2 s`, `75 s`.
pub fn seconds(nanos: u64) -> String {
    match nanos {
        0 => "0 s".to_owned(),
        1..1_000_000 => "0.001 s".to_owned(),
        1_000_000..10_000_000_000 => {
            let text = format!("{}.{:03}", nanos / 1_000_000_000, nanos / 1_000_000 % 1000);
            format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => format!("{} s", thousands(nanos / 1_000_000_000)),
    }
}

/// `12,345`
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 finding`, `2 findings`
pub fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// `close 10, open 5`
pub fn by_class(classes: &[(&'static str, u64)]) -> String {
    classes.iter().map(|(class, count)| format!("{class} {}", thousands(*count))).collect::<Vec<_>>().join(", ")
}
