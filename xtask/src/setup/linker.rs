//! bpf-linker, built by cargo against an LLVM that is already here, or else against Debian's.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::debian;
use crate::{
    command,
    toolchain::{
        compiler::{Compiler, rustup_sysroots},
        linker::{LLVM, VERSION, dotted},
    },
};

/// Installs bpf-linker where cargo installs programs.
pub fn install(compiler: &Compiler) -> Result<()> {
    if command::find("cc").is_none() {
        bail!(
            "no C compiler to link bpf-linker with: install gcc \
             (`apt-get install gcc libc6-dev`, `dnf install gcc`) and try again"
        );
    }
    let llvm = match Library::find(compiler) {
        Some(llvm) => llvm,
        None => {
            debian::install(&[&format!("llvm-{LLVM}-dev")])
                .with_context(|| format!("no LLVM {LLVM} to link bpf-linker with"))?;
            Library::find(compiler).with_context(|| format!("llvm-{LLVM}-dev holds no libLLVM.so"))?
        }
    };
    let mut cargo = command::cargo();
    cargo.args(["install", &format!("bpf-linker@{}", dotted(VERSION)), "--locked", "--force"]).args([
        "--no-default-features",
        "--features",
        &format!("llvm-{LLVM}"),
    ]);
    llvm.prepare(&mut cargo)?;
    eprintln!("setup: building bpf-linker, which takes a minute");
    command::run(&mut cargo)
}

/// An LLVM to link with.
enum Library {
    /// Installed with a `libLLVM.so`, in this prefix.
    System(PathBuf),
    /// The library that a rustup toolchain brings for its own compiler.
    Rustup(PathBuf),
}

impl Library {
    /// A system's LLVM if there is one: it stays when a toolchain is removed.
    fn find(compiler: &Compiler) -> Option<Self> {
        let system = [format!("/usr/lib/llvm-{LLVM}"), format!("/usr/lib64/llvm{LLVM}")];
        if let Some(prefix) = system
            .into_iter()
            .map(PathBuf::from)
            .find(|prefix| ["lib", "lib64"].iter().any(|lib| prefix.join(lib).join("libLLVM.so").exists()))
        {
            return Some(Self::System(prefix));
        }
        let others = rustup_sysroots();
        [compiler.sysroot.clone()]
            .into_iter()
            .chain(others)
            .find_map(|sysroot| library(&sysroot.join("lib")))
            .map(Self::Rustup)
    }

    /// Makes `cargo install bpf-linker` find it, and the installed program too.
    fn prepare(&self, cargo: &mut Command) -> Result<()> {
        match self {
            Self::System(prefix) => {
                cargo.env("LLVM_PREFIX", prefix);
            }
            Self::Rustup(library) => {
                let lib = library.parent().context("a library stands in no directory")?;
                cargo
                    .env("LLVM_PREFIX", prefix_for(library)?)
                    // The file has a name of its own, so the program looks for it in the toolchain, not in our prefix.
                    .env("CARGO_ENCODED_RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", lib.display()));
            }
        }
        Ok(())
    }
}

/// The LLVM of a rustup toolchain, `libLLVM.so.22.1-rust-1.95.0-stable`, if it is the one we want.
fn library(lib: &Path) -> Option<PathBuf> {
    let prefix = format!("libLLVM.so.{LLVM}.");
    let entries = fs::read_dir(lib).ok()?.filter_map(Result::ok);
    entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix)))
}

/// A prefix with `library` under the name that a linker asks for.
fn prefix_for(library: &Path) -> Result<PathBuf> {
    let prefix = command::target_directory()?.join("llvm-of-rustup");
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib")).with_context(|| format!("cannot create {}", prefix.display()))?;
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    symlink(library, &link).with_context(|| format!("cannot link {} to {}", link.display(), library.display()))?;
    Ok(prefix)
}
