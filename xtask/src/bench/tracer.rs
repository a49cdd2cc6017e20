//! fdtrace and its peers, put around a command or beside a process.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::load::{self, Timing};
use crate::command;

/// Longest that fdtrace may take to attach, or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the benchmark needs to run anything.
pub struct Bench {
    pub fdtrace: PathBuf,
    /// Ourselves, who are the load as well.
    pub xtask: PathBuf,
    pub scratch: PathBuf,
    pub quick: bool,
    pub rounds: usize,
}

impl Bench {
    /// Fewer iterations where the user is in a hurry.
    pub fn scaled(&self, count: u64) -> u64 {
        if self.quick { (count / 5).max(1) } else { count }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// A loop as a command; it writes its result to [`Bench::result`].
    pub fn load(&self, kind: &str, count: u64) -> Vec<String> {
        let result = self.path("result").display().to_string();
        let words = [self.xtask.display().to_string(), "load".into(), kind.into()];
        words.into_iter().chain(["--count".into(), count.to_string(), "--result".into(), result]).collect()
    }

    /// Processes that hold so many descriptors, as few as may, each with the same number; and all of their ids.
    pub fn hold(&self, descriptors: u64) -> Result<(Held, Vec<String>, u32)> {
        let processes = descriptors.div_ceil(load::most_open()).max(1);
        let processes = u32::try_from(processes)?;
        let (held, others) = self.hold_each(descriptors / u64::from(processes), processes)?;
        Ok((held, others, processes))
    }

    /// So many processes with so many descriptors each. All but the first are told by their ids.
    pub fn hold_each(&self, descriptors: u64, processes: u32) -> Result<(Held, Vec<String>)> {
        let mut load = self.load("hold", descriptors);
        load.extend(["--processes".into(), processes.to_string()]);
        let held = Held::start(&load)?;
        // The children of a process that is found are not traced by themselves: all are named.
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", held.pid()))?;
        Ok((held, children.split_whitespace().map(str::to_owned).collect()))
    }

    /// Runs a loop, with the words of a tracer before it.
    pub fn time(&self, tracer: &[String], load: &[String]) -> Result<Timing> {
        let result = self.path("result");
        let _ = fs::remove_file(&result);
        let words: Vec<&String> = tracer.iter().chain(load).collect();
        let output = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("cannot start {}", words[0]))?;
        let text = fs::read_to_string(&result).with_context(|| {
            let told = String::from_utf8_lossy(&output.stderr);
            format!("`{}` came to nothing ({}): {}", shown(&words), output.status, told.trim_end())
        })?;
        Timing::parse(&text)
    }

    /// fdtrace before a command.
    pub fn around(&self, options: &[&str]) -> Vec<String> {
        let words = std::iter::once(self.fdtrace.display().to_string());
        words.chain(options.iter().map(|&word| word.to_owned())).chain(["--".to_owned()]).collect()
    }

    /// fdtrace beside a process, once it has attached.
    pub fn attach(&self, pid: u32, options: &[&str]) -> Result<Attached> {
        self.attach_all(pid, &[], options)
    }

    /// The same, with others.
    pub fn attach_all(&self, pid: u32, others: &[String], options: &[&str]) -> Result<Attached> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let json = self.path(&format!("run-{next}.json"));
        let began = Instant::now();
        let mut child = Command::new(&self.fdtrace)
            .args(options)
            .args(["--json".as_ref(), json.as_os_str()])
            .args(["-p", &std::iter::once(pid.to_string()).chain(others.iter().cloned()).collect::<Vec<_>>().join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.path("fdtrace.log"))?)
            .spawn()
            .context("cannot start fdtrace")?;
        while line(&json, "meta").is_none() {
            if let Some(status) = child.try_wait()? {
                bail!("fdtrace did not attach: {status}: {}", fs::read_to_string(self.path("fdtrace.log"))?);
            }
            ensure!(began.elapsed() < PATIENCE, "fdtrace does not attach");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(Attached { child, json, took: began.elapsed() })
    }
}

/// fdtrace at work.
pub struct Attached {
    child: Child,
    json: PathBuf,
    /// From its start until the target was traced.
    pub took: Duration,
}

/// What a run of fdtrace came to.
pub struct Ended {
    pub end: Value,
    /// Seconds of processor time.
    pub cpu: f64,
}

impl Ended {
    pub fn number(&self, key: &str) -> f64 {
        self.end[key].as_f64().unwrap_or(f64::NAN)
    }
}

/// Of a process, KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Its own: neither files nor the ring.
    pub own: f64,
    pub resident: f64,
    pub peak: f64,
}

impl Attached {
    /// Seconds of processor time so far, of all threads.
    pub fn cpu(&self) -> Result<f64> {
        cpu(self.child.id())
    }

    pub fn memory(&self) -> Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let read = |name| field(name).with_context(|| format!("/proc has no {name}"));
        Ok(Memory { own: read("RssAnon:")?, resident: read("VmRSS:")?, peak: read("VmHWM:")? })
    }

    /// Asks it to end, and waits.
    pub fn end(mut self) -> Result<Ended> {
        // What it has not taken in yet is part of its work.
        thread::sleep(Duration::from_millis(300));
        let cpu = self.cpu()?;
        let status = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status()?;
        ensure!(status.success(), "cannot ask fdtrace to end");
        self.child.wait()?;
        let end = line(&self.json, "end").context("fdtrace ended without its last line")?;
        Ok(Ended { end, cpu })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.json);
    }
}

/// Processor time of a process, in seconds, from its scheduler's books.
fn cpu(pid: u32) -> Result<f64> {
    let mut total = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        total += text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(total / 1e9)
}

/// The first line of a type.
fn line(json: &Path, kind: &str) -> Option<Value> {
    let text = fs::read_to_string(json).ok()?;
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).find(|line: &Value| line["type"] == kind)
}

/// A load that waits.
pub struct Held {
    child: Child,
}

impl Held {
    /// Starts one and waits until it has what it is to hold.
    pub fn start(words: &[String]) -> Result<Self> {
        let mut child =
            Command::new(&words[0]).args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("the load has no output")?;
        let mut said = String::new();
        BufReader::new(out).read_line(&mut said)?;
        ensure!(said.trim_end() == "ready", "the load did not start");
        Ok(Self { child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets a loop begin, and waits for its end.
    pub fn go(mut self) -> Result<()> {
        if let Some(input) = &mut self.child.stdin {
            input.write_all(b"\n")?;
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "the load failed: {status}");
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Another tool that looks at the same calls.
pub struct Peer {
    pub name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    /// How many times fewer iterations it is given.
    pub slower: u64,
    /// What has to be known of its figures.
    pub remark: &'static str,
}

pub const PEERS: [Peer; 8] = [
    Peer {
        name: "strace, seccomp",
        program: "strace",
        arguments: &["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=%desc"],
        slower: 20,
        remark: "",
    },
    Peer {
        name: "strace",
        program: "strace",
        arguments: &["-f", "-qq", "-o", "/dev/null", "-e", "trace=%desc"],
        slower: 20,
        remark: "",
    },
    Peer {
        name: "strace -k",
        program: "strace",
        arguments: &["-f", "-k", "-qq", "-o", "/dev/null", "-e", "trace=%desc"],
        slower: 500,
        remark: "",
    },
    Peer {
        name: "perf trace",
        program: "perf",
        arguments: &["trace", "-o", "/dev/null", "-e", "openat,close,socketpair,epoll_ctl"],
        slower: 50,
        remark: "",
    },
    Peer {
        name: "perf trace, stacks",
        program: "perf",
        arguments: &["trace", "--call-graph", "dwarf", "-o", "/dev/null", "-e", "openat,close,socketpair,epoll_ctl"],
        slower: 200,
        remark: "its ring is full most of the time, and what finds no room is lost: it says `LOST n events`",
    },
    Peer {
        name: "bpftrace",
        program: "bpftrace",
        arguments: &[
            "-q",
            "-o",
            "/dev/null",
            "-e",
            r#"tracepoint:syscalls:sys_exit_openat,tracepoint:syscalls:sys_exit_close /comm == "xtask"/ { printf("%d %d\n", tid, args->ret) }"#,
            "-c",
        ],
        slower: 20,
        remark: "",
    },
    Peer {
        name: "valgrind --track-fds",
        program: "valgrind",
        arguments: &["--tool=none", "-q", "--track-fds=yes", "--log-file=/dev/null"],
        slower: 5,
        remark: "",
    },
    Peer {
        name: "ltrace",
        program: "ltrace",
        arguments: &["-f", "-o", "/dev/null", "-e", "open64+close+socketpair+epoll_ctl"],
        slower: 200,
        remark: "",
    },
];

impl Peer {
    /// What to write before a command; none where it is not installed.
    pub fn around(&self) -> Option<Vec<String>> {
        command::find(self.program)?;
        Some([self.program].iter().chain(self.arguments).map(|&word| word.to_owned()).collect())
    }

    /// A load as this tool wants it.
    pub fn wrap(&self, load: &[String]) -> Vec<String> {
        if self.program == "bpftrace" { vec![load.join(" ")] } else { load.to_vec() }
    }

    /// For the table: which one it was.
    pub fn version(&self) -> String {
        let told = Command::new(self.program).arg("--version").output();
        let text = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    }
}

fn shown(words: &[&String]) -> String {
    words.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(" ")
}
