//! A code object: file, name, and the table that leads from instructions to lines.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use fdtrace_common::python::{NONE, PyProcess, checksum};

use super::lines::LineFormat;
use super::memory::ReadMem;
use super::objects;

/// Longest line table that is read; the longest seen in practice had 74 KiB.
pub const TABLE_MAX: usize = 1 << 20;

/// What a code object says of itself: it does not change as long as it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeDef {
    /// `co_filename`, as the program that compiled it named it: relative, made up or gone as may be.
    pub file: PathBuf,
    /// `co_qualname`, before 3.11 `co_name`.
    pub name: String,
    pub first_line: u32,
    /// `co_linetable` or `co_lnotab`; `None` if it could not be had.
    pub table: Option<Vec<u8>>,
    pub format: LineFormat,
    /// As the walk computes it.
    pub checksum: u32,
    pub code_version: u32,
}

impl CodeDef {
    /// The line at a position in bytes as [`super::walk::Frame::offset`] has it. None: an instruction without a line.
    pub fn line(&self, offset: i32) -> Option<u32> {
        match u32::try_from(offset) {
            Ok(offset) => self.format.line(self.table.as_deref()?, true, self.first_line, offset),
            Err(_) => Some(self.first_line),
        }
    }
}

/// Reads the code object at `at`; none if there is none. An unreadable table only costs the lines.
pub fn read(mem: &impl ReadMem, py: &PyProcess, at: u64) -> Option<CodeDef> {
    let o = &py.offsets;
    let field = |offset: u32| at.wrapping_add(offset.into());
    if objects::type_of(mem, py, at)? != py.code_type {
        return None;
    }
    let text = |offset: u32| {
        let object = mem.read_ptr(field(offset))?;
        // Exactly `str`: the compiler makes no others, and `code.replace` accepts a subclass, but has not the form.
        if objects::type_of(mem, py, object)? != py.unicode_type {
            return None;
        }
        objects::string(mem, o, object)
    };
    let first_line = mem.read_u32(field(o.code_firstlineno))?;
    Some(CodeDef {
        file: PathBuf::from(OsString::from_vec(text(o.code_filename)?)),
        name: String::from_utf8_lossy(&text(o.code_qualname)?).into_owned(),
        first_line,
        table: mem.read_ptr(field(o.code_linetable)).and_then(|table| objects::bytes(mem, o, table, TABLE_MAX)),
        format: LineFormat::of(o.version),
        checksum: checksum(
            mem.read_u32(field(o.code_argcount))?,
            mem.read_u32(field(o.code_kwonlyargcount))?,
            mem.read_u32(field(o.code_flags))?,
            first_line,
        ),
        code_version: if o.code_version == NONE { 0 } else { mem.read_u32(field(o.code_version))? },
    })
}
