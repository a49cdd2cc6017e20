//! Spells JSON strings so that a line can be looked at in a terminal. What would move the cursor, hide text or turn its
//! direction is written as `\uXXXX`, which every JSON reader takes for the same character.

use std::io::{self, Write};

use crate::escape::escape_terminal;

pub struct Formatter;

impl serde_json::ser::Formatter for Formatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut safe_from = 0;
        for (at, character) in fragment.char_indices() {
            if is_harmless(character) {
                continue;
            }
            writer.write_all(&fragment.as_bytes()[safe_from..at])?;
            safe_from = at + character.len_utf8();
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        writer.write_all(&fragment.as_bytes()[safe_from..])
    }
}

/// JSON's own escapes are made elsewhere; what is left of ASCII here is DEL.
fn is_harmless(character: char) -> bool {
    if character.is_ascii() {
        return character != '\x7f';
    }
    let mut bytes = [0; 4];
    let text = character.encode_utf8(&mut bytes);
    escape_terminal(text.as_bytes()) == *text
}
