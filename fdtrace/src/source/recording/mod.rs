//! Recordings: the records of a run as they came, in a file that explains itself on another machine.
//!
//! A recording is a row of blocks ([`frame`]), each with its own checksum and readable alone: nothing at its end is
//! needed to read its beginning, so a recorder that is killed leaves a good file. Within a block, records are stored as
//! differences from their likes ([`pack`]), which loses nothing.
//!
//! What a block holds is never trusted: lengths have limits, damage is skipped, counted and told. Nothing here knows
//! what a record means, but for whether it may be written to a disk at all: [`may_be_recorded`].

pub mod about;
pub mod frame;
pub mod pack;
pub mod reader;
pub mod unpack;
pub mod writer;

use std::borrow::Cow;

use fdtrace_common::{
    wire::{bytes_of, kind},
    witness::{self, Stack},
};

/// May records of this kind be written to a file?
///
/// Only what is known to be harmless: copies of a program's stack hold whatever the program was working on, passwords
/// included. A new kind is left out until somebody has thought about it and named it here. Of a stack, what may be
/// written is [`harmless`].
pub fn may_be_recorded(record: u16) -> bool {
    matches!(
        record,
        kind::CALL..=kind::CALL_EPOLL_WAIT
            | kind::FORK..=kind::NAMESPACED
            | kind::SNAP_ROW..=kind::SNAP_END
            | kind::LOST..=kind::EPOLL_LIST
            | kind::EPOLL_ENTRY
            | witness::kind::STACK..=witness::kind::TYPE
    )
}

/// A record without the copy of the program's stack and without its registers.
pub fn harmless(record: u16, bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    if record != witness::kind::STACK {
        return Some(Cow::Borrowed(bytes));
    }
    let (head, frames) = without_copy(bytes)?;
    let kept = |note, at: usize| if head.notes & note == 0 { 0 } else { head.left[at] };
    let left = [kept(witness::note::SITE, 0), kept(witness::note::VARIABLE, 1), 0, 0, 0];
    // What user space has unwound is so already.
    if (head.bp, head.left, head.stack_len) == (0, left, 0) && bytes.len() == size_of::<Stack>() + frames.len() {
        return Some(Cow::Borrowed(bytes));
    }
    Some(Cow::Owned([bytes_of(&Stack { bp: 0, left, stack_len: 0, ..head }), frames].concat()))
}

/// What a stack's record has besides the copy of the stack: its head, and the Python frames.
pub fn without_copy(bytes: &[u8]) -> Option<(Stack, &[u8])> {
    let (head, tail) = Stack::read(bytes)?;
    let frames = tail.get(..usize::try_from(head.frames).ok()?.checked_mul(size_of::<witness::PyFrame>())?)?;
    Some((head, frames))
}

/// Made by the kernel side, so that it took room in the ring; the others are made by user space and took none.
pub(crate) fn took_room(record: u16) -> bool {
    !(kind::LOST..=LAST_OF_USER_SPACE).contains(&record)
}

/// Kinds from [`kind::LOST`] to here are user space's.
const LAST_OF_USER_SPACE: u16 = 63;

#[cfg(test)]
mod tests;
