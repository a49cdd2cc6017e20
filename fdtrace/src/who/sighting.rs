//! Who made one call, as far as it was seen: what a stack record means once its addresses have names.
//!
//! [`Witnesses`] takes the records in ring order and gives each call its sighting. It reads no memory: definitions came
//! with the records, so a process that is gone is explained as well as one that lives.

use std::{
    cell::RefCell,
    collections::hash_map::Entry,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    rc::Rc,
};

use fdtrace_common::{
    class,
    witness::{self, CLOSEFD, caller, found, owns, shared_class},
};

use crate::{
    collections::{Bounded, Map},
    event::{Call, CodeSeen, Event, StackSeen, What},
    who::{
        native::{AddressSpace, End, Frame as NativeFrame},
        python::lines::LineFormat,
    },
};

/// The witnesses of one call.
#[derive(Debug)]
pub struct Sighting {
    /// Python frames, innermost first; empty: none, or not known.
    pub python: Vec<Frame>,
    /// Outer Python frames are missing.
    pub cut: bool,
    /// Name of the asyncio task.
    pub task: Option<Rc<[u8]>>,
    /// Objects of owner types that were in reach. `None`: not looked for, so their absence means nothing.
    pub candidates: Option<Vec<Candidate>>,
    pub native: Option<Rc<Unwound>>,
    /// A number for the native frames, also where they themselves are not known any more.
    pub native_site: Option<u64>,
    /// The static variable that the call's number is from, or that keeps the number that it has returned. Nothing is put there but
    /// what calls like this one return.
    pub variable: Option<Variable>,
    /// It is known where the result goes: if there is no variable, to none.
    pub followed: bool,
}

/// A static variable that keeps a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub address: u64,
    /// It keeps what the call has returned; else the call was given what it keeps.
    pub keeps_result: bool,
    /// As its program names it; not to be trusted. Empty: it was lost.
    pub name: Rc<[u8]>,
}

/// Python frames that make a call site.
const SITE_FRAMES: usize = 8;

impl Sighting {
    /// Of a call of which nothing is known but its place.
    #[cfg(test)]
    pub fn at(site: u64) -> Self {
        Self {
            python: Vec::new(),
            cut: false,
            task: None,
            candidates: None,
            native: None,
            native_site: Some(site),
            variable: None,
            followed: true,
        }
    }

    /// A number for the place that the call comes from, equal for all calls of one process that come by the same lines.
    ///
    /// Reads line tables: for whoever asks often there is [`Sighting::position`].
    pub fn site(&self) -> Option<u64> {
        self.place(|frame, hasher| frame.line().hash(hasher))
    }

    /// As [`Sighting::site`], but an interpreter that adapts its instructions has several for one line.
    pub fn position(&self) -> Option<u64> {
        self.place(|frame, hasher| frame.offset.hash(hasher))
    }

    fn place(&self, within: impl Fn(&Frame, &mut DefaultHasher)) -> Option<u64> {
        if self.python.is_empty() {
            return self.native_site;
        }
        let mut hasher = DefaultHasher::new();
        for frame in self.python.iter().take(SITE_FRAMES) {
            (frame.code.code, frame.code.checksum, frame.code.fingerprint).hash(&mut hasher);
            within(frame, &mut hasher);
        }
        Some(hasher.finish())
    }
}

/// A native stack: addresses, and where they are to be looked up.
#[derive(Clone)]
pub struct Unwound {
    pub space: Rc<RefCell<AddressSpace>>,
    /// Innermost first.
    pub frames: Rc<[NativeFrame]>,
    pub end: End,
}

impl std::fmt::Debug for Unwound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} native frames, {:?}", self.frames.len(), self.end)
    }
}

/// A position in Python code.
#[derive(Clone, Debug)]
pub struct Frame {
    pub code: Rc<CodeSeen>,
    /// In its instructions; -1: before the first.
    pub offset: i32,
}

impl Frame {
    pub fn line(&self) -> Option<u32> {
        let code = &self.code;
        match u32::try_from(self.offset) {
            Ok(offset) => LineFormat::of(code.python).line(&code.table, !code.table_cut, code.first_line, offset),
            Err(_) => Some(code.first_line),
        }
    }
}

/// An object that may own a descriptor, as it was when the call was made.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub object: u64,
    pub class: Rc<OwnerClass>,
    /// The number it holds; negative: none.
    pub fd: i32,
    /// It was found in a register, and not on the stack, where what is over lies about.
    pub in_register: bool,
}

/// A type whose objects own descriptors.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnerClass {
    pub address: u64,
    /// As the program names it; not to be trusted.
    pub name: Rc<[u8]>,
}

/// What has no type of its own, and is the same in every process.
#[derive(Debug)]
struct SharedClasses {
    stream: Rc<OwnerClass>,
    directory: Rc<OwnerClass>,
}

impl Default for SharedClasses {
    fn default() -> Self {
        let class = |address, name: &[u8]| Rc::new(OwnerClass { address, name: name.into() });
        Self { stream: class(shared_class::STREAM, b"FILE"), directory: class(shared_class::DIRECTORY, b"DIR") }
    }
}

/// Definitions that are remembered; frames whose code was forgotten are cut off.
const CODES: usize = 131_072;

/// Process, address, and what tells code objects apart that were given the same address.
type CodeId = (u32, u64, [u32; 3]);

#[derive(Debug, Default)]
pub struct Witnesses {
    codes: Bounded<CodeId, Rc<CodeSeen>, CODES>,
    /// Types, and static variables: those have none, and are told apart by their own addresses.
    classes: Bounded<(u32, u64), Rc<OwnerClass>, CODES>,
    shared: SharedClasses,
    /// Stacks whose call has not been reported yet, by thread.
    pending: Map<u32, StackSeen>,
    /// Their native halves, which are no part of the stream: a copy of a stack is unwound and forgotten at once.
    unwound: Map<u32, Unwound>,
    /// Stacks that no call followed, and frames whose code was never defined.
    pub unclaimed: u64,
    pub undefined: u64,
}

impl Witnesses {
    /// The native half of the stack record that comes next.
    pub fn unwound(&mut self, tid: u32, unwound: Unwound) {
        self.unwound.insert(tid, unwound);
    }

    /// Takes an event. Calls are given what was seen of them.
    pub fn event(&mut self, event: &Event) -> Option<Rc<Sighting>> {
        match &event.what {
            What::Stack(stack) => {
                self.unclaimed += u64::from(self.pending.insert(event.tid, StackSeen::clone(stack)).is_some());
            }
            What::Code(code) => {
                let id = (event.tgid, code.code, [code.checksum, code.code_version, code.fingerprint]);
                self.codes.insert(id, Rc::new(code.clone()));
            }
            What::OwnerType { class, name } => {
                let known = OwnerClass { address: *class, name: Rc::clone(name) };
                self.classes.insert((event.tgid, *class), Rc::new(known));
            }
            // With stacks off, nothing is ever pending.
            What::Call(_) if self.pending.is_empty() => {}
            What::Call(call) => {
                let Entry::Occupied(pending) = self.pending.entry(event.tid) else { return None };
                let stack = pending.remove();
                let native = self.unwound.remove(&event.tid);
                let begun = event.at.enter.map_or(0, |enter| enter.time);
                // A different start: the call that it belonged to was lost.
                if stack.call_time != begun || !call.sys.is_number(stack.nr) {
                    self.unclaimed += 1;
                    return None;
                }
                return Some(Rc::new(self.sighting(event.tgid, call, stack, native.map(Rc::new))));
            }
            What::Exec { .. } | What::Exit { group_dead: true, .. } => self.forget(event.tgid),
            What::Exit { .. } => {
                self.pending.remove(&event.tid);
                self.unwound.remove(&event.tid);
            }
            _ => {}
        }
        None
    }

    /// The type of an object.
    pub fn class(&self, tgid: u32, class: u64) -> Option<&Rc<OwnerClass>> {
        match class {
            shared_class::STREAM => Some(&self.shared.stream),
            shared_class::DIRECTORY => Some(&self.shared.directory),
            _ => self.classes.get(&(tgid, class)),
        }
    }

    /// Addresses of a program that is gone mean nothing.
    fn forget(&mut self, tgid: u32) {
        self.codes.retain(|(owner, ..), _| *owner != tgid);
        self.classes.retain(|(owner, _), _| *owner != tgid);
    }

    fn sighting(&mut self, tgid: u32, call: &Call, stack: StackSeen, native: Option<Rc<Unwound>>) -> Sighting {
        let mut python = Vec::new();
        let (mut cut, mut task) = (false, None);
        if let Some(seen) = stack.python {
            (cut, task) = (seen.cut, seen.task);
            for frame in &seen.frames {
                let id = (tgid, frame.code, [frame.checksum, frame.code_version, frame.fingerprint]);
                let Some(code) = self.codes.get(&id) else {
                    // Its definition was lost: what is outside of it would look as if it were the innermost.
                    self.undefined += 1;
                    cut = true;
                    break;
                };
                python.push(Frame { code: Rc::clone(code), offset: frame.offset });
            }
        }
        let candidates = stack.candidates.map(|candidates| {
            let known = candidates.iter().filter_map(|candidate| {
                let fd = held(candidate, call.sys.class, stack.caller)?;
                let class = Rc::clone(self.class(tgid, candidate.class)?);
                let in_register = candidate.found & found::PLACE < found::STACK;
                Some(Candidate { object: candidate.object, class, fd, in_register })
            });
            known.collect()
        });
        let variable = stack.variable.map(|address| {
            let known = self.classes.get(&(tgid, address));
            let name = known.map_or_else(|| Rc::from([]), |known| Rc::clone(&known.name));
            Variable { address, keeps_result: stack.at_exit, name }
        });
        Sighting { python, cut, task, candidates, native, native_site: stack.site, variable, followed: stack.followed }
    }
}

/// The number that a candidate holds; negative: none. `None`: it is no owner, or says nothing about this call.
fn held(candidate: &witness::Candidate, class: u8, caller: u32) -> Option<i32> {
    match candidate.owns {
        // A file that was told not to close its number does not own it.
        owns::FILE if candidate.behind & CLOSEFD == 0 => None,
        // Its pointer is in the program's own variables too, so only a call that the library makes is the stream's.
        owns::STREAM if class != class::CLOSE && caller != caller::STREAM => None,
        // `closedir` gives its memory back before it closes the number, so there is nothing to be read from it.
        owns::DIRECTORY => match caller {
            caller::LIBRARY => Some(-1),
            caller::PROGRAM | caller::STREAM => Some(candidate.fd),
            _ => None,
        },
        _ => Some(candidate.fd),
    }
}
