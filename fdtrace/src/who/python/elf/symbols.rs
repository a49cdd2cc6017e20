//! The interpreter's variables among the symbols of a file.
//!
//! Addresses are the file's own; whether a symbol means what its name says is for others to find out.

use object::Endianness;
use object::elf;
use object::pod;
use object::read::ReadRef;
use object::read::elf::SectionHeader;

use super::{File64, Load, words};

/// Addresses of the interpreter's variables, as the file counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    /// `_PyRuntime`.
    pub runtime: Option<u64>,
    /// The static `interp_head` of 3.6, which has no `_PyRuntime`.
    pub interp_head: Option<u64>,
    pub code_type: Option<u64>,
    pub type_type: Option<u64>,
    pub unicode_type: Option<u64>,
    pub long_type: Option<u64>,
    pub builtin_type: Option<u64>,
    pub none: Option<u64>,
    /// The *value* of `Py_Version`, 3.11 and later: `PY_VERSION_HEX`.
    pub version: Option<u32>,
}

/// Collects the symbols of one table that are defined in this file.
///
/// Names are compared in the section's bytes: asking the library for each would cost a read of the file per name.
pub(super) fn collect<'d, R: ReadRef<'d>>(file: &File64<'d, R>, loads: &[Load], kind: u32, found: &mut Symbols) {
    let endian = file.endian();
    let data = file.data();
    let sections = file.elf_section_table();
    let Some((_, section)) = sections.enumerate().find(|(_, section)| section.sh_type(endian) == kind) else {
        return;
    };
    let Ok(table) = section.data(endian, data) else {
        return;
    };
    let Ok(strings) = sections.section(section.link(endian)).and_then(|strings| strings.data(endian, data)) else {
        return;
    };
    let count = table.len() / size_of::<elf::Sym64<Endianness>>();
    let Ok((table, _)) = pod::slice_from_bytes::<elf::Sym64<Endianness>>(table, count) else {
        return;
    };
    for symbol in table {
        if symbol.st_shndx.get(endian) == elf::SHN_UNDEF {
            continue;
        }
        let Some(name) = strings.get(symbol.st_name.get(endian) as usize..) else {
            continue;
        };
        let address = symbol.st_value.get(endian);
        let is = |wanted: &[u8]| name.strip_prefix(wanted).is_some_and(|rest| rest.first() == Some(&0));
        // One look at the first letters spares most names the comparisons.
        match name.get(..2) {
            Some(b"_P") if is(b"_PyRuntime") => found.runtime = Some(address),
            Some(b"_P") if is(b"_Py_NoneStruct") => found.none = Some(address),
            Some(b"Py") if is(b"PyCode_Type") => found.code_type = Some(address),
            Some(b"Py") if is(b"PyType_Type") => found.type_type = Some(address),
            Some(b"Py") if is(b"PyUnicode_Type") => found.unicode_type = Some(address),
            Some(b"Py") if is(b"PyLong_Type") => found.long_type = Some(address),
            Some(b"Py") if is(b"PyCFunction_Type") => found.builtin_type = Some(address),
            Some(b"Py") if is(b"Py_Version") => {
                found.version =
                    words(data, loads, address, 1).and_then(|words| u32::try_from(words[0] & 0xffff_ffff).ok());
            }
            Some(b"Py") if is(b"PyInterpreterState_Head") && found.interp_head.is_none() => {
                found.interp_head = interp_head(data, loads, address);
            }
            Some(b"in") if is(b"interp_head") => found.interp_head = Some(address),
            _ => {}
        }
    }
    // Everything after 3.6 exports `PyInterpreterState_Head` too, but its list begins at `_PyRuntime`.
    if found.runtime.is_some() {
        found.interp_head = None;
    }
}

/// 3.6 keeps its list in a static variable; in a stripped file only the function that returns it tells where.
#[cfg(target_arch = "x86_64")]
fn interp_head<'d, R: ReadRef<'d>>(data: R, loads: &[Load], function: u64) -> Option<u64> {
    let words = words(data, loads, function, 2).filter(|words| words.len() == 2)?;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_le_bytes());
    bytes[8..].copy_from_slice(&words[1].to_le_bytes());
    // Optional `endbr64`, then `mov rax, [rip + displacement]; ret`.
    let skip = if bytes.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
    let code = &bytes[skip..];
    if !code.starts_with(&[0x48, 0x8b, 0x05]) || code[7] != 0xc3 {
        return None;
    }
    let displacement = i32::from_le_bytes([code[3], code[4], code[5], code[6]]);
    Some(function.wrapping_add(skip as u64 + 7).wrapping_add_signed(displacement.into()))
}

#[cfg(not(target_arch = "x86_64"))]
fn interp_head<'d, R: ReadRef<'d>>(_: R, _: &[Load], _: u64) -> Option<u64> {
    None
}
