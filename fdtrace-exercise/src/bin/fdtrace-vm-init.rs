//! Process 1 of a virtual machine that tests fdtrace on another kernel: mounts what the tests need, runs the commands
//! in `/steps` one after another, says how each ended, and powers off.
//!
//! Who started the machine reads the console; the words are those of `cargo xtask vm`. It refuses to be anything but
//! process 1, because it ends with the machine switched off.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// One line each: a name, the longest time in seconds, and the command, separated by tabs. Words of the form
/// `NAME=value` before the program are its environment.
const STEPS: &str = "/steps";

const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
    ("tmpfs", "/tmp"),
];

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("error: this is process 1 of a test machine and nothing else");
        return ExitCode::FAILURE;
    }
    println!("vm: start {}", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim());
    if let Err(error) = run() {
        println!("vm: error {error:#}");
    }
    println!("vm: end");
    // SAFETY: plain calls. Nothing on this machine is to be kept.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    // Returning from process 1 is a panic of the kernel, which ends the machine too.
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    for (kind, place) in MOUNTS {
        mount(kind, place)?;
    }
    // What every test would otherwise have to say.
    loopback().context("cannot bring up the loopback interface")?;
    println!("vm: kernel {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    for line in fs::read_to_string(STEPS).with_context(|| format!("cannot read {STEPS}"))?.lines() {
        step(line)?;
    }
    Ok(())
}

fn mount(kind: &str, place: &str) -> Result<()> {
    // The kernel makes those below /sys itself; where it does not, it lacks the file system.
    if fs::create_dir_all(place).is_err() && !Path::new(place).exists() {
        println!("vm: no {kind}");
        return Ok(());
    }
    let [kind_c, place_c] = [kind, place].map(std::ffi::CString::new);
    let (kind_c, place_c) = (kind_c?, place_c?);
    // SAFETY: the strings live through the call.
    let result = unsafe { libc::mount(kind_c.as_ptr(), place_c.as_ptr(), kind_c.as_ptr(), 0, std::ptr::null()) };
    let error = io::Error::last_os_error();
    // /dev may be mounted by the kernel.
    ensure!(result == 0 || error.raw_os_error() == Some(libc::EBUSY), "cannot mount {kind} on {place}: {error}");
    Ok(())
}

fn loopback() -> io::Result<()> {
    // SAFETY: a call without pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an all-zero request is valid; the name and the flags are filled in below.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is valid for the call.
    let result = unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request) };
    let error = io::Error::last_os_error();
    // SAFETY: ours alone.
    unsafe { libc::close(socket) };
    if result == 0 { Ok(()) } else { Err(error) }
}

fn step(line: &str) -> Result<()> {
    let mut words = line.split('\t').peekable();
    let name = words.next().with_context(|| format!("no name in `{line}`"))?;
    let limit = words.next().and_then(|word| word.parse().ok()).map(Duration::from_secs);
    let limit = limit.with_context(|| format!("no time limit in `{line}`"))?;
    let mut environment = Vec::new();
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        environment.push((name, value));
        words.next();
    }
    let program = words.next().with_context(|| format!("no program in `{line}`"))?;
    println!("vm: step {name}");
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(words)
        .envs(environment)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break status.to_string();
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break format!("time out after {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    };
    println!("\nvm: done {name} after {:.1} s: {ended}", start.elapsed().as_secs_f64());
    Ok(())
}
