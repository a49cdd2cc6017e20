//! fdtrace leaves no trace: however it dies, its programs and maps are gone, and the target never noticed.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::harness::{FDTRACE, PATIENCE, Scratch, pythons, wait_for};

/// What the kernel shows of a descriptor that is a BPF program or map.
const IDS: [(&str, Kind); 2] = [("prog_id:", Kind::Program), ("map_id:", Kind::Map)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Program,
    Map,
}

impl Kind {
    /// Does an object with this id exist? By `BPF_*_GET_FD_BY_ID`, which answers ENOENT if not.
    fn exists(self, id: u32) -> bool {
        let command: libc::c_long = match self {
            Self::Program => 13,
            Self::Map => 14,
        };
        let attributes = [id, 0, 0];
        let size = size_of_val(&attributes);
        // SAFETY: the kernel reads `size` bytes of a live array.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size) };
        if fd < 0 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{self:?} {id}: {error}");
            return false;
        }
        // SAFETY: a descriptor that was made for us just now.
        unsafe { libc::close(i32::try_from(fd).expect("a descriptor")) };
        true
    }
}

/// The programs and maps that a process holds.
fn objects(pid: u32) -> BTreeSet<(Kind, u32)> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines() {
            for (name, kind) in IDS {
                if let Some(id) = line.strip_prefix(name).and_then(|id| id.trim().parse().ok()) {
                    found.insert((kind, id));
                }
            }
        }
    }
    found
}

/// A target that counts in a file, opening it each time.
struct Target {
    child: Child,
    scratch: Scratch,
}

impl Target {
    const SCRIPT: &str = "\
import os, sys, time
while True:
    with open(sys.argv[1], 'a') as f:
        f.write('.')
    time.sleep(0.005)
";

    fn start() -> Self {
        let scratch = Scratch::new();
        let script = scratch.write("count.py", Self::SCRIPT);
        let child = Command::new(&pythons()[0])
            .arg(script)
            .arg(scratch.path("count"))
            .stdin(Stdio::null())
            .spawn()
            .expect("Python starts");
        Self { child, scratch }
    }

    fn wait_until_it_goes_on(&self) {
        let count = self.scratch.path("count");
        let before = length(&count);
        wait_for("the target goes on", || length(&count) > before + 5);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |about| about.len())
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0, "{}", std::io::Error::last_os_error());
}

/// Its letter in `/proc`: `t` and `T` are stopped, by a tracer or a signal.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
#[ignore = "needs root and the running kernel"]
fn whatever_kills_it_nothing_of_it_stays() {
    let target = Target::start();
    for signal in [libc::SIGKILL, libc::SIGSEGV, libc::SIGTERM, libc::SIGINT] {
        let pid = target.child.id();
        let mut fdtrace = Command::new(FDTRACE);
        fdtrace.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Whoever starts the tests in the background has them ignore interrupts, and fdtrace would until it listens.
        let heed = || {
            // SAFETY: no memory is involved.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
            Ok(())
        };
        // SAFETY: what runs between fork and exec is one system call.
        unsafe { fdtrace.pre_exec(heed) };
        let mut fdtrace = fdtrace.spawn().expect("fdtrace starts");
        // From the beginning to the end of the attachment the target is never stopped.
        let deadline = Instant::now() + PATIENCE;
        let mut hooks = BTreeSet::new();
        while !hooks.iter().any(|(kind, _)| *kind == Kind::Program) || hooks.len() < 20 {
            assert!(!matches!(state(pid), Some('t' | 'T')), "the target was stopped");
            assert!(Instant::now() < deadline, "fdtrace does not attach");
            hooks = objects(fdtrace.id());
            std::thread::sleep(Duration::from_millis(1));
        }
        target.wait_until_it_goes_on();
        let hooks = objects(fdtrace.id());
        assert!(hooks.iter().all(|&(kind, id)| kind.exists(id)));
        // More than once: Rust's own handler of SIGSEGV lets a first one that nobody's memory caused pass.
        wait_for("fdtrace ends", || {
            kill(fdtrace.id(), signal);
            fdtrace.try_wait().expect("our child").is_some()
        });
        // The kernel frees them when nobody can be running them any more.
        wait_for("its programs and maps vanish", || !hooks.iter().any(|&(kind, id)| kind.exists(id)));
        target.wait_until_it_goes_on();
    }
}

/// A started command outlives what started it, and has nothing of it.
#[test]
#[ignore = "needs root and the running kernel"]
fn a_started_command_goes_on_without_it() {
    let scratch = Scratch::new();
    let (begun, go, done) = (scratch.path("begun"), scratch.path("go"), scratch.path("done"));
    let script = "ls -l /proc/self/fd > $1.part; mv $1.part $1; while [ ! -e $2 ]; do sleep 0.05; done; echo $? > $3";
    let mut fdtrace = Command::new(FDTRACE)
        .args(["--", "sh", "-c", script, "sh"])
        .args([&begun, &go, &done])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("fdtrace starts");
    wait_for("the command begins", || begun.exists());
    fdtrace.kill().expect("our child");
    fdtrace.wait().expect("fdtrace ends");
    fs::write(&go, "").expect("a file");
    wait_for("the command goes on to its end", || done.exists());
    // What it has when nobody traces it, and nothing more: no BPF, no ring, no recording.
    let untraced = Command::new("sh").args(["-c", "ls -l /proc/self/fd | cat"]).stdin(Stdio::null()).output();
    let untraced = String::from_utf8_lossy(&untraced.expect("sh runs").stdout).into_owned();
    let listing = fs::read_to_string(&begun).expect("its descriptors");
    let more: Vec<&str> = numbers(&listing)
        .difference(&numbers(&untraced))
        .filter(|number| number.parse::<u32>().is_ok())
        .copied()
        .collect();
    assert!(more.is_empty() && !listing.contains("bpf"), "{listing}\nuntraced:\n{untraced}");
}

/// The numbers in the output of `ls -l /proc/self/fd`.
fn numbers(listing: &str) -> BTreeSet<&str> {
    listing.lines().filter_map(|line| line.split(" -> ").next()?.rsplit(' ').next()).collect()
}
