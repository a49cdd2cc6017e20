//! Reads the blocks of a recording, whatever became of the file: cut off, damaged, or mixed with something else. What
//! cannot be read is skipped up to the next block, and counted.
//!
//! Memory is that of the largest block that the format allows, whatever the file says.

use std::io::{self, Read};

use memchr::memmem;

use super::frame::{COMPRESSED, HEAD, Head, MAGIC, NoHead};

/// Bytes asked for at once.
const CHUNK: usize = 256 << 10;

/// A block whose checksum is right.
#[derive(Clone, Debug)]
pub struct Block {
    pub head: Head,
    pub content: Vec<u8>,
    /// What is missing between the block before and this one.
    pub gap: Option<Gap>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Bytes that are no block.
    pub skipped: u64,
    /// Blocks that should have been there.
    pub missing: u64,
}

/// What was wrong with the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    pub skipped: u64,
    pub missing: u64,
    /// Blocks of a later version of the format, and the version.
    pub newer: Option<u16>,
}

pub struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    /// What is read and not used begins here.
    start: usize,
    over: bool,
    /// Bytes used up.
    offset: u64,
    gap: Gap,
    next_seq: Option<u64>,
    damage: Damage,
    decompressor: zstd::bulk::Decompressor<'static>,
    only: Option<u8>,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> io::Result<Self> {
        Ok(Self {
            input,
            buffer: Vec::new(),
            start: 0,
            over: false,
            offset: 0,
            gap: Gap::default(),
            next_seq: None,
            damage: Damage::default(),
            decompressor: zstd::bulk::Decompressor::new()?,
            only: None,
        })
    }

    /// Looks into blocks of one type only: the content of the others is left empty.
    pub fn only(self, block: u8) -> Self {
        Self { only: Some(block), ..self }
    }

    /// Goes on with another file of the same run.
    pub fn go_on_with(&mut self, input: R) {
        self.input = input;
        self.over = false;
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What was wrong so far.
    pub fn damage(&self) -> Damage {
        self.damage
    }

    /// The next good block; `None`: there is none.
    pub fn next_block(&mut self) -> io::Result<Option<Block>> {
        loop {
            self.fill(HEAD)?;
            let Some(bytes) = self.rest().first_chunk::<HEAD>() else {
                let rest = self.rest().len();
                self.skip(rest);
                return Ok(None);
            };
            let head = match Head::from_bytes(bytes) {
                Ok(head) => head,
                Err(why) => {
                    if let NoHead::Newer(version) = why {
                        self.damage.newer = Some(version);
                    }
                    self.resynchronise();
                    continue;
                }
            };
            let len = HEAD + head.stored as usize;
            self.fill(len)?;
            let content = match self.rest().get(HEAD..len) {
                Some(stored) if crc32c::crc32c(stored) == head.checksum => self.content(&head, len),
                _ => None,
            };
            let Some(content) = content else {
                self.resynchronise();
                continue;
            };
            self.advance(len);
            let mut gap = std::mem::take(&mut self.gap);
            gap.missing = self.next_seq.map_or(0, |next| head.seq.saturating_sub(next));
            self.next_seq = Some(head.seq.saturating_add(1));
            self.damage.missing = self.damage.missing.saturating_add(gap.missing);
            let gap = (gap != Gap::default()).then_some(gap);
            return Ok(Some(Block { head, content, gap }));
        }
    }

    fn content(&mut self, head: &Head, len: usize) -> Option<Vec<u8>> {
        if self.only.is_some_and(|only| only != head.block) {
            return Some(Vec::new());
        }
        let stored = &self.buffer[self.start..][HEAD..len];
        if head.flags & COMPRESSED == 0 {
            return (stored.len() == head.raw as usize).then(|| stored.to_vec());
        }
        let content = self.decompressor.decompress(stored, head.raw as usize).ok()?;
        (content.len() == head.raw as usize).then_some(content)
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn advance(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }

    fn skip(&mut self, bytes: usize) {
        self.advance(bytes);
        self.gap.skipped += bytes as u64;
        self.damage.skipped += bytes as u64;
    }

    /// To the next thing that looks like a block, but not to this one again.
    fn resynchronise(&mut self) {
        let rest = self.rest();
        let bytes = match memmem::find(&rest[1..], &MAGIC) {
            Some(at) => at + 1,
            // The end may be the beginning of the next one.
            None => rest.len().saturating_sub(MAGIC.len() - 1).max(1),
        };
        self.skip(bytes);
    }

    /// Has at least `bytes` unused bytes at hand, unless the file ends before.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        if self.rest().len() >= bytes || self.over {
            return Ok(());
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        while self.buffer.len() < bytes {
            let len = self.buffer.len();
            self.buffer.resize(len + CHUNK, 0);
            let read = loop {
                match self.input.read(&mut self.buffer[len..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            self.buffer.truncate(len + read.as_ref().copied().unwrap_or(0));
            if read? == 0 {
                self.over = true;
                break;
            }
        }
        Ok(())
    }
}
