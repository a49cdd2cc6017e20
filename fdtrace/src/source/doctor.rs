//! Says what preflight found, to people and to programs.
//!
//! Pure text: no colour, no probing, no exit. The caller turns the [`Verdict`] into an exit status.

use std::fmt;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::preflight::{Check, Status};

/// Whether fdtrace can work here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ready,
    /// So many checks failed.
    CannotObserve(usize),
}

impl Verdict {
    /// 3 is fdtrace's "cannot observe here".
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Ready => 0,
            Self::CannotObserve(_) => 3,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::CannotObserve(1) => f.write_str("cannot observe here: 1 problem"),
            Self::CannotObserve(problems) => write!(f, "cannot observe here: {problems} problems"),
        }
    }
}

pub fn verdict(checks: &[Check]) -> Verdict {
    match checks.iter().filter(|check| check.status == Status::Fail).count() {
        0 => Verdict::Ready,
        problems => Verdict::CannotObserve(problems),
    }
}

/// A line for each check, a second one for each fix, and the verdict as the last line.
pub fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for Check { name, status, found, fix } in checks {
        let word = word(*status);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{word:<4}  {name:<width$}  {found}");
        if let Some(fix) = fix {
            let _ = writeln!(out, "{:<4}  {:<width$}  fix: {fix}", "", "");
        }
    }
    let _ = writeln!(out, "{}", verdict(checks));
    out
}

/// The same for programs.
pub fn json(checks: &[Check]) -> Value {
    let verdict = verdict(checks);
    let problems = match verdict {
        Verdict::Ready => 0,
        Verdict::CannotObserve(problems) => problems,
    };
    let checks: Vec<Value> = checks
        .iter()
        .map(
            |Check {
                 name,
                 status,
                 found,
                 fix,
             }| json!({ "name": name, "status": word(*status), "found": found, "fix": fix }),
        )
        .collect();
    json!({ "type": "doctor", "ready": verdict == Verdict::Ready, "problems": problems, "checks": checks })
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "fail",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        let check = |name, status, fix: Option<&str>| Check {
            name,
            status,
            found: format!("about {name}"),
            fix: fix.map(str::to_owned),
        };
        vec![
            check("kernel", Status::Ok, None),
            check("statistics", Status::Warn, Some("turn it off")),
            check("ring", Status::Fail, None),
        ]
    }

    #[test]
    fn text_is_a_table_with_fixes_and_a_verdict() {
        let expected = "\
ok    kernel      about kernel
warn  statistics  about statistics
                  fix: turn it off
fail  ring        about ring
cannot observe here: 1 problem
";
        assert_eq!(text(&checks()), expected);
        assert_eq!(text(&checks()[..2]).lines().last(), Some("ready"));
    }

    #[test]
    fn json_says_the_same() {
        let value = json(&checks());
        assert_eq!(value["ready"], false);
        assert_eq!(value["problems"], 1);
        assert_eq!(value["checks"][1]["fix"], "turn it off");
        assert_eq!(value["checks"][2]["status"], "fail");
        assert!(value["checks"][0]["fix"].is_null());
    }

    #[test]
    fn verdicts_have_exit_codes() {
        assert_eq!(verdict(&checks()).exit_code(), 3);
        assert_eq!(verdict(&[]).exit_code(), 0);
    }
}
