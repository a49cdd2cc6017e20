//! Live processes that stand still in known places (`oracle.py`).

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use fdtrace::who::maps;
use fdtrace::who::open::mapped_file;
use fdtrace::who::python::interpreter::{Images, Interpreter, Validity, describe, validate};
use fdtrace::who::python::tasks::Mark;
use fdtrace::who::python::types::{Class, OwnerKind, classify};
use fdtrace::who::python::walk::{End, frames, thread_by_id, threads};
use fdtrace::who::python::{ProcessMemory, ReadMem, code, elf, tasks};
use fdtrace_common::python::NONE;
use serde_json::Value;

use crate::pythons::{self, Python};

/// A process, what it says of itself, and what was found in it.
struct Live {
    name: String,
    child: Child,
    truth: Value,
    mem: ProcessMemory,
    interpreter: Interpreter,
}

impl Live {
    fn start(python: &Python) -> (Child, BufReader<ChildStdout>) {
        let mut child = Command::new(&python.path)
            .arg(pythons::script("oracle.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a Python");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        (child, output)
    }

    fn look(python: &Python, images: &mut Images, child: Child, mut output: BufReader<ChildStdout>) -> Self {
        let mut line = String::new();
        output.read_line(&mut line).expect("the truth");
        let truth = serde_json::from_str(&line).unwrap_or_else(|err| panic!("{}: {err}", python.path.display()));
        let pid = child.id();
        let mem = ProcessMemory::open(pid).expect("its memory");
        let maps = maps::read(pid).expect("its mappings");
        let interpreter = images
            .find(&maps, |mapping| mapped_file(pid, mapping).ok())
            .unwrap_or_else(|err| panic!("{}: {err}", python.path.display()))
            .unwrap_or_else(|| panic!("{}: not found", python.path.display()));
        Self { name: format!("{} ({})", python.path.display(), interpreter.version), child, truth, mem, interpreter }
    }
}

/// One process of each interpreter, for all tests. They end when this process does, by the end of their input.
static ALL: LazyLock<Vec<Live>> = LazyLock::new(|| {
    let pythons = pythons::all();
    let started: Vec<_> = pythons.iter().map(Live::start).collect();
    let mut images = Images::default();
    pythons
        .iter()
        .zip(started)
        .map(|(python, (child, output))| Live::look(python, &mut images, child, output))
        .collect()
});

fn each(mut check: impl FnMut(&Live, &str)) {
    for live in ALL.iter() {
        check(live, &live.name);
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no list `{key}`"))
}

#[test]
fn the_version_is_the_true_one() {
    each(|live, name| {
        let version = live.interpreter.version;
        let truth = list(&live.truth, "version");
        let found = [version.major, version.minor].map(|part| Some(u64::from(part)));
        assert_eq!(found, [truth[0].as_u64(), truth[1].as_u64()], "{name}");
        if let Some(detail) = version.detail {
            assert_eq!(Some(u64::from(detail >> 8)), truth[2].as_u64(), "{name}");
        }
        assert_eq!(validate(&live.mem, &live.interpreter.process), Validity::Valid, "{name}");
    });
}

/// What is known of a program before it is started is what is found in it afterwards.
#[test]
fn files_describe_themselves() {
    each(|live, name| {
        let Interpreter { version, path, file, bias, process, .. } = &live.interpreter;
        let maps = maps::read(live.child.id()).expect("its mappings");
        let mapping = maps.iter().find(|mapping| mapping.file == *file).expect("a mapping");
        let mut bytes = Vec::new();
        let mut file = mapped_file(live.child.id(), mapping).expect("a file");
        file.read_to_end(&mut bytes).expect("its bytes");
        let image = elf::read_bytes(&bytes).expect("an ELF file");
        assert!(image.build_id.is_some() && image.build_id == live.interpreter.build_id, "{name}");
        let (described, at_rest) = describe(&image, path).expect("known").expect("an interpreter");
        assert_eq!((described, at_rest.at(*bias)), (*version, *process), "{name}");
    });
}

/// A description that is off by a little must be noticed, whatever is off.
#[test]
fn wrong_descriptions_are_refused() {
    each(|live, name| {
        let right = live.interpreter.process;
        let mut wrong = vec![right; 9];
        wrong[0].runtime += 0x100;
        wrong[1].code_type += 0x40;
        wrong[2].offsets.interp_threads_head += 32;
        wrong[3].offsets.tstate_frame += 8;
        wrong[4].offsets.frame_code += 8;
        wrong[5].offsets.code_filename += 24;
        wrong[6].offsets.type_name += 8;
        wrong[7] = right.at(0x1000);
        wrong[8].offsets.tstate_thread_id += 8;
        for (index, wrong) in wrong.iter().enumerate() {
            assert_ne!(validate(&live.mem, wrong), Validity::Valid, "{name}: {index}");
        }
    });
}

#[test]
fn stacks_are_the_true_ones() {
    each(|live, name| {
        let py = &live.interpreter.process;
        let mut compared = 0;
        for thread in list(&live.truth, "threads") {
            let what = format!("{name}, thread {}", thread["name"]);
            let id = thread["id"].as_u64().expect("an id");
            let state = thread_by_id(&live.mem, py, id).unwrap_or_else(|| panic!("{what}: not found"));
            if let Some(native) = state.native_id {
                assert!(std::path::Path::new(&format!("/proc/{}/task/{native}", live.child.id())).exists(), "{what}");
            }
            let stack = frames(&live.mem, py, state.state, 2048);
            assert_eq!(stack.end, End::Complete, "{what}");
            let truth = list(thread, "frames");
            assert_eq!(stack.frames.len(), truth.len(), "{what}");
            for (frame, truth) in stack.frames.iter().zip(truth) {
                let def = code::read(&live.mem, py, frame.code).unwrap_or_else(|| panic!("{what}: no code"));
                let what = format!("{what}, {}", def.name);
                assert_eq!(Some(def.name.as_str()), truth["name"].as_str(), "{what}");
                // Of a frame in another interpreter the script knows less.
                if !truth["file"].is_null() {
                    let file = list(truth, "file").iter().map(|byte| byte.as_u64());
                    assert!(
                        def.file.as_os_str().as_bytes().iter().map(|&byte| Some(byte.into())).eq(file),
                        "{what}: {}",
                        def.file.display()
                    );
                    assert_eq!(Some(i64::from(frame.offset)), truth["offset"].as_i64(), "{what}");
                }
                assert_eq!(def.line(frame.offset).map(u64::from), truth["line"].as_u64(), "{what}");
                assert_eq!((def.checksum, def.code_version), (frame.checksum, frame.code_version), "{what}");
                compared += 1;
            }
            let short = frames(&live.mem, py, state.state, 1);
            assert_eq!(
                (short.frames.len(), short.end),
                (1, if truth.len() > 1 { End::Limit } else { End::Complete }),
                "{what}"
            );
            if py.offsets.frame_stackpointer != NONE {
                let at = stack.frames[0].at;
                let top = live.mem.read_u64(at + u64::from(py.offsets.frame_stackpointer)).expect("a stack pointer");
                let locals = at + u64::from(py.offsets.frame_localsplus);
                assert!((locals..locals + (1 << 16)).contains(&top), "{what}: {top:#x} {locals:#x}");
            }
        }
        println!("{name}: {compared} frames of {} threads", list(&live.truth, "threads").len());
    });
}

#[test]
fn tasks_are_the_true_ones() {
    each(|live, name| {
        let py = &live.interpreter.process;
        for thread in list(&live.truth, "threads") {
            let what = format!("{name}, thread {}", thread["name"]);
            let state = thread_by_id(&live.mem, py, thread["id"].as_u64().expect("an id")).expect("a thread").state;
            let stack = frames(&live.mem, py, state, 2048);
            let mut marks: HashMap<u64, Option<Mark>> = HashMap::new();
            let task = tasks::running(&live.mem, py, state, &stack.frames, |frame| {
                *marks
                    .entry(frame.code)
                    .or_insert_with(|| tasks::mark(&code::read(&live.mem, py, frame.code)?, py.offsets.version))
            });
            let found = task.as_ref().map(|task| (Some(task.at), task.name.as_deref()));
            let truth = &thread["task"];
            let truth = (!truth.is_null()).then(|| (truth["at"].as_u64(), truth["name"].as_str()));
            assert_eq!(found, truth, "{what}");
        }
    });
}

#[test]
fn owners_are_the_true_ones() {
    each(|live, name| {
        let py = &live.interpreter.process;
        for each in list(&live.truth, "types") {
            let class = classify(&live.mem, py, each[1].as_u64().expect("an address"));
            let found = match &class {
                Class::Owner { kind: OwnerKind::FileIo, .. } => "FileIo",
                Class::Owner { kind: OwnerKind::Socket, .. } => "Socket",
                Class::Owner { kind: OwnerKind::Epoll, .. } => "Epoll",
                Class::Other => "Other",
                Class::NotAType => "NotAType",
                Class::Unreadable => "Unreadable",
            };
            assert_eq!(Some(found), each[0].as_str(), "{name}: {each}");
            if let Class::Owner { name: type_name, .. } = class {
                let short = type_name.rsplit('.').next();
                assert_eq!(short, each[2].as_str(), "{name}");
            }
        }
        for object in list(&live.truth, "objects") {
            let at = object[0].as_u64().expect("an address");
            let kind = live.mem.read_u64(at + u64::from(py.offsets.object_type)).expect("a type");
            assert!(matches!(classify(&live.mem, py, kind), Class::Owner { .. }), "{name}: {object}");
            let fd = live.mem.read_u32(at + u64::from(py.offsets.owner_fd)).map(u64::from);
            assert_eq!(fd, object[1].as_u64(), "{name}: {object}");
        }
        for nowhere in [0, 8, 0x1000, u64::MAX - 4, 1 << 63] {
            assert_ne!(classify(&live.mem, py, nowhere), Class::Other, "{name}");
        }
    });
}

/// The slot of thread-specific data that glibc on x86-64 keeps for the key holds a state of this thread: the only one,
/// or that of the interpreter for which it worked first.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
#[test]
fn keys_lead_to_a_thread_state() {
    each(|live, name| {
        let py = &live.interpreter.process;
        if py.offsets.runtime_tss_key == NONE {
            return;
        }
        let at = py.runtime + u64::from(py.offsets.runtime_tss_key);
        let key = live.mem.read_u32(at).expect("a key");
        assert!(key < 32, "{name}: {key}");
        let all: Vec<_> = threads(&live.mem, py).collect();
        for thread in &all {
            let slot = thread.id + 0x318 + 16 * u64::from(key);
            let state = live.mem.read_u64(slot).expect("a slot");
            assert!(all.iter().any(|other| other.id == thread.id && other.state == state), "{name}");
        }
    });
}
