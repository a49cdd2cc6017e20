//! Packs records: each is stored as its difference from the last one of its likes.
//!
//! Records are alike if the same thread made them by the same call on the same table. Then of some twenty words few
//! differ: the times, which are stored as durations; the result; and addresses, which come again and again and are
//! numbered when they are first seen. Everything is taken modulo 2^64, so whatever the words hold comes back exactly.
//!
//! Each block begins with empty dictionaries. The packed form says itself where a record's fixed part ends, so a reader
//! needs no knowledge of kinds, and old files stay readable when records grow.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use fdtrace_common::wire::{self, Header, kind};

use super::took_room;

/// Entries in each dictionary of a block.
pub(super) const KEYS_MAX: usize = 4096;
pub(super) const TAILS_MAX: usize = 4096;
pub(super) const VALUES_MAX: usize = 1 << 16;
/// Longest fixed part, in words, and longest tail, in bytes.
pub(super) const WORDS_MAX: usize = 128;
pub(super) const TAIL_MAX: usize = 64 << 10;
/// Words of the header: kind, task, time, table.
pub(super) const HEADER_WORDS: usize = 4;
pub(super) const TIME: usize = 2;
pub(super) const ENTER_TIME: usize = 4;
pub(super) const ENTER_POS: usize = 5;
/// Word of the call's number and class.
pub(super) const CALL_WORD: usize = 16;

/// In a record's tag, below its key: the position is not the one expected.
pub(super) const MOVED: u64 = 1;
/// The tail is not the one of the last record alike.
pub(super) const NEW_TAIL: u64 = 2;
pub(super) const TAG_BITS: u32 = 2;

/// In a key: the record begins with the time and position at which a call began.
pub(super) const INTERVAL: u8 = 1;
/// In a key: [`CALL_WORD`] is part of it.
pub(super) const OF_CALL: u8 = 2;

/// What records that are alike have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) words: u8,
    pub(super) flags: u8,
    /// The words of the header but the time, and the call's.
    pub(super) fixed: [u64; 4],
}

#[derive(Debug)]
struct Like {
    /// Words of the last record, with the call's beginning told by how long before its end it was.
    last: Vec<u64>,
    tail: u32,
}

/// One block's records.
#[derive(Debug, Default)]
pub struct Packer {
    out: Vec<u8>,
    keys: HashMap<Key, u32, Quick>,
    likes: Vec<Like>,
    values: HashMap<u64, u32, Quick>,
    tails: HashMap<Box<[u8]>, u32>,
    /// Number of the empty tail is 0; dictionary entries count from 1.
    time: u64,
    expected: u64,
    records: u32,
    words: Vec<u64>,
}

impl Packer {
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    pub fn records(&self) -> u32 {
        self.records
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// No more records should be put into this block.
    pub fn is_full(&self, bytes: usize) -> bool {
        self.out.len() >= bytes || self.likes.len() >= KEYS_MAX
    }

    /// Adds a record. `false`: it is no record, or longer than any.
    pub fn push(&mut self, pos: u64, record: &[u8]) -> bool {
        let Some((header, _)) = wire::read::<Header>(record) else { return false };
        let words = fixed_len(header.kind, record.len()) / 8;
        let (fixed, tail) = record.split_at(words * 8);
        if tail.len() > TAIL_MAX {
            return false;
        }
        self.words.clear();
        let (chunks, _) = fixed.as_chunks::<8>();
        self.words.extend(chunks.iter().map(|word| u64::from_le_bytes(*word)));
        let key = key(header.kind, &self.words);
        let next = self.likes.len() as u32;
        let id = *self.keys.entry(key).or_insert(next);
        let new = id == next;
        if new {
            let mut last = vec![0; self.words.len()];
            place(&key, &mut last);
            self.likes.push(Like { last, tail: 0 });
        }
        let tail_id = self.tail_id(tail);
        let like = &mut self.likes[id as usize];
        let mut tag = u64::from(id) << TAG_BITS;
        if pos != self.expected {
            tag |= MOVED;
        }
        if tail_id != Some(like.tail) {
            tag |= NEW_TAIL;
        }
        varint(&mut self.out, tag);
        if new {
            self.out.extend([key.words, key.flags]);
            for word in key.fixed {
                self.out.extend(word.to_le_bytes());
            }
        }
        if pos != self.expected {
            varint(&mut self.out, zigzag(pos.wrapping_sub(self.expected)));
        }
        self.expected = if took_room(header.kind) { pos.wrapping_add(room(record.len())) } else { pos };
        let time = self.words[TIME];
        varint(&mut self.out, zigzag(time.wrapping_sub(self.time)));
        self.time = time;
        if key.flags & INTERVAL != 0 {
            self.words[ENTER_TIME] = time.wrapping_sub(self.words[ENTER_TIME]);
            self.words[ENTER_POS] = pos.wrapping_sub(self.words[ENTER_POS]);
        }
        like.last[TIME] = time;
        let changed = |from: usize, to: usize, last: &[u64], words: &[u64]| {
            let pairs = last[from..to].iter().zip(&words[from..to]).enumerate();
            pairs.fold(0u64, |mask, (bit, (last, word))| mask | u64::from(last != word) << bit)
        };
        let mut from = HEADER_WORDS;
        while from < self.words.len() {
            let to = (from + 64).min(self.words.len());
            varint(&mut self.out, changed(from, to, &like.last, &self.words));
            from = to;
        }
        for (last, word) in like.last.iter_mut().zip(&self.words).skip(HEADER_WORDS) {
            if last != word {
                value(&mut self.out, &mut self.values, *last, *word);
                *last = *word;
            }
        }
        if tail_id != Some(like.tail) {
            let known = match tail_id {
                Some(known) => known,
                None => self.tails.len() as u32 + 1,
            };
            varint(&mut self.out, u64::from(known));
            like.tail = known;
            if tail_id.is_none() {
                varint(&mut self.out, tail.len() as u64);
                self.out.extend_from_slice(tail);
                if self.tails.len() < TAILS_MAX {
                    self.tails.insert(tail.into(), known);
                }
            }
        }
        self.records += 1;
        true
    }

    /// `None`: not seen in this block. The empty tail is always known.
    fn tail_id(&self, tail: &[u8]) -> Option<u32> {
        if tail.is_empty() { Some(0) } else { self.tails.get(tail).copied() }
    }

    /// The block, and an empty one begins.
    pub fn take(&mut self) -> Vec<u8> {
        self.keys.clear();
        self.likes.clear();
        self.values.clear();
        self.tails.clear();
        (self.time, self.expected, self.records) = (0, 0, 0);
        std::mem::take(&mut self.out)
    }
}

/// Where the fixed part of a record ends. Any answer is right; a good one makes small files.
fn fixed_len(record: u16, len: usize) -> usize {
    let known = match record {
        kind::CALL_PATH => size_of::<wire::CallPath>(),
        kind::EXEC => size_of::<wire::Exec>(),
        kind::PROCESS => size_of::<wire::ProcessInfo>(),
        kind::NAMESPACED => size_of::<wire::Namespaced>(),
        kind::SNAP_ROW => size_of::<wire::SnapRow>(),
        _ => WORDS_MAX * 8,
    };
    known.min(len) / 8 * 8
}

fn key(record: u16, words: &[u64]) -> Key {
    let mut flags = 0;
    let begins = matches!(record, kind::CALL..=kind::CALL_EPOLL_WAIT | kind::FORK | kind::EXEC);
    if begins && words.len() > ENTER_POS {
        flags |= INTERVAL;
    }
    let mut fixed = [words[0], words[1], words[3], 0];
    if matches!(record, kind::CALL..=kind::CALL_EPOLL_WAIT) && words.len() > CALL_WORD {
        flags |= OF_CALL;
        fixed[3] = words[CALL_WORD];
    }
    // `fixed_len` keeps to `WORDS_MAX`.
    Key { words: words.len() as u8, flags, fixed }
}

/// Writes what a key says into the words of a record.
pub(super) fn place(key: &Key, words: &mut [u64]) {
    let [kind, task, table, call] = key.fixed;
    (words[0], words[1], words[3]) = (kind, task, table);
    if key.flags & OF_CALL != 0 {
        words[CALL_WORD] = call;
    }
}

/// Room that a record takes in the ring.
pub(super) fn room(len: usize) -> u64 {
    (len as u64 + 8).next_multiple_of(8)
}

/// A word that is not as it was: a small step, a value seen before, or the value.
fn value(out: &mut Vec<u8>, values: &mut HashMap<u64, u32, Quick>, last: u64, word: u64) {
    let step = zigzag(word.wrapping_sub(last));
    if step >= 1 << 14 {
        if let Some(id) = values.get(&word) {
            return varint(out, u64::from(*id) << 1 | 1);
        }
        if word >= 1 << 40 || step >= 1 << 62 {
            varint(out, 1);
            out.extend(word.to_le_bytes());
            if values.len() < VALUES_MAX {
                let id = values.len() as u32 + 1;
                values.insert(word, id);
            }
            return;
        }
    }
    varint(out, step << 1);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(step: u64) -> u64 {
    (step << 1) ^ (step.cast_signed() >> 63).cast_unsigned()
}

pub(super) type Quick = BuildHasherDefault<Mix>;

/// Mixes words. Whoever makes keys collide slows down one block of his own recording, whose dictionaries are small.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}
