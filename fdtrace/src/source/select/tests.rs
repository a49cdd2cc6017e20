use std::fs;

use super::*;

/// A `/proc` of our own. Its pids are higher than real ones can be.
struct FakeProc(PathBuf);

const FIRST: u32 = 5_000_000;

impl FakeProc {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("fdtrace-select-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("self")).unwrap();
        fs::write(root.join("uptime"), "1 1\n").unwrap();
        Self(root)
    }

    fn add(&self, pid: u32, start: u64, state: char, exe: &str, argv: &[u8]) {
        let comm = Path::new(exe).file_name().unwrap().to_str().unwrap();
        let dir = self.0.join(pid.to_string());
        fs::create_dir_all(dir.join("fd")).unwrap();
        let flags = if state == 'K' { 0x0020_0000 } else { 0 };
        let stat = format!("{pid} ({comm}) {state} 1 0 0 0 0 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0\n");
        fs::write(dir.join("stat"), stat).unwrap();
        fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(dir.join("cmdline"), argv).unwrap();
        let status = format!("Name:\t{comm}\nTgid:\t{pid}\nUid:\t0\t0\t0\t0\nNSpid:\t{pid}\n");
        fs::write(dir.join("status"), status).unwrap();
        for fd in 0..3 {
            fs::write(dir.join("fd").join(fd.to_string()), "").unwrap();
        }
        std::os::unix::fs::symlink(exe, dir.join("exe")).unwrap();
    }

    fn sample(name: &str) -> Self {
        let proc = Self::new(name);
        let python = "/usr/bin/python3.11";
        proc.add(FIRST, 30, 'S', python, b"gunicorn: master [app]\0\0\0\0");
        proc.add(FIRST + 1, 40, 'S', python, b"gunicorn: worker [app]\0\0\0\0");
        proc.add(FIRST + 2, 20, 'S', python, b"python3\0-u\0/srv/worker.py\0");
        proc.add(FIRST + 3, 10, 'Z', python, b"python3\0/srv/worker.py\0");
        proc.add(FIRST + 4, 10, 'K', "worker.py", b"");
        proc.add(FIRST + 5, 50, 'S', "/usr/bin/sudo", b"sudo\0fdtrace\0-n\0worker.py\0");
        proc.add(FIRST + 6, 60, 'S', "/usr/bin/vim", b"vim\0worker.py\0");
        proc
    }

    fn choose(&self, name: &str, choice: Choice) -> Result<Vec<u32>, SelectError> {
        let found = choose_in(name.as_bytes(), choice, &self.0)?;
        Ok(found.iter().map(|candidate| candidate.pid).collect())
    }
}

impl Drop for FakeProc {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn one_process_is_found_by_each_of_its_names() {
    let proc = FakeProc::sample("names");
    for name in ["worker.py", "worker", "/srv/worker.py"] {
        assert_eq!(proc.choose(name, Choice::One).unwrap(), [FIRST + 2], "{name}");
    }
    let found = by_name(b"worker", &proc.0);
    assert_eq!(found[0].by, Some(By::Script));
    assert_eq!((found[0].fds, found[0].start_boot_ns), (Some(3), 200_000_000));
    assert_eq!(list(&proc.0).len(), 5);
}

#[test]
fn several_are_never_resolved_in_silence() {
    let proc = FakeProc::sample("several");
    assert_eq!(proc.choose("gunicorn", Choice::All).unwrap(), [FIRST, FIRST + 1]);
    assert_eq!(proc.choose("gunicorn", Choice::Newest).unwrap(), [FIRST + 1]);
    let text = proc.choose("gunicorn", Choice::One).unwrap_err().to_string();
    for part in ["2 processes", "5000000", "5000001", "gunicorn: worker [app]", "-p PID", "--all", "--newest"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn nothing_found_says_what_was_tried() {
    let proc = FakeProc::sample("nothing");
    let text = proc.choose("GUNI", Choice::One).unwrap_err().to_string();
    for part in ["of 5 processes", "similar: gunicorn", "--wait"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = proc.choose("5000002", Choice::One).unwrap_err().to_string();
    assert!(text.contains("did you mean `-p 5000002`?"), "{text}");
    assert!(proc.choose("", Choice::All).is_err());
}

#[test]
fn hostile_names_stay_on_their_line() {
    let proc = FakeProc::new("hostile");
    for pid in [FIRST, FIRST + 1] {
        proc.add(pid, 1, 'S', "/bin/x", b"x\0\x1b[2J\n9999 root forged\xff\0\xe2\x80\xae");
    }
    let text = proc.choose("x", Choice::One).unwrap_err().to_string();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'));
}

#[test]
fn damaged_entries_are_left_out() {
    let proc = FakeProc::sample("damaged");
    fs::write(proc.0.join((FIRST + 2).to_string()).join("stat"), "nonsense").unwrap();
    fs::remove_file(proc.0.join(FIRST.to_string()).join("status")).unwrap();
    fs::create_dir(proc.0.join("5000099")).unwrap();
    assert_eq!(list(&proc.0).len(), 3);
}

#[test]
fn long_command_lines_are_cut_in_the_middle() {
    let proc = FakeProc::new("long");
    let argv = [b"prog\0".to_vec(), vec![b'a'; 200_000], b"\0end".to_vec()].concat();
    proc.add(FIRST, 1, 'S', "/bin/prog", &argv);
    let text = table(&list(&proc.0), 0, 80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("prog aaa") && text.contains('…'));
}

#[test]
fn ages_are_short() {
    let second = 1_000_000_000;
    assert_eq!(age(0), "0 s ago");
    assert_eq!(age(119 * second), "119 s ago");
    assert_eq!(age(120 * second), "2 min ago");
    assert_eq!(age(3 * 86_400 * second), "3 d ago");
}

#[test]
fn this_process_is_not_found() {
    let comm = procfs::comm(Path::new(procfs::ROOT), std::process::id()).unwrap();
    assert!(poll_once(&comm).iter().all(|found| found.pid != std::process::id()));
}

#[test]
fn another_start_time_is_another_process() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let mut found: Vec<Candidate> = list(Path::new(procfs::ROOT));
    found.retain(|candidate| candidate.pid == child.id());
    found[0].hold().unwrap();
    found[0].start_ticks -= 1;
    let error = found[0].hold().unwrap_err().to_string();
    assert!(error.starts_with(&format!("pid {} was recycled", child.id())), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
}
