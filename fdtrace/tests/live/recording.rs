//! What is recorded is told again as it was told live, and a recorder that is killed leaves a good file.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use super::harness::{FDTRACE, Scratch, plain};

const PROGRAM: &str = "\
import os, sys, threading
parent = os.getppid()
def work(n):
    for i in range(n):
        # Its tracer was killed: then it is of no use to anybody.
        if i % 50 == 0 and os.getppid() != parent: os._exit(0)
        a = os.open('/dev/null', os.O_RDONLY)
        r, w = os.pipe()
        d = os.dup(r)
        for fd in (a, r, w, d): os.close(fd)
        try: os.read(d, 1)
        except OSError: pass
threads = [threading.Thread(target=work, args=(int(sys.argv[1]),)) for _ in range(2)]
for t in threads: t.start()
for t in threads: t.join()
for _ in range(5):
    if os.fork() == 0:
        parent = os.getppid()
        work(5)
        os._exit(0)
    os.wait()
";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn the_same_is_told_without_the_program() {
    let scratch = Scratch::new();
    let script = scratch.write("program.py", PROGRAM);
    let (file, live, again) = (scratch.path("x.fdt"), scratch.path("live.json"), scratch.path("again.json"));
    let mut fdtrace = Command::new(FDTRACE);
    fdtrace.arg("-o").arg(&file).arg("--json").arg(&live).args(["--", "python3"]).arg(&script).arg("200");
    assert!(fdtrace.stdin(Stdio::null()).output().expect("fdtrace runs").status.success());
    std::fs::remove_file(&script).expect("the program goes away");
    let told = Command::new(FDTRACE).arg("report").arg(&file).arg("--json").arg(&again).output().expect("fdtrace runs");
    assert!(told.status.success());
    let (live, again) = (std::fs::read_to_string(live), std::fs::read_to_string(again));
    assert!(live.is_ok_and(|live| live.contains("use-after-close") && Some(live) == again.ok()), "byte for byte");
    assert_eq!(plain(&["verify", file.to_str().expect("a name")]).status, Some(0));
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn killed_at_any_moment_it_leaves_a_good_file() {
    let scratch = Scratch::new();
    let script = scratch.write("program.py", PROGRAM);
    let rounds: u64 = std::env::var("FDTRACE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut told = 0;
    for round in 0..rounds {
        let file = scratch.path(&format!("{round}.fdt"));
        let mut fdtrace = Command::new(FDTRACE);
        fdtrace.arg("-o").arg(&file).args(["--json", "/dev/null", "--", "python3"]).arg(&script).arg("100000");
        let mut child =
            fdtrace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(600 + round * 7919 % 1900));
        child.kill().expect("killed");
        child.wait().expect("gone");
        if !file.exists() {
            continue;
        }
        let report = plain(&["verify", file.to_str().expect("a name")]);
        // Only the block that was being written may be cut.
        let cut = report.stdout.contains("bytes of the file are damaged");
        assert!(report.status == Some(0) || cut, "round {round}: {}{}", report.stdout, report.stderr);
        assert!(report.stdout.contains("has no end"), "round {round}: {}", report.stdout);
        told += 1;
    }
    assert!(told > rounds / 2, "only {told} of {rounds} files were begun");
}
