//! Native stacks: unwinds each copy of a stack as it comes, forgets the copy, and names the frames of those stacks that
//! get into a finding. Of stacks that come often no more copies come: see [`super::known`].

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    rc::Rc,
};

use fdtrace_common::{
    wire::{self, Header, kind},
    witness::{self, CANDIDATES_MAX, Mapped, PyFrame, Stack, TypeDef, caller, note, owns},
};

use super::{
    known::{Change, Known, Stack as KnownStack, Variable},
    loaded::{self, Loaded},
    maker::{caller_of, has_no_stream},
    relative::{self, Bases},
};
use crate::{
    detect::finding::{Act, Finding, Frame, Name},
    source::recording::without_copy,
    who::{
        native::{
            AddressSpace, End, Frame as Place, Lost, Module, Object, Objects, Registers, Snapshot, Stack as Walked,
            Symbols, Variables,
            variable::{self, Found, Kept},
        },
        sighting::Unwound,
    },
};

/// The native half of a stack.
pub(super) struct Half {
    pub tid: u32,
    pub unwound: Unwound,
    /// One of [`caller`], where it was asked for.
    pub caller: u32,
    /// Address of the static variable that keeps the call's number.
    variable: Option<u64>,
    /// It is known where the call's result goes.
    followed: bool,
    /// The record that names the variable, on first sight: it goes before the stack's.
    pub definition: Option<Box<TypeDef>>,
}

impl Half {
    /// The record, with what of this half is kept: the rest is forgotten with the copy of the stack.
    ///
    /// `None`: it is no record of a stack.
    pub(super) fn kept(&self, record: &[u8]) -> Option<Vec<u8>> {
        let (head, frames) = without_copy(record)?;
        let (site, has_site) = self.site().map_or((0, 0), |site| (site, note::SITE));
        let (variable, has_variable) = self.variable.map_or((0, 0), |variable| (variable, note::VARIABLE));
        let head = Stack {
            caller: self.caller,
            notes: head.notes & !note::KNOWN | has_site | has_variable | if self.followed { note::FOLLOWED } else { 0 },
            left: [site, variable, 0, 0, 0],
            bp: 0,
            stack_len: 0,
            ..head
        };
        Some([wire::bytes_of(&head), frames].concat())
    }

    /// A number for the way that led to the call. `None`: of the way too little is known to tell it from others.
    fn site(&self) -> Option<u64> {
        let frames = &self.unwound.frames;
        if frames.len() < SITE_FRAMES_MIN {
            return None;
        }
        let space = self.unwound.space.borrow();
        let mut hasher = DefaultHasher::new();
        for frame in frames.iter().take(SITE_FRAMES) {
            // In terms of its file: a stack that is known may have been met in another process.
            let module = frame.module.and_then(|index| space.module(index));
            let (file, bias) = module.map_or((0, 0), |module| (module.object.id, module.bias));
            (file, frame.address.wrapping_sub(bias)).hash(&mut hasher);
        }
        Some(hasher.finish())
    }
}

/// Frames that make a call site: fewer may be the C library's alone, and further out is what has nothing to do with it.
const SITE_FRAMES_MIN: usize = 3;
const SITE_FRAMES: usize = 12;

/// Objects of the C library are in reach, of which only their caller tells whether they are at work.
fn asks_for_caller(head: &Stack) -> bool {
    let count = usize::try_from(head.candidates).unwrap_or(0).min(CANDIDATES_MAX);
    head.candidate[..count].iter().any(|candidate| matches!(candidate.owns, owns::STREAM | owns::DIRECTORY))
}

#[derive(Default)]
pub(super) struct Natives {
    spaces: HashMap<u32, Rc<RefCell<AddressSpace>>>,
    /// Processes whose mappings could not be read: most have ended.
    unreadable: HashSet<u32>,
    /// What is told of the memory of those.
    loaded: Loaded,
    objects: Objects,
    symbols: Symbols,
    variables: Variables,
    known: Known,
    /// Variables that were named, by process.
    named: HashMap<u32, HashSet<u64>>,
}

impl Natives {
    /// Looks at a record before it is decoded. For a stack, gives what its native half means.
    pub(super) fn record(&mut self, record: &[u8]) -> Option<Half> {
        let (header, _) = wire::read::<Header>(record)?;
        self.loaded.record(&header, record);
        match header.kind {
            witness::kind::STACK => self.half(&header, record),
            kind::EXEC => {
                self.forget(header.tgid);
                None
            }
            kind::EXIT if header.flags & wire::flag::GROUP_DEAD != 0 => {
                self.forget(header.tgid);
                None
            }
            witness::kind::MAPPED => {
                self.mapped(header.tgid, record);
                None
            }
            kind::FORK => {
                let (fork, _) = wire::read::<wire::Fork>(record)?;
                if fork.child_tgid != header.tgid {
                    self.forked(header.tgid, fork.child_tgid);
                }
                None
            }
            _ => None,
        }
    }

    /// A child begins with what its parent has; it may be gone before it is looked at.
    fn forked(&mut self, parent: u32, child: u32) {
        self.known.forked(parent, child);
        if let Some(space) = self.spaces.get(&parent) {
            let space = Rc::clone(space);
            self.spaces.insert(child, space);
        }
    }

    /// What was read of a process is of no use any more when other code is in its place.
    fn mapped(&mut self, tgid: u32, record: &[u8]) {
        let Some((mapped, _)) = wire::read::<Mapped>(record) else { return };
        let there = mapped.start..mapped.start.saturating_add(mapped.len);
        if self.spaces.get(&tgid).is_some_and(|space| space.borrow().has_other(&there, mapped.inode)) {
            self.spaces.remove(&tgid);
        }
    }

    fn forget(&mut self, tgid: u32) {
        // Known stacks may keep it; and children, which use it, if it is not the process's own.
        if let Some(space) = self.spaces.remove(&tgid).filter(|space| space.borrow().pid() == tgid) {
            space.borrow_mut().retire();
        }
        self.unreadable.remove(&tgid);
        self.named.remove(&tgid);
        self.known.ended(tgid);
    }

    /// What the kernel side told of the memory of a process.
    pub(super) fn told(&self, tgid: u32) -> Option<&loaded::Process> {
        self.loaded.of(tgid).map(|told| &**told)
    }

    /// How many stacks came as a number, and how many as a copy that could be unwound.
    pub(super) fn counts(&self) -> [u64; 2] {
        [self.known.recognised, self.known.copied]
    }

    /// What the kernel side is to be told of stacks that it will meet again.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        self.known.changes()
    }

    fn half(&mut self, header: &Header, record: &[u8]) -> Option<Half> {
        let (head, tail) = Stack::read(record)?;
        let mut copied;
        let stack = if head.notes & note::KNOWN != 0 {
            let known = self.known.get(head.left[1], head.left[0]);
            if known.is_none() {
                log::debug!("no native frames of process {}: its stack {} is forgotten", header.tgid, head.left[0]);
            }
            known?
        } else {
            let frames = usize::try_from(head.frames).ok()?.checked_mul(size_of::<PyFrame>())?;
            let copy = tail.get(frames..)?.get(..usize::try_from(head.stack_len).ok()?)?;
            copied = KnownStack::new(self.unwind(header.tgid, &head, copy)?, Bases::of(&head), false);
            &mut copied
        };
        let Unwound { space, frames, .. } = &stack.unwound;
        let mut caller = caller::UNKNOWN;
        if asks_for_caller(&head) {
            caller = *stack.caller.get_or_insert_with(|| caller_of(&mut self.symbols, &stack.unwound));
        }
        let bases = stack.bases;
        let (variable, followed) = if head.notes & note::AT_EXIT == 0 {
            (giver(&mut self.variables, &space.borrow(), frames, bases), false)
        } else if let Some(keeper) = &stack.keeper {
            keeper.clone()
        } else {
            let keeper = keeper(&mut self.variables, &space.borrow(), frames, bases);
            // Else the next time may tell more.
            stack.keeper = Some(keeper.clone()).filter(|(_, followed)| *followed);
            keeper
        };
        let unwound = stack.unwound.clone();
        let variable = variable.map(|Variable { address, in_program, name }| {
            (bases.translated(address, in_program, Bases::of(&head)), name)
        });
        let definition = variable.as_ref().and_then(|(address, name)| self.definition(header, *address, name));
        let variable = variable.map(|(address, _)| address);
        Some(Half { tid: header.tid, unwound, caller, variable, followed, definition })
    }

    fn unwind(&mut self, tgid: u32, head: &Stack, copy: &[u8]) -> Option<Unwound> {
        if copy.is_empty() {
            return None;
        }
        let registers = Registers { ip: head.ip, sp: head.sp, bp: head.bp, lr: 0 };
        let snapshot = Snapshot { registers, stack: copy };
        let nowhere = End::Lost(Lost::NotCode);
        let (mut space, mut stack) = self.walk(tgid, &snapshot, false);
        if stack.end == nowhere && space.borrow().pid() != tgid {
            (space, stack) = self.walk(tgid, &snapshot, true);
        }
        // The process may be gone by now. What it mapped has been told.
        if stack.end == nowhere
            && let Some(told) = self.loaded.of(tgid)
            && add(&mut space.borrow_mut(), told, &mut self.objects)
        {
            stack = space.borrow_mut().unwind(&snapshot);
        }
        self.known.copied += 1;
        // One that is lost may be found when more is known of the process.
        let is_whole = !matches!(stack.end, End::Lost(_)) && head.notes & note::STACK_CUT == 0;
        let words = if is_whole { relative::words(head, &stack, &space.borrow(), self.told(tgid)) } else { None };
        let unwound = Unwound { space, frames: stack.frames.into(), end: stack.end };
        if let Some(words) = words {
            let symbols = &mut self.symbols;
            self.known.met(tgid, relative::key(head), &words, || {
                KnownStack::new(unwound.clone(), Bases::of(head), has_no_stream(symbols, &unwound, head.nr))
            });
        }
        Some(unwound)
    }

    fn walk(&mut self, tgid: u32, snapshot: &Snapshot<'_>, own: bool) -> (Rc<RefCell<AddressSpace>>, Walked) {
        let space = self.space(tgid, own);
        let stack = {
            let mut space = space.borrow_mut();
            // One that came from the parent would be refreshed with the parent's mappings, which is not better.
            if space.pid() == tgid { space.unwind_live(snapshot, &mut self.objects) } else { space.unwind(snapshot) }
        };
        (space, stack)
    }

    fn definition(&mut self, header: &Header, address: u64, name: &str) -> Option<Box<TypeDef>> {
        let is_new = self.named.entry(header.tgid).or_default().insert(address);
        is_new.then(|| {
            let header = Header { kind: witness::kind::TYPE, flags: 0, ..*header };
            let mut definition = TypeDef { header, class: address, owns: owns::VARIABLE, ..TypeDef::default() };
            let len = name.len().min(definition.name.len());
            definition.name[..len].copy_from_slice(&name.as_bytes()[..len]);
            definition.name_len = len as u32;
            Box::new(definition)
        })
    }

    /// What is in the memory of a process; `own`: what its parent had is not enough. To read that of each child of a server
    /// that forks for each connection costs more than all the rest.
    fn space(&mut self, tgid: u32, own: bool) -> Rc<RefCell<AddressSpace>> {
        let fits = self.spaces.get(&tgid).is_some_and(|space| space.borrow().is_of(tgid, own));
        if !fits && !self.unreadable.contains(&tgid) {
            match AddressSpace::load(tgid, &mut self.objects) {
                Ok(space) => {
                    self.spaces.insert(tgid, Rc::new(RefCell::new(space)));
                }
                Err(error) => {
                    log::debug!("the mappings of process {tgid} cannot be read: {error}");
                    self.unreadable.insert(tgid);
                }
            }
        }
        let empty = || Rc::new(RefCell::new(AddressSpace::empty(tgid)));
        Rc::clone(self.spaces.entry(tgid).or_insert_with(empty))
    }

    /// Names the native frames of a finding.
    pub(super) fn fill(&mut self, finding: &mut Finding) {
        let parts = [&mut finding.culprit, &mut finding.victim, &mut finding.root_cause];
        for act in parts.into_iter().flatten().chain(&mut finding.timeline) {
            self.fill_act(act);
        }
    }

    fn fill_act(&mut self, act: &mut Act) {
        let Some(unwound) = act.who.unwound.take() else { return };
        let named = self.symbols.resolve(&mut unwound.space.borrow_mut(), &unwound.frames);
        act.who.native = named
            .into_iter()
            .map(|frame| Frame {
                function: match (frame.symbol, frame.offset) {
                    (Some(symbol), _) => Name(symbol.into()),
                    (None, Some(offset)) => Name::new(format!("{offset:#x}").as_bytes()),
                    (None, None) => Name::new(format!("{:#x}", frame.address).as_bytes()),
                },
                file: frame.file.map(|file| Name(file.into())),
                line: frame.line,
                module: frame.module.map(|module| Name(module.into())),
                source: None,
            })
            .collect();
    }
}

/// The variable from which the number is that a call was given.
fn giver(variables: &mut Variables, space: &AddressSpace, frames: &[Place], bases: Bases) -> Option<Variable> {
    if !variables.any() {
        return None;
    }
    let modules = modules(space, frames);
    let found = variables.giving(&callers(&modules))?;
    variable_of(found, &modules, space, bases)
}

/// The variable that keeps the number that a call has returned, and whether it is known where that goes.
fn keeper(variables: &mut Variables, space: &AddressSpace, frames: &[Place], bases: Bases) -> (Option<Variable>, bool) {
    let modules = modules(space, frames);
    match variables.keeping(&callers(&modules)) {
        Kept::In(found) => (variable_of(found, &modules, space, bases), true),
        Kept::Nowhere => (None, true),
        Kept::Lost => (None, false),
    }
}

/// The files of those who may keep a number, and the addresses in them.
fn modules<'a>(space: &'a AddressSpace, frames: &[Place]) -> Vec<(&'a Module, u64)> {
    // The innermost is the function that makes the system call.
    let callers = frames.iter().skip(1).take(variable::CALLERS);
    let known = callers.map_while(|frame| {
        let module = space.module(frame.module.filter(|_| !frame.by_frame_pointer)?)?;
        Some((module, frame.address.wrapping_sub(module.bias)))
    });
    known.collect()
}

fn callers<'a>(modules: &[(&'a Module, u64)]) -> Vec<(&'a Object, u64)> {
    modules.iter().map(|(module, back)| (&*module.object, *back)).collect()
}

fn variable_of(found: Found, modules: &[(&Module, u64)], space: &AddressSpace, bases: Bases) -> Option<Variable> {
    let (module, _) = modules.get(found.frame)?;
    let in_program = bases.program_of(space).is_some_and(|program| std::ptr::eq(program, *module));
    Some(Variable { address: found.address.wrapping_add(module.bias), in_program, name: found.name })
}

/// Adds what the kernel side told of a process's memory. `true`: that was news.
fn add(space: &mut AddressSpace, told: &loaded::Process, objects: &mut Objects) -> bool {
    let mut news = false;
    if let Some((start, program)) = &told.program {
        news |= space.add_program(*start, program, objects);
    }
    // What came last is in the place of what was there before.
    for library in told.libraries.iter().rev() {
        news |= space.add(library, objects);
    }
    news
}
