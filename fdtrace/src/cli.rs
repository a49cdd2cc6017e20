//! The command line as typed. [`Cli::plan`] turns it into a [`Plan`], which knows nothing of clap.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::plan::{ExportFile, Output, Plan, Record, Several, Target, User};

mod recordings;
mod told;

pub use recordings::{Export, Report, Timeline, Verify};
use told::{Told, Verdict};

/// Tells you who closed your file descriptor: which process and thread, by which call, and what the number was before.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "sudo fdtrace [OPTIONS] -- COMMAND [ARG]...\n       sudo fdtrace [OPTIONS] -p PID[,PID]...\n       \
                      sudo fdtrace [OPTIONS] -n NAME\n       fdtrace report | timeline | export | verify FILE.fdt\n       fdtrace doctor | self-test | explain [RULE]",
    after_help = "Examples:\n  \
        sudo fdtrace -- python3 app.py        start a program and trace it from its first instruction\n  \
        sudo fdtrace -p 4242                  a running process\n  \
        sudo fdtrace -n worker.py             by name: command, executable, Python script or module\n  \
        fdtrace explain use-after-close       what a rule means, how it is proven, how to mend the program\n\n\
        Exit status: that of COMMAND; 0 after attaching; 2 wrong use, 3 cannot observe here, 4 incomplete with\n\
        --require-complete, N with --error-exitcode N when something was found."
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Option<Verb>,
    #[command(flatten)]
    trace: Trace,
    /// More about fdtrace's own doings (twice: kernel-side diagnostics too)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Can this machine run fdtrace, what is missing, and the one command that mends it
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Does fdtrace find on this kernel what it should, and keep quiet where it should: two small programs for each rule
    SelfTest(SelfTest),
    /// What a rule means, how it is proven, how to mend the program; without RULE, all rules
    Explain { rule: Option<String> },
    /// Findings of a recording, again, with today's rules
    Report(Report),
    /// The lives of descriptors in a recording, generation by generation
    Timeline(Timeline),
    /// A recording in another form: for a browser, Perfetto, SQL, a spreadsheet, or a program
    Export(Export),
    /// Is a recording in good order, and what does it hold
    Verify(Verify),
}

#[derive(Debug, Args)]
pub struct SelfTest {
    /// Only these rules
    #[arg(value_name = "RULE")]
    pub rules: Vec<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Be the program that is traced
    #[arg(long, hide = true)]
    pub drive: bool,
    /// With --drive: the interpreter of the programs that need one
    #[arg(long, hide = true)]
    pub python: Option<String>,
    /// Be one of the small programs
    #[arg(long, hide = true)]
    pub part: Option<String>,
}

#[derive(Debug, Args)]
struct Trace {
    /// Trace running processes
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',', value_parser = process_id)]
    pids: Vec<u32>,
    /// Trace a running process by command, executable, argv[0], Python script or `-m` module
    #[arg(short, long, value_name = "NAME", conflicts_with = "pids")]
    name: Option<OsString>,
    /// With -n: all that match
    #[arg(long, requires = "name", conflicts_with = "newest")]
    all: bool,
    /// With -n: the newest that matches
    #[arg(long, requires = "name")]
    newest: bool,
    /// With -n: wait until there is one
    #[arg(long, requires = "name")]
    wait: bool,
    #[command(flatten)]
    told: Told,
    /// Write the run in another form too, as `export` does of a recording: as `--to` of `fdtrace export --help` names it
    /// (may be given again; `-`: standard output)
    #[arg(long = "export", value_name = "FORMAT=FILE", value_parser = recordings::export_file)]
    exports: Vec<ExportFile>,
    /// In such a form, tell every generation for itself, also in a loop that opens and closes the same thing many times
    #[arg(long, requires = "exports")]
    every: bool,
    /// Record the run, to be looked at later with `report`, `timeline` and `export` (`-`: standard output)
    #[arg(short, long = "output", value_name = "FILE.fdt")]
    output: Option<PathBuf>,
    /// With -o: go on in another file when this one is so many MiB long
    #[arg(long, value_name = "MIB", requires = "output", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    rotate_size: Option<u64>,
    /// With -o: go on in another file after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "output", value_parser = seconds)]
    rotate_time: Option<Duration>,
    /// Stop after this many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,
    /// Run COMMAND as this user instead of the one who called sudo
    #[arg(short, long, value_name = "USER", requires = "command")]
    user: Option<OsString>,
    /// Size of the ring buffer between kernel and fdtrace, in KiB (rounded up to a power of two of pages)
    #[arg(long, value_name = "KIB", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(4..=1 << 20))]
    ring_size: u32,
    /// Do not capture who makes the calls: no source lines, no owners, and half the cost
    #[arg(long)]
    no_stacks: bool,
    /// Bytes of stack to look at for native frames, at each call of interest (default: 2048 where Python frames are known
    /// too, else 8192; 0: none)
    #[arg(long, value_name = "N", conflicts_with = "no_stacks", value_parser = clap::value_parser!(u32).range(0..=STACK_MAX))]
    stack_bytes: Option<u32>,
    /// Capture who makes the calls only once a process has so many descriptors, for those beyond: to find a leak at the
    /// cost of --no-stacks. Of the others no owners are known
    #[arg(long, value_name = "N", conflicts_with = "no_stacks", default_value_t = 0, hide_default_value = true)]
    arm_at: u32,
    /// Use at most so much of one processor: over it stacks are left out, then paths, then events, all of it counted. What
    /// the hooks cost the traced program is not part of it
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=6400))]
    max_cpu: Option<u32>,
    /// Use at most so much memory, besides program and ring buffer: over it what is over is forgotten, then tracing ends
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    max_memory: Option<u64>,
    #[command(flatten)]
    verdict: Verdict,
    /// Exit with status 4 when events were lost
    #[arg(long)]
    require_complete: bool,
    /// Command to start and trace
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["pids", "name"])]
    command: Vec<OsString>,
}

/// Enough to reach the evaluation loop of an interpreter, whose callers are known anyway; and enough for most programs.
const STACK_BYTES: [u32; 2] = [2048, 8192];
const STACK_STEP: u32 = fdtrace_common::witness::STACK_STEP as u32;
const STACK_MAX: i64 = fdtrace_common::witness::STACK_MAX as i64;

fn process_id(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("processes are numbered from 1".to_owned()),
        Ok(pid) => Ok(pid),
        Err(_) if text.is_empty() || text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("`{text}` is not the number of a process"))
        }
        Err(_) => Err(format!("`{text}` is not a number; to attach by name: `-n {text}`")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds: f64 = number.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{text}` is not a length of time"))
}

impl Cli {
    /// Reads the arguments of this process; wrong ones end it with a message and status 2.
    pub fn read() -> Self {
        Self::parse()
    }

    /// What to trace and how. `Err`: nothing was asked for.
    pub fn plan(self) -> Result<Plan, String> {
        let record = self.trace.output.map(|path| Record {
            path,
            rotate_bytes: self.trace.rotate_size.map(|size| size << 20),
            rotate_time: self.trace.rotate_time,
        });
        if let Some(record) = &record
            && record.path.as_os_str() == "-"
            && (record.rotate_bytes.is_some() || record.rotate_time.is_some())
        {
            return Err("the standard output cannot be rotated: give -o a file".to_owned());
        }
        let Trace { pids, name, all, newest, wait, told, exports, every, duration, user, .. } = self.trace;
        let mut command = self.trace.command.into_iter();
        let target = if let Some(program) = command.next() {
            let user = match user {
                None => User::Caller,
                Some(name) if name == "root" => User::Root,
                Some(name) => User::Named(name),
            };
            Target::Command { program, args: command.collect(), user }
        } else if let Some(name) = name {
            let several = match (all, newest) {
                (true, _) => Several::All,
                (_, true) => Several::Newest,
                _ => Several::Refuse,
            };
            Target::Name { name, several, wait }
        } else if !pids.is_empty() {
            Target::Pids(pids)
        } else {
            return Err("nothing to trace: give a command after `--`, a process with -p, or a name with -n".to_owned());
        };
        Ok(Plan {
            target,
            output: Output { exports, every, record, ..told.into() },
            ring_size: self.trace.ring_size.saturating_mul(1024).next_power_of_two(),
            duration,
            stacks: !self.trace.no_stacks,
            stack_bytes: self.trace.stack_bytes.map_or(STACK_BYTES, |bytes| [bytes.next_multiple_of(STACK_STEP); 2]),
            arm_at: self.trace.arm_at,
            max_cpu: self.trace.max_cpu.map(|percent| f64::from(percent) / 100.0),
            max_memory: self.trace.max_memory.map(|size| size << 20),
            debug: self.verbose > 1,
            require_complete: self.trace.require_complete,
            findings_exit: self.trace.verdict.exit(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn plan(args: &[&str]) -> Plan {
        Cli::try_parse_from(args).expect("arguments").plan().expect("a plan")
    }

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_belongs_to_the_command() {
        let plan = plan(&["fdtrace", "--json", "x", "--", "python3", "-p", "1"]);
        let Target::Command { program, args, user } = plan.target else { panic!("{plan:?}") };
        assert_eq!((program, args, user), ("python3".into(), vec!["-p".into(), "1".into()], User::Caller));
    }

    #[test]
    fn several_pids() {
        assert!(matches!(plan(&["fdtrace", "-p", "1,2", "-p", "3"]).target, Target::Pids(pids) if pids == [1, 2, 3]));
    }

    #[test]
    fn contradictions_are_refused() {
        for args in [&["fdtrace", "-p", "1", "-n", "x"][..], &["fdtrace", "-p", "0"], &["fdtrace", "--all"]] {
            assert!(Cli::try_parse_from(args).is_err(), "{args:?}");
        }
        assert!(Cli::try_parse_from(["fdtrace"]).expect("arguments").plan().is_err());
    }

    #[test]
    fn a_name_in_place_of_a_number_is_told_how_to_be_given() {
        let error = |pid: &str| Cli::try_parse_from(["fdtrace", "-p", pid]).expect_err("no number").to_string();
        assert!(error("nginx").contains("`-n nginx`"), "{}", error("nginx"));
        assert!(error("99999999999").contains("is not the number of a process"));
    }
}
