use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;

fn launch(program: impl Into<OsString>, args: &[&str]) -> Launch {
    Launch { program: program.into(), args: args.iter().map(OsString::from).collect(), user: RunAs::Root }
}

fn shell(script: &str) -> Launch {
    launch("sh", &["-c", script])
}

fn run(launch: &Launch) -> Ended {
    launch.prepare().unwrap().release().unwrap().wait().unwrap()
}

fn failure(launch: &Launch) -> LaunchError {
    launch.prepare().unwrap().release().unwrap_err()
}

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fdtrace-launch-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// What `script` writes to the file named by `$1`.
    fn output(&self, script: &str, user: RunAs) -> String {
        let path = self.0.join("out");
        let launch = Launch { user, ..launch("sh", &["-c", script, "sh", path.to_str().unwrap()]) };
        assert_eq!(run(&launch), Ended::Code(0));
        fs::read_to_string(path).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn tells_how_the_command_ended() {
    assert_eq!(run(&launch("true", &[])), Ended::Code(0));
    assert_eq!(run(&shell("exit 42")), Ended::Code(42));
    assert_eq!(run(&shell("kill -TERM $$")), Ended::Signal(libc::SIGTERM));
}

/// In a child, because there is no way back.
#[test]
fn dies_like_the_command() {
    for signal in [libc::SIGTERM, libc::SIGSEGV, libc::SIGPIPE, libc::SIGKILL] {
        // SAFETY: the child makes system calls only: the signal ends it before exit handlers could run.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            super::super::ending::die_like(signal);
        }
        let ended = reap(pid.cast_unsigned(), Wait::Block).unwrap();
        assert_eq!(ended, Some(Ended::Signal(signal)));
    }
}

#[test]
fn tells_why_a_command_does_not_start() {
    let scratch = Scratch::new("errors");
    let gone = failure(&launch("fdtrace-no-such-command", &[]));
    assert_eq!((gone.exit_code(), gone.to_string().contains("not found in PATH")), (127, true));
    assert_eq!(failure(&launch("/nonexistent/x", &[])).exit_code(), 127);
    assert_eq!(failure(&launch("", &[])).exit_code(), 127);
    let orphan = scratch.file("orphan", "#!/nonexistent/python\n", 0o755);
    assert!(failure(&launch(orphan, &[])).to_string().contains("interpreter"));
    let plain = scratch.file("plain", "data", 0o644);
    assert_eq!(failure(&launch(plain, &[])).exit_code(), 126);
    assert_eq!(failure(&launch(scratch.0.clone(), &[])).exit_code(), 126);
    assert!(matches!(launch("a\0b", &[]).prepare(), Err(LaunchError::Nul)));
    let nobody = Launch { user: RunAs::User("no such user".into()), ..launch("true", &[]) };
    assert!(nobody.prepare().unwrap_err().to_string().contains("no such user"));
}

#[test]
fn a_script_without_interpreter_line_goes_to_the_shell() {
    let scratch = Scratch::new("script");
    let script = scratch.file("script", "test \"$1 $2\" = 'a b' && exit 7\n", 0o755);
    assert_eq!(run(&launch(script, &["a", "b"])), Ended::Code(7));
}

#[test]
fn waits_until_released() {
    let scratch = Scratch::new("held");
    let mark = scratch.0.join("mark");
    let held = launch("touch", &[mark.to_str().unwrap()]).prepare().unwrap();
    let exe = fs::read_link(format!("/proc/{}/exe", held.pid())).unwrap();
    assert_eq!(exe, std::env::current_exe().unwrap());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!mark.exists());
    let pid = held.pid();
    let mut running = held.release().unwrap();
    assert_eq!(running.pid(), pid);
    let pidfd = running.pidfd().unwrap();
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure that is ours.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
    assert_eq!(running.try_wait().unwrap(), Some(Ended::Code(0)));
    assert_eq!(running.try_wait().unwrap(), Some(Ended::Code(0)));
    assert!(mark.exists());
}

#[test]
fn try_wait_does_not_block() {
    let mut running = launch("sleep", &["0.2"]).prepare().unwrap().release().unwrap();
    assert_eq!(running.try_wait().unwrap(), None);
    assert_eq!(running.wait().unwrap(), Ended::Code(0));
}

#[test]
fn a_held_child_ends_with_its_holder() {
    let held = launch("true", &[]).prepare().unwrap();
    let path = format!("/proc/{}", held.pid());
    drop(held);
    assert!(!Path::new(&path).exists(), "killed and reaped");

    // The death of fdtrace looks like this to the child: the other end of its socket is gone.
    let mut held = launch("true", &[]).prepare().unwrap();
    let (other, _) = control_pair().unwrap();
    held.control = other;
    assert_eq!(reap(held.pid, Wait::Block).unwrap(), Some(Ended::Code(125)));
    held.pidfd = None;
}

#[test]
fn a_command_killed_while_held_is_told() {
    let held = launch("true", &[]).prepare().unwrap();
    // SAFETY: our own child, not yet reaped.
    unsafe { libc::kill(held.pid().cast_signed(), libc::SIGKILL) };
    let mut running = held.release().unwrap();
    assert_eq!(running.wait().unwrap(), Ended::Signal(libc::SIGKILL));
}

#[test]
fn the_command_has_our_inheritance_and_nothing_of_ours() {
    let inherited = inherited();
    // Neither a descriptor that lacks close-on-exec, nor a blocked signal, nor a changed limit may get through.
    // SAFETY: duplicates standard output.
    let leak = unsafe { libc::fcntl(1, libc::F_DUPFD, 700) };
    let mask = block_signals();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: structures that are ours; a soft limit may always be lowered.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let lower = libc::rlimit { rlim_cur: limit.rlim_cur - 1, ..limit };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const lower);
    }
    let mut running = launch("sleep", &["60"]).prepare().unwrap().release().unwrap();
    // SAFETY: puts everything back.
    unsafe {
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        libc::close(leak);
    }
    let proc = PathBuf::from(format!("/proc/{}", running.pid()));
    let mut fds: Vec<RawFd> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    fds.sort_unstable();
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    // SAFETY: our own child, not yet reaped.
    unsafe { libc::kill(running.pid().cast_signed(), libc::SIGTERM) };
    assert_eq!(running.wait().unwrap(), Ended::Signal(libc::SIGTERM));

    let stdio = (0..).zip(inherited.stdio).filter(|(_, open)| *open);
    let expected: Vec<RawFd> = stdio.map(|(fd, _)| fd).chain(inherited.fds.iter().copied()).collect();
    assert_eq!(fds, expected);
    let bits = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let ignored = (1..)
        .zip(&inherited.ignored[1..])
        .filter(|(_, ignored)| **ignored)
        .map(|(signal, _)| 1 << (signal - 1))
        .sum::<u64>();
    // Signals 32 and 33 belong to glibc, which ignores them in what it spawns and lets nobody look.
    let shown = bits("SigIgn:") & !(3 << 31);
    assert_eq!((bits("SigBlk:"), shown), (0, ignored));
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(files.contains(&format!(" {} ", limit.rlim_cur)), "{files}");
}

#[test]
#[ignore = "needs root"]
fn runs_as_another_user_with_its_groups() {
    let scratch = Scratch::new("user");
    let script = "{ id -u; id -g; id -G; grep -E '^Cap(Eff|Prm)' /proc/self/status; } >\"$1\"";
    let output = scratch.output(script, RunAs::User("nobody".into()));
    let nobody = users::by_name(c"nobody").unwrap();
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some(nobody.uid.to_string().as_str()));
    assert_eq!(lines.next(), Some(nobody.gid.to_string().as_str()));
    let groups: Vec<u32> = lines.next().unwrap().split(' ').map(|g| g.parse().unwrap()).collect();
    assert_eq!(groups, users::groups(&nobody.name, nobody.gid));
    assert!(lines.all(|caps| caps.ends_with("0000000000000000")));
}

#[test]
fn many_launches_do_not_leak() {
    let before = Instant::now();
    for _ in 0..50 {
        drop(launch("true", &[]).prepare().unwrap());
        assert_eq!(run(&launch("true", &[])), Ended::Code(0));
    }
    eprintln!("{:?} for one held and one run command", before.elapsed() / 50);
}
