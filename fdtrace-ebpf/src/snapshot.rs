//! The snapshot: every descriptor of the traced processes, written into the same ring as the events.
//!
//! A row says that a slot held a file at some moment *after* a ring position. The position is read first and the slot
//! again afterwards, so an event below that position cannot contradict the row, and one above it decides.
//!
//! A table has more rows than a ring may have room for. The iterator stops where the ring is half full, and goes on when
//! its reader asks again.

use core::ffi::c_void;

use fdtrace_common::wire::{SnapEnd, SnapRow, flag, kind, loss};

use crate::{
    emit::{self, Subject},
    filter,
    kernel::{Files, describe, member, offset},
    shared::SNAPSHOT,
};

/// `struct bpf_iter__task_file`, <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/task_iter.c#L466>.
#[repr(C)]
pub struct TaskFile {
    meta: *const c_void,
    task: *const c_void,
    fd: u32,
    file: *const c_void,
}

/// `false`: there is no room, and the kernel is to show this descriptor again.
#[inline(always)]
pub fn row(ctx: &TaskFile) -> bool {
    let (task, fd, file) = (ctx.task, u64::from(ctx.fd), ctx.file as u64);
    if task.is_null() {
        // The iterator calls once more with nothing when it is through.
        emit::fixed::<SnapEnd>(loss::RING_TABLE, |record| {
            // SAFETY: the reserved record.
            unsafe {
                let nobody = Subject { tgid: 0, tid: 0, table: 0 };
                emit::fill_header(&raw mut (*record).header, kind::SNAP_END, 0, nobody);
                (*record).reading = SNAPSHOT.get() >> 32;
            }
        });
        return true;
    }
    if file == 0 {
        return true;
    }
    // SAFETY: `task` is typed by the iterator and not null; the offsets come from BTF.
    let (tgid, tid, table): (u32, u32, u64) = unsafe {
        (member(task, offset!(task_tgid)), member(task, offset!(task_pid)), member(task, offset!(task_files)))
    };
    let only = SNAPSHOT.get() as u32;
    if only != 0 && only != tgid {
        return true;
    }
    if filter::process(tgid).is_none() {
        return true;
    }
    if !emit::is_half_empty() {
        return false;
    }
    let pos = emit::position();
    let files = Files::at(table);
    // Closed or replaced since the iterator took its reference: the events tell.
    if files.file(fd) != file {
        return true;
    }
    let cloexec = files.cloexec_word(fd / 64) >> (fd % 64) & 1 != 0;
    emit::fixed::<SnapRow>(loss::RING_TABLE, |record| {
        // SAFETY: the reserved record.
        unsafe {
            let flags = if cloexec { flag::CLOEXEC } else { 0 };
            emit::fill_header(&raw mut (*record).header, kind::SNAP_ROW, flags, Subject { tgid, tid, table });
            (*record).pos = pos;
            describe(file, &raw mut (*record).file);
            (*record).fd = fd as i32;
            (*record).path_len = 0;
        }
    });
    true
}
