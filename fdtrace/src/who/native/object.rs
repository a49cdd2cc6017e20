//! Mapped files with unwind tables, kept open and shared between the processes that map them.
//!
//! An [`Object`] keeps its file, so that frames of a process that has died, from a file that has been deleted, can
//! still be named. It holds copies of the unwind sections and no code.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gimli::{BaseAddresses, CieOrFde, EhFrame, EndianSlice, LittleEndian, UnwindSection as _};

use super::elf::{Elf, PT_GNU_EH_FRAME, Source, invalid, u32_at};
use crate::who::maps::Mapping;
use crate::who::open::{self, Identity};

/// Largest unwind section that is read; the largest known programs have about 30 MiB.
const UNWIND_MAX: u64 = 128 << 20;
/// Without `.eh_frame_hdr` every entry is read to build an index.
const INDEX_MAX: u64 = 32 << 20;
/// Files remembered, open, after the last process that mapped them is gone.
const KEPT_MAX: usize = 512;

/// One mapped file.
#[derive(Debug)]
pub struct Object {
    /// Unique in this run.
    pub id: u64,
    /// As the first process that mapped it named it. Hostile bytes.
    pub path: Vec<u8>,
    /// Hexadecimal.
    pub build_id: Option<String>,
    /// The process through whose root directory separate debug files are looked for.
    pub pid: u32,
    pub elf: Elf,
    pub source: Source,
    pub(super) unwind: Option<UnwindTables>,
}

/// `.eh_frame` and the way to find an entry in it.
#[derive(Debug)]
pub(super) struct UnwindTables {
    pub eh_frame: Vec<u8>,
    pub eh_frame_address: u64,
    pub bases: BaseAddresses,
    pub index: Index,
}

#[derive(Debug)]
pub(super) enum Index {
    /// The table of `.eh_frame_hdr`.
    Header(HeaderIndex),
    /// First address and offset of each entry, by address.
    Built(Vec<(u64, usize)>),
}

/// `.eh_frame_hdr`, in the one encoding that linkers write.
#[derive(Debug)]
pub(super) struct HeaderIndex {
    bytes: Vec<u8>,
    /// Where the file has it.
    address: u64,
}

impl Object {
    pub fn new(source: Source, path: Vec<u8>, pid: u32) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let elf = Elf::parse(&source)?;
        if elf.machine != MACHINE {
            return Err(invalid(format!("a file for another processor ({})", elf.machine)));
        }
        let build_id = elf.build_id.as_deref().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect());
        let unwind = match UnwindTables::load(&elf, &source) {
            Ok(tables) => tables,
            Err(error) => {
                log::debug!("no unwind tables of `{}`: {error}", path.escape_ascii());
                None
            }
        };
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), path, build_id, pid, elf, source, unwind })
    }

    /// Bytes of memory that the unwind tables take.
    pub fn memory(&self) -> usize {
        self.unwind.as_ref().map_or(0, |tables| {
            tables.eh_frame.len()
                + match &tables.index {
                    Index::Header(index) => index.bytes.len(),
                    Index::Built(rows) => size_of_val(rows.as_slice()),
                }
        })
    }
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

impl UnwindTables {
    fn load(elf: &Elf, source: &Source) -> io::Result<Option<Self>> {
        let address = |name| elf.section(name).map_or(0, |section| section.addr);
        let bases = BaseAddresses::default().set_text(address(b".text")).set_got(address(b".got"));
        let header = match (
            elf.section(b".eh_frame_hdr"),
            elf.segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME),
        ) {
            (Some(section), _) => HeaderIndex::new(elf.section_data(source, section, UNWIND_MAX)?, section.addr),
            (None, Some(segment)) => {
                HeaderIndex::new(source.read(segment.offset, segment.filesz, UNWIND_MAX)?, segment.vaddr)
            }
            (None, None) => None,
        };
        let (eh_frame_address, eh_frame) = match (elf.section(b".eh_frame"), &header) {
            (Some(section), _) => (section.addr, elf.section_data(source, section, UNWIND_MAX)?),
            // No section headers: the index leads to the table, which ends with its segment at the latest.
            (None, Some(header)) => {
                let start = header.eh_frame();
                let segment = elf
                    .loads()
                    .find(|segment| start.checked_sub(segment.vaddr).is_some_and(|within| within < segment.filesz));
                let (Some(segment), Some(offset)) = (segment, elf.offset_of_address(start)) else {
                    return Ok(None);
                };
                let size = segment.filesz - (start - segment.vaddr);
                (start, source.read(offset, size.min(UNWIND_MAX), UNWIND_MAX)?)
            }
            (None, None) => return Ok(None),
        };
        let bases = bases.set_eh_frame(eh_frame_address);
        let index = match header {
            Some(header) => Index::Header(header),
            None => Index::Built(build_index(&eh_frame, &bases)?),
        };
        Ok(Some(Self { eh_frame, eh_frame_address, bases, index }))
    }

    /// Where functions, and parts of them, begin; sorted.
    pub fn starts(&self) -> Vec<u64> {
        let mut starts: Vec<u64> = match &self.index {
            Index::Header(index) => (0..index.rows()).map(|row| index.number_of(row, 0)).collect(),
            Index::Built(rows) => rows.iter().map(|(start, _)| *start).collect(),
        };
        starts.sort_unstable();
        starts
    }
}

impl HeaderIndex {
    const HEADER: usize = 12;
    const ROW: usize = 8;

    /// `None` when the encoding is another one.
    fn new(bytes: Vec<u8>, address: u64) -> Option<Self> {
        // Version 1; pointers relative to themselves, a plain count, rows relative to the header; 32 bits each.
        (bytes.len() >= Self::HEADER && bytes[..4] == [1, 0x1b, 0x03, 0x3b]).then_some(Self { bytes, address })
    }

    fn eh_frame(&self) -> u64 {
        self.address.wrapping_add(4).wrapping_add_signed(self.number(4))
    }

    /// Address of the table entry for the last function that begins at or before an address.
    pub fn find(&self, address: u64) -> Option<u64> {
        // `partition_point` over rows that are no slice.
        let (mut low, mut high) = (0, self.rows());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.number_of(middle, 0) <= address { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1).map(|row| self.number_of(row, 4))
    }

    fn rows(&self) -> usize {
        ((self.bytes.len() - Self::HEADER) / Self::ROW).min(u32_at(&self.bytes, 8) as usize)
    }

    /// One of the two addresses of a row.
    fn number_of(&self, row: usize, at: usize) -> u64 {
        self.address.wrapping_add_signed(self.number(Self::HEADER + row * Self::ROW + at))
    }

    fn number(&self, at: usize) -> i64 {
        i64::from(u32_at(&self.bytes, at) as i32)
    }
}

fn build_index(eh_frame: &[u8], bases: &BaseAddresses) -> io::Result<Vec<(u64, usize)>> {
    if eh_frame.len() as u64 > INDEX_MAX {
        return Err(invalid("unwind table without an index is too large to read through"));
    }
    let section = EhFrame::from(EndianSlice::new(eh_frame, LittleEndian));
    let mut rows = Vec::new();
    let mut entries = section.entries(bases);
    // What stands before an entry that makes no sense is used.
    while let Ok(Some(entry)) = entries.next() {
        if let CieOrFde::Fde(partial) = entry
            && let Ok(fde) = partial.parse(EhFrame::cie_from_offset)
        {
            rows.push((fde.initial_address(), fde.offset()));
        }
    }
    rows.sort_unstable();
    Ok(rows)
}

/// All objects of the processes under observation.
#[derive(Debug, Default)]
pub struct Objects {
    /// `None`: no ELF file, or none that can be used.
    known: HashMap<Identity, Option<Arc<Object>>>,
    vdso: HashMap<Vec<u8>, Option<Arc<Object>>>,
}

impl Objects {
    pub fn new() -> Self {
        Self::default()
    }

    /// The object behind a mapping of a file. `Ok(None)`: the file is no program that can be unwound.
    pub fn open(&mut self, pid: u32, mapping: &Mapping) -> io::Result<Option<Arc<Object>>> {
        let file = open::mapped_file(pid, mapping)?;
        let identity = Identity::from(&file.metadata()?);
        if let Some(object) = self.known.get(&identity) {
            return Ok(object.clone());
        }
        self.forget_unused();
        let object = match Source::file(file).and_then(|source| Object::new(source, mapping.file_path().to_vec(), pid))
        {
            Ok(object) => Some(Arc::new(object)),
            Err(error) => {
                log::debug!("cannot unwind through `{}`: {error}", mapping.path.escape_ascii());
                None
            }
        };
        self.known.insert(identity, object.clone());
        Ok(object)
    }

    /// The object for code that the kernel maps into every process, from its bytes.
    pub fn vdso(&mut self, pid: u32, image: Vec<u8>) -> Option<Arc<Object>> {
        if let Some(object) = self.vdso.get(&image) {
            return object.clone();
        }
        // One image for each word size and time namespace at most, unless somebody is playing tricks.
        if self.vdso.len() >= 16 {
            return None;
        }
        let source = Source::Memory(Arc::from(image.as_slice()));
        let object = Object::new(source, b"[vdso]".to_vec(), pid).ok().map(Arc::new);
        self.vdso.insert(image, object.clone());
        object
    }

    /// Lets go of files that nobody maps any more, once there are many.
    fn forget_unused(&mut self) {
        if self.known.len() >= KEPT_MAX {
            self.known.retain(|_, object| object.as_ref().is_some_and(|object| Arc::strong_count(object) > 1));
        }
    }

    pub fn len(&self) -> usize {
        self.known.len() + self.vdso.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the unwind tables take.
    pub fn memory(&self) -> usize {
        self.known.values().chain(self.vdso.values()).flatten().map(|object| object.memory()).sum()
    }
}
