//! Source lines and inlined functions, from DWARF in the file itself or in a separate debug file.
//!
//! Separate files are found by build-id on this machine and in the process's own root directory, or by debug link. They
//! must match.
//! Supplementary files of `dwz` and split DWARF (`.dwo`) are not read: their functions keep the names of the symbol
//! table.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use gimli::{EndianArcSlice, LittleEndian, SectionId};

use super::elf::{self, Elf, Source};
use super::object::Object;
use crate::who::open::{self, Links};

/// Most debug information of one file.
const DEBUG_MAX: u64 = 1 << 30;
/// Longest run of functions inlined into one another.
const INLINED_MAX: usize = 64;

type Reader = EndianArcSlice<LittleEndian>;

/// Debug information of one object.
pub struct DebugInfo {
    context: addr2line::Context<Reader>,
    memory: usize,
}

/// A function at an address: as written, or inlined into the next in the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// As in the file, perhaps mangled.
    pub function: Option<Vec<u8>>,
    pub file: Option<String>,
    pub line: Option<u32>,
}

impl DebugInfo {
    /// Whether a file has it.
    pub fn is_in(elf: &Elf) -> bool {
        elf.section(b".debug_info").is_some_and(|section| section.kind != elf::SHT_NOBITS)
    }

    /// From a file that may have none.
    pub fn load(elf: &Elf, source: &Source) -> io::Result<Option<Self>> {
        if !Self::is_in(elf) {
            return Ok(None);
        }
        let mut left = DEBUG_MAX;
        let dwarf = gimli::Dwarf::load(|id| {
            let data = match elf
                .section(id.name().as_bytes())
                .filter(|section| is_needed(id) && section.kind != elf::SHT_NOBITS)
            {
                Some(section) => elf.section_data(source, section, left)?,
                None => Vec::new(),
            };
            left = left.saturating_sub(data.len() as u64);
            Ok::<_, io::Error>(Reader::new(Arc::from(data), LittleEndian))
        })?;
        let memory = (DEBUG_MAX - left) as usize;
        let context =
            guarded(|| addr2line::Context::from_dwarf(dwarf).map_err(|error| elf::invalid(error.to_string())))?;
        Ok(Some(Self { context, memory }))
    }

    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The functions at an address, innermost first. The last is the one that was compiled; those before it were
    /// inlined.
    pub fn places(&self, address: u64) -> io::Result<Vec<Place>> {
        guarded(|| {
            let broken = |error: gimli::Error| elf::invalid(error.to_string());
            let mut frames = self.context.find_frames(address).skip_all_loads().map_err(broken)?;
            let mut places = Vec::new();
            while let Some(frame) = frames.next().map_err(broken)? {
                let location = frame.location.as_ref();
                places.push(Place {
                    function: frame
                        .function
                        .as_ref()
                        .and_then(|function| Some(function.raw_name().ok()?.into_owned().into_bytes())),
                    file: location.and_then(|location| location.file).map(str::to_owned),
                    line: location.and_then(|location| location.line).filter(|&line| line > 0),
                });
                if places.len() == INLINED_MAX {
                    break;
                }
            }
            Ok(places)
        })
    }
}

/// The separate debug file of an object, if one is installed.
pub fn separate(object: &Object) -> Option<(Elf, Source)> {
    let mut found = None;
    if let Some(id) = object.build_id.as_deref().filter(|id| id.len() > 8) {
        let path = format!("/usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
        found = found.or_else(|| matching(object, open::on_host(Path::new(&path)), None));
        found = found.or_else(|| matching(object, open::in_root(object.pid, path.as_bytes(), Links::Follow), None));
    }
    found.or_else(|| by_debug_link(object))
}

fn by_debug_link(object: &Object) -> Option<(Elf, Source)> {
    let section = object.elf.section(b".gnu_debuglink")?;
    let link = object.elf.section_data(&object.source, section, 4096).ok()?;
    let name = elf::string_at(&link, 0).filter(|name| !name.is_empty() && !name.contains(&b'/'))?;
    let checksum = link
        .get((name.len() + 1).next_multiple_of(4)..)
        .filter(|rest| rest.len() >= 4)
        .map(|rest| elf::u32_at(rest, 0))?;
    let directory = &object.path[..object.path.iter().rposition(|&byte| byte == b'/')?];
    let candidates: [&[&[u8]]; 3] =
        [&[directory, b"/"], &[directory, b"/.debug/"], &[b"/usr/lib/debug", directory, b"/"]];
    candidates.into_iter().find_map(|parts| {
        let path = [parts.concat().as_slice(), name].concat();
        matching(object, open::in_root(object.pid, &path, Links::Follow), Some(checksum))
    })
}

/// The file, if it is the object's: same build-id or, where there is none to compare, the checksum of the link.
fn matching(object: &Object, file: io::Result<std::fs::File>, checksum: Option<u32>) -> Option<(Elf, Source)> {
    let source = Source::file(file.ok()?).ok()?;
    let elf = Elf::parse(&source).ok()?;
    let same = match (object.elf.build_id.as_deref(), elf.build_id.as_deref(), checksum) {
        (Some(ours), Some(theirs), _) => ours == theirs,
        (_, _, Some(checksum)) => crc32(&source.read(0, source.len(), DEBUG_MAX).ok()?) == checksum,
        _ => false,
    };
    same.then_some((elf, source))
}

fn is_needed(id: SectionId) -> bool {
    use SectionId as S;
    matches!(
        id,
        S::DebugAbbrev
            | S::DebugAddr
            | S::DebugAranges
            | S::DebugInfo
            | S::DebugLine
            | S::DebugLineStr
            | S::DebugRanges
            | S::DebugRngLists
            | S::DebugStr
            | S::DebugStrOffsets
    )
}

/// The decoders are tested against broken input, but not by us: a panic in them costs a name, not the run.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(elf::invalid("the DWARF reader gave up")))
}

/// CRC-32 as `.gnu_debuglink` has it: reflected, polynomial 0x04c11db7.
fn crc32(bytes: &[u8]) -> u32 {
    let mut table = [0_u32; 256];
    for (byte, row) in (0_u32..).zip(&mut table) {
        *row = (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 });
    }
    !bytes.iter().fold(!0, |crc, &byte| (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn own_lines() {
        let source = Source::file(std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        let elf = Elf::parse(&source).unwrap();
        let debug = DebugInfo::load(&elf, &source).unwrap().expect("test programs have debug information");
        let here = own_lines as *const () as u64;
        let map = crate::who::maps::read(std::process::id())
            .unwrap()
            .into_iter()
            .find(|map| (map.start..map.end).contains(&here))
            .unwrap();
        let address = here - map.start + elf.address_of_offset(map.offset, true).unwrap();
        let places = debug.places(address).unwrap();
        let last = places.last().unwrap();
        assert!(last.file.as_ref().unwrap().ends_with("debug.rs"), "{last:?}");
        assert!(last.line.unwrap() > 100);
    }
}
