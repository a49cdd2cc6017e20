//! The side that traces: starts fdtrace on the driver, as a user would, and holds what it reports against the programs.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Case, cases,
    drive::{MARK, chosen},
    sys,
};

/// Exit status where something is not as it should be.
const FAILED: i32 = 1;
const WRONG_USE: i32 = 2;

/// What became of one of the two programs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Run {
    /// It ran, and these rules were reported of it, in order.
    Reported(BTreeSet<String>),
    Skipped(String),
    Broken(String),
    /// Nobody has told of it.
    Unheard,
}

/// When a program ran, by the driver.
#[derive(Debug)]
struct Told {
    name: String,
    which: String,
    began: u64,
    ended: u64,
    status: i32,
    complaint: String,
}

/// What became of a case.
#[derive(Debug)]
struct Row<'a> {
    case: &'a Case,
    bad: Run,
    twin: Run,
    took: Duration,
}

#[derive(Debug)]
struct Outcome<'a> {
    rows: Vec<Row<'a>>,
    /// Rules reported of what is none of the programs.
    stray: Vec<String>,
    lost: u64,
}

/// Runs the programs of `only`, or all, under fdtrace, and prints what came of it. Returns the exit status.
///
/// # Errors
///
/// fdtrace could not be started.
pub fn self_test(only: &[String], as_json: bool) -> io::Result<i32> {
    let chosen: Vec<&Case> = cases().filter(|case| chosen(case, only)).collect();
    if let Some(unknown) = only.iter().find(|name| !cases().any(|case| case.rule == **name || case.name() == **name)) {
        eprintln!("fdtrace: no program for a rule `{unknown}`; there are: {}", names(cases()));
        return Ok(WRONG_USE);
    }
    let started = Instant::now();
    let traced = trace(only)?;
    if traced.status != 0 {
        eprint!("{}", traced.rest);
        eprintln!("fdtrace: the trace ended with status {}: `fdtrace doctor` says what is missing", traced.status);
        return Ok(traced.status);
    }
    let outcome = judge(&chosen, &traced.told, &traced.lines);
    if as_json {
        println!("{:#}", outcome.json());
    } else {
        print!("{}", outcome.text(started.elapsed()));
        eprint!("{}", traced.rest);
    }
    Ok(if outcome.is_good() { 0 } else { FAILED })
}

fn names<'a>(cases: impl Iterator<Item = &'a Case>) -> String {
    cases.map(Case::name).collect::<Vec<_>>().join(", ")
}

/// What a traced run of the driver left.
struct Traced {
    status: i32,
    told: Vec<Told>,
    lines: Vec<Value>,
    /// What else was said.
    rest: String,
}

fn trace(only: &[String]) -> io::Result<Traced> {
    let us = std::env::current_exe()?;
    let mut fdtrace = Command::new(&us);
    fdtrace.args(["--notes", "--stack-bytes", "0", "--json", "-", "--"]).arg(&us).args(["self-test", "--drive"]);
    if let Some(python) = python() {
        fdtrace.arg("--python").arg(python);
    }
    fdtrace.args(only);
    let mut child = fdtrace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("fdtrace has no output"));
    };
    let reader = std::thread::spawn(move || BufReader::new(stdout).lines().collect::<Result<Vec<_>, _>>());
    let (mut told, mut rest) = (Vec::new(), String::new());
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        match line.strip_prefix(MARK).and_then(read_mark) {
            Some(mark) => told.push(mark),
            None => {
                rest.push_str(&line);
                rest.push('\n');
            }
        }
    }
    let lines = reader.join().map_err(|_| io::Error::other("cannot read what fdtrace says"))??;
    let lines = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let status = child.wait()?.code().unwrap_or(FAILED);
    Ok(Traced { status, told, lines, rest })
}

/// An interpreter that is not a script that looks for one: its own answer, for pyenv's and others' shims are such.
fn python() -> Option<String> {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !path.is_empty()).then_some(path)
}

fn read_mark(line: &str) -> Option<Told> {
    let mut words = line.trim_start().splitn(6, ' ');
    Some(Told {
        name: words.next()?.to_owned(),
        which: words.next()?.to_owned(),
        began: words.next()?.parse().ok()?,
        ended: words.next()?.parse().ok()?,
        status: words.next()?.parse().ok()?,
        complaint: words.next().unwrap_or_default().to_owned(),
    })
}

fn judge<'a>(chosen: &[&'a Case], told: &[Told], lines: &[Value]) -> Outcome<'a> {
    let findings: Vec<(&str, u64)> =
        lines.iter().filter(|line| line["type"] == "finding").filter_map(finding).collect();
    let within = |told: &Told, time: u64| (told.began..=told.ended).contains(&time);
    let stray = findings
        .iter()
        .filter(|(_, time)| !told.iter().any(|told| within(told, *time)))
        .map(|(rule, _)| (*rule).to_owned())
        .collect();
    let run = |case: &Case, which: &str| {
        let name = case.name();
        let Some(told) = told.iter().find(|told| told.name == name && told.which == which) else {
            return (Run::Unheard, Duration::ZERO);
        };
        let run = match told.status {
            0 => {
                let of_it = findings.iter().filter(|(_, time)| within(told, *time));
                Run::Reported(of_it.map(|(rule, _)| (*rule).to_owned()).collect())
            }
            sys::NOT_HERE => Run::Skipped(told.complaint.clone()),
            status => Run::Broken(format!("ended with {status}: {}", told.complaint)),
        };
        (run, Duration::from_nanos(told.ended.saturating_sub(told.began)))
    };
    let rows = chosen.iter().map(|case| {
        let ((bad, bad_took), (twin, twin_took)) = (run(case, "bad"), run(case, "twin"));
        Row { case, bad, twin, took: bad_took + twin_took }
    });
    let end = lines.iter().find(|line| line["type"] == "end");
    // Without a last line nobody knows what is missing.
    let lost = end.and_then(|end| end["lost"].as_u64()).unwrap_or(u64::MAX);
    Outcome { rows: rows.collect(), stray, lost }
}

/// The rule, and the time of the last act that it tells of.
fn finding(line: &Value) -> Option<(&str, u64)> {
    let parts = ["culprit", "victim", "root_cause"].into_iter().map(|part| &line[part]);
    let acts = line["timeline"].as_array().into_iter().flatten().chain(parts);
    let last = acts.filter_map(|act| act["time"].as_u64()).max();
    Some((line["rule"].as_str()?, last.or(line["time"].as_u64())?))
}

impl Row<'_> {
    /// The rule was found, and nothing else that is not true as well.
    fn bad_is_good(&self) -> bool {
        match &self.bad {
            Run::Reported(rules) => {
                rules.contains(self.case.rule)
                    && rules.iter().all(|rule| rule == self.case.rule || self.case.also.contains(&rule.as_str()))
            }
            Run::Skipped(_) => true,
            Run::Broken(_) | Run::Unheard => false,
        }
    }

    fn twin_is_good(&self) -> bool {
        match &self.twin {
            Run::Reported(rules) => rules.is_empty(),
            Run::Skipped(_) => true,
            Run::Broken(_) | Run::Unheard => false,
        }
    }

    fn is_good(&self) -> bool {
        self.bad_is_good() && self.twin_is_good()
    }

    fn is_skipped(&self) -> bool {
        matches!((&self.bad, &self.twin), (Run::Skipped(_), _) | (_, Run::Skipped(_)))
    }
}

impl Outcome<'_> {
    fn is_good(&self) -> bool {
        self.lost == 0 && self.stray.is_empty() && self.rows.iter().all(Row::is_good)
    }

    fn text(&self, took: Duration) -> String {
        let width = self.rows.iter().map(|row| row.case.name().len()).max().unwrap_or(0);
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(out, "{:<6}  {:<width$}  {:<22}  {:<8}  {:>7}", "", "rule", "bad program", "twin", "ms");
        for row in &self.rows {
            let word = if !row.is_good() {
                "FAILED"
            } else if row.is_skipped() {
                "skip"
            } else {
                "ok"
            };
            let bad = match &row.bad {
                Run::Reported(rules) if rules.contains(row.case.rule) => {
                    let with = rules.len() - 1;
                    if with > 0 { format!("found, with {with} more") } else { "found".to_owned() }
                }
                run => run.word().to_owned(),
            };
            let twin = match &row.twin {
                Run::Reported(rules) if rules.is_empty() => "silent",
                Run::Reported(_) => "accused",
                run => run.word(),
            };
            let name = row.case.name();
            let took = row.took.as_millis();
            let _ = writeln!(out, "{word:<6}  {name:<width$}  {bad:<22}  {twin:<8}  {took:>7}");
            for (which, run, good) in [("bad", &row.bad, row.bad_is_good()), ("twin", &row.twin, row.twin_is_good())] {
                if let Some(remark) = run.remark(good) {
                    let _ = writeln!(out, "{:<6}  {:<width$}  {which}: {remark}", "", "");
                }
            }
        }
        let count = |what: fn(&Row<'_>) -> bool| self.rows.iter().filter(|row| what(row)).count();
        let (failed, skipped) = (count(|row| !row.is_good()), count(|row| row.is_good() && row.is_skipped()));
        let passed = self.rows.len() - failed - skipped;
        let seconds = took.as_secs_f64();
        let _ = writeln!(out, "{passed} rules as they should be, {failed} not, {skipped} skipped, in {seconds:.1} s");
        for rule in &self.stray {
            let _ = writeln!(out, "FAILED: {rule} was reported of something that is none of the programs");
        }
        if self.lost > 0 {
            let _ = writeln!(out, "FAILED: events were lost; on a machine this busy try again with less to do");
        }
        if failed > 0 || !self.stray.is_empty() {
            out.push_str(
                "Run it again: a busy machine can make a program too late for its own scene. If it stays, please report \
                 it, with this table and the output of `fdtrace doctor` and `uname -r`.\n",
            );
        }
        out
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "rule": row.case.rule,
                    "name": row.case.name(),
                    "ok": row.is_good(),
                    "skipped": row.is_skipped(),
                    "bad": row.bad.json(),
                    "twin": row.twin.json(),
                    "also": row.case.also,
                    "ns": u64::try_from(row.took.as_nanos()).unwrap_or(u64::MAX),
                })
            })
            .collect();
        json!({ "type": "self-test", "ok": self.is_good(), "rules": rows, "stray": self.stray, "lost": self.lost })
    }
}

impl Run {
    fn word(&self) -> &str {
        match self {
            Self::Reported(_) => "NOT FOUND",
            Self::Skipped(_) => "skipped",
            Self::Broken(_) => "BROKEN",
            Self::Unheard => "NOT RUN",
        }
    }

    /// What the table has no room for.
    fn remark(&self, good: bool) -> Option<String> {
        match self {
            Self::Reported(_) if good => None,
            Self::Reported(rules) if rules.is_empty() => Some("nothing was reported".to_owned()),
            Self::Reported(rules) => {
                Some(format!("reported: {}", rules.iter().map(String::as_str).collect::<Vec<_>>().join(", ")))
            }
            Self::Skipped(why) | Self::Broken(why) => Some(crate::escape::escape_terminal(why.as_bytes()).to_string()),
            Self::Unheard => Some("the driver did not tell of it".to_owned()),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Reported(rules) => json!({ "reported": rules }),
            Self::Skipped(why) => json!({ "skipped": why }),
            Self::Broken(why) => json!({ "broken": why }),
            Self::Unheard => json!({ "broken": "not run" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bad: &[&str], twin: &[&str]) -> Row<'static> {
        let case = cases().find(|case| case.name() == "stale-close").expect("a case");
        let run = |rules: &[&str]| Run::Reported(rules.iter().map(|rule| (*rule).to_owned()).collect());
        Row { case, bad: run(bad), twin: run(twin), took: Duration::ZERO }
    }

    #[test]
    fn exactly_the_rule_and_what_follows_from_it() {
        assert!(of(&["stale-close"], &[]).is_good());
        assert!(of(&["stale-close", "use-after-close"], &[]).is_good());
        assert!(!of(&["use-after-close"], &[]).is_good(), "not found");
        assert!(!of(&["stale-close", "fd-leak"], &[]).is_good(), "one too many");
        assert!(!of(&["stale-close"], &["stale-close"]).is_good(), "the twin is accused");
    }

    #[test]
    fn findings_belong_to_the_program_of_their_time() {
        let case = cases().find(|case| case.name() == "use-after-close").expect("a case");
        let told: Vec<Told> = ["use-after-close bad 100 200 0 ", "use-after-close twin 300 400 0 "]
            .into_iter()
            .map(|line| read_mark(line).expect("a mark"))
            .collect();
        let lines = |time: u64| {
            let line = json!({ "type": "finding", "rule": "use-after-close", "timeline": [{ "time": 10 }],
                               "victim": { "time": time }, "culprit": null, "root_cause": null });
            [line, json!({ "type": "end", "lost": 0 })]
        };
        assert!(judge(&[case], &told, &lines(150)).is_good());
        assert!(!judge(&[case], &told, &lines(350)).is_good());
        let outcome = judge(&[case], &told, &lines(250));
        assert_eq!((outcome.is_good(), outcome.stray.as_slice()), (false, &["use-after-close".to_owned()][..]));
        assert!(!judge(&[case], &told, &lines(150)[..1]).is_good(), "no last line");
    }

    #[test]
    fn complaints_are_kept_whole() {
        let told = read_mark(" close-after-eintr bad 1 2 77 cannot mount FUSE").expect("a mark");
        assert_eq!((told.status, told.complaint.as_str()), (77, "cannot mount FUSE"));
    }
}
