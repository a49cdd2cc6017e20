//! Cuts Rust source into words and marks; comments, literals and lifetimes are left out.

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    Word(String),
    /// `::`
    Join,
    Mark(char),
}

/// Words and marks with their line numbers; no comments, literals or lifetimes.
pub fn tokens(source: &str) -> Vec<(usize, Token)> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (length, token) = if let Some(length) = skipped(rest) {
            (length, None)
        } else if rest.starts_with("::") {
            (2, Some(Token::Join))
        } else if let Some(length) = word(rest) {
            let text = &rest[..length];
            (length, Some(Token::Word(text.strip_prefix("r#").unwrap_or(text).to_owned())))
        } else {
            (first.len_utf8(), (!first.is_whitespace()).then_some(Token::Mark(first)))
        };
        let (read, left) = rest.split_at(length);
        found.extend(token.map(|token| (line, token)));
        line += read.matches('\n').count();
        rest = left;
    }
    found
}

/// The length of the comment, literal or lifetime that `text` begins with.
fn skipped(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    // `b"…"`, `c"…"`, `r#"…"#` and their like; `r#name` is a word.
    let prefix = text.find(|c: char| !"brc".contains(c)).filter(|length| *length <= 2)?;
    let body = &text[prefix..];
    if text[..prefix].ends_with('r') {
        let hashes = body.find(|c| c != '#')?;
        let raw = body[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = raw.find(&end).map_or(raw.len(), |at| at + end.len());
        return Some(prefix + hashes + 1 + length);
    }
    match body.chars().next()? {
        '"' => Some(prefix + quoted(body, '"')),
        '\'' if is_character(body) => Some(prefix + quoted(body, '\'')),
        '\'' => Some(prefix + 1 + word(&body[1..]).unwrap_or(0)),
        _ => None,
    }
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find(['/', '*']) {
        at += found;
        let (step, change) = match text[at..].get(..2) {
            Some("/*") => (2, 1),
            Some("*/") => (2, -1),
            _ => (1, 0),
        };
        at += step;
        depth += change;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// `'a'` and `'\n'` are characters, `'a` is a lifetime.
fn is_character(text: &str) -> bool {
    let mut inside = text.chars().skip(1);
    inside.next() == Some('\\') || inside.next() == Some('\'')
}

/// The length of a literal up to its closing `quote`.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the identifier, keyword or number that `text` begins with.
fn word(text: &str) -> Option<usize> {
    let name = text.strip_prefix("r#").unwrap_or(text);
    let length = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    (length > 0).then_some(text.len() - name.len() + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<(usize, String)> {
        let tokens = tokens(source).into_iter();
        tokens
            .filter_map(|(line, token)| match token {
                Token::Word(word) => Some((line, word)),
                Token::Join | Token::Mark(_) => None,
            })
            .collect()
    }

    #[test]
    fn comments_and_literals_are_left_out() {
        let source = r####"
            //! aya::Ebpf
            /* aya::a /* aya::b */ aya::c */ one
            "aya::d \" aya::e
              aya::f" two
            br#"aya::g " aya::h"# r"aya::i \" three
            '"' '\'' b'\\' 'é' four
        "####;
        let expected = [(3, "one"), (5, "two"), (6, "three"), (7, "four")];
        assert_eq!(words(source), expected.map(|(line, word)| (line, word.to_owned())));
    }

    #[test]
    fn lifetimes_are_no_literals_and_raw_words_are_words() {
        let found: Vec<_> = words("r#fn<'a>(x: &'a str)").into_iter().map(|(_, word)| word).collect();
        assert_eq!(found, ["fn", "x", "str"]);
    }

    #[test]
    fn anything_is_read_without_a_panic() {
        for source in ["/*", "\"", "'", "r#\"", "b'", "br", "c", "::", "é'é", "'é", "r#", "*/", "\"\\"] {
            tokens(source);
        }
    }
}
