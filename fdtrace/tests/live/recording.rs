//! What is recorded is told again as it was told live, also where the program is not.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    attach::Server,
    harness::{Attached, FDTRACE, Scratch, compile, plain, pythons},
};

/// Threads and children, and a read of what was closed.
pub const PROGRAM: &str = "\
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

const BLOG: &str = include_str!("../../../demo/blog.py");

const NATIVE: &str = r#"
#include <fcntl.h>
#include <unistd.h>
static __attribute__((noinline)) int opener(void) { int fd = open("/dev/zero", 0); __asm__ volatile(""); return fd; }
static __attribute__((noinline)) void closer(int fd) { close(fd); __asm__ volatile(""); }
static __attribute__((noinline)) int reader(int fd) { char b[8]; int r = read(fd, b, 8); __asm__ volatile(""); return r; }
int main(void) {
    int fd = opener();
    closer(fd);
    reader(fd);
    usleep(300000);
    return 0;
}
"#;

/// An entry that was made before anybody looked outlives its number, because a child has a copy.
const GHOST: &str = "\
import os, select, signal, socket, sys, time
loop = select.epoll()
a, b = socket.socketpair()
loop.register(a.fileno(), select.EPOLLIN)
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print('ready', flush=True)
sys.stdin.readline()
a.close()
b.send(b'x')
for _ in range(50):
    loop.poll(1)
    time.sleep(0.01)
os.kill(child, signal.SIGKILL)
os.wait()
";

/// What was read of the kernel's own lists is recorded as well.
#[test]
#[ignore = "needs root and a kernel with BTF"]
fn what_was_there_before_is_known_again() {
    let scratch = Scratch::new();
    let [file, again] = ["x.fdt", "again.json"].map(|name| scratch.path(name));
    let mut server = Server::start(&scratch.write("ghost.py", GHOST));
    let attached = Attached::start(&["-p", &server.pid(), "-o", file.to_str().expect("a plain path")]);
    server.go();
    let live = attached.finish();
    assert_eq!(live.the("ghost-event")["confidence"], "proven", "{:?}", live.all());
    let told = Command::new(FDTRACE).arg("report").arg(&file).arg("--json").arg(&again).output().expect("fdtrace runs");
    assert!(told.status.success());
    let again = std::fs::read_to_string(&again).expect("findings");
    let rules = |rule: &str| again.matches(&format!("\"rule\":\"{rule}\"")).count() as u64;
    assert_eq!(live.all().iter().map(|rule| rules(rule)).min(), Some(1), "{:?}: {again}", live.all());
}

/// Records a command, has `leave` take the program away, and has it all told again. Returns what was told to a program
/// and to people.
fn told_twice(scratch: &Scratch, options: &[&str], command: &[&Path], leave: impl FnOnce()) -> (String, String) {
    let [file, live, again] = ["x.fdt", "live.json", "again.json"].map(|name| scratch.path(name));
    let [lives, lives_again] = ["lives.jsonl", "lives-again.jsonl"].map(|name| scratch.path(name));
    let mut fdtrace = Command::new(FDTRACE);
    fdtrace.args(options).arg("--force").arg("-o").arg(&file).arg("--json").arg(&live);
    fdtrace.arg("--export").arg(format!("jsonl={}", lives.display())).arg("--").args(command);
    let told_live = fdtrace.stdin(Stdio::null()).output().expect("fdtrace runs");
    leave();
    // Elsewhere: another folder, and nothing in the environment that leads back.
    let elsewhere = |verb: &str| {
        let mut fdtrace = Command::new(FDTRACE);
        fdtrace.arg(verb).arg(&file).arg("--force").current_dir("/").env_clear().stdin(Stdio::null());
        fdtrace
    };
    let told = elsewhere("report").arg("--json").arg(&again).output().expect("fdtrace runs");
    assert!(told.status.success());
    let exported = elsewhere("export").args(["--to", "jsonl", "-o"]).arg(&lives_again).status().expect("fdtrace runs");
    assert!(exported.success());
    let name = format!("{options:?} {command:?}");
    let [live, again, lives, lives_again] = [live, again, lives, lives_again].map(|path| {
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {}: {error}", path.display()))
    });
    same(&live, &again, &name);
    same(&lives, &lives_again, &name);
    assert!(lives.contains(r#""type":"lifetime""#), "{name}");
    assert_eq!(plain(&["verify", file.to_str().expect("a plain path")]).status, Some(0), "{name}");
    let [first, second] = [told_live.stdout, told.stdout].map(|text| String::from_utf8_lossy(&text).into_owned());
    // What the program says itself goes to the same place, before the report of it.
    assert!(first.ends_with(&second), "{name}: live\n{first}\nand again\n{second}");
    (again, second)
}

fn same(live: &str, again: &str, name: &str) {
    let mut lines = live.lines().zip(again.lines());
    if let Some((live, again)) = lines.find(|(live, again)| live != again) {
        let [live, again] = [live, again].map(|line| line.get(..2000).unwrap_or(line));
        panic!("{name}: told live\n{live}\nand again\n{again}");
    }
    assert_eq!(live.len(), again.len(), "{name}: one has more lines");
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn the_same_is_told_without_the_program() {
    let scratch = Scratch::new();
    let stress = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/stress.py");
    let stress = std::fs::read_to_string(stress).expect("a program");
    let ring = ["--ring-size", "65536"];
    // Itself, not a script that looks for it: its frames are to be known from the first call.
    let python = pythons().pop().expect("a Python");
    for (options, text, arguments) in [
        (&ring[..], PROGRAM, &["200"][..]),
        (&["--no-stacks"], PROGRAM, &["100"]),
        (&ring, &stress, &["1", "400", "1"]),
        (&["--notes"], BLOG, &[]),
    ] {
        let script = scratch.write("program.py", text);
        let mut command = vec![python.as_path(), &script];
        command.extend(arguments.iter().map(Path::new));
        let gone = || std::fs::remove_file(&script).expect("the program goes away");
        let (json, _) = told_twice(&scratch, options, &command, gone);
        assert!(json.contains(r#""type":"finding""#), "{options:?} {arguments:?}");
    }
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn the_blog_is_explained_without_its_interpreter_and_source() {
    let scratch = Scratch::new();
    let script = scratch.write("a.py", BLOG);
    let python = pythons().pop().expect("a Python");
    let binary = Command::new(python).args(["-c", "import sys; print(sys.executable)"]).output().expect("it runs");
    let binary = PathBuf::from(String::from_utf8_lossy(&binary.stdout).trim());
    let copy = scratch.path("python3");
    std::fs::copy(binary.canonicalize().expect("a file"), &copy).expect("a copy of the interpreter");
    let (json, report) = told_twice(&scratch, &[], &[&copy, &script], || {
        std::fs::remove_file(&copy).expect("the interpreter goes away");
        std::fs::remove_file(&script).expect("the source goes away");
    });
    assert!(json.contains("foreign-close") && json.contains("stale-close"), "{json}");
    for line in ["a.py:5", "a.py:9", "a.py:10", "os.close(", "root cause"] {
        assert!(report.contains(line), "{line} in:\n{report}");
    }
}

const HOLDS: &str = "\
import os, sys, time
held = os.open(sys.argv[1], os.O_RDONLY)
end = time.monotonic() + 4
while time.monotonic() < end:
    os.close(os.open('/dev/null', os.O_RDONLY))
    time.sleep(0.01)
os.close(held)
";

/// A loop, and the blog's mistake on the number that the loop used.
const LOOP: &str = r#"
import os
for _ in range(5000):
    os.close(os.open("/dev/null", os.O_RDONLY))
first = open("/etc/hostname")
os.close(first.fileno())
second = os.open("/etc/passwd", os.O_RDONLY)
del first
"#;

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_loop_is_exported_as_one_life_with_its_number() {
    let scratch = Scratch::new();
    let script = scratch.write("loop.py", LOOP);
    let (file, live) = (scratch.path("x.fdt"), scratch.path("live.jsonl"));
    let mut fdtrace = Command::new(FDTRACE);
    fdtrace.args(["--ring-size", "65536", "-o"]).arg(&file).arg("--export").arg(format!("jsonl={}", live.display()));
    let told = fdtrace.args(["--", "python3"]).arg(&script).output().expect("fdtrace runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let export = |options: &[&str]| {
        let told = Command::new(FDTRACE).arg("export").arg(&file).args(["--to", "jsonl"]).args(options).output();
        String::from_utf8_lossy(&told.expect("it runs").stdout).into_owned()
    };
    let (folded, every) = (export(&[]), export(&["--every"]));
    same(&std::fs::read_to_string(live).expect("an export"), &folded, "live and from the recording");
    let lives = |text: &str| -> Vec<u64> {
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
        let lives = lines.filter(|line| line["type"] == "lifetime" && line["object"] == "/dev/null");
        lives.map(|line| line["alike"]["count"].as_u64().unwrap_or(1)).collect()
    };
    let (folded_lives, every_life) = (lives(&folded), lives(&every));
    assert!(every_life.len() >= 5_000 && folded_lives.len() < 200, "{} and {}", every_life.len(), folded_lives.len());
    assert_eq!(folded_lives.iter().sum::<u64>(), every_life.len() as u64);
    // What the finding is about is told for itself.
    let alone = |line: &&str| line.contains(r#""type":"lifetime""#) && line.contains("/etc/passwd");
    assert_eq!(folded.lines().filter(alone).count(), every.lines().filter(alone).count());
    assert!(folded.contains(r#""rule":"stale-close""#) || folded.contains(r#""rule":"foreign-close""#));
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_later_file_of_a_rotation_is_read_alone() {
    let scratch = Scratch::new();
    let script = scratch.write("holds.py", HOLDS);
    let held = scratch.write("held", "");
    let (file, lives) = (scratch.path("x.fdt"), scratch.path("lives.jsonl"));
    let mut fdtrace = Command::new(FDTRACE);
    fdtrace.arg("-o").arg(&file).args(["--rotate-time", "1", "--export"]).arg(format!("jsonl={}", lives.display()));
    let told = fdtrace.args(["--", "python3"]).arg(&script).arg(&held).output().expect("fdtrace runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let mut files = vec![file];
    files.extend((1..).map(|number| scratch.path(&format!("x.{number}.fdt"))).take_while(|path| path.exists()));
    assert!(files.len() >= 3, "{files:?}");
    let export = |files: &[PathBuf]| {
        let told = Command::new(FDTRACE).arg("export").args(files).args(["--to", "jsonl"]).output().expect("it runs");
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8_lossy(&told.stdout).into_owned()
    };
    same(&std::fs::read_to_string(lives).expect("an export"), &export(&files), "all files together");
    // It was opened two files before.
    let alone = export(&files[2..3]);
    let name = format!(r#""object":"{}""#, held.display());
    let held = alone.lines().find(|line| line.contains(r#""type":"lifetime""#) && line.contains(&name));
    assert!(held.is_some_and(|line| line.contains("already-open")), "{name} in {alone}");
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_native_program_is_explained_without_its_binary_and_source() {
    let scratch = Scratch::new();
    let source = scratch.write("native.c", NATIVE);
    let program = scratch.path("native");
    if !compile(&["-O2", "-g", "-fomit-frame-pointer"], &source, &program) {
        eprintln!("skipped: no C compiler");
        return;
    }
    let (json, report) = told_twice(&scratch, &[], &[&program], || {
        std::fs::remove_file(&program).expect("the binary goes away");
        std::fs::remove_file(&source).expect("the source goes away");
    });
    for name in ["opener", "closer", "reader"] {
        assert!(json.contains(&format!(r#""function":"{name}""#)), "{name} in:\n{json}");
    }
    for line in ["native.c:4", "native.c:5", "native.c:6"] {
        assert!(report.contains(line), "{line} in:\n{report}");
    }
}
