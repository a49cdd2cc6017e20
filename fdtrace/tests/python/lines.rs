//! Line tables: every instruction's line, decoded here, equals the one the interpreter gives.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use fdtrace::who::python::LineFormat;

use crate::pythons;

/// Checks one line of what `lines.py` writes; returns the number of instructions compared.
fn check(text: &str, version: u32) -> usize {
    let mut fields = text.split(' ');
    let mut field = || fields.next().unwrap_or_else(|| panic!("a field is missing: {text}"));
    let first_line: u32 = field().parse().expect("a line number");
    let table = match field() {
        "-" => Vec::new(),
        hex => (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal"))
            .collect(),
    };
    let runs: Vec<(u32, &str)> = field()
        .split(',')
        .map(|run| run.split_once(':').expect("offset:line"))
        .map(|(offset, line)| (offset.parse().expect("an offset"), line))
        .collect();
    let format = LineFormat::of(version);
    let mut compared = 0;
    for pair in runs.windows(2) {
        let [(start, line), (end, _)] = pair else { unreachable!() };
        for offset in (*start..*end).step_by(2) {
            let expected = (*line != "-").then(|| line.parse().expect("a line number"));
            assert_eq!(
                format.line(&table, true, first_line, offset),
                expected,
                "version {version:#x}, offset {offset}: {text}"
            );
            compared += 1;
        }
    }
    compared
}

#[test]
fn fixtures() {
    let mut files = 0;
    for entry in pythons::script("lines").read_dir().expect("the fixtures") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a version");
        let minor: u32 = name.strip_prefix("3.").and_then(|minor| minor.parse().ok()).expect("3.minor");
        let text = std::fs::read_to_string(&path).expect("a fixture");
        let compared: usize = text.lines().map(|line| check(line, 0x300 | minor)).sum();
        assert!(compared > 1000, "{name}: only {compared} instructions");
        files += 1;
    }
    assert!(files >= 8);
}

/// Every code object of every standard library: minutes.
#[test]
#[ignore = "takes minutes"]
fn standard_libraries() {
    for python in pythons::all() {
        let mut child = Command::new(&python.path)
            .arg(pythons::script("lines.py"))
            .arg("all")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a Python");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (mut codes, mut compared) = (0, 0);
        for line in output.lines() {
            compared += check(&line.expect("text"), 0x300 | u32::from(python.minor));
            codes += 1;
        }
        assert!(child.wait().expect("an end").success(), "{}", python.path.display());
        println!("{}: {codes} code objects, {compared} instructions", python.path.display());
        assert!(codes > 10_000 && compared > 500_000, "{}: {codes} {compared}", python.path.display());
    }
}
