//! Offsets per minor version, from the debug information of release builds for x86-64.
//!
//! Each version is written as its difference from the one before; only what walking needs is here. Other 64-bit
//! machines have the same sizes of pointers and integers, but not of locks: there [`super::find`] gives no
//! `runtime_tss_key`.

use fdtrace_common::python::{NONE, PyOffsets, flag, layout};

pub const V3_6: PyOffsets = PyOffsets {
    version: 0x306,
    layout: layout::FRAME_OBJECT,
    flags: 0,
    runtime_interpreters_head: 0,
    runtime_tss_key: NONE,
    interp_next: 0,
    interp_threads_head: 8,
    tstate_next: 8,
    tstate_thread_id: 152,
    tstate_native_thread_id: NONE,
    tstate_frame: 24,
    cframe_current_frame: NONE,
    frame_back: 24,
    frame_code: 32,
    frame_instr: 120,
    frame_instr_unit: 1,
    frame_owner: NONE,
    frame_owner_skip: NONE,
    frame_localsplus: 376,
    frame_stackpointer: NONE,
    frame_bytes: 40,
    code_argcount: 16,
    code_kwonlyargcount: 20,
    code_flags: 32,
    code_firstlineno: 36,
    code_version: NONE,
    code_filename: 96,
    code_name: 104,
    code_qualname: 104,
    code_linetable: 112,
    code_instructions: NONE,
    code_bytes: 40,
    object_type: 8,
    bytes_size: 16,
    bytes_data: 32,
    unicode_length: 16,
    unicode_state: 32,
    unicode_ascii_data: 48,
    unicode_compact_data: 72,
    long_tag: 16,
    long_digits: 24,
    type_name: 24,
    type_basicsize: 32,
    type_flags: 168,
    type_base: 256,
    owner_fd: 16,
    handle_callback: 24,
    wrapper_task: 16,
    builtin_def: 16,
    builtin_self: 24,
    task_name: NONE,
    tstate_running_task: NONE,
};

pub const V3_7: PyOffsets = PyOffsets {
    version: 0x307,
    runtime_interpreters_head: 24,
    // 1504 from 3.7.4 on, 1416 before; the file does not tell which, and the list of threads serves both.
    runtime_tss_key: NONE,
    tstate_thread_id: 176,
    frame_instr: 104,
    frame_localsplus: 360,
    ..V3_6
};

pub const V3_8: PyOffsets = PyOffsets {
    version: 0x308,
    runtime_interpreters_head: 32,
    runtime_tss_key: 1392 + 4,
    code_kwonlyargcount: 24,
    code_flags: 36,
    code_firstlineno: 40,
    code_filename: 104,
    code_name: 112,
    code_qualname: 112,
    code_linetable: 120,
    code_bytes: 48,
    task_name: 120,
    ..V3_7
};

pub const V3_9: PyOffsets = PyOffsets { version: 0x309, runtime_tss_key: 584 + 4, task_name: 160, ..V3_8 };

pub const V3_10: PyOffsets =
    PyOffsets { version: 0x30a, frame_instr: 96, frame_instr_unit: 2, frame_localsplus: 352, task_name: 168, ..V3_9 };

pub const V3_11: PyOffsets = PyOffsets {
    version: 0x30b,
    layout: layout::CFRAME,
    runtime_interpreters_head: 40,
    runtime_tss_key: 592 + 4,
    interp_threads_head: 16,
    tstate_thread_id: 152,
    tstate_native_thread_id: 160,
    tstate_frame: 56,
    cframe_current_frame: 8,
    frame_back: 48,
    frame_code: 32,
    frame_instr: 56,
    frame_instr_unit: 1,
    frame_owner: 69,
    frame_localsplus: 72,
    frame_bytes: 72,
    code_argcount: 56,
    code_kwonlyargcount: 64,
    code_flags: 48,
    code_firstlineno: 72,
    code_filename: 112,
    code_name: 120,
    code_qualname: 128,
    code_linetable: 136,
    code_instructions: 184,
    code_bytes: 80,
    task_name: 144,
    ..V3_10
};

pub const V3_12: PyOffsets = PyOffsets {
    version: 0x30c,
    flags: flag::LAZY_TASK_NAMES,
    runtime_tss_key: 1544 + 4,
    interp_threads_head: 72,
    tstate_thread_id: 136,
    tstate_native_thread_id: 144,
    cframe_current_frame: 0,
    frame_back: 8,
    frame_code: 0,
    frame_owner: 70,
    frame_owner_skip: 3,
    code_argcount: 52,
    code_kwonlyargcount: 60,
    code_firstlineno: 68,
    code_version: 92,
    code_instructions: 192,
    code_bytes: 96,
    unicode_ascii_data: 40,
    unicode_compact_data: 56,
    ..V3_11
};

/// From here on only what interpreters do not describe is taken from the table; the rest is overwritten.
pub const V3_13: PyOffsets = PyOffsets {
    version: 0x30d,
    layout: layout::CURRENT_FRAME,
    runtime_tss_key: 2160 + 4,
    cframe_current_frame: NONE,
    frame_owner_skip: NONE,
    task_name: 128,
    ..V3_12
};

pub const V3_14: PyOffsets = PyOffsets {
    version: 0x30e,
    flags: flag::LAZY_TASK_NAMES | flag::RUNNING_TASK,
    runtime_tss_key: 2336 + 4,
    task_name: 136,
    tstate_running_task: 872,
    ..V3_13
};

pub const V3_15: PyOffsets = PyOffsets { version: 0x30f, runtime_tss_key: NONE, tstate_running_task: 1032, ..V3_14 };
