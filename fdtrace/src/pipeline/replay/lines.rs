//! Lines of source and native stacks that a recording has: what findings showed and no record tells.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    rc::Rc,
};

use anyhow::Context;

use crate::{
    detect::finding::{Finding, Frame, Name},
    escape::escape_os,
    pipeline::{failure::Failure, reading::open},
    source::recording::{
        about::{Definitions, NativeFrame, NativeStack, SourceLine},
        frame::block,
        reader::Reader,
    },
};

/// Lines of source and native stacks that the recording has.
#[derive(Default)]
pub(super) struct Lines {
    texts: HashMap<InProcess, BTreeMap<u32, Rc<str>>>,
    /// By thread and time.
    stacks: HashMap<(u32, u64), Rc<[Frame]>>,
    bytes: usize,
}

/// A file as a process names it.
type InProcess = (u32, Rc<[u8]>);

/// Bytes of lines and stacks that are remembered.
const LINES_BYTES: usize = 64 << 20;

impl Lines {
    /// They stand in the file behind what they are about. A stream cannot be read twice, and may have them too late.
    pub(super) fn look_ahead(&mut self, path: &Path) -> Result<(), Failure> {
        if !path.is_file() {
            return Ok(());
        }
        let in_file = || format!("cannot read `{}`", escape_os(path));
        let reader = Reader::new(open(path)?).with_context(in_file).map_err(Failure::usage)?;
        let mut reader = reader.only(block::DEFINITIONS);
        while let Some(block) = reader.next_block().with_context(in_file).map_err(Failure::usage)? {
            if block.head.block == block::DEFINITIONS {
                self.learn(&block.content);
            }
        }
        Ok(())
    }

    pub(super) fn learn(&mut self, content: &[u8]) {
        let Ok(definitions) = serde_json::from_slice::<Definitions>(content) else { return };
        let Definitions { lines, frames, stacks } = definitions;
        let name = |bytes: Vec<u8>| (!bytes.is_empty()).then(|| Name::new(&bytes));
        let frames: Vec<Frame> = frames
            .into_iter()
            .map(|NativeFrame { function, file, line, module }| {
                self.bytes += function.len() + file.len() + module.len() + size_of::<Frame>();
                let function = Name::new(&function);
                Frame { function, file: name(file), line, module: name(module), source: None }
            })
            .collect();
        for NativeStack { tid, time, frames: places } in stacks {
            self.bytes += 64 + places.len() * size_of::<Frame>();
            let stack = places.iter().filter_map(|place| frames.get(usize::try_from(*place).ok()?).cloned());
            if self.bytes < LINES_BYTES {
                self.stacks.entry((tid, time)).or_insert_with(|| stack.collect());
            }
        }
        for SourceLine { pid, file, line, text } in lines {
            self.bytes += text.len() + 64;
            if self.bytes < LINES_BYTES {
                self.texts.entry((pid, file.into())).or_default().entry(line).or_insert_with(|| text.into());
            }
        }
    }

    pub(super) fn fill(&self, finding: &mut Finding) {
        for act in finding.acts_mut() {
            let pid = act.pid;
            if act.who.native.is_empty()
                && let Some(stack) = self.stacks.get(&(act.tid, act.time))
            {
                act.who.native = Rc::clone(stack);
            }
            act.who.change_frames(|frame| {
                if let (Some(file), Some(line), None) = (&frame.file, frame.line, &frame.source) {
                    let known = self.texts.get(&(pid, Rc::clone(&file.0))).and_then(|lines| lines.get(&line));
                    frame.source = known.cloned();
                }
            });
        }
    }
}
