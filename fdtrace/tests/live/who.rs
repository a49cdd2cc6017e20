//! Who did it: lines, objects, native frames; and what must never be told.

use std::{collections::BTreeMap, io::Read as _, path::Path, process::Command};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use fdtrace::source::recording::{reader::Reader, unpack::unpack};
use serde_json::Value;

use super::harness::{FDTRACE, Scratch, compile, functions, known_pythons, plain, record, scripted, trace};

const BLOG: &str = "\
import os
f = open('/dev/zero')
f.read(1)
os.close(f.fileno())

f = open('/dev/zero')
f.read(1)
";

fn line(act: &Value) -> Option<u64> {
    act["python"].as_array()?.first()?["line"].as_u64()
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn object_and_line_on_every_python() {
    for (name, report) in scripted(&[], "a.py", BLOG, known_pythons()) {
        let foreign = report.the("foreign-close");
        assert_eq!((foreign["confidence"].as_str(), line(&foreign["culprit"])), (Some("proven"), Some(4)), "{name}");
        let stale = report.the("stale-close");
        assert_eq!((stale["confidence"].as_str(), line(&stale["culprit"])), (Some("proven"), Some(6)), "{name}");
        let [culprit, victim] = ["culprit", "victim"].map(|part| &stale[part]["owner"]);
        assert_eq!((&culprit["kind"], &victim["kind"]), (&"_io.FileIO".into(), &"_io.FileIO".into()), "{name}");
        assert_ne!(culprit["address"], victim["address"], "{name}");
        assert_eq!(foreign["victim"]["owner"], *culprit, "{name}: robbed first, then late");
        assert_eq!(line(&report.the("use-after-close")["victim"]), Some(7), "{name}");
    }
}

/// `rule fd address` of what names an object, with how often.
fn named(lines: &[Value]) -> BTreeMap<String, u32> {
    let mut named = BTreeMap::new();
    for (rule, part) in [("foreign-close", "victim"), ("stale-close", "culprit")] {
        let proven = lines.iter().filter(|line| line["rule"] == rule && line["confidence"] == "proven");
        for finding in proven {
            let address = finding[part]["owner"]["address"].as_str().unwrap_or("?");
            *named.entry(format!("{rule} {} {address}", finding["fd"])).or_default() += 1;
        }
    }
    named
}

/// `FDTRACE_STEPS` makes the runs longer.
#[test]
#[ignore = "needs root and a kernel with BTF"]
fn closes_by_late_owners_are_never_made_up() {
    let scratch = Scratch::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/stress.py");
    let steps = std::env::var("FDTRACE_STEPS").unwrap_or_else(|_| "800".to_owned());
    let (mut all, mut found) = (0, 0);
    for python in known_pythons() {
        for (seed, mistakes) in [("1", "1"), ("2", "1"), ("3", "0")] {
            let arguments = [python.as_os_str(), script.as_os_str(), seed.as_ref(), steps.as_ref(), mistakes.as_ref()];
            let (report, lines) = record(&scratch, &arguments);
            let name = format!("{} seed {seed}", python.display());
            let mut truth: BTreeMap<String, u32> = BTreeMap::new();
            for line in report.stdout.lines().filter(|line| line.split(' ').count() == 3 && line.contains("-close ")) {
                *truth.entry(line.to_owned()).or_default() += 1;
            }
            assert_eq!(truth.is_empty(), mistakes == "0", "{name}\n{}", report.stderr);
            let told = named(&lines);
            for (what, count) in &told {
                assert!(*count <= truth.get(what).copied().unwrap_or(0), "{name}: {what} is not true");
            }
            for (what, count) in &truth {
                all += count;
                found += told.get(what).copied().unwrap_or(0);
            }
        }
    }
    println!("{found} of {all} mistakes");
    assert!(found * 100 >= all * 99, "{found} of {all} mistakes");
}

const SECRETIVE: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static __attribute__((noinline)) int opener(void) { int fd = open("/dev/zero", 0); __asm__ volatile(""); return fd; }
static __attribute__((noinline)) void closer(int fd) { close(fd); __asm__ volatile(""); }
static __attribute__((noinline)) int reader(int fd) { char b[8]; int r = read(fd, b, 8); __asm__ volatile(""); return r; }
int main(void) {
    char secret[64];
    strcpy(secret, "PLANTED-");
    strcat(secret, "SECRET-91233");
    __asm__ volatile("" ::"r"(secret) : "memory");
    int fd = opener();
    closer(fd);
    reader(fd);
    usleep(300000);
    return secret[0] == 'x';
}
"#;

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn native_frames_are_named_and_the_stack_itself_stays() {
    let scratch = Scratch::new();
    let source = scratch.write("t.c", SECRETIVE);
    let program = scratch.path("t");
    if !compile(&["-O2", "-g", "-fomit-frame-pointer"], &source, &program) {
        eprintln!("skipped: no C compiler");
        return;
    }
    let recording = scratch.path("run.fdt");
    let report = trace(&["-o", recording.to_str().expect("a plain path")], &[program.as_os_str()]);
    let hit = report.the("use-after-close");
    for (part, function) in [("victim", "reader"), ("culprit", "closer")] {
        let frames = functions(&hit[part]);
        let at = frames.iter().position(|name| *name == function);
        assert!(at.is_some_and(|at| frames.get(at + 1) == Some(&"main")), "{part}: {frames:?}");
    }
    let mut outputs = vec![
        ("the report".to_owned(), report.stdout.clone().into_bytes()),
        ("its remarks".to_owned(), report.stderr.clone().into_bytes()),
    ];
    outputs.extend(report.lines.iter().map(|line| ("JSON".to_owned(), line.to_string().into_bytes())));
    outputs.extend(blocks(&recording));
    for form in ["jsonl", "csv", "csv-findings", "perfetto", "html", "sqlite"] {
        let file = scratch.path(form);
        let arguments = ["export", recording.to_str().expect("a plain path"), "--to", form, "-o"];
        let status = Command::new(FDTRACE).args(arguments).arg(&file).status().expect("fdtrace runs");
        assert!(status.success(), "{form}");
        let bytes = std::fs::read(file).expect("an export");
        if form == "html" {
            outputs.extend(data_of_page(&bytes));
        }
        outputs.push((form.to_owned(), bytes));
    }
    for verb in ["report", "timeline"] {
        let told = plain(&[verb, recording.to_str().expect("a plain path")]);
        assert!(told.stdout.len() > 100, "{verb}: {}", told.stderr);
        outputs.push((verb.to_owned(), told.stdout.into_bytes()));
    }
    let secret = b"PLANTED-SECRET";
    for (name, bytes) in outputs {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "the secret is in {name}");
    }
}

/// What a recording holds, decompressed and record by record.
fn blocks(recording: &Path) -> Vec<(String, Vec<u8>)> {
    let mut reader = Reader::new(std::fs::File::open(recording).expect("a recording")).expect("a recording");
    let mut found = Vec::new();
    let mut records = 0;
    while let Some(block) = reader.next_block().expect("a block") {
        let _ = unpack(&block.content, |_, record| {
            records += 1;
            found.push(("a record".to_owned(), record.to_vec()));
        });
        found.push(("a block of the recording".to_owned(), block.content));
    }
    assert!(records > 20, "{records} records");
    found
}

/// The data in a page: it is compressed, and in base64.
fn data_of_page(page: &[u8]) -> Vec<(String, Vec<u8>)> {
    let data = page
        .split(|byte| !byte.is_ascii_alphanumeric() && !b"+/=".contains(byte))
        .max_by_key(|word| word.len())
        .and_then(|word| BASE64_STANDARD.decode(word).ok())
        .expect("data in base64");
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&data[..]).read_to_end(&mut text).expect("data in gzip");
    assert!(text.len() > 100, "{}", String::from_utf8_lossy(&text));
    vec![("the data of the page".to_owned(), text)]
}
