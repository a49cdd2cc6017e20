//! What call sites say of a suspicion: the last word on a `stale-close` that rests on the history of a slot, and on who is to
//! blame for a `use-after-close`.
//!
//! History alone cannot tell a close that took the number from its owner from a use that came after the owner's own close:
//! the calls are the same. Frames can. They have names only once files were read, so this is asked of a finding when it
//! is about to be told; it reads nothing but the finding, so a recording gives the same answer.
//!
//! * *Likely*: the close was made by code that belongs to objects of one type (a destructor, `fclose`, `closedir`, …), the
//!   earlier generation was opened by that type and closed by other code, and this generation was opened by other code.
//! * *Withdrawn*: this generation was opened by the type that closed it, or by the very function that closed it, and the
//!   earlier generation was another's business: so it was closed by its owner, and used once too often.
//! * Otherwise it stays *possible*: nothing contradicts.
//!
//! A function that opens a file, reads it and closes it seldom gives the number to anybody. Who uses that number later, from
//! elsewhere, most often meant an earlier generation, and the function was there by chance: it is not called the culprit.

use super::finding::{Act, Confidence, Finding, Frame, Name, Role, Verb};

/// Code that opens a descriptor into an object, and code that closes it from there. Parts of function names.
struct Family {
    opens: &'static [&'static str],
    closes: &'static [&'static str],
}

const FAMILIES: [Family; 5] = [
    // `FILE *`.
    Family {
        opens: &["fopen", "freopen", "popen", "tmpfile", "fdopen"],
        closes: &["fclose", "pclose", "_IO_file_close"],
    },
    // `DIR *`.
    Family { opens: &["opendir"], closes: &["closedir"] },
    // Node's `FileHandle` is opened by a worker thread: see `RAW`.
    Family { opens: &["OpenFileHandle"], closes: &["node::fs::FileHandle::"] },
    Family { opens: &["os.OpenFile", "os.Open", "os.newFile", "net."], closes: &["internal/poll.(*FD).destroy"] },
    Family {
        opens: &["FileInputStream_open", "FileOutputStream_open", "RandomAccessFile_open", "UnixNativeDispatcher_open"],
        closes: &["fileDescriptorClose", "FileDescriptor_close"],
    },
];

/// Code that gives a bare number away, which no object of the family owns.
const RAW: [(&str, &str); 2] = [("node::fs::FileHandle::", "node::fs::Open"), ("internal/poll.(*FD)", "syscall.Open")];

/// Collectors, and what they call: when they come has nothing to do with who opened the number.
const FINALISERS: [&str; 12] = [
    "gc_collect_main",
    "iobase_finalize",
    "slot_tp_finalize",
    "__del__",
    "PerformGarbageCollection",
    "InvokeFirstPassWeakCallbacks",
    "runtime.runfinq",
    "runtime.runFinalizers",
    "runtime.runCleanups",
    "java.lang.ref.Finalizer",
    "rb_gc_",
    "g1_cleaner",
];

/// Where an interpreter or an event loop calls somebody: what is further out is not that one's business.
const CALLERS: [&str; 9] = [
    "Builtins_",
    "v8::internal::Builtin_",
    "_PyEval_",
    "PyEval_",
    "JavaCalls::call",
    "vm_exec",
    "Perl_runops",
    "uv_run",
    "uv__io_poll",
];

/// Types that every owner has inside, and that tell nothing.
const ANYBODYS: [&str; 4] = ["OwnedFd", "FileDesc", "alloc::", "core::option::"];

/// What the frames say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Likely,
    Possible,
    Withdrawn,
}

/// Weighs a finding whose frames have been named. `false`: it is not to be told.
pub fn weigh(finding: &mut Finding) -> bool {
    if finding.rule == "use-after-close" {
        absolve(finding);
        return true;
    }
    if finding.rule != "stale-close" || finding.confidence != Confidence::Possible || finding.root_cause.is_none() {
        return true;
    }
    match verdict(finding) {
        Some(Verdict::Likely) => {
            if finding.complete {
                finding.confidence = Confidence::Likely;
            }
            true
        }
        // Without frames there is nothing to say.
        Some(Verdict::Possible) | None => true,
        Some(Verdict::Withdrawn) => false,
    }
}

/// Who closed what it had opened itself is not called the culprit, if another generation may have been meant.
fn absolve(finding: &mut Finding) {
    if finding.generation.is_none_or(|number| number <= 1) {
        return;
    }
    let Some(closer) = &finding.culprit else { return };
    let opener = finding.timeline.iter().find(|act| act.generation == closer.generation && begins(act.verb));
    let (Some(opener), Some(victim), Some(home)) = (opener, &finding.victim, home(closer)) else { return };
    let inside = frames(victim).any(|frame| is_function(frame, home));
    if opener.tid != closer.tid || !is_home(opener, home) || inside || closer.who.owner.is_some() {
        return;
    }
    for line in finding.timeline.iter_mut().filter(|line| line.role == Some(Role::Culprit)) {
        line.role = None;
        line.remark =
            Some("closed by the function that had opened it: an earlier generation may have been meant".to_owned());
    }
    finding.culprit = None;
}

fn verdict(finding: &Finding) -> Option<Verdict> {
    let closer = finding.culprit.as_ref()?;
    let earlier = finding.root_cause.as_ref()?;
    // Where the object behind it is known, others have judged.
    if closer.who.owner.is_some() {
        return Some(Verdict::Possible);
    }
    let opener_of = |number| {
        let is_birth = |act: &&Act| act.generation == Some(number) && begins(act.verb);
        finding.timeline.iter().find(is_birth)
    };
    let (own, hit) = (opener_of(earlier.generation?), opener_of(closer.generation?)?);
    for kind in destroyed(closer) {
        let (of_own, of_hit) = (own.is_some_and(|own| has(own, kind)), has(hit, kind));
        if let Some(verdict) = by_type(of_own, of_hit, has(earlier, kind)) {
            return Some(verdict);
        }
    }
    for family in &FAMILIES {
        let any = |act: &Act, names: &[&str]| names.iter().any(|name| has(act, name));
        if !any(closer, family.closes) {
            continue;
        }
        let of_own = own.is_some_and(|own| any(own, family.opens));
        let raw = RAW.iter().any(|(closes, opens)| has(closer, closes) && has(hit, opens));
        let verdict = by_type(of_own || raw, any(hit, family.opens), any(earlier, family.closes));
        if verdict.is_some() {
            return verdict;
        }
    }
    if FINALISERS.iter().any(|name| frames(closer).any(|frame| is_in(frame, name))) {
        return Some(Verdict::Possible);
    }
    let home = home(closer)?;
    let own_business = is_home(hit, home) && !is_home(earlier, home);
    Some(if own_business { Verdict::Withdrawn } else { Verdict::Possible })
}

/// The close was made by code of one type: was the earlier generation opened, or closed, by that type too, and was this one?
fn by_type(own: bool, hit: bool, earlier_closed: bool) -> Option<Verdict> {
    match (own, hit, earlier_closed) {
        (true, false, false) => Some(Verdict::Likely),
        // Closed behind the back of an object of that type; whose this one was is not known.
        (true, true, false) => Some(Verdict::Possible),
        (false, true, _) => Some(Verdict::Withdrawn),
        _ => None,
    }
}

fn begins(verb: Verb) -> bool {
    matches!(verb, Verb::Opened | Verb::Duplicated | Verb::Received | Verb::Inherited | Verb::AlreadyOpen)
}

/// A function with this in its name, or its path, is behind the act.
fn has(act: &Act, name: &str) -> bool {
    act.who.python.iter().take(1).chain(near(act)).any(|frame| is_in(frame, name))
}

/// The native frames up to where somebody was called.
fn near(act: &Act) -> impl Iterator<Item = &Frame> {
    act.who.native.iter().take_while(|frame| !CALLERS.iter().any(|caller| is_in(frame, caller)))
}

fn is_in(frame: &Frame, name: &str) -> bool {
    find(&frame.function.0, name.as_bytes())
}

fn frames(act: &Act) -> impl Iterator<Item = &Frame> {
    act.who.frames()
}

fn find(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The types whose destructors lead to a close, outermost last: Rust's drop glue and C++ destructors.
fn destroyed(act: &Act) -> Vec<&str> {
    let kind = |frame: &Frame| -> Option<(usize, usize)> {
        let name = std::str::from_utf8(&frame.function.0).ok()?;
        if let Some(start) = name.find("drop_in_place") {
            let start = name[start..].find('<')? + start + 1;
            return Some((start, name.rfind('>').filter(|end| *end > start)?));
        }
        // `Type::~Type`
        let end = name.find("::~")?;
        Some((0, end))
    };
    near(act)
        .filter_map(|frame| {
            let (start, end) = kind(frame)?;
            std::str::from_utf8(&frame.function.0).ok()?.get(start..end)
        })
        .filter(|kind| !kind.is_empty() && !ANYBODYS.iter().any(|general| kind.contains(general)))
        .collect()
}

/// The function of the program itself that is behind an act: innermost, but for the C and Rust libraries.
fn home(act: &Act) -> Option<&Frame> {
    let part = |text: &Option<Name>, part: &str| text.as_ref().is_some_and(|text| find(&text.0, part.as_bytes()));
    let library = |frame: &&Frame| {
        ["/libc.so", "/libc-2", "/ld-linux", "/libpthread"].iter().any(|name| part(&frame.module, name))
            || part(&frame.file, "/rustc/")
    };
    act.who.python.first().or_else(|| act.who.native.iter().find(|frame| !library(frame)))
}

fn is_home(act: &Act, of: &Frame) -> bool {
    home(act).is_some_and(|home| is_function(home, of))
}

fn is_function(frame: &Frame, of: &Frame) -> bool {
    frame.function == of.function && frame.file == of.file
}

#[cfg(test)]
mod tests;
