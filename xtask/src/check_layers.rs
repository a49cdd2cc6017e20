//! `cargo xtask check-layers`: every module of fdtrace uses only what the data flow allows.
//!
//! The tables below are the rules. They hold for the source under `fdtrace/src` except its tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, scan};

/// Each top-level module, and the others that it may name. Data flows from top to bottom.
///
/// What is in [`COMMON`] is left out.
const LAYERS: &[(&str, &[&str])] = &[
    ("plan", &[]),
    ("escape", &[]),
    ("collections", &[]),
    ("syscalls", &[]),
    ("source", &[]),
    ("event", &[]),
    // What interpreters and stacks look like: needed wherever a call has an author.
    ("who", &["event"]),
    ("decode", &["source", "event", "who"]),
    ("order", &["source", "event", "decode", "who"]),
    ("model", &["event", "decode", "order", "who"]),
    ("detect", &["event", "decode", "order", "model", "who"]),
    ("sink", &["source", "event", "decode", "order", "model", "who", "detect"]),
    // Programs to trace, and what is said of them: fdtrace seen from outside.
    ("selftest", &[]),
    ("cli", &[]),
    ("pipeline", EVERYTHING),
    ("main", &["cli", "pipeline"]),
    // The root of the library declares the modules.
    ("lib", EVERYTHING),
];

/// What everyone may name: the crate `fdtrace_common`, the resolved settings, the table of system calls, and making
/// hostile text fit to print.
const COMMON: &[&str] = &["wire", "plan", "syscalls", "escape", "collections"];
const EVERYTHING: &[&str] = &["*"];
const FLOW: &str = "a stage uses only what stands before it in the data flow";

/// What only some modules may name.
const KEPT: &[(&[&str], &[&str], &str)] = &[
    (&["aya", "aya_log", "aya_obj"], &["source"], "only `source` knows aya"),
    (&["clap"], &["cli"], "only `cli` knows clap"),
    (&["tokio"], &["source", "pipeline", "main"], "the stages in between are not asynchronous"),
];

/// The modules that compute and do nothing else, and what they may not name for that.
const PURE: &[&str] = &["model", "detect"];
const IMPURE: &[&str] = &["std::fs", "std::env", "std::net", "std::time::Instant", "std::time::SystemTime", "libc"];
const PURITY: &str = "the same events must give the same findings, live, from a recording and in a test";

pub fn check_layers() -> Result<()> {
    let source = command::workspace().join("fdtrace/src");
    let mut files = Vec::new();
    collect(&source, &mut files)?;
    files.sort();
    let mut broken = 0;
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let below = file.strip_prefix(&source).unwrap_or(file);
        for (line, message) in violations(below, &text) {
            eprintln!("fdtrace/src/{}:{line}: {message}", below.display());
            broken += 1;
        }
    }
    if broken > 0 {
        bail!("{broken} uses against the data flow; the rules are the tables in xtask/src/check_layers.rs");
    }
    eprintln!("{} files keep to the data flow", files.len());
    Ok(())
}

/// All Rust files below `dir` that are not tests.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The lines of `file`, a path below `fdtrace/src`, that break a rule, and which.
fn violations(file: &Path, text: &str) -> Vec<(usize, String)> {
    let (layer, module) = place(file);
    let Some((_, may_use)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![(1, format!("no rule says what `{layer}` may use: give it a row in xtask/src/check_layers.rs"))];
    };
    let judge = |path: &[String]| judge(&layer, may_use, module.is_empty(), path);
    let mut found: Vec<_> = scan::references(text, &module)
        .into_iter()
        // The import itself is reported; its uses need not be.
        .filter(|reference| reference.import.as_deref().and_then(judge).is_none())
        .filter_map(|reference| Some((reference.line, judge(&reference.path)?)))
        .collect();
    found.dedup();
    found
}

/// The layer that a file belongs to, and the path of its module.
fn place(file: &Path) -> (String, Vec<String>) {
    let without_extension = file.with_extension("");
    let mut module: Vec<_> = without_extension.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let layer = module.first().cloned().unwrap_or_default();
    module.pop_if(|last| last == "mod");
    if ["main", "lib"].contains(&layer.as_str()) {
        module.clear();
    }
    (layer, module)
}

/// What is wrong with `layer` naming `path`, if anything.
fn judge(layer: &str, may_use: &[&str], at_root: bool, path: &[String]) -> Option<String> {
    let name = path.join("::");
    let first = path.first()?.as_str();
    let own = match first {
        "crate" | "fdtrace" => path.get(1).map(String::as_str),
        "fdtrace_common" => Some("wire"),
        // In the root of the crate, its modules go by their bare names.
        bare if at_root && LAYERS.iter().any(|(name, _)| *name == bare) => Some(bare),
        _ => None,
    };
    if let Some(used) = own {
        let known = used == "wire" || LAYERS.iter().any(|(name, _)| *name == used);
        let allowed = |names: &[&str]| names == EVERYTHING || names.contains(&used);
        return match () {
            () if used == layer || allowed(may_use) || allowed(COMMON) => None,
            () if known => Some(format!("`{layer}` may not use `{used}` (`{name}`): {FLOW}")),
            () => Some(format!("`{name}` does not say which layer it is of: name the module that defines it")),
        };
    }
    for (names, keepers, why) in KEPT {
        if names.contains(&first) && !keepers.contains(&layer) {
            return Some(format!("`{layer}` may not use `{name}`: {why}"));
        }
    }
    let impure = IMPURE.iter().any(|forbidden| covers(forbidden, path));
    (impure && PURE.contains(&layer)).then(|| format!("`{layer}` may not use `{name}`: {PURITY}"))
}

/// Whether `path` names what is `forbidden`, something in it, or all that stands beside it.
fn covers(forbidden: &str, path: &[String]) -> bool {
    let forbidden: Vec<_> = forbidden.split("::").collect();
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        [parent @ .., "*"] => forbidden.starts_with(parent) || parent.starts_with(&forbidden),
        path => path.starts_with(&forbidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<String> {
        let found = violations(Path::new(file), text);
        found.into_iter().map(|(line, message)| format!("{line}: {message}")).collect()
    }

    #[track_caller]
    fn allowed(file: &str, text: &str) {
        assert_eq!(found(file, text), [""; 0], "{file}");
    }

    #[track_caller]
    fn forbidden(file: &str, text: &str, start: &str) {
        let found = found(file, text);
        assert!(matches!(found.as_slice(), [one] if one.starts_with(start)), "{found:#?}");
    }

    #[test]
    fn data_flows_one_way() {
        allowed("model/world.rs", "use crate::{event::Event, order, model::table::Table};");
        allowed("detect/leak.rs", "use crate::{model::World, who::Stack}; use super::finding::Finding;");
        forbidden("model/world.rs", "\nuse crate::detect::Finding;", "2: `model` may not use `detect`");
        forbidden("event.rs", "use super::model::World;", "1: `event` may not use `model`");
        forbidden("order.rs", "fn f(x: &crate::sink::Text) {}", "1: `order` may not use `sink` (`crate::sink::Text`)");
        forbidden("who/python/frames.rs", "use super::super::super::model::World;", "1: `who` may not use `model`");
        forbidden("plan.rs", "use crate::event::Fd;", "1: `plan` may not use `event`");
    }

    #[test]
    fn crates_stay_where_they_belong() {
        allowed("source/live.rs", "use aya::Ebpf; use tokio::io::unix::AsyncFd;");
        allowed("cli.rs", "use clap::Parser; use crate::plan::Plan;");
        forbidden("sink/text.rs", "use clap::ValueEnum;", "1: `sink` may not use `clap::ValueEnum`: only `cli`");
        forbidden(
            "pipeline.rs",
            "fn f() { aya::Btf::from_sys_fs() }",
            "1: `pipeline` may not use `aya::Btf::from_sys_fs`",
        );
        forbidden("order.rs", "use tokio::time;\nfn f() { time::sleep(x) }", "1: `order` may not use `tokio::time`");
    }

    #[test]
    fn the_core_does_no_io() {
        allowed("model/world.rs", "use std::{collections::HashMap, time::Duration};");
        allowed("model/world.rs", "#[cfg(test)]\nmod tests { use std::fs; }");
        allowed("sink/text.rs", "use std::{fs, env};");
        forbidden("model/world.rs", "use std::{fs::File, io};", "1: `model` may not use `std::fs::File`");
        forbidden(
            "detect.rs",
            "use std::time;\nfn f() { time::Instant::now() }",
            "2: `detect` may not use `std::time::Instant",
        );
        forbidden("detect.rs", "use std::time::*;", "1: `detect` may not use `std::time::*`");
        forbidden("detect.rs", "const E: i32 = libc::EBADF;", "1: `detect` may not use `libc::EBADF`");
    }

    #[test]
    fn the_root_sees_modules_by_bare_name() {
        allowed("main.rs", "use fdtrace::{cli, pipeline}; fn main() { pipeline::run(cli::parse()) }");
        forbidden("main.rs", "mod model; fn main() { model::World::new() }", "1: `main` may not use `model`");
    }

    #[test]
    fn nothing_goes_without_a_rule() {
        forbidden("utils.rs", "", "1: no rule says what `utils` may use");
        forbidden("sink/text.rs", "use crate::Finding;", "1: `crate::Finding` does not say which layer");
    }
}
