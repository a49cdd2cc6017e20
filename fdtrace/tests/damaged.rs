//! Damaged recordings, through the program itself: a clear error or a part of the report, in bounded memory.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

const RECORDING: &[u8] = include_bytes!("../src/pipeline/replay/v1.fdt");
/// KiB of private memory, for everything.
const MOST: &str = "262144";

/// What a command of fdtrace makes of a recording, with no more than [`MOST`] to do it in.
fn made_of(verb: &str, recording: &Path) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -d "$1"; shift; exec "$@""#, "sh", MOST, env!("CARGO_BIN_EXE_fdtrace"), verb]);
    shell.arg(recording).stdin(Stdio::null()).output().expect("a shell")
}

fn check(verb: &str, recording: &Path, damage: &str) {
    let Output { status, stdout, stderr } = made_of(verb, recording);
    let told = String::from_utf8_lossy(&stderr);
    assert!(matches!(status.code(), Some(0 | 2 | 42)), "{verb}, {damage}: {status}: {told}");
    assert!(!told.contains("panicked"), "{verb}, {damage}: {told}");
    // `verify` says what is damaged where others say what they found.
    let reason = if verb == "verify" && told.is_empty() { String::from_utf8_lossy(&stdout) } else { told };
    if status.code() == Some(2) {
        assert!(reason.contains("error: ") || verb == "verify", "{damage}: no reason is given: {reason}");
    }
    assert!(!reason.is_empty(), "{verb}, {damage}: nothing is said");
}

/// Each kind of damage at every byte, by two threads.
fn everywhere(name: &str, damage: impl Fn(&mut Vec<u8>, usize) + Sync) {
    let folder = std::env::temp_dir();
    thread::scope(|scope| {
        for half in 0..2 {
            let (damage, folder) = (&damage, &folder);
            scope.spawn(move || {
                let path = folder.join(format!("fdtrace-{name}-{half}-{}.fdt", std::process::id()));
                for at in (half..RECORDING.len()).step_by(2) {
                    let mut bytes = RECORDING.to_vec();
                    damage(&mut bytes, at);
                    let mut file = fs::File::create(&path).expect("a file");
                    file.write_all(&bytes).expect("it can be written");
                    check("report", &path, &format!("{name} at {at}"));
                    if at % 16 == half {
                        check("verify", &path, &format!("{name} at {at}"));
                    }
                }
                fs::remove_file(&path).expect("it is there");
            });
        }
    });
}

#[test]
fn truncated_at_every_byte() {
    everywhere("truncated", |bytes, at| bytes.truncate(at));
}

#[test]
fn a_bit_of_every_byte_flipped() {
    everywhere("flipped", |bytes, at| bytes[at] ^= 1 << (at % 8));
}

#[test]
fn the_limit_is_one() {
    let path = std::env::temp_dir().join(format!("fdtrace-whole-{}.fdt", std::process::id()));
    fs::write(&path, RECORDING).expect("a file");
    let whole = made_of("report", &path);
    fs::remove_file(&path).expect("it is there");
    assert!(matches!(whole.status.code(), Some(0 | 42)), "{whole:?}");
    // With next to nothing it does not run: the limit holds.
    let mut shell = Command::new("sh");
    let starved = shell.args(["-c", r#"ulimit -d 64; exec "$@""#, "sh", env!("CARGO_BIN_EXE_fdtrace"), "--version"]);
    assert!(!starved.output().expect("a shell").status.success());
}
