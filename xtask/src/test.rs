//! `cargo xtask test`: everything that must hold before a change goes in. What CI runs, and what README names.
//!
//! Every step runs even when an earlier one failed, so that one run tells all; only without an eBPF object
//! there is nothing to go on with. The last line is `N passed, N failed`: tests by their number, other steps as one.

use std::{
    env,
    io::{Read as _, Write as _},
    process::{Command, ExitCode, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    check_layers, command, corpus, setup,
    toolchain::{Kit, Target},
    vm,
};

#[derive(Args)]
pub struct Options {
    /// Leave out what needs root and the running kernel
    #[arg(long)]
    quick: bool,
    /// Leave out the corpus of known bugs and of correct programs ($FDTRACE_CORPUS)
    #[arg(long)]
    no_corpus: bool,
    /// Leave out the other kernel, in a virtual machine; `cargo xtask vm` has more of them
    #[arg(long)]
    no_vm: bool,
}

pub fn test(options: &Options) -> Result<ExitCode> {
    let mut report = Report::default();
    let mut kit = None;
    report.step("setup", || {
        kit = Some(setup::setup()?);
        Ok(Tally::ONE)
    });
    let Some(kit) = kit else {
        return Ok(report.close());
    };
    if !report.step("eBPF object", || ebpf(&kit, "build", &[])) {
        return Ok(report.close());
    }
    report.step("format", || run(command::cargo().args(["fmt", "--all", "--check"])));
    report
        .step("lint", || run(command::cargo().args(["clippy", "--all-targets"]).args(HOST).args(["--", "-Dwarnings"])));
    if kit.compiler.clippy().exists() {
        report.step("lint, eBPF", || ebpf(&kit, "clippy", &["--", "-Dwarnings"]));
    } else {
        eprintln!("no clippy in {}: the kernel side goes without", kit.compiler.sysroot.display());
    }
    report.step("layers", || check_layers::check_layers().map(|()| Tally::ONE));
    report.step("unit tests", || run_tests(command::cargo().args(["test", "--no-fail-fast"]).args(HOST)));
    if !options.quick {
        report.step("tests on this kernel", || run_tests(&mut kernel_tests()?));
        report.step("a recorder is killed", || run_tests(&mut killed_recorder()?));
    }
    match corpus::find() {
        _ if options.quick || options.no_corpus => {}
        Some(dir) => {
            report.step("corpus", || corpus::step(dir));
        }
        None => eprintln!("\n{}", corpus::absent()),
    }
    if !options.quick && !options.no_vm {
        let machine = vm::Options::for_tests();
        match vm::prepare(&machine) {
            Ok(()) => {
                report.step("virtual machine", || vm::run(&machine));
            }
            Err(why) => eprintln!("\nno other kernel is tested: {why:#}"),
        }
    }
    Ok(report.close())
}

/// The packages that are built for the host.
const HOST: [&str; 3] = ["--workspace", "--exclude", "fdtrace-ebpf"];

fn run(command: &mut Command) -> Result<Tally> {
    command::run(command).map(|()| Tally::ONE)
}

/// Cargo for the kernel side, in the directory where fdtrace's build script does the same.
fn ebpf(kit: &Kit, subcommand: &str, arguments: &[&str]) -> Result<Tally> {
    let target = Target { arch: env::consts::ARCH.to_owned(), big_endian: cfg!(target_endian = "big") };
    let target_dir = command::target_directory()?.join("ebpf");
    run(kit.cargo(subcommand, command::workspace(), &target, &target_dir).args(arguments))
}

/// Tests that are left out here, and why.
const NOT_HERE: [&str; 3] = [
    // Reads every line table of every interpreter, for minutes.
    "standard_libraries",
    // Measures.
    "measure",
    // A debug build is seconds behind a program at full speed: it has a step of its own.
    KILLED,
];

const KILLED: &str = "killed_at_any_moment";

/// How much a recorder that is killed loses: a question of speed, and so for a release build.
fn killed_recorder() -> Result<Command> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--release", "--package", "fdtrace", "--test", "live", "--", "--ignored", KILLED]);
    as_root(cargo)
}

/// The tests that load the object into the running kernel. They are marked `#[ignore]`, need root, and go one by one
/// because each sees what the others do.
fn kernel_tests() -> Result<Command> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--package", "fdtrace", "--package", "fdtrace-exercise", "--tests", "--no-fail-fast"]);
    let not_here = NOT_HERE.iter().flat_map(|name| ["--skip", name]);
    cargo.args(["--", "--ignored", "--test-threads=1"]).args(not_here);
    as_root(cargo)
}

/// Only the test programs run as root, not cargo: no file of root's is left in the target directory.
fn as_root(mut cargo: Command) -> Result<Command> {
    if !command::is_root() {
        if command::find("sudo").is_none() {
            bail!("these tests need root, and there is no sudo here: run as root, or with --quick");
        }
        cargo.env(format!("CARGO_TARGET_{}_RUNNER", host()?), "sudo -E");
    }
    Ok(cargo)
}

/// The host as it stands in cargo's environment variables: `X86_64_UNKNOWN_LINUX_GNU`.
fn host() -> Result<String> {
    let about = command::output(Command::new("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    Ok(host.to_uppercase().replace('-', "_"))
}

/// The longest that one test may take. A test that hangs must not keep the others, or a build server, for ever.
const PATIENCE: Duration = Duration::from_secs(8 * 60);

/// Runs `cargo test`, passes on what it prints as it comes, and adds up its results. Test programs that say nothing
/// for too long are ended, which cargo counts as their failure before it goes on to the next.
fn run_tests(cargo: &mut Command) -> Result<Tally> {
    command::announce(cargo);
    let mut child =
        cargo.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{}`", command::shown(cargo)))?;
    let mut stdout = child.stdout.take().context("cargo has no output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut tally = Tally::default();
    // The line that is being printed: the name of a running test stands there without its result.
    let mut line = Vec::new();
    loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok(bytes) => {
                std::io::stdout().write_all(&bytes)?;
                std::io::stdout().flush()?;
                for byte in bytes {
                    if byte == b'\n' {
                        tally.add(Tally::of(&String::from_utf8_lossy(&line)));
                        line.clear();
                    } else {
                        line.push(byte);
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                let last = String::from_utf8_lossy(&line);
                eprintln!("\nnothing for {} s, at `{last}`: its program is ended", PATIENCE.as_secs());
                command::end_descendants(child.id())?;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait()?;
    if tally.failed == 0 {
        // Then it is not a test that failed: it did not compile, or it died.
        command::check(cargo, status)?;
    }
    Ok(tally)
}

/// How many checks passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
}

impl Tally {
    pub const ONE: Self = Self { passed: 1, failed: 0 };

    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// The numbers in a line such as `test result: ok. 12 passed; 1 failed; 0 ignored; …`; other lines count nothing.
    pub fn of(line: &str) -> Self {
        let Some(result) = line.strip_prefix("test result: ") else {
            return Self::default();
        };
        let number = |word: &str| {
            let (before, _) = result.split_once(word)?;
            before.rsplit([' ', ';']).next()?.parse().ok()
        };
        Self { passed: number(" passed").unwrap_or(0), failed: number(" failed").unwrap_or(0) }
    }
}

/// What each step came to.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    total: Tally,
}

impl Report {
    /// Runs a step; whether it passed.
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<Tally>) -> bool {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let tally = step().unwrap_or_else(|err| {
            eprintln!("error: {err:#}");
            Tally { passed: 0, failed: 1 }
        });
        let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
        let seconds = start.elapsed().as_secs_f64();
        let Tally { passed, failed } = tally;
        self.lines.push(format!("{verdict:<6} {seconds:7.1} s  {name} ({passed} passed, {failed} failed)"));
        self.total.add(tally);
        tally.failed == 0
    }

    /// Prints the summary; the exit status that says the same.
    fn close(&self) -> ExitCode {
        println!();
        for line in &self.lines {
            println!("{line}");
        }
        println!("{} passed, {} failed", self.total.passed, self.total.failed);
        if self.total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_libtest_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(Tally::of(line), Tally { passed: 12, failed: 3 });
        assert_eq!(Tally::of("running 12 tests"), Tally::default());
    }
}
