//! Names of the functions and variables of a file.

use std::io;

use crate::who::native::{
    elf::{self, STT_FUNC, STT_OBJECT, SYMBOL, u32_at, u64_at},
    object::Object,
};

/// Largest table that is read, and longest name.
pub const TABLE_MAX: u64 = 16 << 20;
const NAME_MAX: usize = 128;

/// A table of symbols.
pub struct Names {
    rows: Vec<u8>,
    names: Vec<u8>,
}

/// A variable of a table of symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Symbol {
    pub start: u64,
    pub size: u64,
    name: u32,
}

impl Symbol {
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

impl Names {
    /// Empty if there is none.
    pub fn load(object: &Object, section: &[u8]) -> io::Result<Self> {
        let Some(table) = object.elf.section(section) else { return Ok(Self { rows: Vec::new(), names: Vec::new() }) };
        let (rows, names) = object.elf.symbols(&object.source, table, TABLE_MAX)?;
        Ok(Self { rows, names })
    }

    /// The name of a symbol by its place in the table.
    pub fn of(&self, symbol: u32) -> Option<&[u8]> {
        self.text(u32_at(self.rows.chunks_exact(SYMBOL).nth(symbol as usize)?, 0))
    }

    /// `None`: it is too long.
    fn text(&self, at: u32) -> Option<&[u8]> {
        let tail = self.names.get(at as usize..)?;
        elf::string_at(&tail[..tail.len().min(NAME_MAX)], 0)
    }

    fn of_kind(&self, kind: u8) -> impl Iterator<Item = Symbol> {
        let rows = self.rows.chunks_exact(SYMBOL).filter(move |row| row[4] & 15 == kind);
        rows.map(|row| Symbol { start: u64_at(row, 8), size: u64_at(row, 16), name: u32_at(row, 0) })
    }

    pub fn functions(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.of_kind(STT_FUNC).filter_map(|symbol| Some((symbol.start, self.text(symbol.name)?)))
    }

    pub fn variables(&self) -> impl Iterator<Item = Symbol> {
        self.of_kind(STT_OBJECT)
    }

    pub fn name(&self, symbol: Symbol) -> String {
        self.text(symbol.name).map_or_else(String::new, |name| String::from_utf8_lossy(name).into_owned())
    }
}
