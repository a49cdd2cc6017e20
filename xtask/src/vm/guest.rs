//! What a machine starts with: static programs and a list of steps, packed into one archive that the kernel unpacks.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::PathBuf,
};

use anyhow::{Context as _, Result};

use crate::command;

use super::{cpio::Archive, kernels};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The C library's static form, at fixed addresses: there is nothing in the machine that could load a library.
const FLAGS: [&str; 6] = ["-C", "target-feature=+crt-static", "-C", "relocation-model=static", "-C", "strip=symbols"];

/// The exit status of fdtrace that says "something was found".
const FOUND: u32 = 42;

/// One command that a machine runs.
pub struct Step {
    pub name: &'static str,
    /// Seconds, with much room: a machine is some twenty times slower than the processor it is emulated on.
    limit: u32,
    command: String,
    /// The status that is expected, as the standard library puts it into words.
    pub expected: String,
}

pub struct Guest {
    pub archive: PathBuf,
    pub steps: Vec<Step>,
}

impl Guest {
    pub fn build(runs: u32, seed: Option<u64>) -> Result<Self> {
        let steps = steps(runs, seed);
        let programs =
            build(&["build"], &["--bin", "fdtrace", "--bin", "fdtrace-exercise", "--bin", "fdtrace-vm-init"])?;
        let tests = build(&["test", "--no-run"], &["--test", "script", "--test", "tables"])?;
        let directory = kernels::directory()?;
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let archive = directory.join("initramfs.cpio");
        let write = || -> Result<()> {
            let mut out = Archive::new(BufWriter::new(File::create(&archive)?));
            for path in ["bin", "dev", "proc", "sys", "tmp", "run", "etc"] {
                out.directory(path)?;
            }
            // What process 1 is given as its standard streams.
            out.device("dev/console", 5, 1)?;
            out.device("dev/null", 1, 3)?;
            for (name, path) in programs.iter().chain(&tests) {
                let place = if name == "fdtrace-vm-init" { "init".to_owned() } else { format!("bin/{name}") };
                out.program(&place, &fs::read(path)?)?;
            }
            let lines: Vec<String> =
                steps.iter().map(|step| format!("{}\t{}\t{}\n", step.name, step.limit, step.command)).collect();
            out.program("steps", lines.concat().as_bytes())?;
            out.finish()?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", archive.display()))?;
        Ok(Self { archive, steps })
    }
}

fn steps(runs: u32, seed: Option<u64>) -> Vec<Step> {
    let step = |name, limit, words: &[&str], expected: u32| Step {
        name,
        limit,
        command: words.join("\t"),
        expected: format!("exit status: {expected}"),
    };
    let exerciser = "FDTRACE_EXERCISER=/bin/fdtrace-exercise";
    let found = FOUND.to_string();
    let test = ["--ignored", "--nocapture", "--test-threads=1"];
    let runs = format!("FDTRACE_RUNS={runs}");
    let seed = seed.map_or_else(|| "RUST_BACKTRACE=0".to_owned(), |seed| format!("FDTRACE_SEED={seed}"));
    let mut tables = vec![exerciser, &runs, &seed, "/bin/tables"];
    tables.extend(test);
    tables.extend(["--exact", "mixed", "fork", "threads", "exec", "epoll"]);
    let mut script = vec![exerciser, "/bin/script"];
    script.extend(test);
    let traced = ["/bin/fdtrace", "--json", "-", "--error-exitcode", &found, "--require-complete", "--"];
    let mut traced = traced.to_vec();
    traced.extend(["/bin/fdtrace-exercise", "script"]);
    vec![
        step("doctor", 60, &["/bin/fdtrace", "doctor"], 0),
        step("findings", 120, &traced, FOUND),
        step("changes", 120, &script, 0),
        step("tables", 900, &tables, 0),
    ]
}

/// Builds static programs; each with its name.
fn build(subcommand: &[&str], what: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = command::cargo();
    cargo.args(subcommand).args(["--release", "--target", TARGET]);
    cargo.args(["--package", "fdtrace", "--package", "fdtrace-exercise"]).args(what);
    cargo.arg("--message-format=json-render-diagnostics");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    // Ours goes to the same place.
    cargo.env("CARGO_TARGET_DIR", command::target_directory()?);
    command::announce(&cargo);
    let messages = command::output(&mut cargo)?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        // Everything but cargo's own messages is somebody's output.
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if let (Some(path), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) {
            // Testing a package builds its programs too.
            if what.contains(&name) {
                programs.push((name.to_owned(), PathBuf::from(path)));
            }
        }
    }
    Ok(programs)
}
