//! The walk from a thread to its Python frames, in user space.
//!
//! The kernel side does the same at the moment of a call. This one is its reference, and serves where the process
//! stands still: of a running process it would see another moment than the one that matters. It knows no names; see
//! [`super::code`].

use fdtrace_common::python::{NONE, PyProcess, checksum, layout, untag};

use super::memory::ReadMem;

/// Interpreters of one process that are searched for threads.
const INTERPRETERS_MAX: usize = 256;
/// Threads of one process.
const THREADS_MAX: usize = 1 << 16;
/// Frames that are followed beyond those that are wanted, because the interpreter's own are not shown.
const SKIPPED_MAX: usize = 4096;
/// Code of one function is never this long; a position beyond it is not one.
const INSTRUCTIONS_MAX: u64 = 1 << 28;

/// One thread that has run Python code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Address of its `PyThreadState`.
    pub state: u64,
    /// `pthread_self()`.
    pub id: u64,
    /// The kernel's id, where the version keeps it.
    pub native_id: Option<u32>,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub at: u64,
    /// Address of the code object.
    pub code: u64,
    /// Position in the code's instructions in bytes; -1 before the first.
    pub offset: i32,
    /// [`checksum`] of the code object.
    pub checksum: u32,
    /// 0 where the version has none.
    pub code_version: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The outermost frame was reached.
    Complete,
    /// Memory could not be read: frames are missing outside of the last.
    Unreadable,
    /// There were more frames than were asked for.
    Limit,
}

/// The frames of a thread, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    pub frames: Vec<Frame>,
    /// The interpreter's own frames, which are not shown.
    pub skipped: usize,
    pub end: End,
}

/// All threads of all interpreters. Ends early where memory cannot be read.
pub fn threads<'a>(mem: &'a impl ReadMem, py: &'a PyProcess) -> impl Iterator<Item = Thread> + 'a {
    let o = &py.offsets;
    let at = |base: u64, offset: u32| base.wrapping_add(offset.into());
    let interpreters =
        std::iter::successors(mem.read_ptr(at(py.runtime, o.runtime_interpreters_head)), move |&interp| {
            mem.read_ptr(at(interp, o.interp_next))
        });
    interpreters
        .take(INTERPRETERS_MAX)
        .flat_map(move |interp| {
            std::iter::successors(mem.read_ptr(at(interp, o.interp_threads_head)), move |&state| {
                mem.read_ptr(at(state, o.tstate_next))
            })
            .map_while(move |state| {
                Some(Thread {
                    state,
                    id: mem.read_u64(at(state, o.tstate_thread_id))?,
                    native_id: match o.tstate_native_thread_id {
                        NONE => None,
                        // An `unsigned long` that holds a thread id.
                        offset => u32::try_from(mem.read_u64(at(state, offset))?).ok(),
                    },
                })
            })
        })
        // Of all lists together: memory that leads in circles ends here too.
        .take(THREADS_MAX)
}

/// The thread whose `pthread_self()`, that is whose thread pointer, is `id`.
///
/// A thread that has worked for several interpreters has a state in each, of which only the running one and its callers
/// have frames; interpreters are listed with the newest first. Hence the first state with frames, if there is any.
pub fn thread_by_id(mem: &impl ReadMem, py: &PyProcess, id: u64) -> Option<Thread> {
    let mut idle = None;
    for thread in threads(mem, py).filter(|thread| thread.id == id) {
        match innermost(mem, py, thread.state) {
            Some(0) | None => idle = idle.or(Some(thread)),
            Some(_) => return Some(thread),
        }
    }
    idle
}

/// The innermost `limit` frames of a thread.
pub fn frames(mem: &impl ReadMem, py: &PyProcess, state: u64, limit: usize) -> Stack {
    let mut stack = Stack { frames: Vec::new(), skipped: 0, end: End::Complete };
    let Some(mut next) = innermost(mem, py, state) else {
        stack.end = End::Unreadable;
        return stack;
    };
    while next != 0 {
        if stack.skipped >= SKIPPED_MAX {
            stack.end = End::Limit;
            break;
        }
        match frame(mem, py, next) {
            Some((frame, back)) => {
                match frame {
                    Some(_) if stack.frames.len() >= limit => {
                        stack.end = End::Limit;
                        break;
                    }
                    Some(frame) => stack.frames.push(frame),
                    None => stack.skipped += 1,
                }
                next = back;
            }
            None => {
                stack.end = End::Unreadable;
                break;
            }
        }
    }
    stack
}

/// 0: the thread runs no Python code.
fn innermost(mem: &impl ReadMem, py: &PyProcess, state: u64) -> Option<u64> {
    let o = &py.offsets;
    let first = mem.read_u64(state.wrapping_add(o.tstate_frame.into()))?;
    match o.layout {
        layout::CFRAME if first != 0 => mem.read_u64(first.wrapping_add(o.cframe_current_frame.into())),
        _ => Some(first),
    }
}

/// Reads one frame and its link. `Some((None, _))`: a frame that is not one of Python code. None: unreadable.
fn frame(mem: &impl ReadMem, py: &PyProcess, at: u64) -> Option<(Option<Frame>, u64)> {
    let o = &py.offsets;
    let bytes = mem.read_vec(at, o.frame_bytes as usize)?;
    let back = word(&bytes, o.frame_back)?;
    let code = untag(word(&bytes, o.frame_code)?);
    if o.frame_owner_skip != NONE
        && bytes.get(o.frame_owner as usize).copied().map(u32::from) == Some(o.frame_owner_skip)
    {
        return Some((None, back));
    }
    // Of an interpreter's own frame the code may be anything, also nothing: not an error.
    let Some(object) = mem.read_vec(code, o.code_bytes as usize) else {
        return Some((None, back));
    };
    if word(&object, o.object_type)? != py.code_type {
        return Some((None, back));
    }
    let distance = if o.layout == layout::FRAME_OBJECT {
        let lasti = mem.read_u32(at.wrapping_add(o.frame_instr.into()))?;
        u64::from(lasti) * u64::from(o.frame_instr_unit)
    } else {
        word(&bytes, o.frame_instr)?.wrapping_sub(code.wrapping_add(o.code_instructions.into()))
    };
    // Before the first instruction it is negative, which as an unsigned number is huge.
    let offset = if distance < INSTRUCTIONS_MAX { distance as i32 } else { -1 };
    let frame = Frame {
        at,
        code,
        offset,
        checksum: checksum(
            int(&object, o.code_argcount)?,
            int(&object, o.code_kwonlyargcount)?,
            int(&object, o.code_flags)?,
            int(&object, o.code_firstlineno)?,
        ),
        code_version: if o.code_version == NONE { 0 } else { int(&object, o.code_version)? },
    };
    Some((Some(frame), back))
}

fn word(bytes: &[u8], at: u32) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at as usize..)?.first_chunk()?))
}

fn int(bytes: &[u8], at: u32) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at as usize..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::super::{code, interpreter, offsets, tasks, types};
    use super::*;

    /// Answers every read, always with the same noise for the same address; `near` makes most words pointers.
    struct Noise {
        seed: u64,
        near: bool,
    }

    impl ReadMem for Noise {
        fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
            for (index, byte) in buf.iter_mut().enumerate() {
                let at = addr.wrapping_add(index as u64);
                let mixed = ((at >> 3) ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let word = if self.near { 0x10_0000 | (mixed >> 40) & 0xff8 } else { mixed };
                *byte = word.to_le_bytes()[(at & 7) as usize];
            }
            !addr.is_multiple_of(13)
        }
    }

    #[test]
    fn noise_ends_and_does_no_harm() {
        for minor in 6..=12 {
            let offsets = offsets::find(offsets::Version::new(3, minor), None, None).expect("known");
            for seed in 0..20 {
                let mem = Noise { seed, near: seed % 2 == 0 };
                let first = 0x10_0008;
                // The type that the noise gives to the first object, so that some frames are accepted.
                let code_type = mem.read_u64(first + 8).unwrap_or(1);
                let py =
                    PyProcess { runtime: first, code_type, unicode_type: code_type, offsets, ..PyProcess::default() };
                assert!(threads(&mem, &py).count() <= THREADS_MAX);
                let stack = frames(&mem, &py, first, 100);
                assert!(stack.frames.len() <= 100);
                for frame in &stack.frames {
                    let _ = code::read(&mem, &py, frame.code).map(|def| def.line(frame.offset));
                    let _ = tasks::of_handle_run(&mem, &py, frame.at);
                }
                let _ = types::classify(&mem, &py, first);
                let _ = interpreter::validate(&mem, &py);
            }
        }
    }

    #[test]
    fn nothing_is_read_where_nothing_is() {
        struct Nothing;
        impl ReadMem for Nothing {
            fn read(&self, _: u64, _: &mut [u8]) -> bool {
                false
            }
        }
        let offsets = offsets::find(offsets::Version::new(3, 11), None, None).expect("known");
        let py = PyProcess { offsets, ..PyProcess::default() };
        assert_eq!(threads(&Nothing, &py).count(), 0);
        assert_eq!(frames(&Nothing, &py, 8, 9), Stack { frames: vec![], skipped: 0, end: End::Unreadable });
    }
}
