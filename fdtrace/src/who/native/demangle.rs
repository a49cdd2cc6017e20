//! Names as the programmer wrote them, from mangled C++ and Rust names.
//!
//! A mangled name may stand for a text of any length; what comes out here is bounded. It is still hostile text: whoever
//! prints it escapes it.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions};

/// Longest name that is looked at, and longest that is given.
const NAME_MAX: usize = 4096;

/// Without parameters and return type for C++, without hash for Rust. A name that is not mangled is given as it is.
pub fn demangle(name: &[u8]) -> String {
    let plain = || String::from_utf8_lossy(&name[..name.len().min(NAME_MAX)]).into_owned();
    let Ok(text) = std::str::from_utf8(name) else {
        return plain();
    };
    if text.len() > NAME_MAX {
        return plain();
    }
    let text = text.split_once('@').map_or(text, |(name, _version)| name);
    // Legacy Rust names are also valid C++ names, and may hold dots.
    if let Ok(rust) = rustc_demangle::try_demangle(text) {
        return bounded(|out| write!(out, "{rust:#}")).unwrap_or_else(plain);
    }
    let (mangled, part) = without_clone_suffix(text);
    if !mangled.starts_with("_Z") {
        return format!("{mangled}{part}");
    }
    let Ok(symbol) = cpp_demangle::BorrowedSymbol::with_tail_and_options(mangled.as_bytes(), &ParseOptions::default())
    else {
        return plain();
    };
    let options = DemangleOptions::new().no_params().no_return_type();
    match bounded(|out| symbol.0.structured_demangle(out, &options)) {
        Some(mut name) => {
            name.push_str(part);
            name
        }
        None => plain(),
    }
}

/// Takes off what the compiler appends to the copies it makes of a function: `.isra.0`, `.constprop.1`, `.lto_priv.0`,
/// `.part.2`, `.llvm.123`.
/// `.cold` is given separately: it is a part, not a copy.
fn without_clone_suffix(text: &str) -> (&str, &str) {
    let is_clone = |word: &str| {
        matches!(word, "isra" | "constprop" | "lto_priv" | "part" | "llvm" | "localalias")
            || word.bytes().all(|byte| byte.is_ascii_digit())
    };
    let Some((name, suffix)) = text.split_once('.') else {
        return (text, "");
    };
    // A name with other dots is of another language.
    if name.is_empty() || !suffix.split('.').all(|word| is_clone(word) || word == "cold") {
        return (text, "");
    }
    (name, if suffix.split('.').any(|word| word == "cold") { ".cold" } else { "" })
}

fn bounded(write: impl FnOnce(&mut Bounded) -> fmt::Result) -> Option<String> {
    let mut out = Bounded(String::new());
    match write(&mut out) {
        Ok(()) => Some(out.0),
        Err(fmt::Error) if out.0.len() >= NAME_MAX / 2 => Some(out.0 + "…"),
        Err(fmt::Error) => None,
    }
}

struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > NAME_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_kind() {
        for (name, want) in [
            ("close", "close"),
            ("_ZN3foo3bar17h05af221e174051e9E", "foo::bar"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_ZN2ns4File5closeEi", "ns::File::close"),
            ("_ZN2ns4File5closeEi.cold", "ns::File::close.cold"),
            ("_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back"),
            ("_io_FileIO_close.lto_priv.0", "_io_FileIO_close"),
            ("f.part.0.cold", "f.cold"),
            ("_ZN2ns4File5closeEi.isra.0", "ns::File::close"),
            ("fopen@@GLIBC_2.2.5", "fopen"),
            ("_Z", "_Z"),
            ("main.(*T).close", "main.(*T).close"),
        ] {
            assert_eq!(demangle(name.as_bytes()), want);
        }
        assert_eq!(demangle(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_bomb_is_cut() {
        // Every parameter repeats all before it.
        let mut name = String::from("_Z1fI1aE");
        for level in 0..40 {
            let _ =
                write!(name, "St4pairIS{0}_S{0}_E", if level == 0 { String::new() } else { (level - 1).to_string() });
        }
        assert!(demangle(name.as_bytes()).len() <= NAME_MAX + 4);
        assert!(demangle(&vec![b'_'; 1 << 20]).len() <= NAME_MAX);
    }
}
