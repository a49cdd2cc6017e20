//! Strings, bytes and integers of Python, out of memory or out of bytes already copied.
//!
//! Nothing here trusts a length: each has a limit, and what exceeds it counts as unreadable or is cut, as said.

use fdtrace_common::python::{PyOffsets, PyProcess, flag, unicode};

use super::memory::ReadMem;

/// Characters of a string that are read at most.
pub const STRING_MAX: usize = 16 << 10;

/// How a `str` keeps its characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringForm {
    /// Bytes per character: 1, 2 or 4.
    pub width: usize,
    /// Where they begin, from the object's address.
    pub data: u32,
    /// The characters are elsewhere: at `data` stands a pointer to them (instances of a subclass of `str`).
    pub indirect: bool,
}

/// Reads the state word of a `str`; None for one that has no characters yet (`wstr` only, before 3.12).
pub fn string_form(offsets: &PyOffsets, state: u32) -> Option<StringForm> {
    let width = match (state >> unicode::KIND_SHIFT) & unicode::KIND_MASK {
        1 => 1,
        2 => 2,
        4 => 4,
        _ => return None,
    };
    let data = match state & (unicode::COMPACT | unicode::ASCII) {
        both if both == unicode::COMPACT | unicode::ASCII => offsets.unicode_ascii_data,
        _ => offsets.unicode_compact_data,
    };
    Some(StringForm { width, data, indirect: state & unicode::COMPACT == 0 })
}

/// Characters of a `str` as UTF-8. Surrogates that stand for bytes of a file name (`surrogateescape`) become these
/// bytes again, other surrogates and what is no character become U+FFFD: hence bytes, which need not be UTF-8.
pub fn decode(width: usize, characters: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(characters.len());
    for unit in characters.chunks_exact(width.max(1)) {
        let code = match *unit {
            [a] => u32::from(a),
            [a, b] => u32::from(u16::from_ne_bytes([a, b])),
            [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
            _ => return bytes,
        };
        match code {
            0xdc80..=0xdcff => bytes.push((code & 0xff) as u8),
            _ => {
                let char = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    bytes
}

/// The `str` at `at`, cut at [`STRING_MAX`] characters. The caller knows that it is a `str`.
pub fn string(mem: &impl ReadMem, offsets: &PyOffsets, at: u64) -> Option<Vec<u8>> {
    let length = mem.read_u64(at.wrapping_add(offsets.unicode_length.into()))?;
    let form = string_form(offsets, mem.read_u32(at.wrapping_add(offsets.unicode_state.into()))?)?;
    let length = usize::try_from(length).ok()?.min(STRING_MAX);
    let data = at.wrapping_add(form.data.into());
    let data = if form.indirect { mem.read_ptr(data)? } else { data };
    Some(decode(form.width, &mem.read_vec(data, length * form.width)?))
}

/// The `bytes` at `at`; none if longer than `limit`.
pub fn bytes(mem: &impl ReadMem, offsets: &PyOffsets, at: u64, limit: usize) -> Option<Vec<u8>> {
    let length = mem.read_u64(at.wrapping_add(offsets.bytes_size.into()))?;
    let length = usize::try_from(length).ok().filter(|&length| length <= limit)?;
    mem.read_vec(at.wrapping_add(offsets.bytes_data.into()), length)
}

/// The `int` at `at`, if it is not negative and fits.
pub fn unsigned(mem: &impl ReadMem, offsets: &PyOffsets, at: u64) -> Option<u64> {
    let tag = mem.read_u64(at.wrapping_add(offsets.long_tag.into()))?;
    let (digits, sign) = if offsets.flags & flag::LAZY_TASK_NAMES != 0 {
        // 3.12 and later: number of digits above three bits, of which the lower two are the sign: 0 positive, 1 zero.
        (tag >> 3, tag & 3)
    } else {
        (tag, 0)
    };
    if digits > 2 || sign > 1 {
        return None;
    }
    let mut value = 0;
    for index in 0..digits {
        let digit = mem.read_u32(at.wrapping_add(offsets.long_digits.into()).wrapping_add(4 * index))?;
        if digit >= 1 << 30 {
            return None;
        }
        value |= u64::from(digit) << (30 * index);
    }
    Some(if sign == 1 { 0 } else { value })
}

/// Type of the object at `at`.
pub fn type_of(mem: &impl ReadMem, py: &PyProcess, at: u64) -> Option<u64> {
    mem.read_ptr(at.wrapping_add(py.offsets.object_type.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_all_widths() {
        assert_eq!(decode(1, b"a\xe9"), "aé".as_bytes());
        let wide: Vec<u8> = "a€".encode_utf16().flat_map(u16::to_ne_bytes).collect();
        assert_eq!(decode(2, &wide), "a€".as_bytes());
        let widest: Vec<u8> = "a😀".chars().flat_map(|char| u32::from(char).to_ne_bytes()).collect();
        assert_eq!(decode(4, &widest), "a😀".as_bytes());
    }

    #[test]
    fn undecodable_names_become_bytes_again() {
        let name: Vec<u8> = [0x61_u16, 0xdcff, 0xd800].into_iter().flat_map(u16::to_ne_bytes).collect();
        assert_eq!(decode(2, &name), b"a\xff\xef\xbf\xbd");
        assert_eq!(decode(4, &u32::MAX.to_ne_bytes()), "\u{fffd}".as_bytes());
        assert_eq!(decode(4, &[1, 2, 3]), b"");
        assert_eq!(decode(0, b"a"), b"a");
    }
}
