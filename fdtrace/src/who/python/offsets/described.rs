//! `_Py_DebugOffsets`: how an interpreter since 3.13 describes itself.
//!
//! The structure changes with each minor version, so its words are found by an index per version. Every word is checked
//! against the others, and against what has held in all versions: a description that was misread does not pass.

use fdtrace_common::python::{NONE, PyOffsets, flag};

use super::super::elf::COOKIE;
use super::{OffsetsError, Version, tables};

/// Where the words of `_Py_DebugOffsets` stand: the structure changes with each minor version.
struct Index {
    runtime_size: usize,
    interpreters_head: usize,
    interp_size: usize,
    interp_next: usize,
    threads_head: usize,
    tstate_next: usize,
    current_frame: usize,
    thread_id: usize,
    native_thread_id: usize,
    frame_size: usize,
    previous: usize,
    executable: usize,
    instr_ptr: usize,
    localsplus: usize,
    owner: usize,
    stackpointer: Option<usize>,
    filename: usize,
    name: usize,
    qualname: usize,
    linetable: usize,
    firstlineno: usize,
    argcount: usize,
    code_adaptive: usize,
    ob_type: usize,
    tp_name: usize,
    tp_flags: usize,
    bytes_size: usize,
    bytes_data: usize,
    unicode_state: usize,
    unicode_length: usize,
    ascii_size: usize,
    compact_size: Option<usize>,
}

const INDEX_3_13: Index = Index {
    runtime_size: 3,
    interpreters_head: 5,
    interp_size: 6,
    interp_next: 8,
    threads_head: 9,
    tstate_next: 21,
    current_frame: 23,
    thread_id: 24,
    native_thread_id: 25,
    frame_size: 28,
    previous: 29,
    executable: 30,
    instr_ptr: 31,
    localsplus: 32,
    owner: 33,
    stackpointer: None,
    filename: 35,
    name: 36,
    qualname: 37,
    linetable: 38,
    firstlineno: 39,
    argcount: 40,
    code_adaptive: 43,
    ob_type: 45,
    tp_name: 47,
    tp_flags: 49,
    bytes_size: 65,
    bytes_data: 66,
    unicode_state: 68,
    unicode_length: 69,
    ascii_size: 70,
    compact_size: None,
};

const INDEX_3_14: Index = Index {
    tstate_next: 24,
    current_frame: 26,
    thread_id: 27,
    native_thread_id: 28,
    frame_size: 31,
    previous: 32,
    executable: 33,
    instr_ptr: 34,
    localsplus: 35,
    owner: 36,
    stackpointer: Some(37),
    filename: 40,
    name: 41,
    qualname: 42,
    linetable: 43,
    firstlineno: 44,
    argcount: 45,
    code_adaptive: 48,
    ob_type: 51,
    tp_name: 53,
    tp_flags: 55,
    bytes_size: 75,
    bytes_data: 76,
    unicode_state: 78,
    unicode_length: 79,
    ascii_size: 80,
    ..INDEX_3_13
};

const INDEX_3_15: Index = Index {
    thread_id: 30,
    native_thread_id: 31,
    frame_size: 39,
    previous: 40,
    executable: 41,
    instr_ptr: 42,
    localsplus: 43,
    owner: 44,
    stackpointer: Some(45),
    filename: 48,
    name: 49,
    qualname: 50,
    linetable: 51,
    firstlineno: 52,
    argcount: 53,
    code_adaptive: 56,
    ob_type: 59,
    tp_name: 61,
    tp_flags: 63,
    bytes_size: 87,
    bytes_data: 88,
    unicode_state: 90,
    unicode_length: 91,
    ascii_size: 92,
    compact_size: Some(93),
    ..INDEX_3_14
};

/// Offsets of an interpreter that describes itself.
pub fn read(version: Version, words: &[u64]) -> Result<PyOffsets, OffsetsError> {
    let inconsistent = OffsetsError::Inconsistent { version };
    // The first three words have kept their places in all versions, and are meant to.
    let &[cookie, hex, free_threaded, ..] = words else {
        return Err(inconsistent);
    };
    let [.., major, minor, _, _] = hex.to_be_bytes();
    if cookie != COOKIE || (major, minor) != (version.major, version.minor) {
        return Err(inconsistent);
    }
    if free_threaded != 0 {
        return Err(OffsetsError::FreeThreaded { version });
    }
    // A version of the future is read like the newest known one. If its words have moved, they will not pass the
    // checks; if they pass, the interpreter is still looked at alive before a frame of it is shown.
    let (index, base) = match version.minor {
        13 => (&INDEX_3_13, tables::V3_13),
        14 => (&INDEX_3_14, tables::V3_14),
        15 => (&INDEX_3_15, tables::V3_15),
        _ => (
            &INDEX_3_15,
            PyOffsets {
                version: 3 << 8 | u32::from(version.minor),
                flags: flag::LAZY_TASK_NAMES,
                task_name: NONE,
                tstate_running_task: NONE,
                ..tables::V3_15
            },
        ),
    };
    offsets(words, index, base).ok_or(inconsistent)
}

/// None if any word contradicts another, or what has held in all versions so far.
fn offsets(words: &[u64], index: &Index, base: PyOffsets) -> Option<PyOffsets> {
    let word = |at: usize| words.get(at).copied();
    // An aligned pointer's offset inside a structure of the given size.
    let pointer = |at: usize, size: u64| word(at).filter(|&value| value.is_multiple_of(8) && value <= size - 8);
    let int = |at: usize, size: u64| word(at).filter(|&value| value.is_multiple_of(4) && value <= size - 4);
    let size =
        |at: usize, limit: u64| word(at).filter(|&value| value.is_multiple_of(8) && (16..=limit).contains(&value));
    let exactly = |at: usize, value: u64| (word(at)? == value).then_some(value);

    let runtime_size = size(index.runtime_size, 1 << 24)?;
    let interp_size = size(index.interp_size, 1 << 24)?;
    let frame_size = size(index.frame_size, 128)?;
    const TSTATE_SIZE: u64 = 4096;
    const CODE_SIZE: u64 = 512;

    let filename = pointer(index.filename, CODE_SIZE)?;
    let name = exactly(index.name, filename + 8)?;
    let qualname = exactly(index.qualname, filename + 16)?;
    let linetable = exactly(index.linetable, filename + 24)?;
    let thread_id = pointer(index.thread_id, TSTATE_SIZE)?;
    let native_thread_id = exactly(index.native_thread_id, thread_id + 8)?;
    let ascii_size = size(index.ascii_size, 64)?;
    let compact_size = match index.compact_size {
        Some(at) => exactly(at, ascii_size + 16)?,
        // Not described in this version: one length and one pointer longer.
        None => ascii_size + 16,
    };
    let argcount = int(index.argcount, CODE_SIZE)?;
    let frame_back = pointer(index.previous, frame_size)?;
    let frame_code = pointer(index.executable, frame_size)?;
    let frame_instr = pointer(index.instr_ptr, frame_size)?;
    if frame_back == frame_code || frame_code == frame_instr || frame_instr == frame_back {
        return None;
    }

    let narrow = |value: u64| u32::try_from(value).ok();
    Some(PyOffsets {
        runtime_interpreters_head: narrow(pointer(index.interpreters_head, runtime_size)?)?,
        interp_next: narrow(pointer(index.interp_next, interp_size)?)?,
        interp_threads_head: narrow(pointer(index.threads_head, interp_size)?)?,
        tstate_next: narrow(exactly(index.tstate_next, 8)?)?,
        tstate_thread_id: narrow(thread_id)?,
        tstate_native_thread_id: narrow(native_thread_id)?,
        tstate_frame: narrow(pointer(index.current_frame, TSTATE_SIZE)?)?,
        frame_back: narrow(frame_back)?,
        frame_code: narrow(frame_code)?,
        frame_instr: narrow(frame_instr)?,
        frame_owner: narrow(word(index.owner).filter(|&owner| owner < frame_size)?)?,
        frame_localsplus: narrow(word(index.localsplus).filter(|&at| at.is_multiple_of(8) && at <= frame_size)?)?,
        frame_stackpointer: match index.stackpointer {
            Some(at) => narrow(pointer(at, frame_size)?)?,
            None => NONE,
        },
        frame_bytes: narrow(frame_size)?,
        code_argcount: narrow(argcount)?,
        // Not described, and used to tell code objects apart only: another number there would still serve.
        code_kwonlyargcount: narrow(argcount + 8)?,
        code_firstlineno: narrow(int(index.firstlineno, CODE_SIZE)?)?,
        code_filename: narrow(filename)?,
        code_name: narrow(name)?,
        code_qualname: narrow(qualname)?,
        code_linetable: narrow(linetable)?,
        code_instructions: narrow(pointer(index.code_adaptive, CODE_SIZE)?)?,
        object_type: narrow(exactly(index.ob_type, 8)?)?,
        bytes_size: narrow(exactly(index.bytes_size, 16)?)?,
        bytes_data: narrow(exactly(index.bytes_data, 32)?)?,
        unicode_length: narrow(exactly(index.unicode_length, 16)?)?,
        unicode_state: narrow(exactly(index.unicode_state, 32)?)?,
        unicode_ascii_data: narrow(ascii_size)?,
        unicode_compact_data: narrow(compact_size)?,
        type_name: narrow(exactly(index.tp_name, 24)?)?,
        type_flags: narrow(exactly(index.tp_flags, 168)?)?,
        ..base
    })
}

#[cfg(test)]
mod tests {
    use fdtrace_common::python::layout;

    use super::super::find;
    use super::*;

    // `_Py_DebugOffsets` of release builds: 3.13.5, 3.14.10, 3.15.2.
    #[rustfmt::skip]
    const WORDS_3_13: [u64; 73] = [
        COOKIE,
        51185136, 0, 283376, 608, 632, 194976, 7272, 7264, 7344, 7400, 7656, 7640, 7648, 16, 7752,
        0, 7768, 7760, 304, 0, 8, 16, 72, 152, 160, 232, 32, 80, 8, 0, 56, 72, 70, 208, 112, 120,
        128, 136, 68, 52, 96, 104, 200, 16, 8, 416, 24, 88, 168, 32, 24, 16, 40, 24, 16, 48, 32,
        40, 24, 16, 32, 16, 24, 40, 16, 32, 64, 32, 16, 40, 240, 200,
    ];
    #[rustfmt::skip]
    const WORDS_3_14: [u64; 95] = [
        COOKIE,
        51251952, 0, 316616, 784, 808, 225864, 7280, 7272, 7344, 7360, 7408, 7688, 7672, 7680, 16,
        7784, 0, 7800, 7792, 7992, 0, 832, 0, 8, 16, 72, 152, 160, 232, 32, 88, 8, 0, 56, 80, 74,
        64, 0, 216, 112, 120, 128, 136, 68, 52, 96, 104, 208, 0, 16, 8, 416, 24, 88, 168, 40, 32,
        16, 40, 24, 16, 200, 24, 40, 32, 48, 32, 40, 24, 16, 32, 16, 24, 40, 16, 32, 64, 32, 16,
        40, 264, 192, 160, 24, 72, 67, 0, 8, 24, 304, 8076, 0, 4, 512,
    ];
    #[rustfmt::skip]
    const WORDS_3_15: [u64; 111] = [
        COOKIE,
        51315440, 0, 346568, 912, 936, 226240, 7272, 7264, 7336, 7352, 7400, 7592, 7576, 7584, 16,
        7736, 0, 7752, 7744, 7944, 0, 888, 0, 8, 16, 72, 80, 88, 96, 176, 184, 256, 32, 36, 40,
        136, 288, 0, 88, 8, 0, 56, 80, 74, 64, 0, 216, 112, 120, 128, 136, 68, 52, 96, 104, 208,
        0, 16, 8, 424, 24, 88, 168, 32, 288, 944, 888, 40, 32, 16, 40, 24, 16, 200, 24, 40, 32,
        48, 32, 40, 24, 16, 32, 16, 24, 40, 16, 32, 64, 32, 16, 40, 56, 176, 112, 120, 1120, 104,
        160, 24, 72, 67, 0, 8, 24, 344, 8028, 0, 4, 512,
    ];

    fn version(words: &[u64]) -> Version {
        Version::from_hex(words[1] as u32)
    }

    fn described(words: &[u64]) -> Result<PyOffsets, OffsetsError> {
        find(version(words), Some(words), None)
    }

    #[test]
    fn descriptions_are_read() {
        // Runtime, next interpreter, threads, thread id, frame, owner, locals, instructions, task, running task.
        for (words, expected) in [
            (&WORDS_3_13[..], [632, 7264, 7344, 152, 72, 70, 72, 200, 128, NONE]),
            (&WORDS_3_14[..], [808, 7272, 7344, 152, 72, 74, 80, 208, 136, 872]),
            (&WORDS_3_15[..], [936, 7264, 7336, 176, 72, 74, 80, 208, 136, 1032]),
        ] {
            let o = described(words).expect("known");
            let found = [
                o.runtime_interpreters_head,
                o.interp_next,
                o.interp_threads_head,
                o.tstate_thread_id,
                o.tstate_frame,
                o.frame_owner,
                o.frame_localsplus,
                o.code_instructions,
                o.task_name,
                o.tstate_running_task,
            ];
            assert_eq!(found, expected, "{}", version(words));
            assert_eq!((o.layout, o.frame_owner_skip), (layout::CURRENT_FRAME, NONE));
            assert_eq!((o.code_filename, o.code_firstlineno, o.code_kwonlyargcount), (112, 68, 60));
            assert_eq!((o.unicode_ascii_data, o.unicode_compact_data), (40, 56));
        }
    }

    #[test]
    fn free_threaded_builds_are_refused() {
        for words in [&WORDS_3_13[..], &WORDS_3_14, &WORDS_3_15] {
            let mut words = words.to_vec();
            words[2] = 1;
            assert_eq!(described(&words), Err(OffsetsError::FreeThreaded { version: version(&words) }));
        }
    }

    #[test]
    fn a_version_of_the_future_is_read_if_its_words_have_not_moved() {
        let mut words = WORDS_3_15;
        words[1] = 0x0310_00f0;
        let offsets = described(&words).expect("readable");
        assert_eq!((offsets.version, offsets.task_name, offsets.flags), (0x310, NONE, flag::LAZY_TASK_NAMES));
        assert_eq!(
            PyOffsets { version: 0x30f, task_name: 136, tstate_running_task: 1032, flags: 3, ..offsets },
            described(&WORDS_3_15).expect("known")
        );
        for at in 3..94 {
            let mut moved = words.to_vec();
            moved.insert(at, 40);
            assert!(described(&moved).is_err(), "a word more at {at}");
            let mut moved = words.to_vec();
            moved.remove(at);
            assert!(described(&moved).is_err(), "a word less at {at}");
        }
    }

    #[test]
    fn descriptions_of_other_versions_are_refused() {
        let all = [&WORDS_3_13[..], &WORDS_3_14, &WORDS_3_15];
        for words in all {
            for other in all.iter().filter(|other| **other != words) {
                let mut words = words.to_vec();
                words[1] = other[1];
                assert!(described(&words).is_err(), "{} as {}", version(&words), version(other));
            }
        }
    }

    #[test]
    fn damaged_descriptions_do_no_harm() {
        for words in [&WORDS_3_13[..], &WORDS_3_14, &WORDS_3_15] {
            let version = version(words);
            for len in 0..words.len() {
                let _ = find(version, Some(&words[..len]), None);
            }
            for at in 0..words.len() {
                for value in [0, 1, 4, 7, 1 << 16, u64::MAX, u64::MAX - 7] {
                    let mut words = words.to_vec();
                    words[at] = value;
                    let _ = find(version, Some(&words), None);
                }
            }
            assert!(find(version, None, None).is_err());
        }
    }

    #[test]
    fn task_offsets_are_taken_if_they_make_sense() {
        let words = [168, 144, 96, 108, 109, 128, 152, 225_864, 10_880, 936, 864, 880, 888];
        let offsets = find(version(&WORDS_3_14), Some(&WORDS_3_14), Some(&words)).expect("known");
        assert_eq!((offsets.task_name, offsets.tstate_running_task), (144, 880));
        for (at, value) in [(1, 7), (1, 168), (11, 936), (0, 1 << 40), (11, 4)] {
            let mut words = words;
            words[at] = value;
            let offsets = find(version(&WORDS_3_14), Some(&WORDS_3_14), Some(&words)).expect("known");
            assert_eq!((offsets.task_name, offsets.tstate_running_task), (136, 872));
        }
    }
}
