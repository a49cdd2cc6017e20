//! The Rust compiler for the kernel side.
//!
//! A compiler is named by its sysroot and called by its path, so that rustup, a distribution's Rust and any mixture
//! of the two are all the same here. It need not be a nightly: cargo is told to let a stable one build `core` too.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{output, variable, version};

/// The nightly that setup installs where there is none: it has the linker's LLVM, and a date keeps it from moving on.
pub const PINNED: &str = "nightly-2026-05-20";
/// Names the compiler: a rustup toolchain, or the path of a sysroot such as `/usr`.
pub const VARIABLE: &str = "FDTRACE_EBPF_TOOLCHAIN";

/// A compiler that can build the kernel side.
#[derive(Debug)]
pub struct Compiler {
    pub sysroot: PathBuf,
    release: String,
    llvm: u32,
}

/// Why a compiler will not do.
#[derive(Debug)]
pub enum Refusal {
    Absent,
    Broken(String),
    TooOld { release: String },
    LlvmTooNew { llvm: u32, limit: u32 },
    NoSource,
}

/// A compiler that was considered: its name, and what speaks against it.
pub type Refused = (String, Refusal);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "is not installed"),
            Self::Broken(why) => write!(f, "does not run: {why}"),
            Self::TooOld { release } => {
                let oldest = oldest();
                write!(f, "is Rust {release}, needed is {oldest} or later")
            }
            Self::LlvmTooNew { llvm, limit } => {
                write!(f, "has LLVM {llvm}, bpf-linker reads {limit} and older")
            }
            Self::NoSource => write!(f, "lacks the source of `core` (rust-src)"),
        }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sysroot, release, llvm } = self;
        write!(f, "rustc {release} (LLVM {llvm}) of {}", sysroot.display())
    }
}

impl Compiler {
    pub fn rustc(&self) -> PathBuf {
        self.sysroot.join("bin/rustc")
    }

    /// Its own cargo, or, for a compiler that came without one, the cargo that runs us.
    pub fn cargo(&self) -> PathBuf {
        let own = self.sysroot.join("bin/cargo");
        if own.exists() {
            return own;
        }
        env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
    }

    /// Where its clippy stands, if it has one.
    pub fn clippy(&self) -> PathBuf {
        self.sysroot.join("bin/cargo-clippy")
    }
}

/// The first compiler, in order of preference, with an LLVM up to `newest_llvm`; or why none will do.
pub fn find(newest_llvm: u32) -> Result<Compiler, Vec<Refused>> {
    let mut refused = Vec::new();
    for (name, sysroot) in candidates() {
        let verdict = sysroot.ok_or(Refusal::Absent);
        match verdict.and_then(|sysroot| inspect(&sysroot, newest_llvm)) {
            Ok(compiler) => return Ok(compiler),
            Err(refusal) => refused.push((name, refusal)),
        }
    }
    Err(refused)
}

/// One line that names every compiler considered and what speaks against it.
pub fn list(refused: &[Refused]) -> String {
    let each: Vec<_> = refused.iter().map(|(name, why)| format!("{name} {why}")).collect();
    each.join("; ")
}

/// Names and sysroots, most preferred first. Whoever names one gets that one or an error.
fn candidates() -> Vec<(String, Option<PathBuf>)> {
    if let Some(wanted) = variable(VARIABLE) {
        let sysroot = if wanted.contains('/') { Some(PathBuf::from(&wanted)) } else { rustup_sysroot(&wanted) };
        return vec![(wanted, sysroot)];
    }
    vec![
        (PINNED.to_owned(), rustup_sysroot(PINNED)),
        ("nightly".to_owned(), rustup_sysroot("nightly")),
        ("/usr".to_owned(), Some(PathBuf::from("/usr"))),
    ]
}

/// Judges the compiler of a sysroot. Source comes last: who lacks nothing else can be helped.
fn inspect(sysroot: &Path, newest_llvm: u32) -> Result<Compiler, Refusal> {
    let rustc = sysroot.join("bin/rustc");
    if !rustc.exists() {
        return Err(Refusal::Absent);
    }
    let about = output(Command::new(&rustc).arg("-vV")).map_err(Refusal::Broken)?;
    let value = |key| about.lines().find_map(|line| line.strip_prefix(key));
    let (Some(release), Some(llvm)) = (value("release: "), value("LLVM version: ")) else {
        let why = format!("`{} -vV` names no release or no LLVM", rustc.display());
        return Err(Refusal::Broken(why));
    };
    let release = release.to_owned();
    if version(&release) < version(oldest()) {
        return Err(Refusal::TooOld { release });
    }
    let (llvm, ..) = version(llvm);
    if llvm > newest_llvm {
        let limit = newest_llvm;
        return Err(Refusal::LlvmTooNew { llvm, limit });
    }
    let source = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
    if !source.exists() {
        return Err(Refusal::NoSource);
    }
    Ok(Compiler { sysroot: sysroot.to_owned(), release, llvm })
}

/// The directory of a rustup toolchain. Read from the disk: asking rustup can start a download.
fn rustup_sysroot(name: &str) -> Option<PathBuf> {
    rustup_sysroots().into_iter().find(|dir| dir.file_name().is_some_and(|dir| is_toolchain(dir, name)))
}

/// Whether a directory is named `nightly` or `nightly-x86_64-…`, and not after a nightly of some date.
fn is_toolchain(dir: &std::ffi::OsStr, name: &str) -> bool {
    let rest = dir.to_str().and_then(|dir| dir.strip_prefix(name));
    rest.is_some_and(|rest| {
        let host = rest.strip_prefix('-').unwrap_or_default();
        rest.is_empty() || host.starts_with(|c: char| c.is_ascii_alphabetic())
    })
}

/// The directories of all rustup toolchains, in the order of their names.
pub fn rustup_sysroots() -> Vec<PathBuf> {
    let home = variable("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".rustup")));
    let toolchains = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok());
    let entries = toolchains.into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The oldest Rust that builds this workspace, and thus the kernel side in it.
fn oldest() -> &'static str {
    env!("CARGO_PKG_RUST_VERSION")
}
