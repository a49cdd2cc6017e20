//! Debian's packages, for root only: a developer's own machine is not ours to change.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Installs `packages`, after a look at the archive where the lists on disk do not have them.
pub fn install(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get install {}", packages.join(" "));
    if command::find("apt-get").is_none() {
        bail!("no apt-get here, so no `{line}`");
    }
    if !command::is_root() {
        bail!("`{line}` needs root: run it, then try again");
    }
    let mut unknown = unknown(packages)?;
    if !unknown.is_empty() {
        command::run(Command::new("apt-get").arg("update"))?;
        unknown = self::unknown(packages)?;
    }
    if !unknown.is_empty() {
        bail!("this release of the distribution has no package {}", unknown.join(", "));
    }
    let install = |packages: &[&str]| {
        command::run(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "--yes", "--no-install-recommends"])
                .args(packages),
        )
    };
    // Lists that are weeks old name versions that the archive has since removed.
    install(packages).or_else(|_| {
        command::run(Command::new("apt-get").arg("update"))?;
        install(packages)
    })
}

/// Those of `packages` that the lists on disk cannot offer, or only too old.
fn unknown<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let policy = command::output(Command::new("apt-cache").env("LC_ALL", "C").arg("policy").args(packages))
        .context("cannot ask for Debian's packages")?;
    Ok(packages.iter().copied().filter(|package| !will_do(candidate(&policy, package), package)).collect())
}

/// The version that would be installed.
fn candidate<'a>(policy: &'a str, package: &str) -> Option<&'a str> {
    let (_, about) = policy.split_once(&format!("{package}:\n"))?;
    about.lines().find_map(|line| line.trim().strip_prefix("Candidate: ")).filter(|version| *version != "(none)")
}

fn will_do(candidate: Option<&str>, package: &str) -> bool {
    let Some(candidate) = candidate else {
        return false;
    };
    if !package.starts_with("rust") {
        return true;
    }
    let numbers =
        |version: &str| -> Vec<u32> { version.split('.').take(2).map(|part| part.parse().unwrap_or(0)).collect() };
    numbers(candidate) >= numbers(env!("CARGO_PKG_RUST_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
rustc-web:
  Installed: (none)
  Candidate: 1.85.0+dfsg3-1~deb12u3
  Version table:
rust-web-src:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
llvm-22-dev:
  Installed: (none)
  Candidate: (none)
";

    #[test]
    fn old_and_absent_packages_call_for_an_update() {
        let verdict = |package| will_do(candidate(POLICY, package), package);
        assert!(!verdict("rustc-web"));
        assert!(verdict("rust-web-src"));
        assert!(!verdict("llvm-22-dev"));
        assert!(!verdict("unheard-of"));
    }
}
