//! Which files' code each process has in its memory, as the kernel side told it: for processes that die before their
//! mappings can be read from `/proc`, as most short programs do.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::OsStr,
    ops::Range,
    os::unix::ffi::OsStrExt as _,
    rc::Rc,
};

use fdtrace_common::{
    wire::{self, CallPath, Exec, Header, kind},
    witness::{self, Mapped},
};

use crate::who::maps::{FileId, Mapping};

/// Threads whose last open is remembered, and processes.
const REMEMBERED: usize = 1 << 15;
/// Mappings of one process.
const MAPPINGS_MAX: usize = 4096;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// What each thread opened last: a loader opens a library, maps it, and only then opens the next one.
    opened: HashMap<u32, (FileId, Rc<[u8]>)>,
    processes: HashMap<u32, Rc<Process>>,
}

/// What one process has in its memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    /// As it was given to exec.
    path: Rc<[u8]>,
    /// First executable address and inode of the program.
    pub(super) program: Option<(u64, Mapping)>,
    pub(super) libraries: Vec<Mapping>,
    /// All that was told of but the program and its loader: where, and which file.
    pub(super) told: Vec<(Range<u64>, FileId)>,
    /// The same of what loads the program.
    pub(super) loader: Range<u64>,
}

impl Process {
    /// Was it told that the code of this file is there?
    pub(super) fn has(&self, address: u64, inode: u64) -> bool {
        // What came last is in the place of what was there before.
        match self.told.iter().rev().find(|(there, _)| there.contains(&address)) {
            Some((_, told)) => told.inode == inode,
            // Of a layered file system the kernel names another file than `/proc`.
            None => self.loader.contains(&address),
        }
    }

    /// The files whose code was told to be there, but the loader's. `None`: not even the program's was.
    pub(super) fn files(&self) -> Option<impl Iterator<Item = FileId>> {
        let (_, program) = self.program.as_ref()?;
        Some(self.told.iter().map(|(_, file)| *file).chain([program.file]))
    }
}

/// A file as the kernel numbers it.
fn file(dev: u32, inode: u64) -> FileId {
    FileId { dev: (dev >> 20, dev & 0xf_ffff), inode }
}

impl Loaded {
    /// Looks at a record.
    pub(super) fn record(&mut self, header: &Header, record: &[u8]) {
        match header.kind {
            kind::CALL_PATH => self.open(header.tid, record),
            kind::EXEC => self.exec(header.tgid, record),
            kind::FORK => {
                let Some((fork, _)) = wire::read::<wire::Fork>(record) else { return };
                if fork.child_tgid != header.tgid
                    && let Some(process) = self.processes.get(&header.tgid)
                {
                    let process = Rc::clone(process);
                    self.put(fork.child_tgid, process);
                }
            }
            kind::EXIT => {
                self.opened.remove(&header.tid);
                if header.flags & wire::flag::GROUP_DEAD != 0 {
                    self.processes.remove(&header.tgid);
                }
            }
            witness::kind::MAPPED => self.mapped(header, record),
            _ => {}
        }
    }

    /// What is known of a process.
    pub(super) fn of(&self, tgid: u32) -> Option<&Rc<Process>> {
        self.processes.get(&tgid)
    }

    fn open(&mut self, tid: u32, record: &[u8]) {
        let Some((open, tail)) = wire::read::<CallPath>(record) else { return };
        let path = usize::try_from(open.path_len).ok().and_then(|len| tail.get(..len)).unwrap_or_default();
        let whole = open.call.header.flags & (wire::flag::TRUNCATED | wire::flag::UNREADABLE) == 0;
        if open.file.mode & S_IFMT != S_IFREG || path.first() != Some(&b'/') || !whole {
            return;
        }
        let known = (file(open.file.dev, open.file.inode), path.into());
        if self.opened.len() < REMEMBERED || self.opened.contains_key(&tid) {
            self.opened.insert(tid, known);
        }
    }

    fn exec(&mut self, tgid: u32, record: &[u8]) {
        let Some((exec, tail)) = wire::read::<Exec>(record) else { return };
        let path = usize::try_from(exec.path_len).ok().and_then(|len| tail.get(..len)).unwrap_or_default();
        let path = path.strip_suffix(b"\0").unwrap_or(path);
        // A relative one most likely means what it means to us: the inode tells whether it does.
        let absolute = std::path::absolute(OsStr::from_bytes(path));
        let path = absolute.map_or_else(|_| path.into(), |path| path.as_os_str().as_bytes().into());
        self.put(tgid, Rc::new(Process { path, ..Process::default() }));
    }

    fn mapped(&mut self, header: &Header, record: &[u8]) {
        let Some((mapped, _)) = wire::read::<Mapped>(record) else { return };
        let Some(process) = self.processes.get_mut(&header.tgid) else { return };
        let file = file(mapped.dev, mapped.inode);
        let mapping = |end, path: &[u8]| Mapping {
            start: mapped.start,
            end,
            offset: mapped.offset,
            file,
            readable: true,
            writable: false,
            executable: true,
            path: path.to_vec(),
        };
        if mapped.fd == Mapped::LOADER {
            Rc::make_mut(process).loader = mapped.start..mapped.start.saturating_add(mapped.len);
            return;
        }
        if mapped.fd == Mapped::PROGRAM {
            let program = mapping(mapped.start, &process.path);
            Rc::make_mut(process).program = Some((mapped.start, program));
            return;
        }
        let end = mapped.start.saturating_add(mapped.len);
        if process.told.len() < MAPPINGS_MAX {
            Rc::make_mut(process).told.push((mapped.start..end, file));
        }
        let Some((opened, path)) = self.opened.get(&header.tid) else { return };
        if *opened == file && process.libraries.len() < MAPPINGS_MAX {
            let mapping = mapping(end, path);
            Rc::make_mut(process).libraries.push(mapping);
        }
    }

    fn put(&mut self, tgid: u32, process: Rc<Process>) {
        let full = self.processes.len() >= REMEMBERED;
        match self.processes.entry(tgid) {
            Entry::Occupied(mut known) => *known.get_mut() = process,
            Entry::Vacant(room) if !full => {
                room.insert(process);
            }
            Entry::Vacant(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdtrace_common::wire::bytes_of;

    fn feed(loaded: &mut Loaded, record: &[u8]) {
        let (header, _) = wire::read::<Header>(record).unwrap();
        loaded.record(&header, record);
    }

    fn header(kind: u16) -> Header {
        Header { kind, tgid: 7, tid: 7, ..Header::default() }
    }

    fn open(loaded: &mut Loaded, inode: u64, path: &[u8]) {
        let mut open = CallPath { path_len: path.len() as u32, ..CallPath::default() };
        open.call.header = header(kind::CALL_PATH);
        (open.file.inode, open.file.dev, open.file.mode) = (inode, 8 << 20 | 1, S_IFREG);
        feed(loaded, &[bytes_of(&open), path].concat());
    }

    fn map(loaded: &mut Loaded, inode: u64, fd: i32) {
        let header = header(witness::kind::MAPPED);
        let mapped = Mapped { header, start: 0x7000, len: 0x2000, offset: 0x1000, inode, dev: 8 << 20 | 1, fd };
        feed(loaded, bytes_of(&mapped));
    }

    #[test]
    fn libraries_have_the_path_that_was_opened() {
        let mut loaded = Loaded::default();
        let exec = Exec { header: header(kind::EXEC), path_len: 8, ..Exec::default() };
        feed(&mut loaded, &[bytes_of(&exec), b"/bin/cat"].concat());
        map(&mut loaded, 5, -1);
        open(&mut loaded, 6, b"/lib/libc.so.6");
        map(&mut loaded, 6, 3);
        // Another file than the one that was opened: its path is not known.
        map(&mut loaded, 9, 3);
        let process = loaded.of(7).unwrap();
        let (start, program) = process.program.as_ref().unwrap();
        assert_eq!((*start, program.path.as_slice(), program.file.inode), (0x7000, &b"/bin/cat"[..], 5));
        let [library] = process.libraries.as_slice() else { panic!("{process:?}") };
        assert_eq!((library.start, library.end, library.offset), (0x7000, 0x9000, 0x1000));
        assert_eq!((library.path.as_slice(), library.file.dev), (&b"/lib/libc.so.6"[..], (8, 1)));
    }

    #[test]
    fn a_child_has_its_parents_memory_and_a_dead_process_none() {
        let mut loaded = Loaded::default();
        feed(&mut loaded, bytes_of(&Exec { header: header(kind::EXEC), ..Exec::default() }));
        map(&mut loaded, 5, -1);
        let fork = wire::Fork { header: header(kind::FORK), child_tgid: 8, child_tid: 8, ..wire::Fork::default() };
        feed(&mut loaded, bytes_of(&fork));
        let mut exit = wire::Exit { header: header(kind::EXIT), ..wire::Exit::default() };
        exit.header.flags = wire::flag::GROUP_DEAD;
        feed(&mut loaded, bytes_of(&exit));
        assert!(loaded.of(7).is_none() && loaded.of(8).is_some_and(|process| process.program.is_some()));
    }
}
