//! Function symbols of a file: `.symtab`, `.gnu_debugdata`, `.dynsym`.
//!
//! A stripped file names few functions. An address that no symbol covers has no name here; the nearest symbol before it
//! would be a lie.

use std::sync::Arc;

use super::elf::{self, Elf, PF_X, STT_FUNC, SYMBOL, Section, Source};
use super::object::Object;
use super::rule;

/// Largest table and largest pool of names; the largest known programs have about 200 MiB of names.
const TABLE_MAX: u64 = 256 << 20;
const STT_NOTYPE: u8 = 0;
const STT_GNU_IFUNC: u8 = 10;
const SHN_UNDEF: u16 = 0;
const SHN_LORESERVE: u16 = 0xff00;

#[derive(Debug, Default)]
pub struct SymbolTable {
    rows: Vec<Row>,
    /// Pools of names, one for each table.
    names: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    start: u64,
    /// 0: unknown, as for hand-written assembly.
    size: u64,
    name: u32,
    pool: u8,
    binding: u8,
}

impl SymbolTable {
    /// Reads what a file has. Errors give fewer symbols.
    pub fn load(object: &Object) -> Self {
        let mut table = Self::default();
        table.add(&object.elf, &object.source, b".symtab", &object.elf);
        if table.rows.is_empty() {
            table.add_debugdata(object);
        }
        table.add(&object.elf, &object.source, b".dynsym", &object.elf);
        table.sort();
        table
    }

    /// Symbols of a separate debug file, for the addresses of `elf`.
    pub fn load_separate(&mut self, debug: &Elf, source: &Source, elf: &Elf) {
        self.add(debug, source, b".symtab", elf);
        self.sort();
    }

    pub fn memory(&self) -> usize {
        size_of_val(self.rows.as_slice()) + self.names.iter().map(Vec::len).sum::<usize>()
    }

    /// Address and name of the function that covers an address.
    pub fn find(&self, object: &Object, address: u64) -> Option<(u64, &[u8])> {
        let after = self.rows.partition_point(|row| row.start <= address);
        // Functions rarely nest; a few steps back find the outer one.
        for (step, row) in self.rows[..after].iter().rev().enumerate().take(64) {
            if self.covers(object, row, address) {
                // Several names for one function: the best is the first.
                let mut best = row;
                for other in self.rows[..after - step - 1].iter().rev().take_while(|other| other.start == row.start) {
                    if self.covers(object, other, address) {
                        best = other;
                    }
                }
                return Some((best.start, self.name(best)?));
            }
        }
        None
    }

    /// Range of the function of a given name.
    pub fn range_of(&self, name: &[u8]) -> Option<std::ops::Range<u64>> {
        let row = self.rows.iter().find(|row| row.size > 0 && self.name(row) == Some(name))?;
        Some(row.start..row.start.checked_add(row.size)?)
    }

    fn covers(&self, object: &Object, row: &Row, address: u64) -> bool {
        if row.size > 0 {
            return address - row.start < row.size;
        }
        // Without a size the symbol reaches to the next one, unless the unwind table says that another function begins
        // between them.
        let next = self.rows[self.rows.partition_point(|other| other.start <= row.start)..].first();
        let entry = rule::entry_range(object, address);
        next.is_none_or(|next| address < next.start) && entry.is_none_or(|entry| entry.start <= row.start)
    }

    fn name(&self, row: &Row) -> Option<&[u8]> {
        elf::string_at(self.names.get(usize::from(row.pool))?, row.name as usize)
    }

    fn add_debugdata(&mut self, object: &Object) {
        let Some(section) = object.elf.section(b".gnu_debugdata") else {
            return;
        };
        let unpacked =
            object.elf.section_data(&object.source, section, TABLE_MAX).and_then(|data| super::compress::xz(&data));
        match unpacked
            .map(|bytes| Source::Memory(Arc::from(bytes)))
            .and_then(|source| Ok((Elf::parse(&source)?, source)))
        {
            Ok((inner, source)) => self.add(&inner, &source, b".symtab", &object.elf),
            Err(error) => log::debug!("no symbols from .gnu_debugdata of `{}`: {error}", object.path.escape_ascii()),
        }
    }

    fn add(&mut self, elf: &Elf, source: &Source, section: &[u8], mapped: &Elf) {
        let Some(section) = elf.section(section) else {
            return;
        };
        if let Err(error) = self.try_add(elf, source, section, mapped) {
            log::debug!("no symbols from {}: {error}", section.name.escape_ascii());
        }
    }

    fn try_add(&mut self, elf: &Elf, source: &Source, section: &Section, mapped: &Elf) -> std::io::Result<()> {
        let (table, names) = elf.symbols(source, section, TABLE_MAX)?;
        let pool = u8::try_from(self.names.len()).map_err(|_| elf::invalid("too many tables"))?;
        let code: Vec<_> = mapped
            .loads()
            .filter(|segment| segment.flags & PF_X != 0)
            .map(|segment| (segment.vaddr, segment.memsz))
            .collect();
        let rows = table.chunks_exact(SYMBOL).filter_map(|row| {
            let (info, index) = (row[4], elf::u16_at(row, 6));
            let start = elf::u64_at(row, 8);
            let row = Row { start, size: elf::u64_at(row, 16), name: elf::u32_at(row, 0), pool, binding: info >> 4 };
            let defined = index != SHN_UNDEF && index < SHN_LORESERVE;
            let function = match info & 15 {
                STT_FUNC | STT_GNU_IFUNC => true,
                // Labels of assembly code; `$x` and `.L1` are for the linker.
                STT_NOTYPE => elf::string_at(&names, row.name as usize)
                    .is_some_and(|name| !name.is_empty() && !matches!(name[0], b'$' | b'.')),
                _ => false,
            };
            let mapped = code.iter().any(|&(first, size)| start.checked_sub(first).is_some_and(|within| within < size));
            (defined && function && mapped).then_some(row)
        });
        self.rows.extend(rows);
        self.names.push(names);
        Ok(())
    }

    /// By address; of several names for one address the best first: one with a size, then the least hidden, then the
    /// exported, then the shortest.
    fn sort(&mut self) {
        let names = &self.names;
        let name = |row: &Row| {
            names
                .get(usize::from(row.pool))
                .and_then(|pool| elf::string_at(pool, row.name as usize))
                .unwrap_or_default()
        };
        self.rows.sort_by(|a, b| {
            a.start.cmp(&b.start).then_with(|| {
                let rank = |row: &Row| {
                    let name = name(row);
                    let underscores = name.iter().take_while(|&&byte| byte == b'_').count();
                    // Rust and C++ mangled names begin with an underscore, too.
                    let hidden = if name.starts_with(b"_Z") || name.starts_with(b"_R") { 0 } else { underscores };
                    (row.size == 0, hidden, row.binding == 0, name.len())
                };
                rank(a).cmp(&rank(b)).then_with(|| name(a).cmp(name(b)))
            })
        });
    }
}
