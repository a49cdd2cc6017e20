//! When are two findings the same mistake? When the same rule is broken at the same places of the same program,
//! whichever numbers, addresses, times and processes came with it.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use crate::detect::finding::{Act, Finding};

/// Frames of each act that count. Further out the same mistake has many callers.
const FRAMES: usize = 3;

/// Equal for findings that a report folds into one. A hash: at worst one finding in many billions is counted and not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape(u64);

impl Shape {
    pub fn of(finding: &Finding) -> Self {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        (finding.rule, finding.confidence, finding.severity, &finding.process).hash(&mut hasher);
        let acts = [&finding.root_cause, &finding.culprit, &finding.victim];
        for act in acts {
            act.as_ref().map(|act| (act.call, act.error, sites(act))).hash(&mut hasher);
        }
        if acts.into_iter().flatten().all(|act| sites(act).is_empty()) {
            wording(&finding.message).hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// FNV-1a. Shapes are compared with those of earlier runs, by whichever compiler; that of the standard library may change.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn sites(act: &Act) -> Vec<impl Hash> {
    let who = &act.who;
    let frames = if who.python.is_empty() { &who.native } else { &who.python };
    frames.iter().take(FRAMES).map(|frame| (&frame.function, &frame.file, frame.line, &frame.module)).collect()
}

/// The message without its numbers, decimal or hexadecimal.
fn wording(message: &str) -> String {
    let is_number = |word: &str| {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        !digits.is_empty()
            && digits.chars().all(|c| c.is_ascii_hexdigit())
            && word.starts_with(|c: char| c.is_ascii_digit())
    };
    message
        .split_inclusive(|c: char| !c.is_alphanumeric())
        .map(|word| {
            let bare = word.trim_end_matches(|c: char| !c.is_alphanumeric());
            if is_number(bare) { word.replacen(bare, "#", 1) } else { word.to_owned() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::wording;

    #[test]
    fn wording_has_no_numbers() {
        assert_eq!(wording("fd 3, pid 4242 at 0x7f12ab: a.py:6 b2c"), "fd #, pid # at #: a.py:# b2c");
        assert_eq!(wording("fd 12 of FileIO 0x7f…180 is bad"), wording("fd 3 of FileIO 0x7f…200 is bad"));
    }
}
