//! Makes text that came from somewhere else safe to print on a terminal.
//!
//! Paths, command lines, thread and task names are chosen by the traced program, and nothing obliges them to be UTF-8,
//! short, or honest. Every sink prints them through [`escape_terminal`]; no sink prints them raw. The result never
//! contains a control character, a line break, an invisible character or one that reorders its neighbours, so one
//! record is always one line. This module does not judge look-alike letters, and does not know about colours: what
//! fdtrace itself wants to say in colour is added afterwards.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use unicode_width::UnicodeWidthChar;

/// Escapes `bytes` for a terminal.
///
/// * Printable characters pass.
/// * C0 controls, DEL and bytes that are not UTF-8 become `\xNN`.
/// * C1 controls, bidirectional controls, zero-width and other invisible characters, line and paragraph separators
///   become `\u{N}`.
/// * A backslash is always doubled. A rule with exceptions would keep a few names prettier, but then `\x1b` in a report
///   could be an escape character or four harmless letters; this way each text has exactly one reading, and the
///   escaping can be undone even after two escaped texts were joined.
pub fn escape_terminal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str(r"\\"),
                '\0'..='\x1f' | '\x7f' => push_byte(&mut out, c as u8),
                c if deceives(c) => out.extend(c.escape_unicode()),
                c => out.push(c),
            }
        }
        for &byte in chunk.invalid() {
            push_byte(&mut out, byte);
        }
    }
    out
}

/// [`escape_terminal`] for names that the system hands out as [`OsStr`] or [`std::path::Path`].
pub fn escape_os(text: impl AsRef<OsStr>) -> String {
    escape_terminal(text.as_ref().as_bytes())
}

/// Cuts the middle out of `text` so that it takes at most `width` columns; `…` marks the cut.
///
/// The end of a path or command line says as much as its beginning, so both halves keep the same room. `text` should be
/// escaped already: then a cut inside an escape leaves printable characters and nothing worse.
pub fn shorten_middle(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(1) else {
        return String::new();
    };
    let tail_room = room / 2;
    let head_end = prefix_within(text.char_indices(), room - tail_room).map_or(0, |(at, c)| at + c.len_utf8());
    let tail_start = prefix_within(text.char_indices().rev(), tail_room).map_or(text.len(), |(at, _)| at);
    // An accent without its letter would land on the mark.
    let tail = text[tail_start..].trim_start_matches(|c| char_columns(c) == 0);
    format!("{}…{tail}", &text[..head_end])
}

/// Columns that `text` takes on a terminal.
pub fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

/// The last character of the longest run from the start of `chars` that fits into `room` columns.
fn prefix_within(chars: impl Iterator<Item = (usize, char)>, mut room: usize) -> Option<(usize, char)> {
    chars
        .take_while(|&(_, c)| match room.checked_sub(char_columns(c)) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        })
        .last()
}

fn char_columns(c: char) -> usize {
    c.width().unwrap_or(0)
}

fn push_byte(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push_str(r"\x");
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// Characters that are not seen, or that change how their neighbours are seen.
fn deceives(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' // C1 controls: some terminals take U+009B for the start of a control sequence.
        | '\u{ad}' // soft hyphen
        | '\u{34f}' // combining grapheme joiner
        | '\u{61c}' // Arabic letter mark
        | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // Hangul fillers
        | '\u{17b4}' | '\u{17b5}' // Khmer inherent vowels
        | '\u{180b}'..='\u{180f}' // Mongolian selectors and vowel separator
        | '\u{200b}'..='\u{200f}' // zero-width space and joiners, direction marks
        | '\u{2028}'..='\u{202e}' // line and paragraph separators, embeddings and overrides
        | '\u{2060}'..='\u{206f}' // word joiner, invisible operators, isolates, deprecated controls
        | '\u{fe00}'..='\u{fe0f}' // variation selectors
        | '\u{feff}' // byte order mark
        | '\u{fff0}'..='\u{fffb}' // unassigned and interlinear annotation
        | '\u{1bca0}'..='\u{1bca3}' // shorthand format controls
        | '\u{1d173}'..='\u{1d17a}' // musical format controls
        | '\u{e0000}'..='\u{e0fff}' // tags and variation selectors
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_passes() {
        for text in ["", "/usr/bin/python3", "Grüße, 世界 🦀", "a b\u{a0}c"] {
            assert_eq!(escape_terminal(text.as_bytes()), text);
        }
    }

    #[test]
    fn escapes() {
        let cases: &[(&[u8], &str)] = &[
            (b"a\x1b[31mb\n\r\t\0\x7f", r"a\x1b[31mb\x0a\x0d\x09\x00\x7f"),
            ("\u{9b}31m".as_bytes(), r"\u{9b}31m"),
            (b"\x9b31m", r"\x9b31m"),
            (b"\xff\xfe ok \xc3", r"\xff\xfe ok \xc3"),
            ("a\u{202e}gpj.exe\u{2066}".as_bytes(), r"a\u{202e}gpj.exe\u{2066}"),
            ("\u{200b}\u{feff}\u{2028}\u{61c}".as_bytes(), r"\u{200b}\u{feff}\u{2028}\u{61c}"),
            (br"\x1b", r"\\x1b"),
            (br"C:\dir\", r"C:\\dir\\"),
        ];
        for (input, expected) in cases {
            assert_eq!(&escape_terminal(input), expected);
        }
    }

    /// Whatever goes in, no control character comes out, and distinct inputs stay distinct.
    #[test]
    fn every_pair_of_bytes_is_tame_and_distinct() {
        let mut seen = std::collections::HashSet::new();
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                let text = escape_terminal(&[a, b]);
                assert!(text.chars().all(|c| !c.is_control() && !deceives(c)));
                assert!(seen.insert(text));
            }
        }
    }

    #[test]
    fn every_character_that_passes_is_visible() {
        for c in ['\0'..='\u{d7ff}', '\u{e000}'..='\u{10ffff}'].into_iter().flatten() {
            let text = escape_terminal(c.encode_utf8(&mut [0; 4]).as_bytes());
            assert!(text.chars().all(|c| !c.is_control() && !deceives(c)));
        }
    }

    #[test]
    fn shortens() {
        let cases = [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "ab…ef"),
            ("abcdef", 4, "ab…f"),
            ("abcdef", 1, "…"),
            ("abcdef", 0, ""),
            ("", 0, ""),
            ("世界世界世界", 7, "世…界"),
            ("e\u{301}e\u{301}e\u{301}e\u{301}", 3, "e\u{301}…e\u{301}"),
        ];
        for (text, width, expected) in cases {
            let short = shorten_middle(text, width);
            assert!(columns(&short) <= width, "{short}");
            assert_eq!(short, expected);
        }
    }
}
