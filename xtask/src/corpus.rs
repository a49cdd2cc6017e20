//! `cargo xtask corpus`: traces a collection of real descriptor bugs and of correct programs, kept outside this repository,
//! compares what fdtrace says with what is known of each, and writes `docs/corpus.md`.
//!
//! The collection's own `run-corpus` gets what a case needs, runs it and judges; it is called case by case here, so that
//! a time limit holds and one case's trouble is not another's.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{build, command, test::Tally};

const VARIABLE: &str = "FDTRACE_CORPUS";
/// Where it stands in a checkout of everything, relative to the workspace.
const SIBLING: &str = "../shared/corpus";
/// Time for the corpus in `cargo xtask test`. On a machine that has run it before it takes less.
pub const BUDGET: Duration = Duration::from_secs(330);
/// A case under way when the time is up may take so much longer; then it is left out.
const GRACE: Duration = Duration::from_secs(60);

/// Cases that are not found, or not always, and why. They are run all the same, and do not fail the run.
const MISSES: [(&str, &str); 1] = [(
    "10-psycopg2-fork",
    "found in some runs only: the program gives up after its first crossed query, and how far the two sides got by then \
         differs from run to run",
)];

#[derive(Args)]
pub struct Options {
    /// Runs of each case
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Cases by name, with wildcards (may be given again)
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,
    /// Seconds after which no further case is begun
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// Write docs/corpus.md from what this run shows
    #[arg(long)]
    docs: bool,
    /// Add the runs to this file, and count with them those that it has from before
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// A program that is built already
    #[arg(long, value_name = "PATH")]
    fdtrace: Option<PathBuf>,
}

/// The directory of the corpus, where there is one.
pub fn find() -> Option<PathBuf> {
    let dir = env::var_os(VARIABLE).map_or_else(|| command::workspace().join(SIBLING), PathBuf::from);
    dir.join("run-corpus").is_file().then_some(dir)
}

pub fn corpus(options: &Options) -> Result<ExitCode> {
    let Some(dir) = find() else { bail!("the corpus is not here: set {VARIABLE} to its directory") };
    let fdtrace = match &options.fdtrace {
        Some(path) => std::path::absolute(path)?,
        None => build::build(&build::Options { release: true })?,
    };
    let limit = options.limit.map(Duration::from_secs);
    let run = Run { dir, fdtrace, repeat: options.repeat, limit, log: options.log.clone() };
    let results = run.all(&options.only)?;
    if options.docs {
        let path = command::workspace().join("docs/corpus.md");
        fs::write(&path, markdown(&results)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if conclude(&results).failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The corpus as a step of `cargo xtask test`.
pub fn step(dir: PathBuf) -> Result<Tally> {
    let fdtrace = build::build(&build::Options { release: true })?;
    let run = Run { dir, fdtrace, repeat: 1, limit: Some(BUDGET), log: None };
    let mut outcomes = run.all(&[])?;
    // Bugs that show themselves by chance may do so late, or not at all. A correct program has no second chance.
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.kind == "bugs" && outcome.failed()) {
        println!("once more: {}: {} was not expected", outcome.name, outcome.verdicts());
        outcome.runs.clear();
        run.case(outcome, Some(GRACE))?;
    }
    Ok(conclude(&outcomes))
}

struct Run {
    dir: PathBuf,
    fdtrace: PathBuf,
    repeat: u32,
    limit: Option<Duration>,
    log: Option<PathBuf>,
}

/// What became of one case.
#[derive(Debug, Default)]
struct Outcome {
    kind: String,
    name: String,
    expected: String,
    /// One for each run.
    runs: Vec<Judged>,
    /// Why there are none.
    left_out: Option<String>,
}

#[derive(Debug)]
struct Judged {
    verdict: String,
    reported: Vec<String>,
    culprit: String,
    victim: String,
}

impl Outcome {
    fn good(&self) -> usize {
        self.runs.iter().filter(|run| matches!(run.verdict.as_str(), "ok" | "PASS" | "n/a")).count()
    }

    /// Runs in which the program misbehaved as it should.
    fn counted(&self) -> usize {
        self.runs.iter().filter(|run| !run.verdict.starts_with("NO SYMPTOM")).count()
    }

    /// It ran, and not as it should, and that is no news.
    fn failed(&self) -> bool {
        self.left_out.is_none() && self.good() < self.counted() && self.miss().is_none()
    }

    fn verdicts(&self) -> String {
        self.runs.iter().map(|run| run.verdict.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Why it is missed, as far as that is known.
    fn miss(&self) -> Option<&'static str> {
        MISSES.iter().find(|(name, _)| *name == self.name).map(|(_, why)| *why)
    }
}

impl Run {
    fn all(&self, only: &[String]) -> Result<Vec<Outcome>> {
        let mut list = Command::new(self.dir.join("run-corpus"));
        list.arg("--list");
        for glob in only {
            list.args(["--only", glob]);
        }
        let began = Instant::now();
        let mut outcomes = Vec::new();
        for line in command::output(&mut list)?.lines() {
            let mut words = line.split_whitespace();
            let (Some(kind), Some(name), expected) = (words.next(), words.next(), words.next()) else { continue };
            let mut outcome = Outcome {
                kind: kind.to_owned(),
                name: name.to_owned(),
                expected: expected.unwrap_or("-").to_owned(),
                ..Outcome::default()
            };
            let left = self.limit.map(|limit| limit.checked_sub(began.elapsed()));
            match left {
                Some(None) => outcome.left_out = Some("no time was left".to_owned()),
                Some(Some(left)) => self.case(&mut outcome, Some(left + GRACE))?,
                None => self.case(&mut outcome, None)?,
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// What is known of a case from before.
    fn earlier(&self, name: &str) -> Result<Vec<Judged>> {
        let Some(path) = self.log.as_ref().filter(|path| path.exists()) else { return Ok(Vec::new()) };
        let lines = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.filter(|line| line["case"] == name).filter_map(|line| judged(&line)).collect())
    }

    fn case(&self, outcome: &mut Outcome, patience: Option<Duration>) -> Result<()> {
        let sudo = if command::is_root() { "" } else { "sudo -E -- " };
        let log = env::temp_dir().join(format!("fdtrace-corpus-{}.jsonl", std::process::id()));
        let said = log.with_extension("log");
        let mut command = Command::new(self.dir.join("run-corpus"));
        command
            .arg("--tool")
            .arg(format!("{sudo}{} --json {{json}} -- ", self.fdtrace.display()))
            .args(["--only", &format!("{}/{}", outcome.kind, outcome.name)])
            .args(["--repeat", &self.repeat.to_string()])
            .arg("--json")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&said).with_context(|| format!("cannot create {}", said.display()))?);
        let began = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.dir.join("run-corpus").display()))?;
        let finished = loop {
            if child.try_wait()?.is_some() {
                break true;
            }
            if patience.is_some_and(|patience| began.elapsed() > patience) {
                child.kill()?;
                child.wait()?;
                break false;
            }
            thread::sleep(Duration::from_millis(50));
        };
        let lines = fs::read_to_string(&log).unwrap_or_default();
        outcome.runs = self.earlier(&outcome.name)?;
        outcome.runs.extend(lines.lines().filter_map(|line| judged(&serde_json::from_str(line).ok()?)));
        if let Some(path) = &self.log {
            let file = fs::OpenOptions::new().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(lines.as_bytes()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if outcome.runs.is_empty() {
            outcome.left_out = Some(match finished {
                false => "it took too long".to_owned(),
                true => reason(&fs::read_to_string(&said).unwrap_or_default(), &outcome.name),
            });
        }
        // They may not be there.
        let _ = (fs::remove_file(&log), fs::remove_file(&said));
        let verdict = outcome.left_out.clone().unwrap_or_else(|| outcome.verdicts());
        println!("{:<28} {:6.1} s  {verdict}", outcome.name, began.elapsed().as_secs_f64());
        Ok(())
    }
}

fn judged(line: &Value) -> Option<Judged> {
    let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let reported = line.get("reported")?.as_object()?.keys().cloned().collect();
    Some(Judged { verdict: text("verdict"), reported, culprit: text("culprit"), victim: text("victim") })
}

/// Why a case was not run, from what `run-corpus` printed: `name   skip: no node on PATH`.
fn reason(said: &str, name: &str) -> String {
    let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("it did not run").trim();
    line.strip_prefix("skip: ").unwrap_or(line).chars().take(120).collect()
}

/// Says what failed, and counts. What was left out counts as neither.
fn conclude(outcomes: &[Outcome]) -> Tally {
    let mut tally = Tally::default();
    for outcome in outcomes {
        let Outcome { name, left_out, .. } = outcome;
        if let Some(why) = left_out {
            println!("left out: {name}: {why}");
        } else if outcome.good() == outcome.counted() {
            tally.add(Tally::ONE);
            if outcome.miss().is_some() {
                println!("{name} was found this time, though it is on the list of misses");
            }
        } else if let Some(why) = outcome.miss() {
            println!("known miss: {name}: {why}");
        } else {
            println!("FAILED: {name}: {} of {} runs as expected", outcome.good(), outcome.counted());
            tally.add(Tally { passed: 0, failed: 1 });
        }
    }
    tally
}

/// The text of `docs/corpus.md`.
fn markdown(outcomes: &[Outcome]) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut out = format!(
        "# Corpus\n\n<!-- Written by `cargo xtask corpus --docs`. -->\n\n\
         Real programs with descriptor bugs, each under its own runtime, and correct programs; traced on Linux {}.\n\
         A run counts as found when all expected rules are reported, culprit and victim are named, and nothing is said that \
         is not true of the program; a correct program is to give no finding at all, of whatever confidence.\n\
         `FDTRACE_CORPUS=DIR cargo xtask corpus --repeat N --docs` writes this page anew.\n\n\
         | bug | rules expected | rules reported | culprit | victim | found |\n|---|---|---|---|---|---|\n",
        kernel.trim()
    );
    // Writing to a string does not fail.
    for outcome in outcomes.iter().filter(|outcome| outcome.kind == "bugs") {
        let Outcome { name, expected, .. } = outcome;
        let rules: BTreeMap<&str, ()> =
            outcome.runs.iter().flat_map(|run| &run.reported).map(|rule| (rule.as_str(), ())).collect();
        let rules: Vec<&str> = rules.into_keys().collect();
        // Who is named in what was found: a miss names nobody.
        let found = || outcome.runs.iter().filter(|run| run.verdict != "MISS");
        let all = |part: fn(&Judged) -> &str| match found().map(part).collect::<Vec<_>>() {
            parts if parts.contains(&"no") => "no",
            parts if parts.contains(&"yes") => "yes",
            _ => "",
        };
        let (culprit, victim) = (all(|run| &run.culprit), all(|run| &run.victim));
        let (expected, rules) = (expected.replace(',', ", "), rules.join(", "));
        let _ = writeln!(out, "| {name} | {expected} | {rules} | {culprit} | {victim} | {} |", result(outcome));
    }
    out.push_str("\n| correct program | silent |\n|---|---|\n");
    for outcome in outcomes.iter().filter(|outcome| outcome.kind == "benign") {
        let _ = writeln!(out, "| {} | {} |", outcome.name, result(outcome));
    }
    let misses: Vec<&Outcome> =
        outcomes.iter().filter(|outcome| outcome.left_out.is_none() && outcome.good() < outcome.runs.len()).collect();
    if !misses.is_empty() {
        out.push_str("\n## Misses\n\n");
    }
    for outcome in misses {
        let mut verdicts: BTreeMap<&str, usize> = BTreeMap::new();
        for run in &outcome.runs {
            *verdicts.entry(run.verdict.as_str()).or_default() += 1;
        }
        let verdicts: Vec<String> = verdicts.iter().map(|(verdict, count)| format!("{count} × {verdict}")).collect();
        let why = outcome.miss().map_or_else(String::new, |why| format!(": {why}"));
        let _ = writeln!(out, "- {} ({}){why}.", outcome.name, verdicts.join(", "));
    }
    out
}

fn result(outcome: &Outcome) -> String {
    match &outcome.left_out {
        Some(why) => format!("not run: {why}"),
        None => format!("{} of {}", outcome.good(), outcome.runs.len()),
    }
}

/// For a place that has no corpus.
pub fn absent() -> String {
    format!("no corpus: {VARIABLE} names none, and there is none at {}", Path::new(SIBLING).display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, verdicts: &[&str]) -> Outcome {
        let judge = |verdict: &&str| Judged {
            verdict: (*verdict).to_owned(),
            reported: vec!["ghost-event".to_owned()],
            culprit: "yes".to_owned(),
            victim: "yes".to_owned(),
        };
        let runs = verdicts.iter().map(judge).collect();
        let (kind, expected) = ("bugs".to_owned(), "ghost-event,use-after-close".to_owned());
        Outcome { kind, name: name.to_owned(), expected, runs, left_out: None }
    }

    #[test]
    fn misses_fail_unless_they_are_known() {
        let tally = |name, verdicts: &[&str]| conclude(&[outcome(name, verdicts)]);
        assert_eq!(tally("a", &["PASS", "PASS"]), Tally::ONE);
        assert_eq!(tally("a", &["PASS", "MISS"]), Tally { passed: 0, failed: 1 });
        assert_eq!(tally(MISSES[0].0, &["MISS"]), Tally::default());
        // A race that was not lost this time proves nothing.
        assert_eq!(tally("a", &["NO SYMPTOM"]), Tally::ONE);
    }

    #[test]
    fn a_line_of_results_is_read() {
        let line = r#"{"case":"07","verdict":"PASS","reported":{"epoll-stale-ctl":1},"culprit":"yes","victim":"-"}"#;
        let judged = judged(&serde_json::from_str(line).unwrap()).unwrap();
        assert_eq!(
            (judged.verdict.as_str(), judged.reported.as_slice()),
            ("PASS", &["epoll-stale-ctl".to_owned()][..])
        );
        assert_eq!(reason("case ...\n12-x    skip: no node on PATH\n", "12-x"), "no node on PATH");
    }

    #[test]
    fn the_page_has_every_case_and_the_misses() {
        let text = markdown(&[outcome("a", &["PASS"]), outcome("b", &["PASS", "MISS"])]);
        assert!(text.contains("| a | ghost-event, use-after-close | ghost-event | yes | yes | 1 of 1 |"), "{text}");
        assert!(text.contains("- b (1 × MISS, 1 × PASS)."), "{text}");
    }
}
