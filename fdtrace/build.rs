//! Builds the kernel side and leaves it at `$OUT_DIR/fdtrace`, where the crate includes it.
//!
//! `FDTRACE_EBPF_OBJECT=<file>` takes a prebuilt object instead: for packagers, and where there is no bpf-linker.
//! This script installs nothing; what it needs and does not find is a matter for `cargo xtask setup`.

#[path = "build/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use toolchain::{Kit, Result, Target, compiler};

const OBJECT_VARIABLE: &str = "FDTRACE_EBPF_OBJECT";
/// The name of the kernel side's binary, and of our copy.
const OBJECT: &str = "fdtrace";

fn main() -> ExitCode {
    match provide() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::FAILURE
        }
    }
}

/// Puts the object where the crate includes it.
fn provide() -> Result<()> {
    for name in [OBJECT_VARIABLE, compiler::VARIABLE] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out_dir = PathBuf::from(cargo_variable("OUT_DIR")?);
    let object = match toolchain::variable(OBJECT_VARIABLE) {
        Some(prebuilt) => {
            println!("cargo::rerun-if-changed={prebuilt}");
            PathBuf::from(prebuilt)
        }
        None => build(&out_dir)?,
    };
    let copy = out_dir.join(OBJECT);
    fs::copy(&object, &copy).map_err(|err| {
        let (object, copy) = (object.display(), copy.display());
        format!("cannot copy the eBPF object {object} to {copy}: {err}")
    })?;
    Ok(())
}

/// Compiles and links the kernel side; the path of the object.
fn build(out_dir: &Path) -> Result<PathBuf> {
    let package = PathBuf::from(cargo_variable("CARGO_MANIFEST_DIR")?);
    let workspace = package.parent().unwrap_or(&package);
    if !workspace.join("fdtrace-ebpf").exists() {
        return Err(format!(
            "the source of the eBPF object is not beside {}: set {OBJECT_VARIABLE} to a prebuilt one",
            package.display()
        ));
    }
    let sources = ["fdtrace-ebpf", "fdtrace-common", "Cargo.toml", "Cargo.lock"];
    for source in sources.map(|source| workspace.join(source)) {
        println!("cargo::rerun-if-changed={}", source.display());
    }

    let kit = Kit::find().map_err(|why| {
        format!(
            "cannot build the eBPF object: {why}\n\
             run `cargo xtask setup`, or set {OBJECT_VARIABLE} to a prebuilt object"
        )
    })?;
    // The first thing to know when the linker complains about bitcode.
    println!("eBPF object: {} and {}", kit.compiler, kit.linker);

    let target = Target {
        arch: cargo_variable("CARGO_CFG_TARGET_ARCH")?,
        big_endian: cargo_variable("CARGO_CFG_TARGET_ENDIAN")? == "big",
    };
    let target_dir = toolchain::target_directory(out_dir).unwrap_or(out_dir).join("ebpf");
    run(&mut kit.cargo("build", workspace, &target, &target_dir))?;
    Ok(target_dir.join(target.triple()).join("release").join(OBJECT))
}

fn cargo_variable(name: &str) -> Result<String> {
    env::var(name).map_err(|err| format!("cargo should set {name}: {err}"))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().map_err(|err| format!("cannot start `{command:?}`: {err}"))?;
    if !status.success() {
        return Err(format!("the eBPF object does not build ({status}): `{command:?}`"));
    }
    Ok(())
}
