//! Stacks of compiled programs, against gdb and against what the program was written to do.

use std::fs;

use super::super::space::AddressSpace;
use super::super::unwind::{End, Lost};
use super::super::{Objects, Symbols};
use super::programs::*;
use super::tracee::{Tracee, build, have, scratch};
use super::truth::*;

const C_TRUTH: &[(u64, &str)] = &[
    (1000, "close leaf plain main"),
    (1002, "close leaf variable main"),
    (1003, "close leaf large main"),
    (1004, "close leaf aligned main"),
    (1008, "close leaf plain thread"),
    (1009, "close leaf last main"),
];

#[test]
fn c_at_every_level_of_optimisation_agrees_with_gdb() {
    if !have(&["gcc", "strip", "gdb"]) {
        return;
    }
    const ALL: &[u64] = &[1001, 1003, 1004, 1005, 1006, 1008, 1009];
    let builds: [(&[&str], &[u64]); 8] = [
        (&["-O2"], ALL),
        (&["-O0"], &[1004, 1006]),
        (&["-O1"], &[1001, 1005]),
        (&["-O3"], &[1004, 1006]),
        (&["-Os"], &[1003, 1008]),
        (&["-O2", "-flto", "-no-pie"], &[1004, 1005]),
        (&["-O2", "-static"], &[1001, 1006]),
        (&["-O2", "-fno-plt", "-fcf-protection", "-mavx"], &[1004, 1009]),
    ];
    for (flags, marks) in builds {
        let program = compile(
            "gcc",
            &format!("plain{}", flags.concat()),
            C_PROGRAM,
            &[flags, &["-fomit-frame-pointer", "-w"]].concat(),
        );
        for (program, marks) in [(strip(&program), &marks[..2]), (program, marks)] {
            for &mark in marks {
                let tracee = Tracee::start(&program, &[]);
                let stop = run_to(&tracee, mark);
                agrees_with_gdb(&format!("{}", program.display()), tracee, &stop);
            }
        }
    }
}

#[test]
fn c_names_and_lines() {
    if !have(&["gcc"]) {
        return;
    }
    let program = compile("gcc", "lines", C_PROGRAM, &["-O2", "-g", "-fomit-frame-pointer", "-w"]);
    let tracee = Tracee::start(&program, &[]);
    let mut objects = Objects::new();
    let mut space = None;
    for &(mark, truth) in C_TRUTH {
        let stop = run_to(&tracee, mark);
        let space = space.get_or_insert_with(|| space_of(&tracee, &mut objects));
        let stack = unwind(&tracee, &stop, space, ENOUGH);
        let named = Symbols::new().resolve(space, &stack.frames);
        assert_eq!(names(&named)[..truth.split(' ').count()].join(" "), truth);
        assert_eq!(stack.end, End::Complete);
        let caller = &named[2];
        let line = C_PROGRAM
            .lines()
            .position(|line| line.contains(&format!("{}(", caller.symbol.as_deref().unwrap())))
            .unwrap()
            + 1;
        assert!(caller.file.as_deref().unwrap().ends_with("lines.c"), "{caller:?}");
        assert_eq!(caller.line, Some(line as u32), "{caller:?}");
        assert_eq!(caller.module.as_deref(), program.to_str());
        assert_eq!(caller.build_id.as_deref().map(str::len), Some(40));
        tracee.go_on(&stop);
    }
}

#[test]
fn truncation_is_told_and_leaves_no_trace() {
    if !have(&["gcc"]) {
        return;
    }
    let program = compile("gcc", "truncated", C_PROGRAM, &["-O2", "-fomit-frame-pointer", "-w"]);
    let tracee = Tracee::start(&program, &[]);
    let mut objects = Objects::new();
    for mark in [1001, 1004, 1006] {
        let stop = run_to(&tracee, mark);
        let mut space = space_of(&tracee, &mut objects);
        let whole = unwind(&tracee, &stop, &mut space_of(&tracee, &mut objects), ENOUGH);
        assert_eq!(whole.end, End::Complete);
        let stack = tracee.stack(&stop, ENOUGH);
        for bytes in (0..stack.len().min(6000)).step_by(56) {
            let part = space.unwind(&stop.snapshot(&stack[..bytes]));
            assert_eq!(part.frames[..], whole.frames[..part.frames.len()], "mark {mark}, {bytes} bytes");
            assert!(matches!(part.end, End::Truncated | End::Complete), "mark {mark}, {bytes} bytes: {:?}", part.end);
            assert_eq!(part.end == End::Complete, part.frames.len() == whole.frames.len());
        }
        assert_eq!(space.unwind(&stop.snapshot(&stack)), whole);
        tracee.go_on(&stop);
    }
}

#[test]
fn another_stack_is_told() {
    if !have(&["gcc"]) {
        return;
    }
    let program = compile("gcc", "alternate", C_PROGRAM, &["-O2", "-fomit-frame-pointer", "-w"]);
    let tracee = Tracee::start(&program, &[]);
    let stop = run_to(&tracee, 1007);
    let mut objects = Objects::new();
    let mut space = space_of(&tracee, &mut objects);
    let stack = unwind(&tracee, &stop, &mut space, ENOUGH);
    let named = Symbols::new().resolve(&mut space, &stack.frames);
    // The handler runs on its own stack; the frames below the signal are on the thread's.
    let named = names(&named);
    assert_eq!(named[..3], ["close", "leaf", "handler"], "{named:?}");
    assert_eq!((stack.end, stack.frames.len() < 7), (End::Lost(Lost::OtherStack), true), "{named:?}");
}

#[test]
fn a_dead_process_is_named() {
    if !have(&["gcc"]) {
        return;
    }
    let program = compile("gcc", "dead", C_PROGRAM, &["-O2", "-g", "-w"]);
    let tracee = Tracee::start(&program, &[]);
    let stop = run_to(&tracee, 1000);
    let mut objects = Objects::new();
    let mut space = space_of(&tracee, &mut objects);
    let bytes = tracee.stack(&stop, ENOUGH);
    drop(tracee);
    fs::remove_file(&program).unwrap();
    let stack = space.unwind_live(&stop.snapshot(&bytes), &mut objects);
    assert_eq!(stack.end, End::Complete);
    let named = Symbols::new().resolve(&mut space, &stack.frames);
    assert_eq!(names(&named)[..4], ["close", "leaf", "plain", "main"]);
    assert!(named[2].line.is_some());
    assert!(space.refresh(&mut objects).is_err());
}

#[test]
fn a_file_in_another_mount_namespace() {
    // SAFETY: takes no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !have(&["gcc", "unshare"]) || !root {
        eprintln!("SKIPPED: this test needs root");
        return;
    }
    let program = compile("gcc", "container", C_PROGRAM, &["-O2", "-w"]);
    let hidden = scratch("hidden");
    let script = format!(
        "mount -t tmpfs none {0} && cp {1} {0}/program && exec {0}/program",
        hidden.display(),
        program.display()
    );
    let tracee = Tracee::start("unshare", &["-m", "sh", "-c", &script]);
    let stop = run_to(&tracee, 1000);
    assert!(!hidden.join("program").exists());
    let mut space = space_of(&tracee, &mut Objects::new());
    let stack = unwind(&tracee, &stop, &mut space, ENOUGH);
    let named = Symbols::new().resolve(&mut space, &stack.frames);
    assert_eq!(names(&named)[..4], ["close", "leaf", "plain", "main"]);
    assert_eq!(named[1].module.as_deref(), hidden.join("program").to_str());
}

#[test]
fn without_section_headers_and_without_tables() {
    if !have(&["gcc", "objcopy"]) {
        return;
    }
    let program = compile("gcc", "bare", C_PROGRAM, &["-O2", "-fomit-frame-pointer", "-w", "-s"]);
    // As `sstrip` does it: no section headers.
    let mut bytes = fs::read(&program).unwrap();
    bytes[40..48].fill(0);
    bytes[58..64].fill(0);
    let headless = program.with_extension("headless");
    fs::copy(&program, &headless).unwrap();
    fs::write(&headless, bytes).unwrap();
    let tracee = Tracee::start(&headless, &[]);
    let stop = run_to(&tracee, 1001);
    let mut objects = Objects::new();
    let stack = unwind(&tracee, &stop, &mut space_of(&tracee, &mut objects), ENOUGH);
    assert_eq!((stack.end, stack.frames.len() > 44), (End::Complete, true), "{stack:?}");

    // No tables and no frame pointers: no stack, rather than a wrong one.
    let flags = ["-O2", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-w"];
    let program = compile("gcc", "tableless", C_PROGRAM, &flags);
    let tracee = Tracee::start(&program, &[]);
    let stop = run_to(&tracee, 1001);
    let stack = unwind(&tracee, &stop, &mut space_of(&tracee, &mut objects), ENOUGH);
    assert!(matches!(stack.end, End::Lost(_)) || stack.frames.iter().any(|frame| frame.by_frame_pointer), "{stack:?}");

    // With frame pointers they lead the way, and the frames are marked.
    let flags = ["-O1", "-fno-omit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-w"];
    let program = compile("gcc", "pointers", C_PROGRAM, &flags);
    let tracee = Tracee::start(&program, &[]);
    let stop = run_to(&tracee, 1001);
    let mut space = space_of(&tracee, &mut objects);
    let stack = unwind(&tracee, &stop, &mut space, ENOUGH);
    let named = Symbols::new().resolve(&mut space, &stack.frames);
    assert_eq!(names(&named).iter().filter(|name| **name == "recursive").count(), 41, "{:?}", names(&named));
    assert!(named[10].by_frame_pointer && !named[1].by_frame_pointer);
}

#[test]
fn separate_debug_file_and_mini_debug_info() {
    if !have(&["gcc", "strip", "objcopy", "nm", "xz"]) {
        return;
    }
    let program = compile("gcc", "linked", C_PROGRAM, &["-O2", "-g", "-w", "-Wl,--compress-debug-sections=zlib"]);
    let debug = program.with_extension("debug");
    let (program, debug) = (program.to_str().unwrap(), debug.to_str().unwrap());
    build("objcopy", &["--only-keep-debug", program, debug]);
    let linked = format!("{program}.linked");
    build("objcopy", &["-S", &format!("--add-gnu-debuglink={debug}"), program, &linked]);
    let mini = format!("{program}.mini");
    build("objcopy", &["-S", program, &mini]);
    let symbols = format!("{program}.symbols");
    build("objcopy", &["--strip-debug", program, &symbols]);
    build("xz", &["-k", "-f", &symbols]);
    build("objcopy", &[&format!("--add-section=.gnu_debugdata={symbols}.xz"), &mini]);
    // Zstandard where the tools can do it.
    let zstd = format!("{program}.zstd");
    let packed =
        std::process::Command::new("objcopy").args(["--compress-debug-sections=zstd", program, &zstd]).output();
    if !packed.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: this objcopy cannot compress with zstd");
        fs::copy(program, &zstd).unwrap();
    }
    for (program, lines) in [(&linked, true), (&zstd, true), (&mini, false)] {
        let tracee = Tracee::start(program, &[]);
        let stop = run_to(&tracee, 1000);
        let mut objects = Objects::new();
        let mut space = space_of(&tracee, &mut objects);
        let stack = unwind(&tracee, &stop, &mut space, ENOUGH);
        let named = Symbols::new().resolve(&mut space, &stack.frames);
        assert_eq!(names(&named)[..4], ["close", "leaf", "plain", "main"], "{program}");
        assert_eq!(named[2].line.is_some(), lines, "{program}");
    }
}

#[test]
fn cc_names_and_destructors() {
    if !have(&["g++", "strip", "gdb"]) {
        return;
    }
    let program = compile("g++", "classes", CC_PROGRAM, &["-O2", "-g", "-fomit-frame-pointer"]);
    let tracee = Tracee::start(&program, &[]);
    let mut objects = Objects::new();
    let mut symbols = Symbols::new();
    let mut space = None;
    for (mark, truth) in [
        (1000, "close files::Handle::~Handle inner files::outer main"),
        (1001, "close files::Handle::~Handle files::Handle::apply<long> main"),
        (1002, "close files::Handle::~Handle throwing"),
    ] {
        let stop = run_to(&tracee, mark);
        let space = space.get_or_insert_with(|| space_of(&tracee, &mut objects));
        let stack = unwind(&tracee, &stop, space, ENOUGH);
        let named = symbols.resolve(space, &stack.frames);
        let text = names(&named).join(" ");
        assert!(text.starts_with(truth), "{text}");
        assert_eq!(stack.end, End::Complete, "{text}");
        tracee.go_on(&stop);
    }
    drop(tracee);
    let builds: [(&str, &[u64]); 3] = [("-O0", &[1003]), ("-O2", &[1000, 1001, 1002, 1003]), ("-O3", &[1002])];
    for (level, marks) in builds {
        let program = compile("g++", &format!("classes{level}"), CC_PROGRAM, &[level, "-fomit-frame-pointer"]);
        for program in [strip(&program), program] {
            for &mark in marks {
                let tracee = Tracee::start(&program, &[]);
                let stop = run_to(&tracee, mark);
                agrees_with_gdb(&format!("{}", program.display()), tracee, &stop);
            }
        }
    }
}

#[test]
fn rust() {
    if !have(&["rustc", "gdb"]) {
        return;
    }
    let directory = scratch("rust");
    let source = directory.join("program.rs");
    fs::write(&source, RUST_PROGRAM).unwrap();
    let program = directory.join("program");
    build("rustc", &["--edition=2024", "-O", "-g", "-o", program.to_str().unwrap(), source.to_str().unwrap()]);
    for mark in [1000, 1001, 1002, 1003] {
        let tracee = Tracee::start(&program, &[]);
        let stop = run_to(&tracee, mark);
        if mark == 1000 {
            let mut space = space_of(&tracee, &mut Objects::new());
            let stack = unwind(&tracee, &stop, &mut space, ENOUGH);
            let named = Symbols::new().resolve(&mut space, &stack.frames);
            let text = names(&named).join(" ");
            assert!(text.contains("program::files::Handle as core::ops::drop::Drop>::drop"), "{text}");
            assert!(text.contains("program::files::generic") && text.contains("program::main"), "{text}");
            let main = named.iter().find(|frame| frame.symbol.as_deref() == Some("program::main")).unwrap();
            assert_eq!(main.line, Some(14), "{main:?}");
        }
        agrees_with_gdb("rust", tracee, &stop);
    }
}

#[test]
fn nowhere() {
    let mut objects = Objects::new();
    let mut space = AddressSpace::load(std::process::id(), &mut objects).unwrap();
    let registers = super::super::Registers { ip: 8, sp: 0x1000, bp: 0, lr: 0 };
    let stack = space.unwind(&super::super::Snapshot { registers, stack: &[] });
    assert_eq!((stack.frames.len(), stack.end), (1, End::Lost(Lost::NotCode)));
    assert_eq!(names(&Symbols::new().resolve(&mut space, &stack.frames)), ["?"]);
}
