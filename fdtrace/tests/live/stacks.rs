//! Python stacks are what the program itself says they are, or shorter, or absent; never others.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::harness::{Report, Scratch, compile, functions, known_pythons, record, trace};

/// Frames that are shown of a stack. The task is found at its outer end, and goes with it.
const FRAMES_MAX: usize = 64;

/// What is known of one open: task, and frames innermost first.
#[derive(Debug, PartialEq)]
struct Stack {
    task: Option<String>,
    frames: Vec<(String, u64, String)>,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A line of the program: path, task, frames.
fn truth(line: &str) -> Option<(String, Stack)> {
    let (path, task, frames): (String, Option<String>, Vec<(String, u64, String)>) = serde_json::from_str(line).ok()?;
    Some((path, Stack { task, frames }))
}

/// The same from the export.
fn told(act: &Value) -> Stack {
    let frame = |frame: &Value| {
        let [file, function] = ["file", "function"].map(|name| text(&frame[name]).unwrap_or_default());
        (file, frame["line"].as_u64().unwrap_or(0), function)
    };
    Stack { task: text(&act["task"]), frames: act["python"].as_array().into_iter().flatten().map(frame).collect() }
}

/// `FDTRACE_STEPS` is the number of files for each of eight threads.
#[test]
#[ignore = "needs root and a kernel with BTF"]
fn python_stacks_are_the_true_ones() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/stacks.py");
    let steps = std::env::var("FDTRACE_STEPS").unwrap_or_else(|_| "400".to_owned());
    for python in known_pythons() {
        let scratch = Scratch::new();
        let files = scratch.path("files");
        std::fs::create_dir(&files).expect("a directory");
        let arguments =
            [python.as_os_str(), script.as_os_str(), "1".as_ref(), "8".as_ref(), steps.as_ref(), files.as_os_str()];
        let (report, lines) = record(&scratch, &arguments);
        let name = python.display();
        assert_eq!(report.end()["lost"], 0, "{name}: the ring is too small for the test");
        let told: HashMap<String, Stack> = lines
            .iter()
            .filter(|line| line["type"] == "lifetime")
            .filter_map(|line| Some((text(&line["object"])?, told(&line["opened"]))))
            .collect();
        let (mut all, mut equal, mut missing) = (0_u32, 0_u32, 0_u32);
        for (path, truth) in report.stdout.lines().filter_map(truth) {
            let told = told.get(&path).unwrap_or_else(|| panic!("{name}: {path} was opened and nobody saw it"));
            let wrong = told.frames.iter().enumerate().find(|(at, frame)| truth.frames.get(*at) != Some(frame));
            if let Some((at, frame)) = wrong {
                panic!("{name}: {path}: frame {at} is {:?} and not {frame:?}", truth.frames.get(at));
            }
            let tasks = (&told.task, &truth.task);
            assert!(told.task.is_none() || told.task == truth.task, "{name}: {path}: {tasks:?}");
            all += 1;
            if told.frames.len() == truth.frames.len().min(FRAMES_MAX)
                && (truth.frames.len() > FRAMES_MAX || told.task == truth.task)
            {
                equal += 1;
            } else {
                missing += 1;
            }
        }
        println!("{name}: of {all} stacks {equal} equal, {missing} shorter or absent, 0 wrong");
        assert!(all > 0 && f64::from(equal) >= f64::from(all) * 0.999, "{name}: {equal} of {all} equal");
    }
}

/// The ways come by at the same depth, with the same stack pointer; what each leaves on the stack is the other's.
const WAYS: &str = r#"
#include <fcntl.h>
#include <unistd.h>
#define WAY(name) __attribute__((noinline)) static int name(int fd) { \
    volatile char room[256]; room[fd & 255] = (char)fd; \
    int result = close(fd); return result + room[fd & 255] * 0; }
WAY(north) WAY(east) WAY(south) WAY(west) WAY(up) WAY(down)
static int (*const ways[])(int) = {north, east, south, west, up, down};
int main(void) {
    for (int round = 0; round < 400; round++) {
        for (int way = 0; way < 6; way++) ways[way](open("/dev/null", O_RDONLY));
        if (round == 10) usleep(500000);
    }
    for (int way = 0; way < 6; way++) {
        int fd = open("/dev/null", O_RDONLY);
        ways[way](fd);
        ways[(way + 1) % 6](fd);
        usleep(50000);
    }
    return 0;
}
"#;

/// A C program, or a library; `None`: there is no compiler.
fn compiled(scratch: &Scratch, name: &str, source: &str, flags: &[&str]) -> Option<PathBuf> {
    let source = scratch.write(&format!("{name}.c"), source);
    let program = scratch.path(name);
    let is_compiled = compile(&[&["-O2", "-g", "-fomit-frame-pointer"], flags].concat(), &source, &program);
    if !is_compiled {
        eprintln!("skipped: no C compiler");
    }
    is_compiled.then_some(program)
}

/// Which way `main` took.
fn way(act: &Value) -> &str {
    let frames = functions(act);
    let main = frames.iter().position(|name| *name == "main").unwrap_or_else(|| panic!("no main in {frames:?}"));
    frames[main - 1]
}

/// How many stacks were recognised.
fn recognised(report: &Report) -> u64 {
    let told = report.stderr.lines().find_map(|line| line.split_once("native stacks: ")).expect("counts").1;
    told.split(' ').next().and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_stack_that_was_met_before_is_no_other_one() {
    let scratch = Scratch::new();
    let Some(program) = compiled(&scratch, "ways", WAYS, &[]) else { return };
    let report = trace(&["-v", "--notes"], &[program.as_os_str()]);
    // 4,800 in all, of which the opens are recognised, and the closes of four ways.
    assert!(recognised(&report) > 3000, "{}", report.stderr);
    let told = report.findings("double-close").into_iter().map(|it| [way(&it["root_cause"]), way(&it["culprit"])]);
    let expected =
        [["north", "east"], ["east", "south"], ["south", "west"], ["west", "up"], ["up", "down"], ["down", "north"]];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

/// Loads one library after the other, by default where the one before has been, and its children do so as well.
const LOADER: &str = r#"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
static void *library;
static int (*load(const char *path))(int) {
    if (library) dlclose(library);
    library = dlopen(path, RTLD_NOW);
    return (int (*)(int))dlsym(library, "take");
}
int main(int argc, char **argv) {
    int (*take)(int) = load(argv[1]);
    void *first = (void *)take;
    for (int round = 0; round < 200; round++) {
        take(open("/dev/null", O_RDONLY));
        if (round == 10) usleep(500000);
    }
    for (int child = 0; child < 4; child++) {
        if (fork() == 0) {
            for (int round = 0; round < 20; round++) take(open("/dev/null", O_RDONLY));
            if (child > 0) take = load(argv[1 + child]);
            if ((void *)take != first) fputs("elsewhere\n", stdout);
            int fd = open("/dev/null", O_RDONLY);
            take(fd);
            take(fd);
            usleep(300000);
            return 0;
        }
        wait(NULL);
    }
    return 0;
}
"#;

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_child_has_its_parent_s_stacks_until_it_loads_other_code() {
    let scratch = Scratch::new();
    let Some(program) = compiled(&scratch, "loader", LOADER, &["-ldl"]) else { return };
    let mut command = vec![program.into_os_string()];
    for name in ["one", "two", "three", "four"] {
        let source = format!(
            "int close(int); static int __attribute__((noinline)) {name}(int fd) {{ volatile int kept = fd; int result = close(fd); return result + kept * 0; }}\n\
             int take(int fd) {{ return {name}(fd) + 1; }}\n"
        );
        let Some(library) = compiled(&scratch, &format!("lib{name}.so"), &source, &["-shared", "-fPIC"]) else {
            return;
        };
        command.push(library.into_os_string());
    }
    let report = trace(&["-v", "--notes"], &command);
    assert!(!report.stdout.contains("elsewhere"), "the libraries do not take each other's place");
    assert!(recognised(&report) > 380, "{}", report.stderr);
    let told = report
        .findings("double-close")
        .into_iter()
        .map(|it| [functions(&it["root_cause"]), functions(&it["culprit"])].map(|frames| frames.get(1).copied()));
    let expected = ["one", "two", "three", "four"].map(|name| [Some(name), Some(name)]);
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

/// A program whose versions differ in the name of one function and in nothing else.
const VERSION: &str = r#"
#include <fcntl.h>
#include <unistd.h>
__attribute__((noinline)) static int NAME(int fd) { volatile int kept = fd; int result = close(fd); return result + kept * 0; }
int main(int argc, char **argv) {
    for (int round = 0; round < 10; round++) NAME(open("/dev/null", O_RDONLY));
    if (argc > 1) {
        int fd = open("/dev/null", O_RDONLY);
        NAME(fd);
        NAME(fd);
        usleep(100000);
    }
    return 0;
}
"#;

/// Runs each version many times in the same file: written over it, moved into its place, and under an inode number that was
/// just given back.
const VERSIONS: &str = r#"
run() { for i in 1 2 3; do "$@"; done; sleep 0.5; for i in 1 2 3 4 5 6 7 8 9 10; do "$@"; done; "$@" wrong; sleep 0.7; }
p=$1
cp "$2" "$p"; run "$p"
cat "$3" > "$p"; run "$p"
rm "$p"; cp "$4" "$p"; run "$p"
cp "$5" "$p.new"; mv "$p.new" "$p"; run "$p"
setarch -R true || { echo random; exit; }
shift 5
for i in "$@"; do cat "$i" > "$p"; run setarch -R "$p"; done
"#;

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn processes_of_one_program_have_their_stacks_in_common_and_those_of_its_versions_do_not() {
    let scratch = Scratch::new();
    let mut command: Vec<OsString> = ["sh", "-c", VERSIONS, "sh"].map(Into::into).into();
    command.push(scratch.path("program").into_os_string());
    let mut names = vec!["one", "two", "three", "four", "five", "six", "seven"];
    for name in &names {
        let source = VERSION.replace("NAME", name);
        let Some(program) = compiled(&scratch, name, &source, &[]) else { return };
        command.push(program.into_os_string());
    }
    let report = trace(&["-v", "--notes"], &command);
    if report.stdout.contains("random") {
        names.truncate(4);
    }
    let told = report.findings("double-close").into_iter().map(|it| [way(&it["root_cause"]), way(&it["culprit"])]);
    let expected: Vec<_> = names.iter().map(|name| [*name, name]).collect();
    assert_eq!(told.collect::<Vec<_>>(), expected);
    // The eleven processes after the pause make 22 calls each at least, of which nearly all are known by then.
    let least = expected.len() as u64 * 11 * 20;
    assert!(recognised(&report) > least, "{} recognised of more than {least}", recognised(&report));
}
