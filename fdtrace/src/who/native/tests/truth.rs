//! What the tests of stacks have in common: a stack at a mark, and what gdb says of it.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::space::AddressSpace;
use super::super::unwind::{End, Stack};
use super::super::{NativeFrame, Objects, Symbols};
use super::tracee::{Stop, Tracee, build, scratch};

pub const ENOUGH: usize = 256 << 10;

pub fn space_of(tracee: &Tracee, objects: &mut Objects) -> AddressSpace {
    AddressSpace::load(tracee.pid() as u32, objects).unwrap()
}

pub fn unwind(tracee: &Tracee, stop: &Stop, space: &mut AddressSpace, bytes: usize) -> Stack {
    let bytes = tracee.stack(stop, bytes);
    let stack = space.unwind(&stop.snapshot(&bytes));
    nothing_else_matters(stop, space, &bytes, &stack);
    stack
}

/// A stack that agrees only in what the walk says it has looked at is walked in the same way.
fn nothing_else_matters(stop: &Stop, space: &mut AddressSpace, bytes: &[u8], stack: &Stack) {
    let mut other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    for &(offset, value) in &stack.basis.words {
        other[offset as usize..][..8].copy_from_slice(&value.to_le_bytes());
    }
    let mut snapshot = stop.snapshot(&other);
    snapshot.registers.bp = stack.basis.bp.unwrap_or(!snapshot.registers.bp);
    assert_eq!(space.unwind(&snapshot), *stack, "mark {}", stop.mark);
}

pub fn names(frames: &[NativeFrame]) -> Vec<&str> {
    frames.iter().map(|frame| frame.symbol.as_deref().unwrap_or("?")).collect()
}

pub fn run_to(tracee: &Tracee, mark: u64) -> Stop {
    loop {
        let stop = tracee.next_mark().unwrap_or_else(|| panic!("the program ended before mark {mark}"));
        if stop.mark == mark {
            return stop;
        }
        tracee.go_on(&stop);
    }
}

/// Compares the whole chain of addresses with gdb's, and the names where both have one.
pub fn agrees_with_gdb(what: &str, tracee: Tracee, stop: &Stop) {
    let mut objects = Objects::new();
    let mut space = space_of(&tracee, &mut objects);
    let stack = unwind(&tracee, stop, &mut space, ENOUGH);
    let named = Symbols::new().resolve(&mut space, &stack.frames);
    let truth = tracee.truth(stop);
    let ours: Vec<_> = stack.frames.iter().map(|frame| frame.address).collect();
    let theirs: Vec<_> = truth.iter().filter(|frame| !frame.virtual_).map(|frame| frame.address).collect();
    assert_eq!(ours, theirs, "{what}, mark {}: {:?} against {truth:?}, {:?}", stop.mark, names(&named), stack.end);
    assert_eq!(stack.end, End::Complete, "{what}");
    let ours = named.iter().filter(|frame| !frame.inlined).map(|frame| frame.symbol.as_deref().map(bare));
    for (ours, theirs) in ours.zip(truth.iter().filter(|frame| !frame.virtual_)) {
        if let (Some(ours), Some(theirs)) = (ours, &theirs.name) {
            // gdb adds parameters, and the return types of templates.
            assert!(theirs.contains(&ours), "{what}: `{ours}` is not `{theirs}` in {:?}", names(&named));
        }
    }
}

/// A name without parameters and suffixes, and without the underscores that tell the aliases of the C library apart.
pub fn bare(name: &str) -> String {
    // A Rust name may begin with a bracket; what is left then says nothing.
    let name = name.split(['(', '.', '<', '{']).next().unwrap_or(name);
    name.trim_start_matches("__GI_").trim_start_matches('_').trim_end_matches("::").to_owned()
}

pub fn compile(compiler: &str, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let directory = scratch("c");
    let extension = if compiler == "g++" { "cc" } else { "c" };
    let (input, output) = (directory.join(format!("{name}.{extension}")), directory.join(name));
    fs::write(&input, source).unwrap();
    let mut args = vec![input.to_str().unwrap(), "-o", output.to_str().unwrap(), "-pthread"];
    args.extend(flags);
    build(compiler, &args);
    output
}

pub fn strip(program: &Path) -> PathBuf {
    let stripped = program.with_extension("stripped");
    build("strip", &["-s", "-o", stripped.to_str().unwrap(), program.to_str().unwrap()]);
    stripped
}
