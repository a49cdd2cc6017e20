//! Native stacks: unwinds each copy of a stack as it comes, forgets the copy, and names the frames of those stacks that
//! get into a finding.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
};

use fdtrace_common::{
    wire::{self, Header, kind},
    witness::{self, PyFrame, Stack},
};

use crate::{
    detect::finding::{Act, Finding, Frame, Name},
    who::{
        native::{AddressSpace, Objects, Registers, Snapshot, Symbols},
        sighting::Unwound,
    },
};

#[derive(Default)]
pub(super) struct Natives {
    spaces: HashMap<u32, Rc<RefCell<AddressSpace>>>,
    /// Processes whose mappings could not be read: most have ended.
    unreadable: HashSet<u32>,
    objects: Objects,
    symbols: Symbols,
}

impl Natives {
    /// Looks at a record before it is decoded. For a stack, gives the thread and what its native half means.
    pub(super) fn record(&mut self, record: &[u8]) -> Option<(u32, Unwound)> {
        let (header, _) = wire::read::<Header>(record)?;
        match header.kind {
            witness::kind::STACK => Some((header.tid, self.unwind(header.tgid, record)?)),
            kind::EXEC => {
                self.forget(header.tgid);
                None
            }
            kind::EXIT if header.flags & wire::flag::GROUP_DEAD != 0 => {
                self.forget(header.tgid);
                None
            }
            kind::FORK => {
                let (fork, _) = wire::read::<wire::Fork>(record)?;
                // The child may be gone before it is looked at; it begins with what its parent has.
                if fork.child_tgid != header.tgid
                    && let Some(space) = self.spaces.get(&header.tgid)
                {
                    let space = Rc::clone(space);
                    self.spaces.insert(fork.child_tgid, space);
                }
                None
            }
            _ => None,
        }
    }

    fn forget(&mut self, tgid: u32) {
        self.spaces.remove(&tgid);
        self.unreadable.remove(&tgid);
    }

    fn unwind(&mut self, tgid: u32, record: &[u8]) -> Option<Unwound> {
        let (head, tail) = wire::read::<Stack>(record)?;
        let frames = usize::try_from(head.frames).ok()?.checked_mul(size_of::<PyFrame>())?;
        let stack = tail.get(frames..)?.get(..usize::try_from(head.stack_len).ok()?)?;
        if stack.is_empty() {
            return None;
        }
        let space = Rc::clone(self.space(tgid)?);
        let registers = Registers { ip: head.ip, sp: head.sp, bp: head.bp, lr: 0 };
        let snapshot = Snapshot { registers, stack };
        let stack = {
            let mut space = space.borrow_mut();
            // A space that came from the parent is refreshed with the parent's mappings, which is not better.
            if space.pid() == tgid { space.unwind_live(&snapshot, &mut self.objects) } else { space.unwind(&snapshot) }
        };
        Some(Unwound { space, frames: stack.frames.into(), end: stack.end })
    }

    fn space(&mut self, tgid: u32) -> Option<&Rc<RefCell<AddressSpace>>> {
        let known = self.spaces.get(&tgid).is_some_and(|space| space.borrow().pid() == tgid);
        if !known && !self.unreadable.contains(&tgid) {
            match AddressSpace::load(tgid, &mut self.objects) {
                Ok(space) => {
                    self.spaces.insert(tgid, Rc::new(RefCell::new(space)));
                }
                Err(error) => {
                    log::debug!("no native stacks of process {tgid}: {error}");
                    self.unreadable.insert(tgid);
                }
            }
        }
        self.spaces.get(&tgid)
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
                    (Some(symbol), _) => Name::new(symbol.as_bytes()),
                    (None, Some(offset)) => Name::new(format!("{offset:#x}").as_bytes()),
                    (None, None) => Name::new(format!("{:#x}", frame.address).as_bytes()),
                },
                file: frame.file.map(|file| Name::new(file.as_bytes())),
                line: frame.line,
                module: frame.module.map(|module| Name::new(module.as_bytes())),
                source: None,
            })
            .collect();
    }
}
