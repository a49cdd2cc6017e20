//! Attaching to what runs already: a descriptor opened before, misused after.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use super::harness::{Attached, FDTRACE, PATIENCE, Report, Scratch};

/// A server of sorts: opens a file, then waits for a word before it goes wrong.
const SERVER: &str = "\
import os, sys
f = open('/dev/zero')
print('ready', flush=True)
sys.stdin.readline()
os.close(f.fileno())
try:
    f.read(1)
except OSError:
    pass
";

/// What waits for a word.
pub struct Server(Child);

impl Server {
    pub fn start(script: &Path) -> Self {
        let mut child = Command::new("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("the server speaks");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    pub fn pid(&self) -> String {
        self.0.id().to_string()
    }

    pub fn go(&mut self) {
        let stdin = self.0.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"go\n").expect("the server listens");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check(report: &Report) {
    let hit = report.the("use-after-close");
    assert_eq!(hit["confidence"], "proven", "{}", report.stdout);
    let timeline = hit["timeline"].as_array().expect("a timeline");
    assert!(timeline.iter().any(|act| act["verb"] == "already-open"), "opened before the attach: {timeline:#?}");
    assert_eq!(report.status, Some(0));
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn by_pid() {
    let scratch = Scratch::new();
    let mut server = Server::start(&scratch.write("server.py", SERVER));
    let attached = Attached::start(&["-p", &server.0.id().to_string()]);
    server.go();
    check(&attached.finish());
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn by_script_name() {
    let scratch = Scratch::new();
    let name = format!("server-{}.py", std::process::id());
    let mut server = Server::start(&scratch.write(&name, SERVER));
    let attached = Attached::start(&["-n", &name]);
    server.go();
    check(&attached.finish());
}

/// fdtrace holds its target by a pidfd from when it has resolved the pid. It is stopped there, the target ends, and it
/// goes on.
#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_process_that_ends_while_it_is_attached_to() {
    let scratch = Scratch::new();
    let json = scratch.path("findings.json");
    let mut target = Command::new("sleep").arg("600").spawn().expect("sleep starts");
    let fdtrace = Command::new(FDTRACE)
        .args(["-p", &target.id().to_string(), "--json"])
        .arg(&json)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fdtrace starts");
    let pid = fdtrace.id().cast_signed();
    let holds = |entry: std::io::Result<std::fs::DirEntry>| {
        let link = entry.ok().and_then(|entry| std::fs::read_link(entry.path()).ok());
        link.is_some_and(|link| link.to_string_lossy().contains("pidfd"))
    };
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut entries| entries.any(holds)) {
        assert!(Instant::now() < deadline, "fdtrace does not hold its target");
    }
    // SAFETY: plain numbers; the process is our child and has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
    let attached = std::fs::read_to_string(&json).is_ok_and(|text| text.contains("\"meta\""));
    target.kill().expect("the target can be killed");
    target.wait().expect("the target ends");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGCONT) }, 0);
    let output = fdtrace.wait_with_output().expect("fdtrace ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!attached, "fdtrace attached before it could be stopped: {stderr}");
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for part in [format!("process {}", target.id()), "ended while fdtrace attached".into()] {
        assert!(stderr.contains(&part), "`{part}` in {stderr}");
    }
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn an_ambiguous_name_is_refused_with_a_table() {
    let scratch = Scratch::new();
    let name = format!("twin-{}.py", std::process::id());
    let script = scratch.write(&name, SERVER);
    let (mut one, mut two) = (Server::start(&script), Server::start(&script));
    let refused = super::harness::plain(&["-n", &name]);
    assert_eq!(refused.status, Some(2));
    for part in [one.0.id().to_string(), two.0.id().to_string(), "--all".into(), "--newest".into()] {
        assert!(refused.stderr.contains(&part), "{part} in {}", refused.stderr);
    }
    let attached = Attached::start(&["-n", &name, "--all"]);
    one.go();
    two.go();
    let report = attached.finish();
    // Equal findings are told once, and counted.
    assert_eq!(report.count("use-after-close"), 2);
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn waits_for_a_name() {
    let scratch = Scratch::new();
    let name = format!("later-{}.py", std::process::id());
    let script = scratch.write(&name, SERVER);
    let mut fdtrace = Command::new(super::harness::FDTRACE)
        .args(["-n", &name, "--wait"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fdtrace starts");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let mut server = Server::start(&script);
    // Its first remark is that it attached.
    let mut stderr = BufReader::new(fdtrace.stderr.take().expect("a pipe"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("fdtrace speaks");
    assert!(line.contains("open already"), "{line}");
    server.go();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("fdtrace ends");
    let output = fdtrace.wait_with_output().expect("fdtrace ends");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("use-after-close"), "{report}\n{rest}");
}
