//! Records that are recorded and not judged yet.
//!
//! What is taken out of the ring is recorded at once, and judged afterwards. In a storm of findings judging takes longer than
//! the kernel takes to tell more, and what is still in the ring when we are killed is in no recording.

use std::collections::VecDeque;

use crate::{source::recording::writer::Recorder, who::sighting::Unwound};

/// Bytes that may wait. Beyond, records stay in the ring until there is room; what finds none there is lost, and counted.
const MAX: usize = 32 << 20;
/// Bytes of what is judged that are kept before the rest is moved up.
const SLACK: usize = 4 << 20;
/// Entries for which room is kept.
const SLACK_ENTRIES: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    entries: VecDeque<Entry>,
    /// Where the first entry begins.
    from: usize,
}

struct Entry {
    pos: u64,
    len: usize,
    half: Option<Half>,
}

/// The native half of a stack, and the thread whose it is.
pub(super) type Half = (u32, Unwound);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes for which there is room.
    pub(super) fn room(&self) -> usize {
        MAX.saturating_sub(self.bytes.len() - self.from)
    }

    /// Records it first, where there is a recorder: the one way in.
    pub(super) fn push_recorded(
        &mut self,
        recorder: &mut Option<Recorder>,
        pos: u64,
        record: &[u8],
        half: Option<Half>,
    ) {
        if let Some(recorder) = recorder {
            recorder.record(pos, record);
        }
        self.push(pos, record, half);
    }

    fn push(&mut self, pos: u64, record: &[u8], half: Option<Half>) {
        if self.from > SLACK {
            self.bytes.drain(..self.from);
            self.from = 0;
        }
        self.bytes.extend_from_slice(record);
        self.entries.push_back(Entry { pos, len: record.len(), half });
    }

    /// It holds room that a storm took.
    pub(super) fn has_grown(&self) -> bool {
        self.bytes.capacity() > SLACK || self.entries.capacity() > 2 * SLACK_ENTRIES
    }

    /// Gives back what a storm took.
    pub(super) fn give_back(&mut self) {
        self.bytes.shrink_to(SLACK);
        self.entries.shrink_to(SLACK_ENTRIES);
    }

    /// Hands over the oldest. `None`: there is none.
    pub(super) fn pop<T>(&mut self, out: impl FnOnce(u64, &[u8], Option<Half>) -> T) -> Option<T> {
        let Entry { pos, len, half } = self.entries.pop_front()?;
        let until = self.from + len;
        let out = out(pos, &self.bytes[self.from..until], half);
        self.from = until;
        if self.entries.is_empty() {
            self.bytes.clear();
            self.from = 0;
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_and_whole() {
        let mut backlog = Backlog::default();
        let (mut next, mut seen) = (0u32, 0u32);
        // More than is kept of what is judged, with always some waiting.
        while (seen as usize) * 100 < 3 * SLACK {
            for _ in 0..3 {
                backlog.push(u64::from(next), &next.to_le_bytes().repeat(25), None);
                next += 1;
            }
            for _ in 0..2 + usize::from(next > 1000) {
                let popped = backlog.pop(|pos, record, _| (pos, record.to_vec()));
                assert_eq!(popped, Some((u64::from(seen), seen.to_le_bytes().repeat(25))));
                seen += 1;
            }
        }
        let waiting = (next - seen) as usize * 100;
        assert_eq!(backlog.room(), MAX - waiting);
        assert!(backlog.bytes.len() <= SLACK + waiting + 300, "{}", backlog.bytes.len());
        while backlog.pop(|_, _, _| ()).is_some() {}
        assert!(backlog.is_empty() && backlog.has_grown());
        backlog.give_back();
        assert!(!backlog.has_grown());
        assert_eq!(backlog.room(), MAX);
    }
}
