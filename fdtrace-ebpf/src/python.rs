//! The walk from a thread to its Python frames, at the moment of a call, and definitions of the code objects it meets.
//!
//! The thread state is found by the thread pointer, because the interpreter's own idea of the current thread is empty
//! whenever the lock is released, which is at nearly every system call. Nothing is shown that is not a code object.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use fdtrace_common::{
    python::{self, NONE, PyOffsets, checksum, layout, untag},
    wire::{flag, loss},
    witness::{CodeKey, FILE_MAX, FRAMES_MAX, NAME_MAX, PyFrame, TABLE_MAX, TASK_NAME_MAX, kind, note},
};

use crate::{
    emit::{self, Subject},
    kernel::thread_pointer,
    maps::{CODE_ROOM, CODES, STACK_ROOM, THREAD_STATES, WALK},
    walk::{COPY, Walk, byte, copy, int, peek, word},
};

/// Frames looked at, those that are not shown included.
const STEPS: u32 = FRAMES_MAX as u32 + 32;
/// Threads and interpreters looked at.
const THREADS: u32 = 4096;
/// Code of one function is never this long; a position beyond it is not one.
const INSTRUCTIONS_MAX: u64 = 1 << 28;

/// Values of the map of code objects.
const MARK_NONE: u32 = 0;
/// `Handle._run`: its first local variable is the handle of what the event loop runs.
const MARK_HANDLE: u32 = 1;
/// Inside of this frame another task may run than outside.
const MARK_EAGER: u32 = 2;

/// Walks the current thread's frames into the stack record. Returns the notes to make.
///
/// # Safety
/// `walk` is this processor's room for it, with the interpreter and the task filled in.
#[inline(always)]
pub unsafe fn frames(walk: *mut Walk) -> u32 {
    // SAFETY: by the caller's promise.
    unsafe {
        (*walk).frames = 0;
        (*walk).handle_frame = 0;
        (*walk).cut = 0;
        (*walk).thread = thread_pointer();
        let Some(state) = thread_state(walk) else { return note::NO_THREAD_STATE };
        (*walk).state = state;
        (*walk).next = innermost(&raw const (*walk).python.offsets, state);
        bpf_loop(STEPS, frame_step as *mut c_void, core::ptr::null_mut(), 0);
        // Also when there were more than are wanted.
        if (*walk).next != 0 { note::PYTHON | note::FRAMES_CUT } else { note::PYTHON }
    }
}

#[inline(always)]
unsafe fn thread_state(walk: *mut Walk) -> Option<u64> {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let o = &raw const (*walk).python.offsets;
        let tid = (*walk).tid;
        if let Some(known) = THREAD_STATES.get(&tid) {
            let known = *known;
            let same = peek::<u64>(known.wrapping_add(u64::from((*o).tstate_thread_id))) == Some((*walk).thread);
            if same && innermost(o, known) != 0 {
                return Some(known);
            }
        }
        (*walk).interpreter =
            peek::<u64>((*walk).python.runtime.wrapping_add(u64::from((*o).runtime_interpreters_head)))?;
        (*walk).state = 0;
        (*walk).found = 0;
        (*walk).idle = 0;
        bpf_loop(THREADS, thread_step as *mut c_void, core::ptr::null_mut(), 0);
        let found = if (*walk).found != 0 { (*walk).found } else { (*walk).idle };
        if found == 0 {
            return None;
        }
        // If there is no room, the next call searches again.
        let _ = THREAD_STATES.insert(&tid, &found, 0);
        Some(found)
    }
}

/// One thread state, or the step to the next interpreter.
unsafe extern "C" fn thread_step(_index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    // SAFETY: this processor's room, filled by `frames`.
    unsafe {
        let o = &raw const (*walk).python.offsets;
        let state = (*walk).state;
        if state == 0 {
            let interpreter = (*walk).interpreter;
            if interpreter == 0 {
                return 1;
            }
            (*walk).state = peek::<u64>(interpreter.wrapping_add(u64::from((*o).interp_threads_head))).unwrap_or(0);
            (*walk).interpreter = peek::<u64>(interpreter.wrapping_add(u64::from((*o).interp_next))).unwrap_or(0);
            return 0;
        }
        if peek::<u64>(state.wrapping_add(u64::from((*o).tstate_thread_id))) == Some((*walk).thread) {
            // A thread that works for several interpreters has frames only in the running one and its callers.
            if innermost(o, state) != 0 {
                (*walk).found = state;
                return 1;
            }
            if (*walk).idle == 0 {
                (*walk).idle = state;
            }
        }
        (*walk).state = peek::<u64>(state.wrapping_add(u64::from((*o).tstate_next))).unwrap_or(0);
    }
    0
}

/// Address of a thread's innermost frame; 0: none.
#[inline(always)]
unsafe fn innermost(o: *const PyOffsets, state: u64) -> u64 {
    // SAFETY: `o` is in this processor's room.
    unsafe {
        let first = peek::<u64>(state.wrapping_add(u64::from((*o).tstate_frame))).unwrap_or(0);
        if (*o).layout == layout::CFRAME && first != 0 {
            return peek::<u64>(first.wrapping_add(u64::from((*o).cframe_current_frame))).unwrap_or(0);
        }
        first
    }
}

/// One frame.
unsafe extern "C" fn frame_step(_index: u32, _context: *mut c_void) -> i64 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return 1 };
    // SAFETY: this processor's rooms, filled by `frames`; all reads of user memory are checked by their helper.
    unsafe {
        let o = &raw const (*walk).python.offsets;
        let at = (*walk).next;
        let count = (*walk).frames;
        if at == 0 || count >= FRAMES_MAX as u32 {
            return 1;
        }
        let frame = (&raw mut (*walk).frame).cast::<u64>();
        let size = (*o).frame_bytes;
        let size = if size > COPY as u32 { COPY as u32 } else { size };
        if !copy(frame.cast(), size, at) {
            return 1;
        }
        let code = untag(word(frame, (*o).frame_code));
        let back = word(frame, (*o).frame_back);
        (*walk).next = back;
        if (*o).frame_owner_skip != NONE && u32::from(byte(frame, (*o).frame_owner)) == (*o).frame_owner_skip {
            return 0;
        }
        let object = (&raw mut (*walk).code).cast::<u64>();
        let parts = (*o).code_linetable.wrapping_add(8);
        let size = if (*o).code_bytes > parts { (*o).code_bytes } else { parts };
        let size = if size > COPY as u32 { COPY as u32 } else { size };
        // Of an interpreter's own frame the code may be anything, also nothing.
        if !copy(object.cast(), size, code) || word(object, (*o).object_type) != (*walk).python.code_type {
            return 0;
        }
        let distance = if (*o).layout == layout::FRAME_OBJECT {
            let Some(last) = peek::<u32>(at.wrapping_add(u64::from((*o).frame_instr))) else {
                (*walk).next = at;
                return 1;
            };
            u64::from(last).wrapping_mul(u64::from((*o).frame_instr_unit))
        } else {
            word(frame, (*o).frame_instr).wrapping_sub(code.wrapping_add(u64::from((*o).code_instructions)))
        };
        let first_line = int(object, (*o).code_firstlineno);
        let sum = checksum(
            int(object, (*o).code_argcount),
            int(object, (*o).code_kwonlyargcount),
            int(object, (*o).code_flags),
            first_line,
        );
        let version = if (*o).code_version == NONE { 0 } else { int(object, (*o).code_version) };
        let table = word(object, (*o).code_linetable);
        let mut fingerprint = mixed(word(object, (*o).code_filename), word(object, (*o).code_qualname));
        fingerprint = mixed(fingerprint, table);
        if version == 0 {
            // Without a version of its own, the address of a part may have been given out again too.
            fingerprint = mixed(fingerprint, peek::<u64>(table.wrapping_add(u64::from((*o).bytes_size))).unwrap_or(0));
            fingerprint = mixed(fingerprint, peek::<u64>(table.wrapping_add(u64::from((*o).bytes_data))).unwrap_or(0));
        }
        let fingerprint = (fingerprint >> 32) as u32;
        // Read again, for the compiler would drop a mask on what it knows to be small, and 6.1 forgets what it knew.
        let index = (&raw const (*walk).frames).read_volatile() & (FRAMES_MAX as u32 - 1);
        let out = (&raw mut (*room).tail).cast::<PyFrame>().add(index as usize);
        (*out).code = code;
        (*out).offset = if distance < INSTRUCTIONS_MAX { distance as i32 } else { -1 };
        (*out).checksum = sum;
        (*out).code_version = version;
        (*out).fingerprint = fingerprint;
        (*walk).frames = count + 1;
        let key = CodeKey {
            code,
            tgid: (*walk).tgid,
            execs: (*walk).execs,
            checksum: sum,
            code_version: version,
            fingerprint,
            reserved: 0,
        };
        let mark = match CODES.get(&key) {
            Some(mark) => *mark,
            None => define(walk, &key, first_line),
        };
        if mark != MARK_NONE && (*walk).handle_frame == 0 {
            (*walk).handle_frame = if mark == MARK_HANDLE { at } else { 1 };
        }
    }
    0
}

/// One more word for a fingerprint; its upper half is the best mixed.
#[inline(always)]
fn mixed(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

/// A `str`: where its characters begin, how many there are and how wide they are.
struct Text {
    data: u64,
    length: u64,
    width: u32,
}

#[inline(always)]
unsafe fn text(walk: *const Walk, object: u64) -> Option<Text> {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let o = &raw const (*walk).python.offsets;
        if peek::<u64>(object.wrapping_add(u64::from((*o).object_type)))? != (*walk).python.unicode_type {
            return None;
        }
        let length = peek::<u64>(object.wrapping_add(u64::from((*o).unicode_length)))?;
        let state = peek::<u32>(object.wrapping_add(u64::from((*o).unicode_state)))?;
        let width = state >> python::unicode::KIND_SHIFT & python::unicode::KIND_MASK;
        if state & python::unicode::COMPACT == 0 || !(width == 1 || width == 2 || width == 4) {
            return None;
        }
        let ascii = state & python::unicode::ASCII != 0;
        let data = if ascii { (*o).unicode_ascii_data } else { (*o).unicode_compact_data };
        Some(Text { data: object.wrapping_add(u64::from(data)), length, width })
    }
}

/// Sends what a code object says of itself. Returns its mark. What could not be sent is tried again next time.
#[inline(always)]
unsafe fn define(walk: *mut Walk, key: &CodeKey, first_line: u32) -> u32 {
    let Some(room) = CODE_ROOM.get_ptr_mut(0) else { return MARK_NONE };
    // SAFETY: this processor's rooms; all reads of user memory are checked by their helper.
    unsafe {
        let o = &raw const (*walk).python.offsets;
        let code = &raw mut (*room).code;
        let mut flags = 0;
        let mut mark = MARK_NONE;
        (*code).code = key.code;
        (*code).checksum = key.checksum;
        (*code).code_version = key.code_version;
        (*code).fingerprint = key.fingerprint;
        (*code).reserved = 0;
        (*code).first_line = first_line;
        (*code).python = (*o).version;
        (*code).file_len = 0;
        (*code).file_width = 1;
        (*code).name_len = 0;
        (*code).name_width = 1;
        (*code).table_len = 0;
        // Until it is known: a table that could not be read is not one that is empty.
        (*code).table_total = 0xffff_ffff;
        let named = peek::<u64>(key.code.wrapping_add(u64::from((*o).code_filename))).and_then(|file| text(walk, file));
        let Some(file) = named else { return MARK_NONE };
        let bytes = file.length.wrapping_mul(u64::from(file.width));
        let len = if bytes > FILE_MAX as u64 { FILE_MAX as u32 & !3 } else { bytes as u32 };
        if bytes > FILE_MAX as u64 {
            flags |= flag::TRUNCATED;
        }
        if !copy((&raw mut (*code).file).cast(), core::hint::black_box(len) & 0xff, file.data) {
            return MARK_NONE;
        }
        (*code).file_len = len;
        (*code).file_width = file.width;
        let named = peek::<u64>(key.code.wrapping_add(u64::from((*o).code_qualname))).and_then(|name| text(walk, name));
        let Some(name) = named else { return MARK_NONE };
        let bytes = name.length.wrapping_mul(u64::from(name.width));
        let len = if bytes > NAME_MAX as u64 { NAME_MAX as u32 & !3 } else { bytes as u32 };
        if bytes > NAME_MAX as u64 {
            flags |= flag::TRUNCATED;
        }
        // The compiler knows that the mask does nothing; 6.1's verifier has forgotten by now, and must see it.
        let len = core::hint::black_box(len) & 0x7f;
        if !copy((&raw mut (*code).name).cast(), len, name.data) {
            return MARK_NONE;
        }
        (*code).name_len = len;
        (*code).name_width = name.width;
        if name.width == 1 && file.width == 1 {
            mark = marked(walk, (&raw const (*code).name).cast(), len, file.data, file.length);
        }
        let mut table_len = 0u32;
        let table = peek::<u64>(key.code.wrapping_add(u64::from((*o).code_linetable)));
        let total = table.and_then(|table| peek::<u64>(table.wrapping_add(u64::from((*o).bytes_size))));
        if let (Some(table), Some(total)) = (table, total) {
            (*code).table_total = if total > 0xffff_ffff { 0xffff_ffff } else { total as u32 };
            let size = if total > TABLE_MAX as u64 { TABLE_MAX as u32 } else { total as u32 };
            let size = core::hint::black_box(size) & TABLE_MAX as u32;
            let from = table.wrapping_add(u64::from((*o).bytes_data));
            if copy((&raw mut (*room).table).cast(), size, from) {
                table_len = size;
            }
        }
        (*code).table_len = table_len;
        let who = Subject { tgid: (*walk).tgid, tid: (*walk).tid, table: 0 };
        emit::fill_header(&raw mut (*code).header, kind::CODE, flags, who);
        let len = size_of::<fdtrace_common::witness::Code>() as u32 + (table_len & TABLE_MAX as u32);
        let bytes = core::slice::from_raw_parts(room.cast::<u8>(), len as usize);
        if emit::room_for_witness() && emit::bytes(bytes, loss::RING_STACK) {
            let _ = CODES.insert(key, &mark, 0);
        }
        mark
    }
}

const fn eight(text: &[u8; 8]) -> u64 {
    u64::from_ne_bytes(*text)
}

/// What a code object means for the search of the task: its name, and the end of its file's.
#[inline(always)]
unsafe fn marked(walk: *mut Walk, name: *const u64, len: u32, file: u64, file_len: u64) -> u32 {
    // SAFETY: `name` is the room of a name, aligned; `walk` is this processor's.
    unsafe {
        let first = name.read_volatile();
        let second = name.add(1).read_volatile();
        let run = (len == 11 && first == eight(b"Handle._") && second << 40 == eight(b"\0\0\0\0\0run"))
            || (len == 4 && first << 32 == eight(b"\0\0\0\0_run"));
        let eager = len == 41 && first == eight(b"create_e") && second == eight(b"ager_tas");
        if (!run && !eager) || file_len < 18 {
            return MARK_NONE;
        }
        let text = (&raw mut (*walk).text).cast::<u64>();
        // The last 17 bytes before the last: `asyncio/events.py` and `/asyncio/tasks.py`.
        if !copy(text.cast(), 16, file.wrapping_add(file_len - 16)) {
            return MARK_NONE;
        }
        let (a, b) = (text.read_volatile(), text.add(1).read_volatile());
        if run && a == eight(b"syncio/e") && b == eight(b"vents.py") {
            return MARK_HANDLE;
        }
        if eager && a == eight(b"asyncio/") && b == eight(b"tasks.py") { MARK_EAGER } else { MARK_NONE }
    }
}

/// The task that the thread runs, and its name, into the stack record. Returns the notes to make.
///
/// # Safety
/// As [`frames`], which has run.
#[inline(always)]
pub unsafe fn task(walk: *mut Walk) -> u32 {
    let Some(room) = STACK_ROOM.get_ptr_mut(0) else { return 0 };
    // SAFETY: this processor's rooms; all reads of user memory are checked by their helper.
    unsafe {
        let o = &raw const (*walk).python.offsets;
        let stack = &raw mut (*room).stack;
        let running = if (*o).flags & python::flag::RUNNING_TASK != 0 {
            peek::<u64>((*walk).state.wrapping_add(u64::from((*o).tstate_running_task)))
        } else if (*walk).handle_frame > 1 {
            of_handle(walk)
        } else {
            None
        };
        let Some(task) = running else { return 0 };
        if task == 0 || (*o).task_name == NONE || !is_task(walk, task) {
            return 0;
        }
        (*stack).task = task;
        let Some(name) = peek::<u64>(task.wrapping_add(u64::from((*o).task_name))) else { return 0 };
        if let Some(name) = text(walk, name) {
            let bytes = name.length.wrapping_mul(u64::from(name.width));
            let len = if bytes > TASK_NAME_MAX as u64 - 1 { TASK_NAME_MAX as u32 - 4 } else { bytes as u32 };
            if copy((&raw mut (*stack).task_name).cast(), len & (TASK_NAME_MAX as u32 - 1), name.data) {
                (*stack).task_name_len = len;
                (*stack).task_name_width = name.width;
            }
            return 0;
        }
        if (*o).flags & python::flag::LAZY_TASK_NAMES == 0
            || peek::<u64>(name.wrapping_add(u64::from((*o).object_type))) != Some((*walk).python.long_type)
        {
            return 0;
        }
        // One digit of 30 bits, positive: more tasks than that have no number here.
        if peek::<u64>(name.wrapping_add(u64::from((*o).long_tag))) != Some(1 << 3) {
            return 0;
        }
        let Some(number) = peek::<u32>(name.wrapping_add(u64::from((*o).long_digits))) else { return 0 };
        (&raw mut (*stack).task_name).cast::<u64>().write_volatile(u64::from(number));
        (*stack).task_name_len = 8;
        note::TASK_NUMBER
    }
}

/// The task behind the handle that the event loop runs.
#[inline(always)]
unsafe fn of_handle(walk: *mut Walk) -> Option<u64> {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let o = &raw const (*walk).python.offsets;
        let handle = untag(peek::<u64>((*walk).handle_frame.wrapping_add(u64::from((*o).frame_localsplus)))?);
        let callback = peek::<u64>(handle.wrapping_add(u64::from((*o).handle_callback)))?;
        let class = peek::<u64>(callback.wrapping_add(u64::from((*o).object_type)))?;
        let text = (&raw mut (*walk).text).cast::<u64>();
        if class == (*walk).python.builtin_type {
            let definition = peek::<u64>(callback.wrapping_add(u64::from((*o).builtin_def)))?;
            let name = peek::<u64>(definition)?;
            // `task_wakeup` and its NUL.
            if !copy(text.cast(), 12, name)
                || text.read_volatile() != eight(b"task_wak")
                || text.add(1).read_volatile() << 32 != eight(b"\0\0\0\0eup\0")
            {
                return None;
            }
            return peek::<u64>(callback.wrapping_add(u64::from((*o).builtin_self)));
        }
        let mut name = peek::<u64>(class.wrapping_add(u64::from((*o).type_name)))?;
        if peek::<u64>(name)? == eight(b"_asyncio") {
            name = name.wrapping_add(9);
        }
        if !copy(text.cast(), 20, name) {
            return None;
        }
        let (a, b) = (text.read_volatile(), text.add(1).read_volatile());
        let step = a == eight(b"TaskStep") && b == eight(b"MethWrap");
        let wakeup = a == eight(b"TaskWake") && b == eight(b"upMethWr");
        if step || wakeup { peek::<u64>(callback.wrapping_add(u64::from((*o).wrapper_task))) } else { None }
    }
}

/// Is the object an `_asyncio.Task`, or of a class derived from it?
#[inline(always)]
unsafe fn is_task(walk: *mut Walk, object: u64) -> bool {
    // SAFETY: `walk` is this processor's.
    unsafe {
        let o = &raw const (*walk).python.offsets;
        let mut class = peek::<u64>(object.wrapping_add(u64::from((*o).object_type))).unwrap_or(0);
        let text = (&raw mut (*walk).text).cast::<u64>();
        for _ in 0..3 {
            let Some(name) = peek::<u64>(class.wrapping_add(u64::from((*o).type_name))) else { return false };
            if copy(text.cast(), 14, name)
                && text.read_volatile() == eight(b"_asyncio")
                && text.add(1).read_volatile() << 16 == eight(b"\0\0.Task\0")
            {
                return true;
            }
            class = peek::<u64>(class.wrapping_add(u64::from((*o).type_base))).unwrap_or(0);
        }
        false
    }
}
