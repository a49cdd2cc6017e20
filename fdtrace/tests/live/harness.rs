//! Runs fdtrace and reads what it wrote.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

pub const FDTRACE: &str = env!("CARGO_BIN_EXE_fdtrace");
/// For what takes a moment: loading the kernel side takes half a minute on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A directory that goes away with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fdtrace-live-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a scratch directory");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a scratch file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What one run of fdtrace said.
pub struct Report {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub lines: Vec<Value>,
}

impl Report {
    pub fn findings(&self, rule: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["type"] == "finding" && line["rule"] == rule).collect()
    }

    /// How often a rule was found broken: equal findings are told once, with a count.
    pub fn count(&self, rule: &str) -> u64 {
        let repeats = self.lines.iter().filter(|line| line["type"] == "repeat" && line["last"]["rule"] == rule);
        let again: u64 = repeats.filter_map(|line| Some(line["count"].as_u64()?.saturating_sub(1))).sum();
        self.findings(rule).len() as u64 + again
    }

    pub fn the(&self, rule: &str) -> &Value {
        let found = self.findings(rule);
        assert!(!found.is_empty(), "no {rule} in:\n{}\n{}", self.stdout, self.stderr);
        found[0]
    }

    pub fn all(&self) -> Vec<&str> {
        let findings = self.lines.iter().filter(|line| line["type"] == "finding");
        findings.filter_map(|line| line["rule"].as_str()).collect()
    }

    pub fn end(&self) -> &Value {
        self.lines.iter().find(|line| line["type"] == "end").expect("an end line")
    }
}

fn read(output: Output, json: &Path) -> Report {
    let text = std::fs::read_to_string(json).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    Report {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        lines,
    }
}

/// Compiles C. `false`: there is no compiler, or it refused.
pub fn compile(flags: &[&str], source: &Path, program: &Path) -> bool {
    let status = Command::new("cc").args(flags).arg("-o").arg(program).arg(source).status();
    status.is_ok_and(|status| status.success())
}

/// The native functions of an act, innermost first.
pub fn functions(act: &Value) -> Vec<&str> {
    act["native"].as_array().into_iter().flatten().filter_map(|frame| frame["function"].as_str()).collect()
}

/// `fdtrace [options] -- command`, to its end.
pub fn trace<S: AsRef<OsStr>>(options: &[&str], command: &[S]) -> Report {
    let scratch = Scratch::new();
    let json = scratch.path("findings.json");
    let mut fdtrace = Command::new(FDTRACE);
    fdtrace.args(options).arg("--json").arg(&json).arg("--").args(command).stdin(Stdio::null());
    read(fdtrace.output().expect("fdtrace runs"), &json)
}

/// Traces a command with room for everything, and gives every finding and every lifetime too: unlike a report, this export
/// folds nothing.
pub fn record<S: AsRef<OsStr>>(scratch: &Scratch, command: &[S]) -> (Report, Vec<Value>) {
    let recording = scratch.path("run.fdt");
    let recording = recording.to_str().expect("a plain path");
    let report = trace(&["--force", "--ring-size", "65536", "-o", recording], command);
    let export = ["export", recording, "--every", "--to", "jsonl", "-o", "-"];
    let export = Command::new(FDTRACE).args(export).stdin(Stdio::null()).output().expect("fdtrace runs");
    let text = String::from_utf8(export.stdout).expect("JSON");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    (report, lines)
}

/// `fdtrace` with these arguments and nothing else.
pub fn plain(arguments: &[&str]) -> Report {
    let output = Command::new(FDTRACE).args(arguments).stdin(Stdio::null()).output().expect("fdtrace runs");
    read(output, Path::new("/nonexistent"))
}

/// fdtrace attached to something that runs already.
pub struct Attached {
    child: Child,
    scratch: Scratch,
}

impl Attached {
    pub fn start(arguments: &[&str]) -> Self {
        let scratch = Scratch::new();
        let child = Command::new(FDTRACE)
            .args(arguments)
            .arg("--json")
            .arg(scratch.path("findings.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("fdtrace starts");
        let attached = Self { child, scratch };
        // The first line is written when everything is known that was open before.
        let json = attached.scratch.path("findings.json");
        wait_for("fdtrace attaches", || std::fs::read_to_string(&json).is_ok_and(|text| text.contains("\"meta\"")));
        attached
    }

    /// Waits until the target has ended and fdtrace with it.
    pub fn finish(self) -> Report {
        let json = self.scratch.path("findings.json");
        let output = self.child.wait_with_output().expect("fdtrace ends");
        read(output, &json)
    }
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The report of a script under each of these interpreters, and which one it was.
pub fn scripted(
    options: &[&str],
    name: &str,
    text: &str,
    pythons: impl IntoIterator<Item = PathBuf>,
) -> impl Iterator<Item = (String, Report)> {
    let scratch = Scratch::new();
    let script = scratch.write(name, text);
    pythons.into_iter().map(move |python| {
        // Moved in, so that the script is there for as long as somebody asks.
        let _scratch = &scratch;
        (python.display().to_string(), trace(options, &[python.as_os_str(), script.as_os_str()]))
    })
}

/// Every CPython 3 here: those of pyenv and the system's.
pub fn pythons() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["/usr/bin/python3"].iter().map(PathBuf::from).filter(|path| path.exists()).collect();
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let versions = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    for version in versions.into_iter().flatten().flatten() {
        let python = version.path().join("bin/python3");
        if python.exists() && version.file_name().to_string_lossy().starts_with("3.") {
            found.push(python);
        }
    }
    found.sort();
    assert!(!found.is_empty(), "there is no Python 3 here");
    found
}

/// 3.8 and later: their frames and owners are known.
pub fn known_pythons() -> impl Iterator<Item = PathBuf> {
    pythons().into_iter().filter(|python| {
        let check = ["-c", "import sys; sys.exit(sys.version_info < (3, 8))"];
        Command::new(python).args(check).status().is_ok_and(|status| status.success())
    })
}
