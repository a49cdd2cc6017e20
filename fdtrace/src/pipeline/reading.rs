//! Goes through the files of a recording, block by block, and says what is wrong with them.

use std::{fs::File, io, ops::ControlFlow, path::Path};

use anyhow::Context;

use crate::{
    escape::escape_os,
    plan::Reading,
    source::recording::reader::{Block, Damage, Reader},
};

use super::{failure::Failure, progress::Progress};

/// What going through a recording came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    pub bytes: u64,
    pub damage: Damage,
}

/// Hands each block of all files of a recording to `each`, in order, until it breaks off.
pub fn blocks(
    reading: &Reading,
    mut progress: Progress,
    mut each: impl FnMut(Block) -> anyhow::Result<ControlFlow<()>>,
) -> Result<Read, Failure> {
    let mut reader: Option<Reader<Input>> = None;
    'files: for path in &reading.files {
        let input = open(path)?;
        let reader = match &mut reader {
            Some(reader) => {
                reader.go_on_with(input);
                reader
            }
            None => reader.insert(Reader::new(input).context("cannot read recordings").map_err(Failure::usage)?),
        };
        let in_file = || format!("cannot read `{}`", escape_os(path));
        while let Some(block) = reader.next_block().with_context(in_file).map_err(Failure::usage)? {
            progress.at(reader.offset());
            if each(block).with_context(in_file).map_err(Failure::usage)?.is_break() {
                break 'files;
            }
        }
    }
    Ok(reader.map_or_else(Read::default, |reader| Read { bytes: reader.offset(), damage: reader.damage() }))
}

pub type Input = Box<dyn io::Read>;

/// A recording, or the standard input.
pub fn open(path: &Path) -> Result<Input, Failure> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).with_context(|| format!("cannot open `{}`", escape_os(path)));
    Ok(Box::new(file.map_err(Failure::usage)?))
}

pub fn no_recording(reading: &Reading, damage: Damage) -> Failure {
    let names: Vec<String> = reading.files.iter().map(|path| format!("`{}`", escape_os(path))).collect();
    let names = names.join(", ");
    match damage.newer {
        Some(version) => {
            let error = anyhow::anyhow!("{names} was made by a newer fdtrace (format {version})");
            Failure::usage(error).with_hint("read it with that version or a later one")
        }
        None => Failure::usage(anyhow::anyhow!("{names} is not a recording of fdtrace, or nothing of it is left"))
            .with_hint("recordings are made with `fdtrace -o FILE.fdt …`"),
    }
}

/// What a reader should know of the file, in so many lines.
pub fn remarks(damage: Damage, ended: bool) -> Vec<String> {
    let mut remarks = Vec::new();
    if damage.skipped > 0 {
        remarks.push(format!("{} bytes of the file are damaged and were skipped", damage.skipped));
    }
    if damage.missing > 0 {
        remarks.push(format!("{} blocks are missing", damage.missing));
    }
    if let Some(version) = damage.newer {
        remarks.push(format!("some blocks were made by a newer fdtrace (format {version}) and were skipped"));
    }
    if !ended {
        remarks.push(
            "the recording has no end: the recorder was killed, or is still at work; the last 200 ms or 256 KiB before \
             that are missing"
                .to_owned(),
        );
    }
    remarks
}
