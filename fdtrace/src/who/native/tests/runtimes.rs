//! Stacks of interpreters and JIT compilers.

use std::fs;

use super::super::unwind::End;
use super::super::{Objects, Symbols};
use super::programs::*;
use super::tracee::{Tracee, build, have, scratch};
use super::truth::*;

/// The distribution's interpreter is stripped and built with LTO; others may be named in the environment.
fn pythons() -> Vec<String> {
    let more = std::env::var("FDTRACE_TEST_PYTHONS").unwrap_or_default();
    std::iter::once("/usr/bin/python3")
        .chain(more.split(':').filter(|path| !path.is_empty()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn python() {
    for program in pythons() {
        if !have(&[&program, "gdb"]) {
            continue;
        }
        for mark in [1000, 1001, 1002, 1003] {
            let tracee = Tracee::start(&program, &["-c", PYTHON_PROGRAM]);
            let stop = run_to(&tracee, mark);
            let mut space = space_of(&tracee, &mut Objects::new());
            let stack = unwind(&tracee, &stop, &mut space, ENOUGH);
            let named = Symbols::new().resolve(&mut space, &stack.frames);
            let loops = names(&named).iter().filter(|name| name.starts_with("_PyEval_EvalFrameDefault")).count();
            assert!(loops >= 1, "{program}: {:?}", names(&named));
            agrees_with_gdb(&program, tracee, &stop);
        }
    }
}

#[test]
fn the_split_evaluation_loop_is_recognised() {
    if !have(&["gcc", "strip"]) {
        return;
    }
    let program = compile("gcc", "split", SPLIT_PROGRAM, &["-O2", "-rdynamic", "-fomit-frame-pointer", "-w"]);
    let stripped = strip(&program);
    for program in [&program, &stripped] {
        let tracee = Tracee::start(program, &[]);
        for mark in 1000..1004 {
            let stop = run_to(&tracee, mark);
            let mut space = space_of(&tracee, &mut Objects::new());
            let stack = unwind(&tracee, &stop, &mut space, ENOUGH);
            let named = Symbols::new().resolve(&mut space, &stack.frames);
            assert_eq!(names(&named)[..3], ["close", "rare", "_PyEval_EvalFrameDefault.cold"], "{}", program.display());
            tracee.go_on(&stop);
        }
    }
}

#[test]
fn node_with_perf_map() {
    if !have(&["node"]) {
        return;
    }
    let script = scratch("node").join("marks.js");
    let text = "const fs = require('fs');
function innerJs(mark) { if (mark > 0) { try { fs.closeSync(mark); } catch (e) {} } return mark + 1; }
function middleJs(mark) { return innerJs(mark) + 1; }
function outerJs(mark) { return middleJs(mark) + 1; }
let n = 0; for (let i = 0; i < 100000; i++) n += outerJs(i % 50 == 49 ? 999 : -i);
outerJs(1000);
setTimeout(() => { outerJs(1001); }, 10);
";
    fs::write(&script, text).unwrap();
    // As users run it, optimised functions swallow their callees; without inlining all three are there.
    let plain: [&[&str]; 2] = [
        &["--interpreted-frames-native-stack"],
        &["uv__fs_close", "JS:~closeSync", "outerJs", "node::Start", "_start"],
    ];
    let separate: [&[&str]; 2] = [
        &["--no-turbo-inlining", "--no-maglev"],
        &["uv__fs_close", "innerJs", "middleJs", "outerJs", "node::Start", "_start"],
    ];
    for [options, truth] in [plain, separate] {
        let tracee = Tracee::start("node", &[&["--perf-basic-prof"], options, &[script.to_str().unwrap()]].concat());
        let mut objects = Objects::new();
        let mut space = None;
        let mut stacks = Vec::new();
        for mark in [1000, 1001] {
            let stop = run_to(&tracee, mark);
            let space = space.get_or_insert_with(|| space_of(&tracee, &mut objects));
            space.refresh(&mut objects).unwrap();
            let bytes = tracee.stack(&stop, ENOUGH);
            stacks.push(space.unwind(&stop.snapshot(&bytes)));
            tracee.go_on(&stop);
        }
        // Node writes the map late: names are looked up when the process has ended.
        while let Some(stop) = tracee.next_mark() {
            tracee.go_on(&stop);
        }
        let _ = fs::remove_file(format!("/tmp/perf-{}.map", tracee.pid()));
        let mut space = space.unwrap();
        for stack in stacks {
            let named = Symbols::new().resolve(&mut space, &stack.frames);
            let text = names(&named).join("\n");
            assert_eq!(stack.end, End::Complete, "{text}");
            let mut at = 0;
            for part in truth {
                at +=
                    text[at..].find(part).unwrap_or_else(|| panic!("{options:?}: no `{part}` in its place in\n{text}"));
            }
        }
    }
}

#[test]
fn java() {
    if !have(&["java", "javac"]) {
        return;
    }
    let directory = scratch("java");
    let source = directory.join("Marks.java");
    let text = "import java.io.*; import java.lang.reflect.*;
public class Marks {
  static void inner(int mark) throws Exception {
    FileDescriptor fd = new FileDescriptor();
    Field field = FileDescriptor.class.getDeclaredField(\"fd\"); field.setAccessible(true); field.setInt(fd, mark);
    try { new FileOutputStream(fd).close(); } catch (IOException e) { }
  }
  public static void main(String[] args) throws Exception { inner(1000); }
}";
    fs::write(&source, text).unwrap();
    build("javac", &["-d", directory.to_str().unwrap(), source.to_str().unwrap()]);
    let options =
        ["--add-opens", "java.base/java.io=ALL-UNNAMED", "-Xint", "-cp", directory.to_str().unwrap(), "Marks"];
    let tracee = Tracee::start("java", &options);
    let stop = run_to(&tracee, 1000);
    let mut space = space_of(&tracee, &mut Objects::new());
    let stack = unwind(&tracee, &stop, &mut space, ENOUGH);
    let named = Symbols::new().resolve(&mut space, &stack.frames);
    let text = names(&named).join("\n");
    assert_eq!(stack.end, End::Complete, "{text}");
    assert!(
        text.starts_with("close\n")
            && named.iter().any(|frame| frame.module.as_deref().is_some_and(|module| module.ends_with("libjvm.so"))),
        "{text}"
    );
    assert!(named.iter().any(|frame| frame.module.is_none() && frame.by_frame_pointer), "interpreted frames: {text}");
}
