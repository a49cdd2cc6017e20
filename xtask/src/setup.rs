//! `cargo xtask setup`: installs what the eBPF build needs and does not find.
//!
//! That is a Rust compiler that can build `core` for BPF, and bpf-linker. What will do is decided by
//! [`crate::toolchain`], which the build script asks too, so the two cannot disagree. Two ways lead to a compiler:
//! rustup, which needs no root, and Debian's packages. Where everything is there, nothing is touched.

mod compiler;
pub mod debian;
mod linker;

use anyhow::{Error, Result};

use crate::toolchain::{self, Kit};

/// Makes the eBPF build possible; says with what it will be done.
pub fn setup() -> Result<Kit> {
    let linker = toolchain::linker::find();
    let limit = match &linker {
        Ok(linker) => linker.newest_llvm(),
        Err(_) => toolchain::linker::LLVM,
    };
    let compiler = match toolchain::compiler::find(limit) {
        Ok(compiler) => compiler,
        Err(refused) => compiler::install(limit, &refused)?,
    };
    if let Err(missing) = linker {
        eprintln!("setup: {missing}");
        linker::install(&compiler)?;
    }
    let kit =
        Kit::find().map_err(Error::msg).map_err(|why| why.context("set up, and yet the eBPF build would fail"))?;
    eprintln!("setup: {} and {}", kit.compiler, kit.linker);
    Ok(kit)
}
