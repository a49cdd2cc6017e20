//! Who makes a system call, by the frames that it is made from: the program, or the C library for itself.

use fdtrace_common::{class, witness::caller};

use crate::{
    syscalls::{Arch, lookup},
    who::{
        native::{
            AddressSpace, Frame as Place, NativeFrame, Symbols,
            stack::{base, is_libc, without_call_stub},
        },
        sighting::Unwound,
    },
};

/// Frames in which the caller of a system call is looked for.
const CALLER_FRAMES: usize = 6;

fn innermost(unwound: &Unwound) -> &[Place] {
    unwound.frames.get(..CALLER_FRAMES).unwrap_or(&unwound.frames)
}

/// A function of another file calls the one that makes the system call: the C library does not make it for itself. Of a static
/// program both are part, and it is not known.
fn is_by_program(unwound: &Unwound) -> bool {
    let [innermost, next, ..] = &*unwound.frames else { return false };
    let files = innermost.module.zip(next.module);
    files.is_some_and(|(innermost, next)| innermost != next) && !next.by_frame_pointer
}

/// Who called the function that makes the system call: one of [`caller`].
pub(super) fn caller_of(symbols: &mut Symbols, unwound: &Unwound) -> u32 {
    library_or_program(symbols.functions(&unwound.space.borrow(), innermost(unwound)))
}

/// Is it sure that no stream can come to hold the number because of this call?
pub(super) fn has_no_stream(symbols: &mut Symbols, unwound: &Unwound, nr: u32) -> bool {
    let innermost = innermost(unwound);
    let space = unwound.space.borrow();
    is_by_program(unwound)
        || match lookup(Arch::native(), nr).map_or(class::NONE, |call| call.class) {
            class::OPEN_PATH0 | class::OPEN_PATH1 => symbols.opens_no_stream(&space, innermost),
            // It leaves what it does to another function of the library.
            class::FCNTL => entry_of(innermost).is_some_and(|entry| is_fcntl(symbols, &space, entry)),
            _ => false,
        }
}

/// The function of the library that the program has called, where the program is among these frames.
fn entry_of(innermost: &[Place]) -> Option<&Place> {
    let library = innermost.first()?.module?;
    let outside = innermost.iter().position(|frame| frame.module != Some(library))?;
    let by_frame_pointer = innermost[..=outside].iter().any(|frame| frame.by_frame_pointer);
    (!by_frame_pointer && innermost[outside].module.is_some()).then(|| &innermost[outside - 1])
}

fn is_fcntl(symbols: &mut Symbols, space: &AddressSpace, frame: &Place) -> bool {
    let frame = symbols.functions(space, std::slice::from_ref(frame)).pop();
    // With debug information it may have the name that the library itself calls it by: `__GI___libc_fcntl64`.
    frame
        .and_then(|frame| frame.symbol)
        .is_some_and(|symbol| matches!(base(&symbol).rsplit('_').next(), Some("fcntl" | "fcntl64")))
}

fn library_or_program(frames: Vec<NativeFrame>) -> u32 {
    let frames = without_call_stub(frames);
    let [innermost, next, ..] = frames.as_slice() else { return caller::UNKNOWN };
    let name = |frame: &NativeFrame| frame.symbol.as_deref().map_or_else(String::new, |name| base(name).to_owned());
    let (innermost_name, next_name) = (name(innermost), name(next));
    let is_libc = innermost.module.as_deref().is_some_and(is_libc);
    // Only the library itself calls a function of the first kind.
    let by_library = innermost_name.ends_with("_nocancel")
        || next_name.trim_start_matches('_') == "closedir"
        || is_libc && innermost.module == next.module;
    // Their names are part of what the library exports, so a stripped one has them as well.
    if next_name.starts_with("_IO_") {
        caller::STREAM
    } else if by_library {
        caller::LIBRARY
    } else if is_libc || !next_name.is_empty() {
        caller::PROGRAM
    } else {
        // The library may be part of the program, and nothing here has a name.
        caller::UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;
    use crate::who::native::{End, Objects};

    const FCNTL: u32 = libc::SYS_fcntl as u32;

    /// A call of this process, from inside of these functions; innermost first.
    fn made(by: &[*const ()]) -> Unwound {
        let space = AddressSpace::load(std::process::id(), &mut Objects::default()).expect("own memory");
        let frame = |function: &*const ()| {
            let address = *function as u64 + 1;
            let (module, _) = space.file_at(address).expect("code");
            Place { address, module, is_return_address: true, by_frame_pointer: false }
        };
        let frames = by.iter().map(frame).collect();
        Unwound { frames, space: Rc::new(RefCell::new(space)), end: End::Complete }
    }

    #[test]
    fn a_duplicate_that_the_program_makes_is_no_streams() {
        let program = made as *const ();
        let (fcntl, getpid) = (libc::fcntl as *const (), libc::getpid as *const ());
        let opens = |by: &[*const ()]| !has_no_stream(&mut Symbols::default(), &made(by), FCNTL);
        assert!(!opens(&[fcntl, program]));
        assert!(!opens(&[getpid, fcntl, program]), "by a function of the library that does it for `fcntl`");
        assert!(opens(&[getpid, libc::popen as *const (), program]), "by the library for itself");
        assert!(opens(&[getpid, fcntl]), "nobody knows who called that");
        let mut unsure = made(&[getpid, fcntl, program]);
        let mut frames = unsure.frames.to_vec();
        frames[2].by_frame_pointer = true;
        unsure.frames = frames.into();
        assert!(!has_no_stream(&mut Symbols::default(), &unsure, FCNTL));
    }
}
