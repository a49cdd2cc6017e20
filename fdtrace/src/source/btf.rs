//! Reads structure layouts out of BTF, the type information that a kernel carries about itself.
//!
//! A pure function of bytes: it opens nothing except in [`read_kernel`], borrows everything, and never panics, whatever
//! the bytes are. It answers two questions, "at which byte is this member?" and "which id has this type?", and is no
//! general BTF library: no sizes, no enums, no split BTF of modules, no foreign byte order.
//!
//! Format: <https://docs.kernel.org/bpf/btf.html>

use std::fmt;
use std::io;

/// Where a kernel built with `CONFIG_DEBUG_INFO_BTF=y` shows its types.
pub const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// Why there is no type information.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error("this kernel has no type information: `{KERNEL}` is missing (needs CONFIG_DEBUG_INFO_BTF=y)")]
    Absent,
    #[error("cannot read `{KERNEL}`")]
    Unreadable(#[source] io::Error),
    #[error("`{KERNEL}` is not BTF that fdtrace understands: {0}")]
    Malformed(String),
}

/// A member that the running kernel does not have, or not in a form that can be read at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingMember {
    pub structure: String,
    pub member: String,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    NoStructure,
    NoMember,
    Bitfield,
}

impl fmt::Display for MissingMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { structure, member, why } = self;
        match why {
            Why::NoStructure => write!(f, "kernel BTF has no `{structure}.{member}`: no such structure"),
            Why::NoMember => write!(f, "kernel BTF has no `{structure}.{member}`"),
            Why::Bitfield => write!(f, "kernel BTF has `{structure}.{member}` only as a bit field"),
        }
    }
}

impl std::error::Error for MissingMember {}

/// Kinds of types that can be looked up by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Struct,
    Typedef,
    Func,
}

impl Kind {
    fn code(self) -> u32 {
        match self {
            Self::Struct => STRUCT,
            Self::Typedef => TYPEDEF,
            Self::Func => FUNC,
        }
    }
}

/// The bytes of the running kernel's BTF.
pub fn read_kernel() -> Result<Vec<u8>, BtfError> {
    std::fs::read(KERNEL).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => BtfError::Absent,
        _ => BtfError::Unreadable(error),
    })
}

/// An index over BTF.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where in `types` the type with id `n + 1` begins; id 0 is `void` and has no bytes.
    starts: Vec<u32>,
    /// The part of `starts` that is structures, for the many look-ups by structure.
    structures: Vec<u32>,
}

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const TYPE: usize = 12;
const MEMBER: usize = 12;

const INT: u32 = 1;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;

/// How many typedefs and qualifiers, and how many levels of nameless structures, are followed.
/// Real chains are shorter than ten; garbage can be a circle.
const DEPTH: u32 = 32;
/// How many members one look-up may visit, for the same reason. The largest structures have a few hundred.
const VISITS: u32 = 100_000;

impl<'a> Btf<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let malformed = |why: &str| BtfError::Malformed(why.to_owned());
        if bytes.len() < HEADER {
            return Err(malformed("shorter than its header"));
        }
        let magic = u16::from_ne_bytes([bytes[0], bytes[1]]);
        if magic == MAGIC.swap_bytes() {
            return Err(malformed("it has the other byte order"));
        }
        if magic != MAGIC {
            return Err(malformed("wrong magic number"));
        }
        if bytes[2] != 1 {
            return Err(BtfError::Malformed(format!("version {}", bytes[2])));
        }
        let section = |offset_at, length_at| {
            let header = u32_at(bytes, 4)? as usize;
            let start = header.checked_add(u32_at(bytes, offset_at)? as usize)?;
            let end = start.checked_add(u32_at(bytes, length_at)? as usize)?;
            bytes.get(start..end)
        };
        let types = section(8, 12).ok_or_else(|| malformed("types lie outside of it"))?;
        let strings = section(16, 20).ok_or_else(|| malformed("strings lie outside of it"))?;
        if u32::try_from(types.len()).is_err() {
            return Err(malformed("too large"));
        }

        let mut starts = Vec::with_capacity(types.len() / 24);
        let mut structures = Vec::new();
        let mut at = 0;
        while at < types.len() {
            let info = u32_at(types, at + 4).ok_or_else(|| malformed("it ends inside a type"))?;
            let extra = extra_len(info)
                .ok_or_else(|| BtfError::Malformed(format!("unknown kind of type {}", kind_of(info))))?;
            // The section's length fits into u32, checked above.
            let start = at as u32;
            starts.push(start);
            if kind_of(info) == STRUCT {
                structures.push(start);
            }
            at += TYPE + extra;
        }
        if at > types.len() {
            return Err(malformed("it ends inside a type"));
        }
        Ok(Self { types, strings, starts, structures })
    }

    /// How many types there are, `void` not counted.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The id of the first type of this kind and name.
    pub fn find(&self, kind: Kind, name: &str) -> Option<u32> {
        let index = self.starts.iter().position(|&start| self.is_named(start, kind, name))?;
        u32::try_from(index + 1).ok()
    }

    /// The byte offset of a member, given as a path (`"__sk_common.skc_family"`).
    ///
    /// Nameless members are looked through, as in C. Where several structures share the name, the first that has the
    /// member counts.
    pub fn offset(&self, structure: &str, member: &str) -> Result<u32, MissingMember> {
        let mut why = Why::NoStructure;
        for &start in &self.structures {
            if !self.is_named(start, Kind::Struct, structure) {
                continue;
            }
            match self.offset_at(start, member) {
                Ok(offset) => return Ok(offset),
                Err(found) if why == Why::NoStructure => why = found,
                Err(_) => {}
            }
        }
        Err(MissingMember { structure: structure.to_owned(), member: member.to_owned(), why })
    }

    /// Size of a structure, bytes.
    pub fn size(&self, structure: &str) -> Result<u32, MissingMember> {
        let start = self.structures.iter().find(|start| self.is_named(**start, Kind::Struct, structure));
        // A type begins with its name, its kind, and for a structure its size.
        start.and_then(|start| u32_at(self.types, *start as usize + 8)).ok_or_else(|| MissingMember {
            structure: structure.to_owned(),
            member: "(size)".to_owned(),
            why: Why::NoStructure,
        })
    }

    fn offset_at(&self, start: u32, path: &str) -> Result<u32, Why> {
        let mut visits = VISITS;
        let mut bits = 0_u32;
        let mut aggregate = Some(start);
        let mut last = None;
        for name in path.split('.') {
            // Every nameless member would answer to the empty name.
            if name.is_empty() {
                return Err(Why::NoMember);
            }
            let member = aggregate.and_then(|start| self.member(start, name, 0, &mut visits)).ok_or(Why::NoMember)?;
            bits = bits.checked_add(member.bits).ok_or(Why::NoMember)?;
            aggregate = self.aggregate(member.type_id);
            last = Some(member);
        }
        let member = last.ok_or(Why::NoMember)?;
        if !bits.is_multiple_of(8) || member.is_bitfield || self.is_partial_int(member.type_id) {
            return Err(Why::Bitfield);
        }
        Ok(bits / 8)
    }

    /// Looks for `name` among the members of the structure or union at `start`, through nameless members.
    fn member(&self, start: u32, name: &str, depth: u32, visits: &mut u32) -> Option<Member> {
        if depth == DEPTH {
            return None;
        }
        let info = self.info(start)?;
        for index in 0..vlen_of(info) {
            *visits = visits.checked_sub(1)?;
            let at = start as usize + TYPE + index * MEMBER;
            let name_offset = u32_at(self.types, at)?;
            let type_id = u32_at(self.types, at + 4)?;
            let raw = u32_at(self.types, at + 8)?;
            // With the flag set, the upper byte is the width of a bit field.
            let (bits, is_bitfield) = if info >> 31 == 1 { (raw & 0x00ff_ffff, raw >> 24 != 0) } else { (raw, false) };
            if self.string_is(name_offset, name) {
                return Some(Member { type_id, bits, is_bitfield });
            }
            if self.string_is(name_offset, "")
                && let Some(inner) = self.aggregate(type_id)
                && let Some(found) = self.member(inner, name, depth + 1, visits)
            {
                return Some(Member { bits: bits.checked_add(found.bits)?, ..found });
            }
        }
        None
    }

    /// The structure or union behind typedefs and qualifiers.
    fn aggregate(&self, type_id: u32) -> Option<u32> {
        let start = self.unqualified(type_id)?;
        matches!(kind_of(self.info(start)?), STRUCT | UNION).then_some(start)
    }

    /// Before the flag existed, a bit field was an integer type narrower than its own storage.
    fn is_partial_int(&self, type_id: u32) -> bool {
        let Some(start) = self.unqualified(type_id) else {
            return false;
        };
        let at = start as usize;
        let int = (|| {
            (kind_of(self.info(start)?) == INT).then_some((u32_at(self.types, at + 8)?, u32_at(self.types, at + TYPE)?))
        })();
        int.is_some_and(|(size, encoding)| {
            (encoding >> 16) & 0xff != 0 || u64::from(encoding & 0xff) != u64::from(size) * 8
        })
    }

    fn unqualified(&self, mut type_id: u32) -> Option<u32> {
        const VOLATILE: u32 = 9;
        const RESTRICT: u32 = 11;
        const TYPE_TAG: u32 = 18;
        for _ in 0..DEPTH {
            let start = self.start(type_id)?;
            match kind_of(self.info(start)?) {
                TYPEDEF | VOLATILE..=RESTRICT | TYPE_TAG => {
                    type_id = u32_at(self.types, start as usize + 8)?;
                }
                _ => return Some(start),
            }
        }
        None
    }

    fn is_named(&self, start: u32, kind: Kind, name: &str) -> bool {
        self.info(start).is_some_and(|info| kind_of(info) == kind.code())
            && u32_at(self.types, start as usize).is_some_and(|at| self.string_is(at, name))
    }

    fn start(&self, type_id: u32) -> Option<u32> {
        self.starts.get((type_id as usize).checked_sub(1)?).copied()
    }

    fn info(&self, start: u32) -> Option<u32> {
        u32_at(self.types, start as usize + 4)
    }

    /// Compares in place: most strings of a kernel are never looked at to their end.
    fn string_is(&self, offset: u32, name: &str) -> bool {
        self.strings
            .get(offset as usize..)
            .and_then(|tail| tail.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

struct Member {
    type_id: u32,
    bits: u32,
    is_bitfield: bool,
}

fn kind_of(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

fn vlen_of(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// Bytes that follow the common part of a type; `None` for kinds that are not known.
fn extra_len(info: u32) -> Option<usize> {
    let vlen = vlen_of(info);
    Some(match kind_of(info) {
        INT | 14 | 17 => 4,                        // integer, variable, declaration tag
        2 | 7..=12 | 16 | 18 => 0, // pointer, forward, typedef and qualifiers, function, float, type tag
        3 => 12,                   // array
        STRUCT | UNION | 15 | 19 => vlen * MEMBER, // also data section, 64-bit enumeration
        6 | 13 => vlen * 8,        // enumeration, function prototype
        _ => return None,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*four))
}

#[cfg(test)]
pub(super) mod tests;
