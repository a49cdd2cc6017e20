//! A bounded reader of 64-bit little-endian ELF files: headers, sections, notes.
//!
//! Counts and sizes in the file are claims of a stranger; nothing is allocated for them before they have been compared
//! with the size of the file and a limit. Files of other word sizes or byte orders are refused: this tool cannot unwind
//! them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::compress;

const SEGMENTS_MAX: usize = 1024;
const SECTIONS_MAX: usize = 16 * 1024;
const NAMES_MAX: u64 = 4 << 20;
const NOTES_MAX: u64 = 64 << 10;

pub const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
pub const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
pub const PF_X: u32 = 1;
pub const PF_W: u32 = 2;
pub const SHT_NOBITS: u32 = 8;
/// Bytes of a row in a table of symbols, and the kinds of symbols that are told apart.
pub const SYMBOL: usize = 24;
pub const STT_OBJECT: u8 = 1;
pub const STT_FUNC: u8 = 2;
const SHF_COMPRESSED: u64 = 1 << 11;
const NT_GNU_BUILD_ID: u32 = 3;

/// Where the bytes of an ELF file come from.
#[derive(Debug)]
pub enum Source {
    File { file: File, len: u64 },
    Memory(Arc<[u8]>),
}

impl Source {
    pub fn file(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::File { file, len })
    }

    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads exactly `size` bytes. The limit is checked before memory is taken; a file that shrank meanwhile is an
    /// error.
    pub fn read(&self, offset: u64, size: u64, limit: u64) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(size).filter(|&end| end <= self.len());
        let (Some(end), true) = (end, size <= limit) else {
            return Err(invalid(format!(
                "{size} bytes at {offset:#x} are outside the file or above the limit of {limit}"
            )));
        };
        match self {
            Self::File { file, .. } => {
                let mut bytes = vec![0; usize::try_from(size).map_err(|_| invalid("section too large"))?];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes)
            }
            // Both ends are within a slice, so they fit.
            Self::Memory(bytes) => Ok(bytes[offset as usize..end as usize].to_vec()),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub filesz: u64,
    pub memsz: u64,
}

#[derive(Clone, Debug)]
pub struct Section {
    pub name: Box<[u8]>,
    pub kind: u32,
    pub flags: u64,
    pub addr: u64,
    pub offset: u64,
    pub size: u64,
    pub link: u32,
}

/// The headers of a file.
#[derive(Clone, Debug)]
pub struct Elf {
    pub segments: Vec<Segment>,
    pub sections: Vec<Section>,
    pub machine: u16,
    pub build_id: Option<Box<[u8]>>,
}

impl Elf {
    pub fn parse(source: &Source) -> io::Result<Self> {
        let header = source.read(0, 64, 64)?;
        // Magic, 64-bit, little-endian, version 1.
        if header[..7] != *b"\x7fELF\x02\x01\x01" {
            return Err(invalid("not a 64-bit little-endian ELF file"));
        }
        let segments = parse_segments(source, &header)?;
        // A file without section headers, or with nonsense for them, can still be unwound by its segments.
        let sections = parse_sections(source, &header).unwrap_or_default();
        let build_id = find_build_id(source, &segments, &sections);
        Ok(Self { segments, sections, machine: u16_at(&header, 18), build_id })
    }

    pub fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections.iter().find(|section| *section.name == *name)
    }

    /// The bytes of a section, decompressed.
    pub fn section_data(&self, source: &Source, section: &Section, limit: u64) -> io::Result<Vec<u8>> {
        if section.kind == SHT_NOBITS {
            return Err(invalid("section has no bytes in this file"));
        }
        let data = source.read(section.offset, section.size, limit)?;
        if section.flags & SHF_COMPRESSED == 0 {
            return Ok(data);
        }
        let Some((header, packed)) = data.split_first_chunk::<24>() else {
            return Err(invalid("compression header is cut off"));
        };
        let size = u64_at(header, 8);
        if size > limit {
            return Err(invalid(format!("compressed section claims {size} bytes")));
        }
        match u32_at(header, 0) {
            1 => compress::zlib(packed, size),
            2 => compress::zstd(packed, size),
            other => Err(invalid(format!("unknown compression {other}"))),
        }
    }

    /// The rows of a table of symbols, and the names that they point to.
    pub fn symbols(&self, source: &Source, table: &Section, limit: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let rows = self.section_data(source, table, limit)?;
        let names = self.sections.get(table.link as usize).ok_or_else(|| invalid("symbol table without names"))?;
        Ok((rows, self.section_data(source, names, limit)?))
    }

    pub fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD)
    }

    /// The address, in the file's own terms, of the byte that a mapping at `offset` starts with. `executable` picks
    /// among segments that share a page of the file.
    pub fn address_of_offset(&self, offset: u64, executable: bool) -> Option<u64> {
        const PAGE: u64 = 0xffff;
        let covers = |segment: &&Segment| {
            // Mappings start at page boundaries, up to a page (of 64 KiB, at most) before the segment itself.
            offset >= segment.offset & !PAGE && offset < segment.offset.saturating_add(segment.filesz)
        };
        let wanted = |segment: &&Segment| (segment.flags & PF_X != 0) == executable;
        let best = self.loads().filter(covers).filter(wanted).max_by_key(|segment| segment.offset <= offset)?;
        Some(best.vaddr.wrapping_add(offset.wrapping_sub(best.offset)))
    }

    /// Where in the file the byte of an address is.
    pub fn offset_of_address(&self, address: u64) -> Option<u64> {
        self.loads().find_map(|segment| {
            let within = address.checked_sub(segment.vaddr).filter(|&within| within < segment.filesz)?;
            segment.offset.checked_add(within)
        })
    }
}

fn parse_segments(source: &Source, header: &[u8]) -> io::Result<Vec<Segment>> {
    let (offset, entry, count) = (u64_at(header, 32), u16_at(header, 54), usize::from(u16_at(header, 56)));
    if entry != 56 || count > SEGMENTS_MAX {
        return Err(invalid(format!("{count} program headers of {entry} bytes")));
    }
    let table = source.read(offset, count as u64 * 56, u64::MAX)?;
    let segment = |row: &[u8]| Segment {
        kind: u32_at(row, 0),
        flags: u32_at(row, 4),
        offset: u64_at(row, 8),
        vaddr: u64_at(row, 16),
        filesz: u64_at(row, 32),
        memsz: u64_at(row, 40),
    };
    Ok(table.chunks_exact(56).map(segment).collect())
}

fn parse_sections(source: &Source, header: &[u8]) -> io::Result<Vec<Section>> {
    let (offset, entry) = (u64_at(header, 40), u16_at(header, 58));
    let (count, names) = (usize::from(u16_at(header, 60)), usize::from(u16_at(header, 62)));
    if entry != 64 || count > SECTIONS_MAX {
        return Err(invalid(format!("{count} section headers of {entry} bytes")));
    }
    let table = source.read(offset, count as u64 * 64, u64::MAX)?;
    let names = table.chunks_exact(64).nth(names).ok_or_else(|| invalid("no section names"))?;
    let names = source.read(u64_at(names, 24), u64_at(names, 32), NAMES_MAX)?;
    let section = |row: &[u8]| Section {
        name: string_at(&names, u32_at(row, 0) as usize).unwrap_or_default().into(),
        kind: u32_at(row, 4),
        flags: u64_at(row, 8),
        addr: u64_at(row, 16),
        offset: u64_at(row, 24),
        size: u64_at(row, 32),
        link: u32_at(row, 40),
    };
    Ok(table.chunks_exact(64).map(section).collect())
}

fn find_build_id(source: &Source, segments: &[Segment], sections: &[Section]) -> Option<Box<[u8]>> {
    let by_section = sections
        .iter()
        .filter(|section| *section.name == *b".note.gnu.build-id")
        .map(|section| (section.offset, section.size));
    let by_segment =
        segments.iter().filter(|segment| segment.kind == PT_NOTE).map(|segment| (segment.offset, segment.filesz));
    by_section.chain(by_segment).find_map(|(offset, size)| build_id_note(&source.read(offset, size, NOTES_MAX).ok()?))
}

fn build_id_note(mut notes: &[u8]) -> Option<Box<[u8]>> {
    while notes.len() >= 12 {
        let (name_len, desc_len, kind) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize, u32_at(notes, 8));
        let desc_at = 12_usize.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let desc_end = desc_at.checked_add(desc_len)?;
        let desc = notes.get(desc_at..desc_end)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0") && (1..=64).contains(&desc_len) {
            return Some(desc.into());
        }
        notes = notes.get(desc_end.checked_next_multiple_of(4)?..)?;
    }
    None
}

/// The bytes up to the next NUL.
pub fn string_at(table: &[u8], at: usize) -> Option<&[u8]> {
    let tail = table.get(at..)?;
    Some(&tail[..tail.iter().position(|&byte| byte == 0)?])
}

// The callers have checked the length; a short slice reads as zero all the same.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

pub fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_program() {
        let source = Source::file(File::open("/proc/self/exe").unwrap()).unwrap();
        let elf = Elf::parse(&source).unwrap();
        assert!(elf.section(b".eh_frame_hdr").is_some());
        let text = elf.section(b".text").unwrap();
        assert_eq!(elf.offset_of_address(text.addr), Some(text.offset));
        assert_eq!(elf.address_of_offset(text.offset & !0xfff, true), Some(text.addr & !0xfff));
    }

    #[test]
    fn claims_are_not_believed() {
        let source = Source::Memory(Arc::from(&b"\x7fELF\x02\x01\x01"[..]));
        assert!(Elf::parse(&source).is_err());
        assert!(source.read(u64::MAX, 2, 10).is_err());
        assert!(source.read(0, 5, 4).is_err());
        assert!(build_id_note(&[0xff; 40]).is_none());
    }
}
