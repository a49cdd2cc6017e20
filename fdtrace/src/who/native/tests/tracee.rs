//! For tests: runs a program under ptrace up to a marked system call, and asks gdb for the truth.
//!
//! A program marks a place by closing a descriptor with a number from 1000 on, which does not exist.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::unwind::{Registers, Snapshot};

pub struct Tracee {
    child: Child,
}

/// A thread at a marked call.
pub struct Stop {
    pub tid: i32,
    pub mark: u64,
    pub registers: Registers,
}

/// A frame as gdb sees it.
#[derive(Debug)]
pub struct TruthFrame {
    pub address: u64,
    /// Inlined, or left by a jump: gdb reconstructs it, the stack does not hold it.
    pub virtual_: bool,
    pub name: Option<String>,
}

impl Tracee {
    pub fn start(program: impl AsRef<OsStr>, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: one system call, allowed between fork and exec.
        unsafe { command.pre_exec(|| ptrace(libc::PTRACE_TRACEME, 0, 0).map(drop)) };
        let child = command.spawn().unwrap();
        let tracee = Self { child };
        tracee.wait(tracee.pid());
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
        ptrace(libc::PTRACE_SETOPTIONS, tracee.pid(), options as u64).unwrap();
        ptrace(libc::PTRACE_SYSCALL, tracee.pid(), 0).unwrap();
        tracee
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Runs to the start of the next marked call. The thread stays stopped; [`Tracee::go_on`] lets it run.
    pub fn next_mark(&self) -> Option<Stop> {
        loop {
            let (tid, status) = self.wait(-1)?;
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                if tid == self.pid() {
                    return None;
                }
                continue;
            }
            let mut signal = libc::WSTOPSIG(status);
            if signal == libc::SIGTRAP | 0x80 {
                signal = 0;
                // SAFETY: all-zero is a valid register set.
                let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
                ptrace(libc::PTRACE_GETREGS, tid, (&raw mut regs) as u64).unwrap();
                let entering = regs.rax as i64 == -i64::from(libc::ENOSYS);
                if entering && regs.orig_rax == libc::SYS_close as u64 && (1000..2000).contains(&regs.rdi) {
                    return Some(Stop {
                        tid,
                        mark: regs.rdi,
                        registers: Registers { ip: regs.rip, sp: regs.rsp, bp: regs.rbp, lr: 0 },
                    });
                }
            } else if status >> 16 != 0 || signal == libc::SIGTRAP {
                signal = 0;
            } else if signal == libc::SIGSTOP {
                // The first stop of a new thread.
                signal = 0;
            }
            let _ = ptrace(libc::PTRACE_SYSCALL, tid, signal as u64);
        }
    }

    pub fn go_on(&self, stop: &Stop) {
        ptrace(libc::PTRACE_SYSCALL, stop.tid, 0).unwrap();
    }

    /// Up to `limit` bytes of stack.
    pub fn stack(&self, stop: &Stop, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; limit];
        let read = fs::File::open(format!("/proc/{}/mem", self.pid()))
            .unwrap()
            .read_at(&mut bytes, stop.registers.sp)
            .unwrap();
        bytes.truncate(read);
        bytes
    }

    /// Hands the process over to gdb, stopped at the mark, and ends it.
    pub fn truth(self, stop: &Stop) -> Vec<TruthFrame> {
        self.interrupt(stop.tid);
        ptrace(libc::PTRACE_DETACH, stop.tid, 0).unwrap();
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap() {
            let tid = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
            if tid != stop.tid {
                self.interrupt(tid);
                // One that was about to end has ended instead.
                if self.wait(tid).is_some_and(|(_, status)| libc::WIFSTOPPED(status)) {
                    ptrace(libc::PTRACE_DETACH, tid, libc::SIGSTOP as u64).unwrap();
                }
            }
        }
        let started = Instant::now();
        let status = format!("/proc/{}/task/{}/status", self.pid(), stop.tid);
        while !fs::read_to_string(&status).unwrap().contains("State:\tT") {
            assert!(started.elapsed() < Duration::from_secs(10), "the tracee does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        let script = "python\nf = gdb.newest_frame()\nwhile f:\n  print('FRAME', f.pc(), int(f.type() in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME)), f.name() or '')\n  f = f.older()\nend\n";
        let file = scratch("gdb").join(format!("bt-{}", self.pid()));
        fs::write(&file, script).unwrap();
        let thread =
            format!("python [t for t in gdb.selected_inferior().threads() if t.ptid[1] == {}][0].switch()", stop.tid);
        let output = Command::new("gdb")
            .args([
                "-nx",
                "-batch",
                "-ex",
                "set debuginfod enabled off",
                "-ex",
                "set backtrace past-main on",
                "-ex",
                "set backtrace past-entry on",
            ])
            .args(["-p", &self.pid().to_string(), "-ex", &thread, "-x"])
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let frames: Vec<_> = text.lines().filter_map(parse_frame).collect();
        assert!(!frames.is_empty(), "gdb said: {text}{}", String::from_utf8_lossy(&output.stderr));
        frames
    }

    fn interrupt(&self, tid: i32) {
        // SAFETY: a system call with numbers.
        unsafe { libc::syscall(libc::SYS_tgkill, self.pid(), tid, libc::SIGSTOP) };
    }

    fn wait(&self, pid: i32) -> Option<(i32, i32)> {
        let mut status = 0;
        // Only tracees of this thread: other tests have their own.
        // SAFETY: `status` is valid for the call.
        let tid = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        (tid > 0).then_some((tid, status))
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // The process is gone when all of its threads have been waited for.
        while self.wait(-1).is_some_and(|(tid, _)| tid != self.pid()) {}
        let _ = self.child.wait();
    }
}

impl Stop {
    pub fn snapshot<'a>(&self, stack: &'a [u8]) -> Snapshot<'a> {
        Snapshot { registers: self.registers, stack }
    }
}

fn parse_frame(line: &str) -> Option<TruthFrame> {
    let mut parts = line.strip_prefix("FRAME ")?.splitn(3, ' ');
    let (address, virtual_) = (parts.next()?.parse().ok()?, parts.next()? == "1");
    Some(TruthFrame { address, virtual_, name: parts.next().filter(|name| !name.is_empty()).map(str::to_owned) })
}

fn ptrace(request: libc::c_uint, pid: i32, data: u64) -> io::Result<i64> {
    // SAFETY: requests with a pointer get one to a live structure of the right type.
    let result = unsafe { libc::ptrace(request, pid, 0_u64, data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A directory of this test: it goes when the test's thread ends.
pub fn scratch(name: &str) -> PathBuf {
    struct Directory(PathBuf);
    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
    thread_local! {
        static DIRECTORY: Directory = {
            // SAFETY: takes no arguments and cannot fail.
            let thread = unsafe { libc::gettid() };
            Directory(std::env::temp_dir().join(format!("fdtrace-native-{}-{thread}", std::process::id())))
        };
    }
    let directory = DIRECTORY.with(|directory| directory.0.join(name));
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Whether all programs are there; says so loudly when not.
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|program| !installed(program)).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: this test needs {missing:?}");
    }
    missing.is_empty()
}

fn installed(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).exists();
    }
    std::env::var_os("PATH").is_some_and(|paths| std::env::split_paths(&paths).any(|path| path.join(program).exists()))
}

/// Runs a build step.
pub fn build(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
