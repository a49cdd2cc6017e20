//! What a machine starts with: programs, their libraries and a list of steps, packed into one archive that the kernel
//! unpacks.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::command;

use super::{cpio::Archive, kernels};

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
            libraries(&mut out, programs.iter().chain(&tests).map(|(_, path)| path.as_path()))?;
            // What process 1 is given as its standard streams.
            out.device("dev/console", 5, 1)?;
            out.device("dev/null", 1, 3)?;
            for (name, path) in programs.iter().chain(&tests) {
                let place = if name == "fdtrace-vm-init" { "init".to_owned() } else { format!("bin/{name}") };
                out.program(&place, &stripped(path, &directory)?)?;
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

/// Builds programs as they are shipped; each with its name.
fn build(subcommand: &[&str], what: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = command::cargo();
    cargo.args(subcommand).args(["--release", "--package", "fdtrace", "--package", "fdtrace-exercise"]).args(what);
    cargo.arg("--message-format=json-render-diagnostics");
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

/// Adds the libraries that programs load, where they look for them.
fn libraries<'a>(out: &mut Archive<impl Write>, programs: impl Iterator<Item = &'a Path>) -> Result<()> {
    let mut files = BTreeSet::new();
    for program in programs {
        files.extend(loaded(&command::output(Command::new("ldd").arg(program))?));
    }
    let mut directories = BTreeSet::new();
    for file in &files {
        let place = file.strip_prefix("/").with_context(|| format!("{} is no place of a library", file.display()))?;
        directories.extend(place.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned));
    }
    for directory in directories {
        out.directory(&directory.to_string_lossy())?;
    }
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        out.program(file.to_string_lossy().trim_start_matches('/'), &bytes)?;
    }
    Ok(())
}

/// The files in what `ldd` prints: `libm.so.6 => /lib/libm.so.6 (0x7f…)`, or without a name the loader itself.
fn loaded(ldd: &str) -> impl Iterator<Item = PathBuf> {
    let paths = ldd.lines().filter_map(|line| {
        let found = line.split_once("=>").map_or(line, |(_, found)| found);
        found.split_whitespace().next().filter(|path| path.starts_with('/'))
    });
    paths.map(PathBuf::from)
}

/// A program without what only debuggers need, which is most of it.
fn stripped(program: &Path, directory: &Path) -> Result<Vec<u8>> {
    let small = directory.join("stripped");
    command::run(Command::new("strip").arg("-o").arg(&small).arg(program))?;
    fs::read(&small).with_context(|| format!("cannot read {}", small.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_prints() {
        let said = "\tlinux-vdso.so.1 (0x00007fb990ac9000)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fb98fd20000)\n\
                    \tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007fb990acb000)\n";
        let files: Vec<PathBuf> = loaded(said).collect();
        assert_eq!(files, ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
        assert_eq!(loaded("\tstatically linked\n").count(), 0);
    }
}
