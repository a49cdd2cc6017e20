//! What an ELF file tells about the Python in it: symbols, version, the tables by which newer interpreters describe
//! themselves.
//!
//! Works on any file a process has mapped, so every size and offset in it is taken for hostile: reads are bounded,
//! parts that make no sense count as absent. Only 64-bit files of this machine's byte order are looked at.

mod needed;
mod symbols;

use std::fs::File;
use std::ops::Range;

pub use needed::needed;
use object::Endianness;
use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::read::{Object, ObjectSection, ReadCache, ReadRef};
pub use symbols::Symbols;

/// `xdebugpy`, which opens `_Py_DebugOffsets`.
pub const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");
/// Words kept of `_Py_DebugOffsets`; 3.15 has 111.
pub const DEBUG_WORDS: usize = 128;
/// Words of `.AsyncioDebug`.
pub const ASYNCIO_WORDS: usize = 13;

/// Largest part of a file that is read at once. The symbol names of the largest browsers stay below.
const READ_MAX: u64 = 256 << 20;
/// Longest build id that is kept; common ones have 20 bytes.
const BUILD_ID_MAX: usize = 64;
const LOADS_MAX: usize = 64;

/// A segment that is mapped when the file is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub vaddr: u64,
    pub offset: u64,
    pub file_size: u64,
    pub executable: bool,
}

/// One ELF file, as far as Python is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub build_id: Option<Box<[u8]>>,
    /// `ET_DYN`: loaded at an address chosen at run time.
    pub position_independent: bool,
    /// Has a program interpreter: the program itself, whose copies of variables win over those of libraries.
    pub program: bool,
    pub loads: Vec<Load>,
    pub symbols: Symbols,
    /// Minor version from the import cache tag, `cpython-3NN`: tells what no symbol tells before 3.11.
    pub cache_tag: Option<u8>,
    /// `_Py_DebugOffsets` (3.13 and later), word by word, possibly with trailing words that do not belong to it.
    pub debug_offsets: Option<Box<[u64]>>,
    /// `.AsyncioDebug` (3.14 and later); of the extension module `_asyncio`, or of an interpreter that contains it.
    pub asyncio_debug: Option<[u64; ASYNCIO_WORDS]>,
}

impl Image {
    /// Is there an interpreter in this file?
    pub fn is_interpreter(&self) -> bool {
        self.symbols.runtime.is_some() || self.symbols.interp_head.is_some()
    }

    /// How far above its own addresses the file is loaded, if `offset` of it is mapped at `start`.
    pub fn bias(&self, start: u64, offset: u64, executable: bool) -> Option<u64> {
        if !self.position_independent {
            return Some(0);
        }
        // Pages, not bytes, are mapped: both ends are rounded down alike. 4 KiB also serves machines with larger
        // pages, because there a segment's offset and address agree modulo the larger page.
        const PAGE: u64 = 4096;
        let load =
            self.loads.iter().find(|load| load.executable == executable && load.offset & !(PAGE - 1) == offset)?;
        Some(start.wrapping_sub(load.vaddr & !(PAGE - 1)))
    }
}

/// Reads a file on demand: of a large library only headers, symbols and a few sections are touched.
pub fn read_file(file: File) -> Option<Image> {
    let cache = ReadCache::new(file);
    read(Bounded(&cache))
}

/// Reads a whole file's bytes.
pub fn read_bytes(bytes: &[u8]) -> Option<Image> {
    read(Bounded(bytes))
}

/// Refuses to read more than [`READ_MAX`] at once: the file may be sparse and claim to be all names.
#[derive(Clone, Copy)]
struct Bounded<R>(R);

impl<'d, R: ReadRef<'d>> ReadRef<'d> for Bounded<R> {
    fn len(self) -> Result<u64, ()> {
        self.0.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'d [u8], ()> {
        if size > READ_MAX {
            return Err(());
        }
        self.0.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'d [u8], ()> {
        self.0.read_bytes_at_until(range.start..range.end.min(range.start.saturating_add(4096)), delimiter)
    }
}

type File64<'d, R> = ElfFile64<'d, Endianness, R>;

fn read<'d, R: ReadRef<'d>>(data: R) -> Option<Image> {
    let file = File64::parse(data).ok()?;
    if !file.endian().eq(&native_endian()) {
        return None;
    }
    let mut image = Image {
        build_id: file.build_id().ok().flatten().filter(|id| !id.is_empty() && id.len() <= BUILD_ID_MAX).map(Box::from),
        position_independent: file.elf_header().e_type(file.endian()) == elf::ET_DYN,
        ..Image::default()
    };
    for header in file.elf_program_headers() {
        let endian = file.endian();
        match header.p_type(endian) {
            elf::PT_INTERP => image.program = true,
            elf::PT_LOAD if image.loads.len() < LOADS_MAX => image.loads.push(Load {
                vaddr: header.p_vaddr(endian),
                offset: header.p_offset(endian),
                file_size: header.p_filesz(endian),
                executable: header.p_flags(endian) & elf::PF_X != 0,
            }),
            _ => {}
        }
    }

    symbols::collect(&file, &image.loads, elf::SHT_DYNSYM, &mut image.symbols);
    // The full table is of use for 3.6 only, and much larger.
    if image.symbols.runtime.is_none() && image.symbols.code_type.is_some() && image.symbols.interp_head.is_none() {
        symbols::collect(&file, &image.loads, elf::SHT_SYMTAB, &mut image.symbols);
    }
    image.asyncio_debug = asyncio_debug(&file);
    if image.is_interpreter() {
        image.cache_tag = cache_tag(&file);
        image.debug_offsets = image.symbols.runtime.and_then(|runtime| debug_offsets(&file, &image.loads, runtime));
    }
    Some(image)
}

fn native_endian() -> Endianness {
    if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little }
}

/// Up to `count` words of the file that will stand at `address`; none if the file has no bytes for it.
fn words<'d, R: ReadRef<'d>>(data: R, loads: &[Load], address: u64, count: usize) -> Option<Vec<u64>> {
    let (load, into) = loads.iter().find_map(|load| {
        let into = address.checked_sub(load.vaddr)?;
        (into < load.file_size).then_some((load, into))
    })?;
    let available = usize::try_from((load.file_size - into) / 8).unwrap_or(usize::MAX);
    let offset = load.offset.checked_add(into)?;
    // `Py_Version` has four bytes and may end its segment; what follows it is of no interest.
    if available == 0 {
        let bytes = data.read_bytes_at(offset, load.file_size - into).ok()?;
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        return Some(vec![u64::from_ne_bytes(word)]);
    }
    let bytes = data.read_bytes_at(offset, 8 * available.min(count) as u64).ok()?;
    Some(ne_words(bytes).collect())
}

fn ne_words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|&word| u64::from_ne_bytes(word))
}

fn debug_offsets<'d, R: ReadRef<'d>>(file: &File64<'d, R>, loads: &[Load], runtime: u64) -> Option<Box<[u64]>> {
    let words = words(file.data(), loads, runtime, DEBUG_WORDS)?;
    (words.first() == Some(&COOKIE)).then(|| words.into())
}

fn asyncio_debug<'d, R: ReadRef<'d>>(file: &File64<'d, R>) -> Option<[u64; ASYNCIO_WORDS]> {
    let section = file.section_by_name(".AsyncioDebug")?;
    let bytes = section.data().ok()?;
    let mut words = [0; ASYNCIO_WORDS];
    if bytes.len() < size_of_val(&words) {
        return None;
    }
    for (word, value) in words.iter_mut().zip(ne_words(bytes)) {
        *word = value;
    }
    Some(words)
}

/// `cpython-3NN`, NUL-terminated, in the constants: every CPython tags its compiled files with it. Two different tags
/// cancel each other.
fn cache_tag<'d, R: ReadRef<'d>>(file: &File64<'d, R>) -> Option<u8> {
    let constants = file.section_by_name(".rodata")?.data().ok()?;
    let mut tag = None;
    for at in memchr::memmem::find_iter(constants, b"cpython-3") {
        let rest = &constants[at + b"cpython-3".len()..];
        let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=3).contains(&digits) || rest.get(digits) != Some(&0) {
            continue;
        }
        let minor: u8 = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        if tag.is_some_and(|tag| tag != minor) {
            return None;
        }
        tag = Some(minor);
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_files_are_refused_quietly() {
        let own = std::fs::read("/proc/self/exe").expect("the test itself");
        assert!(read_bytes(&own).is_some_and(|image| !image.is_interpreter() && !image.loads.is_empty()));
        assert_eq!(read_bytes(b""), None);
        assert_eq!(read_bytes(b"#!/bin/sh"), None);
        for len in [1, 4, 16, 63, 64, 65, 200, 4096] {
            let _ = read_bytes(&own[..len]);
        }
        // Headers full of noise; the state is a plain linear congruence, so that failures repeat.
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut file = own[..8192].to_vec();
            for _ in 0..8 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = 16 + (state >> 33) as usize % 1500;
                file[at] = (state >> 24) as u8;
            }
            let _ = read_bytes(&file);
        }
    }

    #[test]
    fn bias_of_the_first_executable_segment() {
        let image = Image {
            position_independent: true,
            loads: vec![
                Load { vaddr: 0, offset: 0, file_size: 0x500, executable: false },
                Load { vaddr: 0x2_1040, offset: 0x1_f040, file_size: 0x500, executable: true },
            ],
            ..Image::default()
        };
        assert_eq!(image.bias(0x7f00_0002_1000, 0x1_f000, true), Some(0x7f00_0000_0000));
        assert_eq!(image.bias(0x7f00_0000_0000, 0, false), Some(0x7f00_0000_0000));
        assert_eq!(image.bias(0x7f00_0000_0000, 0x1000, true), None);
        assert_eq!(Image::default().bias(0x40_0000, 0, false), Some(0));
    }
}
