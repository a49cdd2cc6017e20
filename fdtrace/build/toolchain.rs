//! Finds what builds the kernel side: a Rust compiler with the source of `core`, and bpf-linker.
//!
//! Shared by fdtrace's build script, which uses what is found, and by `cargo xtask setup`, which installs what is not.
//! So the two cannot disagree. This module looks and explains; it installs nothing. It has no dependencies: a build
//! script is compiled before all else.

pub mod compiler;
pub mod linker;

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use compiler::Compiler;
use linker::Linker;

/// What failed is for a person to read; nobody reacts to it by kind.
pub type Result<T> = std::result::Result<T, String>;

/// The package of the kernel side.
const PACKAGE: &str = "fdtrace-ebpf";

/// A compiler and a linker that fit each other.
#[derive(Debug)]
pub struct Kit {
    pub compiler: Compiler,
    pub linker: Linker,
}

/// The machine whose kernel will run the object.
#[derive(Debug)]
pub struct Target {
    /// As in `target_arch`: the kernel side reads registers by it.
    pub arch: String,
    pub big_endian: bool,
}

impl Kit {
    /// The first of each that will do.
    pub fn find() -> Result<Self> {
        let linker = linker::find()?;
        let compiler = compiler::find(linker.newest_llvm()).map_err(|refused| {
            let refused = compiler::list(&refused);
            format!("no Rust compiler here can build for BPF: {refused}")
        })?;
        Ok(Self { compiler, linker })
    }

    /// The cargo call that does `subcommand` (`build`, `clippy`) for the kernel side in `workspace`.
    pub fn cargo(&self, subcommand: &str, workspace: &Path, target: &Target, target_dir: &Path) -> Command {
        let program = match subcommand {
            // A program of its own, which hands the work to `$CARGO`.
            "clippy" => self.compiler.clippy(),
            _ => self.compiler.cargo(),
        };
        let mut command = Command::new(program);
        self.set_environment(&mut command, target);
        command
            .arg(subcommand)
            .args(["--release", "-Zbuild-std=core", "--bins"])
            .args(["--package", PACKAGE, "--target", target.triple()])
            .arg("--manifest-path")
            .arg(workspace.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(target_dir);
        command
    }

    fn set_environment(&self, command: &mut Command, target: &Target) {
        let flags = [
            format!("--cfg=bpf_target_arch=\"{}\"", target.arch),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
        ];
        let triple = target.triple().to_uppercase().replace('-', "_");
        command
            .env("CARGO", self.compiler.cargo())
            .env("RUSTC", self.compiler.rustc())
            .env(format!("CARGO_TARGET_{triple}_LINKER"), &self.linker.path)
            // For this child only: nothing that runs on the host is built with unstable features on.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            // What the host's release profile may ask for and the kernel's verifier could not live with.
            .env("CARGO_PROFILE_RELEASE_LTO", "false")
            .env("CARGO_PROFILE_RELEASE_STRIP", "none")
            .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false")
            .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false")
            // Set by an outer `cargo clippy`, whose driver belongs to another compiler.
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTFLAGS");
    }
}

impl Target {
    pub fn triple(&self) -> &'static str {
        if self.big_endian { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
    }
}

/// The target directory that holds `inside`, a path of our own build. Cargo marks it.
///
/// The kernel side is built below it, in one place for all profiles, so that `core` is compiled once.
pub fn target_directory(inside: &Path) -> Option<&Path> {
    inside.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists())
}

/// The value of an environment variable; set to nothing is not set.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// What a program prints.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|err| format!("cannot start `{command:?}`: {err}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let (status, stderr) = (output.status, stderr.trim());
        return Err(format!("`{command:?}` failed: {status}: {stderr}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The numbers that a version begins with; what is missing or no number is 0.
fn version(text: &str) -> (u32, u32, u32) {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}
