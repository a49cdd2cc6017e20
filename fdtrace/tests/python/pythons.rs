//! The interpreters at hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Python {
    pub path: PathBuf,
    pub minor: u8,
}

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

/// All interpreters from 3.6 on; different paths to one file count once.
pub fn all() -> Vec<Python> {
    let mut paths = BTreeSet::new();
    if let Some(listed) = std::env::var_os("FDTRACE_TEST_PYTHONS") {
        paths.extend(std::env::split_paths(&listed));
    }
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")));
    for version in pyenv.and_then(|root| root.join("versions").read_dir().ok()).into_iter().flatten().flatten() {
        paths.insert(version.path().join("bin/python3"));
    }
    paths.insert("/usr/bin/python3".into());
    let mut files = BTreeSet::new();
    let pythons: Vec<Python> = paths
        .into_iter()
        .filter(|path| path.canonicalize().is_ok_and(|file| files.insert(file)))
        .filter_map(|path| Some(Python { minor: minor(&path)?, path }))
        .filter(|python| python.minor >= 6)
        .collect();
    assert!(!pythons.is_empty(), "no Python to test with");
    pythons
}

fn minor(path: &Path) -> Option<u8> {
    let output = Command::new(path).args(["-c", "import sys; print(sys.version_info[1])"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
