//! Reads Rust source just far enough to see which paths it names.
//!
//! Comments, strings and test code are left out; `use` trees are opened, `super` and imported names are resolved.
//! This is no parser: it knows nothing of types or macros, and takes every path it sees at its word.

mod lexer;

use std::{collections::HashMap, iter};

use lexer::Token;

/// A path that the source names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub line: usize,
    /// Absolute: begins with `crate` or the name of another crate. A glob ends in `*`.
    pub path: Vec<String>,
    /// The import that gave the path its beginning, where it was not spelled out.
    pub import: Option<Vec<String>>,
}

/// The paths in `source`, which is the module `module` (`["model", "table"]`), in the order in which they stand.
pub fn references(source: &str, module: &[String]) -> Vec<Reference> {
    let tokens = without_tests(lexer::tokens(source));
    let mut scan = Scan { tokens: &tokens, at: 0, modules: Vec::new(), root: module, found: Vec::new() };
    scan.file();
    resolve_imports(scan.found)
}

/// A reference, and whether it is an import, under which name.
struct Found {
    reference: Reference,
    imported_as: Option<String>,
}

struct Scan<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    /// Modules written inside this file that are open, each with the braces open before it.
    modules: Vec<(String, usize)>,
    root: &'a [String],
    found: Vec<Found>,
}

impl Scan<'_> {
    fn file(&mut self) {
        let mut braces = 0;
        while let Some(token) = self.peek() {
            match token {
                Token::Mark('{') => {
                    braces += 1;
                    self.at += 1;
                }
                Token::Mark('}') => {
                    braces -= 1;
                    self.modules.pop_if(|(_, before)| *before == braces);
                    self.at += 1;
                }
                Token::Word(word) if word == "use" => {
                    self.at += 1;
                    self.skip_if(&Token::Join);
                    self.use_tree(&[]);
                }
                Token::Word(word) if word == "mod" => {
                    if let (Some(Token::Word(name)), Some(Token::Mark('{'))) = (self.ahead(1), self.ahead(2)) {
                        self.modules.push((name.clone(), braces));
                    }
                    self.at += 1;
                }
                Token::Word(_) => self.path(),
                // `value.method::<T>()` names no path, and neither do `T::` left-overs after a generic.
                Token::Mark('.') | Token::Join => self.at += 2,
                Token::Mark(_) => self.at += 1,
            }
        }
    }

    /// A path in the middle of code. A single word is a variable, a keyword, a type: no path.
    fn path(&mut self) {
        let line = self.line();
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.peek() {
            words.push(word.clone());
            self.at += 1;
            match (self.peek(), self.ahead(1)) {
                (Some(Token::Join), Some(Token::Word(_))) => self.at += 1,
                _ => break,
            }
        }
        if words.len() > 1 {
            self.push(line, words, None);
        }
    }

    /// What follows `use`, or stands between the commas of a group in it.
    fn use_tree(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        loop {
            let line = self.line();
            match self.peek().cloned() {
                Some(Token::Word(word)) => {
                    self.at += 1;
                    if self.skip_if(&Token::Join) {
                        path.push(word);
                        continue;
                    }
                    // `{self}` imports what the group stands under.
                    if word != "self" || path.is_empty() {
                        path.push(word);
                    }
                    let mut name = path.last().cloned();
                    if matches!(self.peek(), Some(Token::Word(word)) if word == "as") {
                        if let Some(Token::Word(alias)) = self.ahead(1) {
                            name = Some(alias.clone());
                        }
                        self.at += 2;
                    }
                    return self.push(line, path, name);
                }
                Some(Token::Mark('*')) => {
                    self.at += 1;
                    path.push("*".to_owned());
                    return self.push(line, path, None);
                }
                Some(Token::Mark('{')) => {
                    self.at += 1;
                    while !matches!(self.peek(), None | Some(Token::Mark('}' | ';'))) {
                        self.use_tree(&path);
                        self.skip_if(&Token::Mark(','));
                    }
                    self.skip_if(&Token::Mark('}'));
                    return;
                }
                // Not Rust, or a macro's idea of it.
                _ => {
                    self.at += 1;
                    return;
                }
            }
        }
    }

    fn push(&mut self, line: usize, path: Vec<String>, imported_as: Option<String>) {
        let path = self.absolute(path);
        self.found.push(Found { reference: Reference { line, path, import: None }, imported_as });
    }

    /// Spells out `self` and `super`.
    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let relative = path.iter().take_while(|word| ["self", "super"].contains(&word.as_str())).count();
        if relative == 0 {
            return path;
        }
        let up = path.iter().take(relative).filter(|word| *word == "super").count();
        let inner = self.modules.iter().map(|(name, _)| name);
        let here: Vec<_> = self.root.iter().chain(inner).cloned().collect();
        let base = here.len().saturating_sub(up);
        iter::once("crate".to_owned())
            .chain(here.into_iter().take(base))
            .chain(path.into_iter().skip(relative))
            .collect()
    }

    fn peek(&self) -> Option<&Token> {
        self.ahead(0)
    }

    fn ahead(&self, by: usize) -> Option<&Token> {
        self.tokens.get(self.at + by).map(|(_, token)| token)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(0, |(line, _)| *line)
    }

    fn skip_if(&mut self, token: &Token) -> bool {
        let there = self.peek() == Some(token);
        self.at += usize::from(there);
        there
    }
}

/// Replaces the first word of a path by the import of that name: `time::Instant` after `use std::time`.
/// An import holds for the whole file, whatever the block it stands in: that can only find more.
fn resolve_imports(found: Vec<Found>) -> Vec<Reference> {
    let imports: HashMap<String, Vec<String>> =
        found.iter().filter_map(|found| Some((found.imported_as.clone()?, found.reference.path.clone()))).collect();
    let resolve = |Found { mut reference, imported_as }: Found| {
        if let (None, [first, rest @ ..]) = (imported_as, reference.path.as_slice())
            && let Some(import) = imports.get(first)
        {
            reference.import = Some(import.clone());
            reference.path = import.iter().chain(rest).cloned().collect();
        }
        reference
    };
    found.into_iter().map(resolve).collect()
}

/// Cuts out what `#[cfg(test)]` stands before, and everything after `#![cfg(test)]`: tests may use what they like.
fn without_tests(tokens: Vec<(usize, Token)>) -> Vec<(usize, Token)> {
    let word = |word: &str| Token::Word(word.to_owned());
    let attribute = [Token::Mark('['), word("cfg"), Token::Mark('('), word("test"), Token::Mark(')'), Token::Mark(']')];
    let is_attribute = |at: usize| {
        tokens.get(at..at + attribute.len()).is_some_and(|found| found.iter().map(|(_, token)| token).eq(&attribute))
    };
    let mark = |at: usize| match tokens.get(at) {
        Some((_, Token::Mark(mark))) => Some(*mark),
        _ => None,
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match (mark(at), mark(at + 1)) {
            (Some('#'), Some('!')) if is_attribute(at + 2) => break,
            (Some('#'), _) if is_attribute(at + 1) => at = end_of_item(&tokens, at + 1 + attribute.len()),
            _ => {
                kept.push(token.clone());
                at += 1;
            }
        }
    }
    kept
}

/// Where the item that begins at `at` has ended: after its `;`, or after the block that closes it.
fn end_of_item(tokens: &[(usize, Token)], mut at: usize) -> usize {
    let is_use = matches!(tokens.get(at), Some((_, Token::Word(word))) if word == "use");
    let mut depth = 0usize;
    while let Some((_, token)) = tokens.get(at) {
        at += 1;
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(close @ (')' | ']' | '}')) => {
                depth = depth.saturating_sub(1);
                if depth == 0 && *close == '}' && !is_use {
                    break;
                }
            }
            Token::Mark(';') if depth == 0 => break,
            _ => {}
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        let module = ["model".to_owned(), "table".to_owned()];
        references(source, &module)
            .into_iter()
            .map(|reference| format!("{} {}", reference.line, reference.path.join("::")))
            .collect()
    }

    #[test]
    fn use_trees_are_opened() {
        assert_eq!(
            paths("use crate::{\n  event::{self, Event},\n  order::*,\n};\nuse ::aya as a;"),
            ["2 crate::event", "2 crate::event::Event", "3 crate::order::*", "5 aya"]
        );
    }

    #[test]
    fn relative_paths_are_spelled_out() {
        assert_eq!(
            paths("use super::super::sink;\nfn f() { self::x(); super::world::y() }"),
            ["1 crate::sink", "2 crate::model::table::x", "2 crate::model::world::y"]
        );
        assert_eq!(
            paths("mod inner { use super::x; }\nuse super::y;"),
            ["1 crate::model::table::x", "2 crate::model::y"]
        );
    }

    #[test]
    fn imported_names_are_resolved() {
        let found = references("use std::time;\nfn f() { time::Instant::now(); }", &[]);
        let [_, call] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(call.path.join("::"), "std::time::Instant::now");
        assert_eq!(call.import, Some(vec!["std".to_owned(), "time".to_owned()]));
    }

    #[test]
    fn tests_are_left_out() {
        let source = "
            #[cfg(test)] use crate::{a, b};
            #[cfg(test)] #[path = \"x\"] mod far;
            #[cfg(test)]
            mod tests { use super::*; fn f() { std::fs::read(\"{\"); } }
            #[cfg(not(test))] use crate::c;
            fn f() { d::e }";
        assert_eq!(paths(source), ["6 crate::c", "7 d::e"]);
        assert_eq!(paths("#![cfg(test)] use crate::a;"), [""; 0]);
    }

    #[test]
    fn methods_and_single_words_are_no_paths() {
        assert_eq!(paths("fn f() { x.crate_::<T>(); libc; Vec::<aya::X>::new() }"), ["1 aya::X"]);
    }

    #[test]
    fn anything_is_read_without_a_panic() {
        for source in ["use", "use {", "use a::{b", "/*", "\"", "'", "r#\"", "b'", "::", "#[cfg(test)]", "é'é", "mod"]
        {
            paths(source);
        }
    }
}
