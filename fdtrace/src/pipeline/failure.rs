//! How a run ends: with an exit status that says what kind of thing went wrong.

use std::{error::Error, fmt};

use crate::source::ending::Ended;

/// How fdtrace ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Exit(i32),
    /// As the command that was traced ended, by the same signal if it was one.
    Like(Ended),
}

/// Wrong use, an ambiguous name, a bad file.
pub const USAGE: i32 = 2;
/// This machine cannot be observed.
pub const CANNOT_OBSERVE: i32 = 3;
/// Events were lost and `--require-complete` was given.
pub const INCOMPLETE: i32 = 4;

/// An error and the exit status it calls for.
#[derive(Debug)]
pub struct Failure {
    pub code: i32,
    pub error: anyhow::Error,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { code: USAGE, error: error.into(), hint: None }
    }

    /// The arguments contradict each other, or ask for nothing.
    pub fn wrong_use(what: String) -> Self {
        Self::usage(anyhow::Error::msg(what)).with_hint("`fdtrace --help` shows examples")
    }

    pub fn cannot_observe(error: impl Into<anyhow::Error>) -> Self {
        let hint = Some("`fdtrace doctor` tells what is missing and how to mend it".to_owned());
        Self { code: CANNOT_OBSERVE, error: error.into(), hint }
    }

    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.error)?;
        let causes: Vec<String> = self.error.chain().skip(1).map(ToString::to_string).collect();
        for cause in causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}
