//! Unpacks what [`super::pack`] packed. The bytes passed a checksum, which a malicious file does as well: every number
//! is checked before it is used, and memory stays within that of the block.

use super::{
    pack::{
        CALL_WORD, ENTER_POS, ENTER_TIME, HEADER_WORDS, INTERVAL, KEYS_MAX, Key, MOVED, NEW_TAIL, OF_CALL, TAG_BITS,
        TAIL_MAX, TAILS_MAX, TIME, VALUES_MAX, WORDS_MAX, place, room,
    },
    took_room,
};

/// The bytes are no packed records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {record} of the block cannot be unpacked")]
pub struct Malformed {
    /// From 0; those before it were in good order.
    pub record: u32,
}

struct Like<'a> {
    flags: u8,
    words: Vec<u64>,
    tail: &'a [u8],
}

/// Hands each record of a block to `out`, with its ring position. Returns how many there were.
pub fn unpack(block: &[u8], mut out: impl FnMut(u64, &[u8])) -> Result<u32, Malformed> {
    let mut unpacker = Unpacker { rest: block, likes: Vec::new(), values: Vec::new(), tails: Vec::new() };
    let (mut time, mut expected, mut record) = (0, 0, 0);
    let mut bytes = Vec::new();
    while !unpacker.rest.is_empty() {
        unpacker.record(&mut time, &mut expected, &mut bytes, &mut out).ok_or(Malformed { record })?;
        record += 1;
    }
    Ok(record)
}

struct Unpacker<'a> {
    rest: &'a [u8],
    likes: Vec<Like<'a>>,
    values: Vec<u64>,
    tails: Vec<&'a [u8]>,
}

impl<'a> Unpacker<'a> {
    fn record(
        &mut self,
        time: &mut u64,
        expected: &mut u64,
        bytes: &mut Vec<u8>,
        out: &mut impl FnMut(u64, &[u8]),
    ) -> Option<()> {
        let tag = self.varint()?;
        let id = usize::try_from(tag >> TAG_BITS).ok()?;
        if id == self.likes.len() {
            self.key()?;
        }
        let mut like = std::mem::replace(self.likes.get_mut(id)?, Like { flags: 0, words: Vec::new(), tail: &[] });
        let pos = if tag & MOVED != 0 { expected.wrapping_add(self.step()?) } else { *expected };
        *time = time.wrapping_add(self.step()?);
        like.words[TIME] = *time;
        self.changes(&mut like.words)?;
        if tag & NEW_TAIL != 0 {
            like.tail = self.tail()?;
        }
        // An iterator of bytes would be taken one by one.
        bytes.resize(like.words.len() * 8, 0);
        for (into, word) in bytes.chunks_exact_mut(8).zip(&like.words) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        if like.flags & INTERVAL != 0 {
            let mut put = |word: usize, value: u64| bytes[word * 8..][..8].copy_from_slice(&value.to_le_bytes());
            put(ENTER_TIME, time.wrapping_sub(like.words[ENTER_TIME]));
            put(ENTER_POS, pos.wrapping_sub(like.words[ENTER_POS]));
        }
        bytes.extend_from_slice(like.tail);
        #[expect(clippy::cast_possible_truncation, reason = "the kind is the lowest two bytes of the first word")]
        let kind = like.words[0] as u16;
        *expected = if took_room(kind) { pos.wrapping_add(room(bytes.len())) } else { pos };
        self.likes[id] = like;
        out(pos, bytes);
        Some(())
    }

    fn key(&mut self) -> Option<()> {
        let ([words, flags], rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        let fixed = [self.word()?, self.word()?, self.word()?, self.word()?];
        let key = Key { words: *words, flags: *flags, fixed };
        let len = usize::from(key.words);
        let least = match (key.flags & OF_CALL != 0, key.flags & INTERVAL != 0) {
            (true, _) => CALL_WORD + 1,
            (false, true) => ENTER_POS + 1,
            (false, false) => HEADER_WORDS,
        };
        if !(least..=WORDS_MAX).contains(&len) || self.likes.len() >= KEYS_MAX {
            return None;
        }
        let mut words = vec![0; len];
        place(&key, &mut words);
        self.likes.push(Like { flags: key.flags, words, tail: &[] });
        Some(())
    }

    fn changes(&mut self, words: &mut [u64]) -> Option<()> {
        let mut masks = [0; WORDS_MAX.div_ceil(64)];
        let chunks = words[HEADER_WORDS..].len().div_ceil(64);
        for mask in &mut masks[..chunks] {
            *mask = self.varint()?;
        }
        for (chunk, mut mask) in masks.into_iter().take(chunks).enumerate() {
            while mask != 0 {
                let index = HEADER_WORDS + chunk * 64 + mask.trailing_zeros() as usize;
                let last = *words.get(index)?;
                words[index] = self.value(last)?;
                mask &= mask - 1;
            }
        }
        Some(())
    }

    fn value(&mut self, last: u64) -> Option<u64> {
        let token = self.varint()?;
        if token & 1 == 0 {
            return Some(last.wrapping_add(unzigzag(token >> 1)));
        }
        match usize::try_from(token >> 1).ok()? {
            0 => {
                let word = self.word()?;
                if self.values.len() < VALUES_MAX {
                    self.values.push(word);
                }
                Some(word)
            }
            id => self.values.get(id - 1).copied(),
        }
    }

    fn tail(&mut self) -> Option<&'a [u8]> {
        let id = usize::try_from(self.varint()?).ok()?;
        if id == 0 {
            return Some(&[]);
        }
        if let Some(known) = self.tails.get(id - 1) {
            return Some(known);
        }
        if id != self.tails.len() + 1 {
            return None;
        }
        let len = usize::try_from(self.varint()?).ok().filter(|len| *len <= TAIL_MAX)?;
        let (tail, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        if self.tails.len() < TAILS_MAX {
            self.tails.push(tail);
        }
        Some(tail)
    }

    fn word(&mut self) -> Option<u64> {
        let (word, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*word))
    }

    fn step(&mut self) -> Option<u64> {
        self.varint().map(unzigzag)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        if let Some((first, rest)) = self.rest.split_first().filter(|(first, _)| **first < 0x80) {
            self.rest = rest;
            return Some(u64::from(*first));
        }
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Some(value);
            }
        }
        None
    }
}

fn unzigzag(step: u64) -> u64 {
    (step >> 1) ^ (step & 1).wrapping_neg()
}
