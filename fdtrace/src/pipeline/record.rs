//! Gives a recorder its files, and tells it what it cannot know itself.

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    detect::finding::{Finding, Name},
    plan::Record,
    sink::{self, RunMeta, output},
    source::recording::{
        about::{About, NativeFrame, Traced},
        writer::{Recorder, Rotation},
    },
};

use super::failure::Failure;

/// Opens the file of a recording, and later those that follow it.
pub fn recorder(plan: &Record, force: bool, started_wall: u64, started_boot: u64) -> Result<Recorder, Failure> {
    let Record { path, rotate_bytes, rotate_time } = plan.clone();
    if path == Path::new("-") && io::stdout().is_terminal() {
        let error = anyhow::anyhow!("a recording is not for a terminal");
        return Err(Failure::usage(error).with_hint("give -o FILE.fdt, or lead it on with `|`"));
    }
    let rotation = Rotation { bytes: rotate_bytes, time: rotate_time };
    let open = Box::new(move |segment| -> io::Result<Box<dyn Write>> {
        let file = output::create(&segment_path(&path, segment), force).map_err(io::Error::other)?;
        Ok(Box::new(file))
    });
    let about = About::here(started_wall, started_boot);
    Recorder::new(open, about, rotation).context("cannot record").map_err(Failure::usage)
}

/// `x.fdt`, `x.1.fdt`, `x.2.fdt`, …
fn segment_path(path: &Path, segment: u32) -> PathBuf {
    if segment == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path.file_stem().unwrap_or_default());
    name.push(format!(".{segment}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Keeps what a finding shows and no record tells: lines of source, and native stacks by name.
pub fn shown(recorder: &mut Recorder, finding: &Finding) {
    for act in finding.acts() {
        if !act.who.native.is_empty() {
            let bytes = |name: &Option<Name>| name.as_ref().map_or_else(Vec::new, |name| name.0.to_vec());
            let frames = act.who.native.iter().map(|frame| NativeFrame {
                function: frame.function.0.to_vec(),
                file: bytes(&frame.file),
                line: frame.line,
                module: bytes(&frame.module),
            });
            recorder.native_stack(act.tid, act.time, frames);
        }
        for frame in act.who.frames() {
            if let (Some(file), Some(line), Some(text)) = (&frame.file, frame.line, &frame.source) {
                recorder.source_line(act.pid, &file.0, line, text);
            }
        }
    }
}

/// Puts into a recording what the sinks are told.
pub fn describe(about: &mut About, meta: &RunMeta) {
    let RunMeta { version, schema, kernel, started_wall, started_boot, targets, already_open } = meta.clone();
    (about.fdtrace, about.schema, about.kernel) = (version, schema, kernel);
    (about.started_wall, about.started_boot) = (started_wall, started_boot);
    about.already_open = already_open as u64;
    let traced = |target: &sink::Target| Traced {
        pid: target.pid,
        name: target.name.0.to_vec(),
        cmdline: target.cmdline.0.to_vec(),
    };
    about.targets = targets.iter().map(traced).collect();
}

/// The reverse of [`describe`].
pub fn meta(about: &About) -> RunMeta {
    let target = |traced: &Traced| sink::Target {
        pid: traced.pid,
        name: Name::new(&traced.name),
        cmdline: Name::new(&traced.cmdline),
    };
    RunMeta {
        version: about.fdtrace.clone(),
        schema: if about.schema.is_empty() { sink::run::SCHEMA.to_owned() } else { about.schema.clone() },
        kernel: about.kernel.clone(),
        started_wall: about.started_wall,
        started_boot: about.started_boot,
        targets: about.targets.iter().map(target).collect(),
        already_open: usize::try_from(about.already_open).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_recording_sort_together() {
        let path = |segment| segment_path(Path::new("/tmp/a.b.fdt"), segment).display().to_string();
        assert_eq!([path(0), path(1), path(12)], ["/tmp/a.b.fdt", "/tmp/a.b.1.fdt", "/tmp/a.b.12.fdt"]);
        assert_eq!(segment_path(Path::new("x"), 3), Path::new("x.3"));
    }
}
