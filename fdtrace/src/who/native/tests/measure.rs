//! What unwinding costs: `cargo test --release measure -- --ignored --nocapture`.

use std::time::Instant;

use super::super::space::AddressSpace;
use super::super::{Objects, Stack, Symbols};
use super::tracee::{Tracee, have, scratch};

const PYTHON: &str = "
import os, json, socket, asyncio
def inner(mark):
    try: os.close(mark)
    except OSError: pass
class Owner:
    def __del__(self): inner(1001)
inner(1000)
owner = Owner(); owner = None
list(map(inner, [1002]))
";
const NODE: &str = "const fs = require('fs'); function f(m) { try { fs.closeSync(m); } catch (e) {} } f(1000); f(1001); setTimeout(() => f(1002), 5);";

#[test]
#[ignore = "measures, and proves nothing"]
fn measure() {
    let script = scratch("measure").join("marks.js");
    std::fs::write(&script, NODE).unwrap();
    let more = std::env::var("FDTRACE_TEST_PYTHONS").unwrap_or_default();
    let mut programs =
        vec![("/usr/bin/python3", vec!["-c", PYTHON]), ("node", vec!["--perf-basic-prof", script.to_str().unwrap()])];
    programs.extend(more.split(':').filter(|path| !path.is_empty()).map(|path| (path, vec!["-c", PYTHON])));
    println!(
        "{:<28} {:>6} {:>7} {:>9} {:>9} | {:>22} {:>22} {:>22} | {:>9} {:>9} {:>9}",
        "program",
        "files",
        "load ms",
        "again ms",
        "tables K",
        "2 KiB",
        "8 KiB",
        "64 KiB",
        "space K",
        "names ms",
        "names K"
    );
    for (program, args) in programs {
        if have(&[program]) {
            measure_one(program, &args);
        }
    }
}

fn measure_one(program: &str, args: &[&str]) {
    let tracee = Tracee::start(program, args);
    while let Some(stop) = tracee.next_mark() {
        let mut objects = Objects::new();
        let started = Instant::now();
        AddressSpace::load(tracee.pid() as u32, &mut objects).unwrap();
        let load = started.elapsed();
        let started = Instant::now();
        let mut space = AddressSpace::load(tracee.pid() as u32, &mut objects).unwrap();
        let again = started.elapsed();
        let mut columns = Vec::new();
        let mut walked = Stack::default();
        for bytes in [2 << 10, 8 << 10, 64 << 10] {
            let stack = tracee.stack(&stop, bytes);
            let snapshot = stop.snapshot(&stack);
            let started = Instant::now();
            space.unwind_into(&snapshot, &mut walked);
            let cold = started.elapsed();
            let rounds = 20_000;
            let started = Instant::now();
            for _ in 0..rounds {
                space.unwind_into(&snapshot, std::hint::black_box(&mut walked));
            }
            let warm = started.elapsed().as_nanos() / rounds;
            let end = format!("{:?}", walked.end);
            columns.push(format!(
                "{:>3} {} {:.2} us ({:.0})",
                walked.frames.len(),
                &end[..4],
                warm as f64 / 1e3,
                cold.as_nanos() as f64 / 1e3
            ));
        }
        let frames = walked.frames;
        let mut symbols = Symbols::new();
        let started = Instant::now();
        symbols.resolve(&mut space, &frames);
        let names = started.elapsed();
        // Bytes of stack that the walk needed to the innermost evaluation loop, and to the end.
        let stack = tracee.stack(&stop, 64 << 10);
        let is_loop = |frame: &crate::who::native::NativeFrame| {
            frame.symbol.as_deref().is_some_and(|name| name.starts_with("_PyEval_EvalFrameDefault"))
        };
        let to_loop = (0..frames.len()).find(|&at| symbols.resolve(&mut space, &frames[at..=at]).iter().any(is_loop));
        let mut needed = |count: usize| {
            let enough = |bytes: &usize| space.unwind(&stop.snapshot(&stack[..*bytes])).frames.len() >= count;
            (0..stack.len()).step_by(8).find(enough).unwrap_or(0)
        };
        let needed = [to_loop.map_or(0, |at| needed(at + 1)), needed(frames.len())];
        println!("stack bytes to the loop and to the end: {needed:?}");
        println!(
            "{:<28} {:>6} {:>7.1} {:>9.2} {:>9} | {:>22} {:>22} {:>22} | {:>9} {:>9.1} {:>9}",
            &program[program.len().saturating_sub(28)..],
            objects.len(),
            load.as_secs_f64() * 1e3,
            again.as_secs_f64() * 1e3,
            objects.memory() >> 10,
            columns[0],
            columns[1],
            columns[2],
            space.memory() >> 10,
            names.as_secs_f64() * 1e3,
            symbols.memory() >> 10,
        );
        tracee.go_on(&stop);
    }
    let _ = std::fs::remove_file(format!("/tmp/perf-{}.map", tracee.pid()));
}
