//! What of a stack is the same in every process that has the same code in its memory, wherever the kernel has put it.
//!
//! Addresses in the program keep their distance to its beginning, those in its libraries to where the kernel began to
//! put them, and those on the stack to the stack pointer. By such distances the kernel side recognises a stack.

use fdtrace_common::{
    wire::TracedProcess,
    witness::{KNOWN_SPAN, KNOWN_WORDS, KnownStack, Stack, StackKey, base},
};

use super::loaded::Process;
use crate::who::native::{AddressSpace, Frame, Module, Stack as Walked};

/// Where each word that a walk has looked at is and what it is relative to, as in [`KnownStack::offsets`], and its distance
/// to that.
pub(super) type Words = Vec<(u32, u64)>;

/// What the addresses of a process are relative to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bases {
    mapped: u64,
    program: u64,
}

impl Bases {
    pub(super) fn of(head: &Stack) -> Self {
        Self { mapped: head.left[2], program: head.left[3] }
    }

    /// An address, in the terms of another process that has the same code.
    pub(super) fn translated(self, address: u64, in_program: bool, there: Self) -> u64 {
        let (here, there) = if in_program { (self.program, there.program) } else { (self.mapped, there.mapped) };
        address.wrapping_sub(here).wrapping_add(there)
    }

    /// The program, where it is known.
    pub(super) fn program_of(self, space: &AddressSpace) -> Option<&Module> {
        space.module(space.file_at(self.program)?.0?)
    }
}

/// Where the stack is to be met again.
pub(super) fn key(head: &Stack) -> StackKey {
    StackKey { below: head.left[0], layout: head.left[1], place: head.left[4], ..StackKey::default() }
}

/// By what the kernel side recognises the stack. `None`: by nothing that it could compare, or that is known to be the same
/// in another process.
pub(super) fn words(head: &Stack, walked: &Walked, space: &AddressSpace, told: Option<&Process>) -> Option<Words> {
    let key = key(head);
    let bases = Bases::of(head);
    let shared = key.layout & TracedProcess::SHARED != 0;
    let mut codes = Vec::with_capacity(walked.frames.len());
    for frame in &walked.frames {
        // What a JIT compiler has made is other code a moment later, and nobody tells.
        frame.module?;
        let base = if shared { of_code(frame, bases, space, told?)? } else { base::NONE };
        codes.push((frame.address, base));
    }
    let relative = |word: u64| {
        if word.wrapping_sub(head.sp) < key.below {
            return (base::STACK, word.wrapping_sub(head.sp));
        }
        match codes.iter().find(|(address, _)| *address == word) {
            Some((_, base::MAPPED)) => (base::MAPPED, word.wrapping_sub(bases.mapped)),
            Some((_, base::PROGRAM)) => (base::PROGRAM, word.wrapping_sub(bases.program)),
            _ => (base::NONE, word),
        }
    };
    let mut words = Vec::with_capacity(walked.basis.words.len() + 1);
    if let Some(bp) = walked.basis.bp {
        let (base, distance) = relative(bp);
        words.push((KnownStack::BP | base << KnownStack::BASE, distance));
    }
    for &(offset, word) in &walked.basis.words {
        if offset % 8 != 0 || offset >= KNOWN_SPAN {
            return None;
        }
        let (base, distance) = relative(word);
        words.push((offset | base << KnownStack::BASE, distance));
    }
    (words.len() <= KNOWN_WORDS).then_some(words)
}

/// What the code of a frame is relative to. `None`: the layout does not tell what is there, as after an `mprotect`, or the
/// mappings that were read are no longer those that the layout tells of.
fn of_code(frame: &Frame, bases: Bases, space: &AddressSpace, told: &Process) -> Option<u32> {
    // Where no table covers a function, what lies above it is asked whether it is code: an address without a meaning here
    // may have one in another process.
    if frame.by_frame_pointer {
        return None;
    }
    let (module, inode) = space.file_at(frame.lookup_address())?;
    if module != frame.module {
        return None;
    }
    if module == space.file_at(bases.program)?.0 {
        let (start, program) = told.program.as_ref()?;
        return (*start == bases.program && program.file.inode == inode).then_some(base::PROGRAM);
    }
    told.has(frame.lookup_address(), inode).then_some(base::MAPPED)
}

/// Where the last word ends, bytes from the stack pointer.
pub(super) fn span(words: &[(u32, u64)]) -> u32 {
    let offsets = words.iter().map(|(offset, _)| *offset).filter(|offset| offset & KnownStack::BP == 0);
    offsets.map(|offset| (offset & (KNOWN_SPAN - 1)) + 8).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use fdtrace_common::witness::note;

    use super::{super::loaded, *};
    use crate::who::{
        maps::{self, FileId, Mapping},
        native::{End, Objects, unwind::Basis},
    };

    const SP: u64 = 0x7ffc_0000_1000;
    const LAYOUT: u64 = TracedProcess::SHARED | 5;

    /// A process that has the code of this one, each piece moved by so much, and what was told of it.
    struct Process {
        space: AddressSpace,
        told: loaded::Process,
        program: u64,
        library: u64,
        head: Stack,
    }

    fn process(moved: [u64; 3], layout: u64) -> Process {
        let own = maps::read(std::process::id()).expect("this process has mappings");
        let codes = own.iter().filter(|mapping| mapping.executable && mapping.is_file());
        let here = process as *const () as u64;
        let (mut program, mut library) =
            codes.partition::<Vec<_>, _>(|mapping| (mapping.start..mapping.end).contains(&here));
        let (program, library) = (program.remove(0), library.remove(0));
        let at = |mapping: &Mapping, by: u64| Mapping {
            start: mapping.start + by,
            end: mapping.end + by,
            ..mapping.clone()
        };
        let (program, library) = (at(program, moved[0]), at(library, moved[1]));
        let mappings = [program.clone(), library.clone()];
        let space = AddressSpace::from_mappings(std::process::id(), &mappings, &mut Objects::default());
        let mut told = loaded::Process::default();
        told.program = Some((program.start, program.clone()));
        told.told = vec![(library.start..library.end, library.file)];
        let left = [0x400, layout, 0x7f00_0000_0000 + moved[1], program.start, 7];
        let head = Stack { sp: SP + moved[2], left, notes: note::SEARCHED, ..Stack::default() };
        Process { space, told, program: program.start + 64, library: library.start + 64, head }
    }

    impl Process {
        fn walked(&self, by_frame_pointer: bool) -> Walked {
            let frame = |address| Frame {
                address,
                module: self.space.file_at(address).expect("code").0,
                is_return_address: true,
                by_frame_pointer,
            };
            let words = vec![(8, self.library), (16, self.head.sp + 32), (24, self.program), (40, 0)];
            let basis = Basis { words, bp: Some(self.head.sp + 16) };
            Walked { frames: [self.library, self.library, self.program].map(frame).into(), end: End::Complete, basis }
        }

        fn words(&self) -> Option<Words> {
            words(&self.head, &self.walked(false), &self.space, Some(&self.told))
        }
    }

    #[test]
    fn equal_in_processes_that_have_the_same_code_elsewhere() {
        let here = process([0, 0, 0], LAYOUT);
        let told = here.words().expect("all of it is told");
        assert_eq!(told[0], (KnownStack::BP | base::STACK << KnownStack::BASE, 16));
        assert_eq!(told[2], (16 | base::STACK << KnownStack::BASE, 32));
        assert_eq!(told[3], (24 | base::PROGRAM << KnownStack::BASE, 64));
        assert_eq!(told[4], (40, 0));
        assert_eq!(told[1].0, 8 | base::MAPPED << KnownStack::BASE);
        assert_eq!(span(&told), 48);
        let there = process([0x5000, 0x7_1000, 0x330], LAYOUT);
        assert_eq!(there.words().as_ref(), Some(&told));
        // The library has moved, and what the kernel began at has not.
        let mut other = process([0x5000, 0x7_1000, 0x330], LAYOUT);
        other.head.left[2] -= 0x1000;
        assert_ne!(other.words(), Some(told));
    }

    #[test]
    fn only_what_the_layout_tells_of() {
        let mut process = process([0, 0, 0], LAYOUT);
        let library = process.told.told.remove(0);
        assert_eq!(process.words(), None);
        process.told.loader = library.0.clone();
        assert!(process.words().is_some());
        // Another file came into its place.
        let other = FileId { inode: library.1.inode + 1, ..library.1 };
        process.told.told.push((library.0, other));
        assert_eq!(process.words(), None);
        assert_eq!(words(&process.head, &process.walked(false), &process.space, None), None);
    }

    #[test]
    fn another_program_since() {
        let mut process = process([0, 0, 0], LAYOUT);
        process.told.program.as_mut().expect("told").1.file.inode += 1;
        assert_eq!(process.words(), None);
    }

    #[test]
    fn what_was_guessed_is_good_for_one_process_alone() {
        let here = process([0, 0, 0], LAYOUT);
        assert_eq!(words(&here.head, &here.walked(true), &here.space, Some(&here.told)), None);
        let mut alone = process([0, 0, 0], 5);
        alone.told = loaded::Process::default();
        let told = words(&alone.head, &alone.walked(true), &alone.space, None).expect("of no other process");
        assert_eq!((told[1], told[3]), ((8, alone.library), (24, alone.program)));
    }

    #[test]
    fn what_the_kernel_side_cannot_compare() {
        let process = process([0, 0, 0], LAYOUT);
        let with = |change: &dyn Fn(&mut Walked)| {
            let mut walked = process.walked(false);
            change(&mut walked);
            words(&process.head, &walked, &process.space, Some(&process.told))
        };
        assert!(with(&|_| {}).is_some());
        assert_eq!(with(&|walked| walked.frames[0].module = None), None);
        assert_eq!(with(&|walked| walked.basis.words.push((KNOWN_SPAN, 1))), None);
        assert_eq!(with(&|walked| walked.basis.words.push((12, 1))), None);
        let many = (0..KNOWN_WORDS as u32).map(|at| (at * 8, 1));
        assert_eq!(with(&|walked| walked.basis.words = many.clone().collect()), None);
    }

    #[test]
    fn a_variable_is_where_the_other_process_has_it() {
        let [here, there] = [[0, 0, 0], [0x5000, 0x7_1000, 0]].map(|moved| process(moved, LAYOUT));
        let bases = [&here, &there].map(|process| Bases::of(&process.head));
        assert_eq!(bases[0].translated(here.program, true, bases[1]), there.program);
        assert_eq!(bases[0].translated(here.library, false, bases[1]), there.library);
    }
}
