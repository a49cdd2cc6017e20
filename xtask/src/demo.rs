//! `cargo xtask demo`: fdtrace on a program of ten lines with a bug that takes hours to find by reading.

use anyhow::{Result, bail};

use crate::{build, command};

const PROGRAM: &str = "demo/blog.py";
/// Tells "fdtrace found something" from the exit status of the program, which fails as it should.
const FOUND: i32 = 42;

pub fn demo() -> Result<()> {
    if command::find("python3").is_none() {
        bail!("the demo is a Python program, and there is no python3 here: install Python 3.6 or later");
    }
    let program = build::build(&build::Options { release: true })?;
    eprintln!();
    let mut traced = command::as_root(program)?;
    traced.current_dir(command::workspace()).args(["--error-exitcode", &FOUND.to_string(), "--", "python3", PROGRAM]);
    let status = command::status(&mut traced)?;
    match status.code() {
        Some(FOUND) => Ok(()),
        _ => bail!(
            "fdtrace found nothing in {PROGRAM} ({status}); `cargo xtask run -- doctor` says what this kernel lacks"
        ),
    }
}
