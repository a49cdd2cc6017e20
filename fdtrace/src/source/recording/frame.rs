//! The head of a block. Fixed size, little-endian, with a checksum of its own: a reader that has lost its way looks for
//! the next one.

use fdtrace_common::wire::loss;

/// Not text, so that no tool takes it for text, and with both line ends, so that a conversion of them is noticed.
pub const MAGIC: [u8; 8] = [0x89, b'F', b'D', b'T', 0x0d, 0x0a, 0x1a, 0xfd];
/// Version of this head and of what the blocks hold. A reader reads all versions up to its own.
pub const VERSION: u16 = 1;
pub const HEAD: usize = 136;
/// Longest content of a block, as it is stored and as it is.
pub const STORED_MAX: usize = 8 << 20;
pub const RAW_MAX: usize = 32 << 20;
/// Room for classes of loss, more than there are today.
const CLASSES: usize = 8;

const _: () = assert!(loss::CLASSES <= CLASSES);

/// What a block holds. Blocks of other types are skipped.
pub mod block {
    /// [`super::super::about::About`], as JSON. The first of each file; a later one replaces it.
    pub const ABOUT: u8 = 1;
    /// Records, packed.
    pub const DATA: u8 = 2;
    /// Records that rebuild the state before the next block, for a reader that did not read what was before; packed.
    pub const SNAPSHOT: u8 = 3;
    /// [`super::super::about::End`], as JSON. The recorder stopped in good order.
    pub const END: u8 = 4;
    /// [`super::super::about::Definitions`], as JSON.
    pub const DEFINITIONS: u8 = 5;
}

/// The content is compressed with zstd.
pub const COMPRESSED: u8 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub version: u16,
    pub block: u8,
    pub flags: u8,
    /// Bytes that follow.
    pub stored: u32,
    /// Bytes when unpacked.
    pub raw: u32,
    pub records: u32,
    /// Of this block, from 0, through all files of a run.
    pub seq: u64,
    /// `CLOCK_BOOTTIME` of the first and last record.
    pub first_time: u64,
    pub last_time: u64,
    /// Ring position of the first record.
    pub first_pos: u64,
    /// Records from the kernel since the run began, this block included.
    pub captured: u64,
    /// Records lost since the run began, by class.
    pub lost: [u64; CLASSES],
    /// Of what follows.
    pub checksum: u32,
}

/// Why 136 bytes are no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHead {
    /// Damaged, or something else.
    Broken,
    /// In good order, and from the future.
    Newer(u16),
}

impl Head {
    pub fn to_bytes(self) -> [u8; HEAD] {
        let Self { version, block, flags, stored, raw, records, seq, .. } = self;
        let mut bytes = [0; HEAD];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&MAGIC);
        put(&version.to_le_bytes());
        put(&[block, flags]);
        for word in [stored, raw, records] {
            put(&word.to_le_bytes());
        }
        for word in [seq, self.first_time, self.last_time, self.first_pos, self.captured] {
            put(&word.to_le_bytes());
        }
        for word in self.lost {
            put(&word.to_le_bytes());
        }
        put(&self.checksum.to_le_bytes());
        let own = crc32c::crc32c(&bytes[..HEAD - 4]);
        bytes[HEAD - 4..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; HEAD]) -> Result<Self, NoHead> {
        let own = u32::from_le_bytes(part(bytes, HEAD - 4));
        if bytes[..8] != MAGIC || own != crc32c::crc32c(&bytes[..HEAD - 4]) {
            return Err(NoHead::Broken);
        }
        let u32_at = |at| u32::from_le_bytes(part(bytes, at));
        let u64_at = |at| u64::from_le_bytes(part(bytes, at));
        let head = Self {
            version: u16::from_le_bytes(part(bytes, 8)),
            block: bytes[10],
            flags: bytes[11],
            stored: u32_at(12),
            raw: u32_at(16),
            records: u32_at(20),
            seq: u64_at(24),
            first_time: u64_at(32),
            last_time: u64_at(40),
            first_pos: u64_at(48),
            captured: u64_at(56),
            lost: std::array::from_fn(|class| u64_at(64 + 8 * class)),
            checksum: u32_at(128),
        };
        if head.version > VERSION {
            return Err(NoHead::Newer(head.version));
        }
        let fits = head.stored as usize <= STORED_MAX && head.raw as usize <= RAW_MAX;
        if fits { Ok(head) } else { Err(NoHead::Broken) }
    }

    /// Records that should have come and did not.
    pub fn lost(&self) -> u64 {
        loss::records(&self.lost)
    }
}

/// `N` bytes from the middle of a head, where they always are.
fn part<const N: usize>(bytes: &[u8; HEAD], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}
