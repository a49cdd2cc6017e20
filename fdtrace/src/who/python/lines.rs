//! From the position of an instruction to its line: the line tables of all versions.
//!
//! Pure functions of the table's bytes. A damaged table gives no line or a wrong one, and never more work than it has
//! bytes.

/// The three forms that line tables have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// `co_lnotab`, up to 3.9.
    Lnotab,
    /// `co_linetable` of 3.10.
    Ranges,
    /// `co_linetable` since 3.11.
    Locations,
}

impl LineFormat {
    /// `version` as in `PyOffsets::version`.
    pub fn of(version: u32) -> Self {
        match version {
            ..=0x309 => Self::Lnotab,
            0x30a => Self::Ranges,
            0x30b.. => Self::Locations,
        }
    }

    /// The line of the instruction at `offset` (in bytes) of code that begins on `first_line`. None: it has no line.
    /// `whole`: the table has its end; behind a part of it no line is better than the wrong one.
    pub fn line(self, table: &[u8], whole: bool, first_line: u32, offset: u32) -> Option<u32> {
        let line = match self {
            Self::Lnotab => lnotab(table, whole, offset),
            Self::Ranges => ranges(table, offset),
            Self::Locations => locations(table, offset),
        };
        u32::try_from(i64::from(first_line) + line?).ok()
    }
}

/// Pairs of unsigned steps in bytes and signed steps in lines. Returns the distance from the first line.
fn lnotab(table: &[u8], whole: bool, offset: u32) -> Option<i64> {
    let mut address = 0_u64;
    let mut line = 0_i64;
    for &[step, delta] in table.as_chunks::<2>().0 {
        address += u64::from(step);
        if address > u64::from(offset) {
            return Some(line);
        }
        line += i64::from(delta as i8);
    }
    whole.then_some(line)
}

/// Pairs of the length of a range in bytes and its distance in lines from the range before; -128: it has no line.
fn ranges(table: &[u8], offset: u32) -> Option<i64> {
    const NO_LINE: i8 = -128;
    let mut end = 0_u64;
    let mut line = 0_i64;
    for &[length, delta] in table.as_chunks::<2>().0 {
        let delta = delta as i8;
        if delta != NO_LINE {
            line += i64::from(delta);
        }
        end += u64::from(length);
        if u64::from(offset) < end {
            return (delta != NO_LINE).then_some(line);
        }
    }
    None
}

/// Entries of varying length; the first byte of each, and no other, has its highest bit set. See `Objects/locations.md`
/// in the sources of CPython.
fn locations(table: &[u8], offset: u32) -> Option<i64> {
    const UNIT: u64 = 2;
    let mut rest = table;
    let mut end = 0_u64;
    let mut line = 0_i64;
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first >> 3) & 15;
        end += (u64::from(first & 7) + 1) * UNIT;
        let has_line = match code {
            15 => false,
            13 | 14 => {
                line = line.checked_add(signed_varint(tail)?)?;
                true
            }
            10..=12 => {
                line += i64::from(code) - 10;
                true
            }
            _ => true,
        };
        if u64::from(offset) < end {
            return has_line.then_some(line);
        }
        // The columns are not wanted; the next entry announces itself.
        let columns = tail.iter().position(|&byte| byte & 0x80 != 0).unwrap_or(tail.len());
        rest = &tail[columns..];
    }
    None
}

/// Six bits per byte, lowest first, bit 6 set in all but the last; of the value, bit 0 is the sign.
fn signed_varint(bytes: &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().enumerate() {
        // Lines have 31 bits.
        let shift = u32::try_from(index).ok()?.checked_mul(6).filter(|&shift| shift <= 36)?;
        value |= u64::from(byte & 0x3f) << shift;
        if byte & 0x40 == 0 {
            let magnitude = i64::try_from(value >> 1).ok()?;
            return Some(if value & 1 == 0 { magnitude } else { -magnitude });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lnotab_steps() {
        // Lines 1, 2 (from 6), 302 (from 6 + 50, in steps), 300 (from 70).
        let table = [6, 1, 50, 127, 0, 127, 0, 46, 14, 0xfe];
        for (offset, line) in [(0, 1), (5, 1), (6, 2), (55, 2), (56, 302), (69, 302), (70, 300), (9999, 300)] {
            assert_eq!(LineFormat::Lnotab.line(&table, true, 1, offset), Some(line), "{offset}");
        }
    }

    #[test]
    fn a_table_without_its_end_says_nothing_of_what_comes_there() {
        let line = |whole, offset| LineFormat::Lnotab.line(&[6, 1, 50, 127], whole, 1, offset);
        assert_eq!((line(false, 55), line(false, 56), line(true, 56)), (Some(2), None, Some(129)));
        assert_eq!(
            (LineFormat::Lnotab.line(&[], true, 7, 2), LineFormat::Lnotab.line(&[], false, 7, 2)),
            (Some(7), None)
        );
    }

    #[test]
    fn ranges_may_have_no_line() {
        let table = [4, 0, 2, 0x80, 4, 2];
        for (offset, line) in [(0, Some(7)), (3, Some(7)), (4, None), (6, Some(9)), (9, Some(9)), (10, None)] {
            assert_eq!(LineFormat::Ranges.line(&table, true, 7, offset), line, "{offset}");
        }
    }

    #[test]
    fn location_entries() {
        let table = [
            0x80 | 15 << 3,     // one unit without line
            0x80 | 14 << 3 | 1, // two units, line +65, end line and columns
            0x40 | 2,
            2,
            0,
            1,
            1,
            0x80 | 13 << 3, // one unit, line -3
            7,
            0x80 | 11 << 3, // one unit, next line
            1,
            2,
            0x80 | 3 << 3, // one unit, same line
            0x11,
        ];
        let lines = [None, Some(75), Some(75), Some(72), Some(73), Some(73), None];
        for (unit, line) in lines.into_iter().enumerate() {
            assert_eq!(LineFormat::Locations.line(&table, true, 10, 2 * unit as u32), line, "{unit}");
        }
    }

    #[test]
    fn damaged_tables_do_no_harm() {
        let mut state = 7_u64;
        for round in 0..20_000 {
            let table: Vec<u8> = (0..round % 40)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 40) as u8
                })
                .collect();
            for format in [LineFormat::Lnotab, LineFormat::Ranges, LineFormat::Locations] {
                for offset in [0, 1, 2, 40, u32::MAX] {
                    let _ = format.line(&table, true, 1, offset);
                    let _ = format.line(&table, false, u32::MAX, offset);
                }
            }
        }
    }
}
