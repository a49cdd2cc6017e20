//! Looks at processes for a Python interpreter, and tells the kernel side where it keeps its frames.
//!
//! A process is looked at when it is attached to and when it has run a program, and again until there is an interpreter
//! that has shown a frame, or time enough for one has passed. What contradicts its description is not used; but a program
//! that runs is read while it changes, and one that starts before it is all there, so one look contradicts nothing.
//! Where the kernel side told what a process has mapped, and no interpreter is in any of it, nothing is read: most
//! programs are run again and again. But what it told may be incomplete, so the later looks are looks in any case.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use fdtrace_common::witness::ImageKey;

use super::loaded::Process;
use crate::{
    source::live::Live,
    who::{
        maps::{self, Mapping},
        open::mapped_file,
        python::{
            Interpreter, ProcessMemory, elf,
            interpreter::{Images, Validity, validate},
            known,
        },
    },
};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Looked at this often, with twice the pause each time: over half a minute.
const LOOKS: u32 = 15;
/// As many of them are left out where nothing is to be seen: those of the first quarter of a second.
const BLIND_LOOKS: u32 = 8;
/// What the kernel side knows of a process is taken back when this many looks in a row found it wrong.
const CONTRADICTIONS: u32 = 3;

#[derive(Debug)]
struct Look {
    due: Instant,
    count: u32,
    /// Looks in a row, up to the last, that contradict what is known.
    contradictions: u32,
    /// What was said of it has been told.
    told: bool,
}

#[derive(Default)]
pub(super) struct Pythons {
    images: Images,
    looks: HashMap<u32, Look>,
}

impl Pythons {
    /// A process is new, or has a new program.
    pub(super) fn began(&mut self, tgid: u32) {
        self.looks.insert(tgid, Look { due: Instant::now(), count: 0, contradictions: 0, told: false });
    }

    pub(super) fn ended(&mut self, tgid: u32) {
        self.looks.remove(&tgid);
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.looks.values().map(|look| look.due).min()
    }

    /// Looks at what is due. `told`: what a process has mapped, as far as the kernel side told it.
    pub(super) fn look<'a>(&mut self, live: &mut Live, told: impl Fn(u32) -> Option<&'a Process>) {
        let now = Instant::now();
        let due: Vec<u32> = self.looks.iter().filter(|(_, look)| look.due <= now).map(|(tgid, _)| *tgid).collect();
        for tgid in due {
            let Some(mut look) = self.looks.remove(&tgid) else { continue };
            let is_blind = look.count < BLIND_LOOKS && told(tgid).is_some_and(|told| self.has_none(told));
            if !is_blind && self.examine(tgid, live, &mut look) {
                continue;
            }
            look.count += 1;
            if look.count < LOOKS {
                look.due = now + FIRST_PAUSE * 2u32.pow(look.count);
                self.looks.insert(tgid, look);
            }
        }
    }

    fn has_none(&self, told: &Process) -> bool {
        told.files().is_some_and(|files| self.images.has_none(files))
    }

    /// `true`: nothing will change any more.
    fn examine(&mut self, tgid: u32, live: &mut Live, look: &mut Look) -> bool {
        // First: what is found out belongs to this program, even if the process runs another one meanwhile.
        let Some(execs) = live.execs(tgid) else { return true };
        let Ok(maps) = maps::read(tgid) else { return true };
        let interpreter = match self.images.find(&maps, |mapping| mapped_file(tgid, mapping).ok()) {
            Ok(Some(interpreter)) => interpreter,
            Ok(None) => return false,
            Err(unsupported) => {
                log::warn!("no Python frames of process {tgid}: {unsupported}");
                return true;
            }
        };
        let Ok(memory) = ProcessMemory::open(tgid) else { return true };
        let validity = validate(&memory, &interpreter.process);
        if let Validity::Invalid(why) = validity {
            log::debug!("the Python interpreter of process {tgid} is not as expected: {why}");
            look.contradictions += 1;
            if look.contradictions == CONTRADICTIONS {
                live.forget_python(tgid);
                look.told = false;
            }
            if look.count + 1 == LOOKS {
                log::warn!("no Python frames of process {tgid}: {why} ({})", interpreter.path.display());
            }
            return false;
        }
        look.contradictions = 0;
        if !look.told {
            if let Err(error) = live.set_python(tgid, execs, &interpreter.process) {
                log::warn!("{error:#}");
                return true;
            }
            look.told = true;
            self.remember(tgid, live, &maps, &interpreter);
            log::debug!("process {tgid}: Python {} in {}", interpreter.version, interpreter.path.display());
        }
        validity == Validity::Valid
    }

    /// The next process that runs this interpreter is known from its start.
    fn remember(&mut self, tgid: u32, live: &mut Live, maps: &[Mapping], interpreter: &Interpreter) {
        let of_file = maps.iter().find(|mapping| mapping.file == interpreter.file && mapping.executable);
        let Some(file) = of_file.and_then(|mapping| mapped_file(tgid, mapping).ok()) else { return };
        let key: Option<ImageKey> = file.metadata().ok().map(|metadata| known::key(&metadata));
        let image = elf::read_file(file);
        if let (Some(key), Some(image)) = (key, image.and_then(|image| known::describe(&image, &interpreter.path)))
            && let Err(error) = live.add_image(key, &image)
        {
            log::debug!("{error:#}");
        }
    }
}
