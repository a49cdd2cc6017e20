//! Puts the text of source lines into findings.
//!
//! A line is shown only if its file is a plain one that the traced program could have read itself, and has not changed
//! since the program was started: anything else may show a line that never ran. Directories are opened while the
//! process lives, so that its files are found, in its own mount namespace, after it has gone.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
    rc::Rc,
};

use rustix::fs::{Mode, OFlags, openat};

use crate::{
    collections::Map,
    detect::finding::{Act, Finding, Frame},
};

/// Longest file that is read; sources are shorter.
const FILE_MAX: u64 = 4 << 20;
/// Longest line that is shown.
const LINE_MAX: usize = 400;
/// Processes that are gone and still remembered.
const PLACES_MAX: usize = 4096;

#[derive(Clone)]
struct Place {
    root: Rc<OwnedFd>,
    /// `None`: it may have gone elsewhere, so relative names lead nowhere.
    directory: Option<Rc<OwnedFd>>,
    user: u32,
    /// Wall clock, nanoseconds.
    since: i128,
}

/// Lines of one file.
type Lines = Option<Rc<[Rc<str>]>>;

#[derive(Default)]
pub(super) struct Sources {
    places: HashMap<u32, Place>,
    files: Map<(u32, Rc<[u8]>), Lines>,
}

impl Sources {
    /// A process is new or has a new program. `since`: files changed later are not its own, wall clock nanoseconds.
    ///
    /// One that has gone already is taken to have stayed where it was when it was last looked at.
    pub(super) fn began(&mut self, tgid: u32, since: i128) {
        self.files.retain(|(owner, _), _| *owner != tgid);
        if self.places.len() >= PLACES_MAX {
            self.places.clear();
        }
        let before = || Some(Place { since, ..self.places.get(&tgid)?.clone() });
        match Place::open(tgid, since).or_else(before) {
            Some(place) => self.places.insert(tgid, place),
            None => self.places.remove(&tgid),
        };
    }

    /// A child that runs its parent's program.
    pub(super) fn forked(&mut self, parent: u32, child: u32) {
        let Some(place) = self.places.get(&parent) else { return };
        let since = place.since;
        // What it will be taken for if it ends too soon; by then it may have gone to another directory.
        let heir = Place { directory: None, ..place.clone() };
        self.places.insert(child, heir);
        self.began(child, since);
    }

    /// Fills in what can be told.
    pub(super) fn fill(&mut self, finding: &mut Finding) {
        let parts = [&mut finding.culprit, &mut finding.victim, &mut finding.root_cause];
        for act in parts.into_iter().flatten().chain(&mut finding.timeline) {
            self.fill_act(act);
        }
    }

    fn fill_act(&mut self, act: &mut Act) {
        let pid = act.pid;
        for frame in Rc::make_mut(&mut act.who.python) {
            frame.source = self.line(pid, frame);
        }
    }

    fn line(&mut self, pid: u32, frame: &Frame) -> Option<Rc<str>> {
        let (file, line) = (frame.file.as_ref()?, usize::try_from(frame.line?).ok()?);
        let place = self.places.get(&pid)?;
        let lines = self.files.entry((pid, Rc::clone(&file.0))).or_insert_with(|| place.read(&file.0));
        let text = lines.as_ref()?.get(line.checked_sub(1)?)?;
        (text.len() <= LINE_MAX).then(|| Rc::clone(text))
    }
}

impl Place {
    fn open(tgid: u32, since: i128) -> Option<Self> {
        let open = |name: &str| {
            let path = format!("/proc/{tgid}/{name}");
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).ok()
        };
        let user = std::fs::metadata(format!("/proc/{tgid}")).ok()?.uid();
        Some(Self { root: Rc::new(open("root")?), directory: Some(Rc::new(open("cwd")?)), user, since })
    }

    fn read(&self, name: &[u8]) -> Lines {
        let path = Path::new(std::ffi::OsStr::from_bytes(name));
        // `<string>`, `<frozen importlib._bootstrap>`: no files.
        if name.starts_with(b"<") {
            return None;
        }
        let (from, path) = match path.strip_prefix("/") {
            Ok(path) => (self.root.as_fd(), path),
            Err(_) => (self.directory.as_ref()?.as_fd(), path),
        };
        // A pipe or device of that name must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(openat(from, path, flags, Mode::empty()).ok()?);
        let metadata = file.metadata().ok()?;
        let changed = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let unchanged = changed(metadata.mtime(), metadata.mtime_nsec()) <= self.since
            && changed(metadata.ctime(), metadata.ctime_nsec()) <= self.since;
        let readable = metadata.uid() == self.user || metadata.mode() & 0o004 != 0;
        if !metadata.is_file() || metadata.len() > FILE_MAX || !unchanged || !readable {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
        if bytes.contains(&0) {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        Some(text.lines().map(Rc::from).collect())
    }
}
