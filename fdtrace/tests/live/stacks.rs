//! Python stacks are what the program itself says they are, or shorter, or absent; never others.

use std::{collections::HashMap, path::Path, process::Command};

use serde_json::Value;

use super::harness::{Scratch, known_pythons, record, trace};

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

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_stack_that_was_met_before_is_no_other_one() {
    let scratch = Scratch::new();
    let source = scratch.write("ways.c", WAYS);
    let program = scratch.path("ways");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-g", "-fomit-frame-pointer", "-o"]).arg(&program).arg(&source);
    if !compiler.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no C compiler");
        return;
    }
    let report = trace(&["-v", "--notes"], &[program.as_os_str()]);
    let told = report.stderr.lines().find_map(|line| line.split_once("native stacks: ")).expect("counts");
    let counts: Vec<u64> = told.1.split(' ').filter_map(|word| word.parse().ok()).collect();
    // 4,800 in all, of which the opens are recognised, and the closes of four ways.
    assert!(counts[0] > 3000, "{}", told.1);
    let way = |act: &Value| -> String {
        let frames = act["native"].as_array().into_iter().flatten();
        let frames: Vec<String> = frames.filter_map(|frame| text(&frame["function"])).collect();
        let main = frames.iter().position(|name| name == "main").expect("main");
        frames[main - 1].clone()
    };
    let told = report.findings("double-close").into_iter().map(|it| [way(&it["root_cause"]), way(&it["culprit"])]);
    let expected =
        [["north", "east"], ["east", "south"], ["south", "west"], ["west", "up"], ["up", "down"], ["down", "north"]];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}
