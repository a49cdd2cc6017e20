//! The compiler: through rustup, or else from Debian.

use std::{process::Command, time::Duration};

use anyhow::{Result, anyhow, bail};

use super::debian;
use crate::{
    command,
    toolchain::{
        compiler::{self, Compiler, PINNED, Refusal, Refused, VARIABLE},
        variable,
    },
};

/// For a few megabytes. A machine without network must come to the next way soon.
const COMPONENT_LIMIT: Duration = Duration::from_secs(120);
/// For a whole toolchain, over a slow line.
const TOOLCHAIN_LIMIT: Duration = Duration::from_secs(600);

/// Debian's current Rust, as packaged for its browsers, its sources, and the LLVM that it uses.
const PACKAGES: &[&str] = &["rustc-web", "rust-web-src", "llvm-22-dev"];

/// Installs a compiler, knowing why each that was looked at will not do.
pub fn install(newest_llvm: u32, refused: &[Refused]) -> Result<Compiler> {
    eprintln!("setup: no Rust compiler here can build for BPF: {}", compiler::list(refused));
    if let [(name, why)] = refused
        && variable(VARIABLE).is_some()
        && !can_be_helped(name, why)
    {
        bail!("{VARIABLE} asks for `{name}`, which {why}: name another, or unset it");
    }
    let mut failures = Vec::new();
    for way in ways(refused) {
        let found =
            way.take().and_then(|()| compiler::find(newest_llvm).map_err(|refused| anyhow!(compiler::list(&refused))));
        match found {
            Ok(compiler) => return Ok(compiler),
            Err(err) => {
                eprintln!("setup: this way does not work here: {err:#}");
                failures.push(format!("\n  {err:#}"));
            }
        }
    }
    bail!(
        "no Rust compiler that can build for BPF, and no way to one:{}\n\
         install one of: a rustup toolchain (`rustup toolchain install {PINNED} --component rust-src`); \
         Debian's packages (as root, `apt-get install {}`); or name a compiler of your own in {VARIABLE}",
        failures.concat(),
        PACKAGES.join(" "),
    )
}

/// Whether there is a way to the compiler that someone asked for: of the sysroots, only `/usr` is in packages.
fn can_be_helped(name: &str, why: &Refusal) -> bool {
    let known = !name.contains('/') || name == "/usr";
    known && matches!(why, Refusal::Absent | Refusal::NoSource)
}

/// A way to a compiler.
enum Way {
    /// Add the source to a rustup toolchain that lacks nothing else.
    Source(String),
    /// Install a rustup toolchain.
    Toolchain(String),
    Debian,
}

/// The ways on from what there is, the cheapest first.
fn ways(refused: &[Refused]) -> Vec<Way> {
    let by_name = |(name, _): &&Refused| !name.contains('/');
    let lacking = refused.iter().filter(|(_, why)| matches!(why, Refusal::NoSource)).filter(by_name);
    let mut ways: Vec<_> = lacking.map(|(name, _)| Way::Source(name.clone())).collect();
    match variable(VARIABLE) {
        Some(name) if name.contains('/') => ways.push(Way::Debian),
        Some(name) => ways.push(Way::Toolchain(name)),
        None => ways.extend([Way::Toolchain(PINNED.to_owned()), Way::Debian]),
    }
    ways
}

impl Way {
    fn take(&self) -> Result<()> {
        match self {
            Self::Source(name) => command::run_within(
                rustup()?.args(["component", "add", "rust-src", "--toolchain", name]),
                COMPONENT_LIMIT,
            ),
            Self::Toolchain(name) => command::run_within(
                rustup()?.args(["toolchain", "install", name, "--profile", "minimal", "--no-self-update"]).args([
                    "--component",
                    "rust-src",
                    "--component",
                    "clippy",
                ]),
                TOOLCHAIN_LIMIT,
            ),
            Self::Debian => debian::install(PACKAGES),
        }
    }
}

fn rustup() -> Result<Command> {
    match command::find("rustup") {
        Some(_) => {
            let mut rustup = Command::new("rustup");
            // Where a developer has it on, rustup buries "no network" under its own call stack.
            rustup.env("RUST_BACKTRACE", "0");
            Ok(rustup)
        }
        None => bail!("rustup is not installed (https://rustup.rs)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolchain_that_only_lacks_the_source_comes_first() {
        let refused = [
            (PINNED.to_owned(), Refusal::Absent),
            ("nightly".to_owned(), Refusal::NoSource),
            ("/usr".to_owned(), Refusal::NoSource),
        ];
        assert!(matches!(
            ways(&refused).as_slice(),
            [Way::Source(name), Way::Toolchain(pinned), Way::Debian] if name == "nightly" && pinned == PINNED
        ));
    }
}
