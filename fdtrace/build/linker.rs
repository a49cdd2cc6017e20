//! bpf-linker, which turns the compiler's bitcode into an object for the kernel.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Result, output, variable, version};

/// The LLVM that setup builds bpf-linker with. A compiler with a newer one writes bitcode that the linker cannot
/// read, or reads wrongly without a word.
pub const LLVM: u32 = 22;
/// The oldest bpf-linker known to link our object, and the one that setup installs.
pub const VERSION: (u32, u32, u32) = (0, 13, 0);

/// A bpf-linker that will do.
#[derive(Debug)]
pub struct Linker {
    pub path: PathBuf,
    version: (u32, u32, u32),
    /// `None` when LLVM is linked statically and cannot be asked.
    llvm: Option<u32>,
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, version, llvm } = self;
        write!(f, "bpf-linker {} (", dotted(*version))?;
        match llvm {
            Some(llvm) => write!(f, "LLVM {llvm}")?,
            None => write!(f, "static LLVM")?,
        }
        write!(f, ") at {}", path.display())
    }
}

impl Linker {
    /// The newest LLVM whose bitcode it is known to read.
    pub fn newest_llvm(&self) -> u32 {
        self.llvm.unwrap_or(LLVM)
    }
}

/// The first bpf-linker that will do, on `PATH` or where cargo installs programs.
pub fn find() -> Result<Linker> {
    let mut refused = Vec::new();
    for path in directories().iter().map(|dir| dir.join("bpf-linker")) {
        if !path.is_file() {
            continue;
        }
        match inspect(&path) {
            Ok(linker) => return Ok(linker),
            Err(why) => refused.push(format!("{} {why}", path.display())),
        }
    }
    if refused.is_empty() {
        return Err("bpf-linker is not installed".to_owned());
    }
    refused.dedup();
    Err(format!("no bpf-linker here will do: {}", refused.join("; ")))
}

fn inspect(path: &Path) -> Result<Linker> {
    let about = output(Command::new(path).arg("--version")).map_err(|why| format!("does not run: {why}"))?;
    let version = version(about.split_whitespace().nth(1).unwrap_or_default());
    if version < VERSION {
        let (found, needed) = (dotted(version), dotted(VERSION));
        return Err(format!("is {found}, needed is {needed} or later"));
    }
    // The dynamic loader then lists what it would load; a static program just prints its version again.
    let libraries = output(Command::new(path).arg("--version").env("LD_TRACE_LOADED_OBJECTS", "1"))?;
    let llvm = linked_llvm(&libraries);
    if let Some(llvm) = llvm.filter(|llvm| *llvm < LLVM) {
        return Err(format!("has LLVM {llvm}, needed is {LLVM} or later"));
    }
    Ok(Linker { path: path.to_owned(), version, llvm })
}

/// The major version in `libLLVM.so.22.1 => …` or `libLLVM-22.so => …`.
fn linked_llvm(libraries: &str) -> Option<u32> {
    let mut words = libraries.split_whitespace();
    let name = words.find_map(|word| word.strip_prefix("libLLVM"))?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn directories() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_homes = ["CARGO_INSTALL_ROOT", "CARGO_HOME"]
        .into_iter()
        .filter_map(variable)
        .map(PathBuf::from)
        .chain(env::home_dir().map(|home| home.join(".cargo")))
        .map(|home| home.join("bin"));
    env::split_paths(&path).chain(cargo_homes).collect()
}

pub fn dotted((major, minor, patch): (u32, u32, u32)) -> String {
    format!("{major}.{minor}.{patch}")
}
