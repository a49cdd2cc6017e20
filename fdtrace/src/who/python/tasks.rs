//! Which asyncio task a thread is running, and its name.
//!
//! From 3.14 on the thread state says. Before that the event loop's own frame does: `Handle._run` holds the handle, its
//! callback holds the task. Tasks written in Python, loops that run handles in C (uvloop) and other frameworks are not
//! seen, and where a task may have been started inside another one (`eager_task_factory`), nothing is said.

use std::os::unix::ffi::OsStrExt;

use fdtrace_common::python::{NONE, PyProcess, flag, untag};

use super::code::CodeDef;
use super::memory::ReadMem;
use super::walk::Frame;
use super::{objects, types};

/// A running task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The address of the object.
    pub at: u64,
    /// None: it has none (before 3.8), or it could not be read.
    pub name: Option<String>,
}

/// What a code object means for the search of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The frame of an event loop that runs one callback: its first local variable is the handle.
    HandleRun,
    /// Inside of this frame another task may run than outside of it: the search ends without a result.
    EagerStart,
}

/// Marks the code objects that matter here.
pub fn mark(def: &CodeDef, version: u32) -> Option<Mark> {
    let file = def.file.as_os_str().as_bytes();
    let run = if version < 0x30b { "_run" } else { "Handle._run" };
    if def.name == run && file.ends_with(b"/asyncio/events.py") {
        return Some(Mark::HandleRun);
    }
    (def.name == "create_eager_task_factory.<locals>.factory" && file.ends_with(b"/asyncio/tasks.py"))
        .then_some(Mark::EagerStart)
}

/// The task that a thread runs. `frames` are the thread's, innermost first; `mark` is asked about as few as possible.
pub fn running(
    mem: &impl ReadMem,
    py: &PyProcess,
    state: u64,
    frames: &[Frame],
    mut mark: impl FnMut(&Frame) -> Option<Mark>,
) -> Option<Task> {
    let o = &py.offsets;
    if o.flags & flag::RUNNING_TASK != 0 {
        let at = mem.read_ptr(state.wrapping_add(o.tstate_running_task.into()))?;
        return Some(Task { at, name: name(mem, py, at) });
    }
    let (frame, mark) = frames.iter().find_map(|frame| Some((frame, mark(frame)?)))?;
    match mark {
        Mark::HandleRun => of_handle_run(mem, py, frame.at),
        Mark::EagerStart => None,
    }
}

/// The task behind the handle that a frame of `Handle._run` runs. None: an ordinary callback.
pub fn of_handle_run(mem: &impl ReadMem, py: &PyProcess, frame: u64) -> Option<Task> {
    let o = &py.offsets;
    let follow = |base: u64, offset: u32| mem.read_ptr(base.wrapping_add(offset.into()));
    let handle = untag(follow(frame, o.frame_localsplus)?);
    let callback = follow(handle, o.handle_callback)?;
    let kind = objects::type_of(mem, py, callback)?;
    let at = if kind == py.builtin_type {
        // A bound method in C: only the one that wakes tasks means that its task runs.
        let name = follow(follow(callback, o.builtin_def)?, 0)?;
        if mem.read_c_string(name, 32)? != b"task_wakeup" {
            return None;
        }
        follow(callback, o.builtin_self)?
    } else {
        let name = types::name(mem, py, kind)?;
        let name = name.strip_prefix(b"_asyncio.").unwrap_or(&name);
        if name != b"TaskStepMethWrapper" && name != b"TaskWakeupMethWrapper" {
            return None;
        }
        follow(callback, o.wrapper_task)?
    };
    Some(Task { at, name: name(mem, py, at) })
}

/// The name of a task made by `_asyncio.Task` or a subclass of it.
pub fn name(mem: &impl ReadMem, py: &PyProcess, task: u64) -> Option<String> {
    let o = &py.offsets;
    // `asyncio._enter_task` accepts any object: only this type is known to have a name at this place.
    if o.task_name == NONE || !types::is_subtype(mem, py, objects::type_of(mem, py, task)?, b"_asyncio.Task") {
        return None;
    }
    let name = mem.read_ptr(task.wrapping_add(o.task_name.into()))?;
    let kind = objects::type_of(mem, py, name)?;
    if kind == py.unicode_type {
        return objects::string(mem, o, name).map(|name| String::from_utf8_lossy(&name).into_owned());
    }
    if kind == py.long_type && o.flags & flag::LAZY_TASK_NAMES != 0 {
        return objects::unsigned(mem, o, name).map(|number| format!("Task-{number}"));
    }
    None
}
