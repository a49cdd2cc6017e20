//! Running other programs: each is shown before it starts, and named when it fails.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::toolchain;

/// How often a child with a time limit is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Cargo, as a developer would call it. A toolchain chosen with `cargo +name` stays chosen: rustup hands it down.
pub fn cargo() -> Command {
    let running = || env::var_os("CARGO").map(PathBuf::from);
    let program = find("cargo").map(|_| PathBuf::from("cargo")).or_else(running);
    let mut command = Command::new(program.unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The target directory that we were built into, and that everything else is built into.
pub fn target_directory() -> Result<PathBuf> {
    let us = env::current_exe().context("cannot find our own program")?;
    let found = toolchain::target_directory(&us);
    found.map(Path::to_owned).with_context(|| format!("{} stands in no target directory of cargo", us.display()))
}

/// Runs to the end; failing is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    check(command, status)
}

/// Runs to the end; what the exit status means is for the caller to say.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    announce(command);
    command.status().with_context(|| format!("cannot start `{}`", shown(command)))
}

/// Runs for at most `limit`; failing and being late are errors.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    announce(command);
    let mut child =
        command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return check(command, status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("`{}` was still running after {} s", shown(command), limit.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Ends what a process has started, and what that has, but not itself.
pub fn end_descendants(of: u32) -> Result<()> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list processes")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name, in brackets, may have spaces and brackets of its own.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    let pids: Vec<String> = found.iter().skip(1).map(u32::to_string).collect();
    if pids.is_empty() {
        bail!("process {of} has started nothing that could be ended");
    }
    // Some may have ended meanwhile, and some with others.
    as_root("kill")?.arg("-KILL").args(pids).stderr(Stdio::null()).status().context("cannot run kill")?;
    Ok(())
}

/// What it prints. Not shown: questions are not chores.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    check(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// `program` as root: itself when we are root, through sudo otherwise.
pub fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = find("sudo") else {
        bail!("tracing needs root, and there is no sudo here: run this as root");
    };
    let mut command = Command::new(sudo);
    command.arg("--").arg(program);
    Ok(command)
}

/// Whether our effective user is root: the owner of our own `/proc` directory.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|us| us.uid() == 0)
}

/// A program on `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

pub fn announce(command: &Command) {
    eprintln!("  $ {}", shown(command));
}

/// A line that a reader could paste into a shell.
pub fn shown(command: &Command) -> String {
    let set =
        command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let words = [command.get_program()].into_iter().chain(command.get_args()).map(quoted);
    set.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+:,./@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else if word.contains(char::is_control) {
        // The separator in cargo's encoded flags is one.
        let escaped = |c: char| match c {
            '\'' | '\\' => format!("\\{c}"),
            c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
            c => c.to_string(),
        };
        format!("$'{}'", word.chars().map(escaped).collect::<String>())
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_shell_would_read_it() {
        let mut command = Command::new("cargo");
        command.args(["build", "it's", "", "a\u{1f}b"]).env("LLVM_PREFIX", "/usr/lib/llvm 22");
        assert_eq!(shown(&command), r"LLVM_PREFIX='/usr/lib/llvm 22' cargo build 'it'\''s' '' $'a\x1fb'");
    }

    #[test]
    fn a_failed_child_is_named() {
        let err = run(Command::new("false").arg("x")).expect_err("false fails");
        assert_eq!(err.to_string(), "`false x` failed: exit status: 1");
    }

    #[test]
    fn a_late_child_is_ended_and_named() {
        let err = run_within(Command::new("sleep").arg("60"), Duration::ZERO).expect_err("it is late");
        assert_eq!(err.to_string(), "`sleep 60` was still running after 0 s");
    }

    #[test]
    fn what_a_child_has_started_is_ended_and_not_the_child() {
        let mut shell =
            Command::new("sh").args(["-c", "echo; sleep 60; exit 7"]).stdout(Stdio::piped()).spawn().expect("sh");
        let mut first = [0];
        std::io::Read::read_exact(shell.stdout.as_mut().expect("its output"), &mut first).expect("it begins");
        while end_descendants(shell.id()).is_err() {
            thread::sleep(POLL);
        }
        assert_eq!(shell.wait().expect("our child").code(), Some(7));
    }
}
