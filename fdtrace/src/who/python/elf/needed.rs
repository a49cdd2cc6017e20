//! Which libraries a program asks the dynamic linker for, and where it wants them looked for.

use std::fs::File;

use object::{
    elf::{DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRTAB},
    read::{
        ReadCache, ReadRef,
        elf::{Dyn, FileHeader as _, ProgramHeader},
    },
};

use super::{Bounded, File64};

/// Entries of a dynamic section that are looked at; programs have some dozens.
const ENTRIES_MAX: usize = 4096;

/// What a program asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needed {
    pub libraries: Vec<Vec<u8>>,
    /// Directories in the order of search, as they stand there: `$ORIGIN/../lib`.
    pub directories: Vec<Vec<u8>>,
}

/// Reads what the program in a file asks for; nothing for what is no program.
pub fn needed(file: File) -> Needed {
    let read = move || {
        let cache = ReadCache::new(file);
        let file = File64::parse(Bounded(&cache)).ok()?;
        let (endian, data) = (file.endian(), Bounded(&cache));
        let headers = file.elf_header().program_headers(endian, data).ok()?;
        let dynamic = headers.iter().find_map(|header| header.dynamic(endian, data).ok().flatten())?;
        let entries = || {
            let pairs = dynamic.iter().take(ENTRIES_MAX).map(|entry| (entry.tag(endian), entry.val(endian)));
            pairs.take_while(|(tag, _)| *tag != DT_NULL)
        };
        let strings = entries().find(|(tag, _)| *tag == DT_STRTAB)?.1;
        // The table is named by its address: the segment that it is loaded with tells where it stands in the file.
        let strings = headers.iter().find_map(|header| {
            let within = strings.checked_sub(header.p_vaddr(endian))?;
            let loaded = header.p_type(endian) == object::elf::PT_LOAD && within < header.p_filesz(endian);
            loaded.then(|| header.p_offset(endian).checked_add(within))?
        })?;
        let string = |at: u64| {
            let start = strings.checked_add(at)?;
            Some(data.read_bytes_at_until(start..start.checked_add(4096)?, 0).ok()?.to_vec())
        };
        let of = |wanted| entries().filter(move |(tag, _)| *tag == wanted).filter_map(|(_, at)| string(at));
        let directories = of(DT_RPATH).chain(of(DT_RUNPATH));
        Some(Needed {
            libraries: of(DT_NEEDED).collect(),
            directories: directories
                .flat_map(|list| list.split(|&byte| byte == b':').map(<[u8]>::to_vec).collect::<Vec<_>>())
                .collect(),
        })
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_needs_its_libc() {
        let needed = |path| super::needed(File::open(path).expect("a file"));
        let own = needed("/proc/self/exe");
        assert!(own.libraries.iter().any(|name| name.starts_with(b"libc.")), "{own:?}");
        assert_eq!(needed("/proc/self/status"), Needed::default());
    }
}
