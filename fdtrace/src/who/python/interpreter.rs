//! Finds the Python interpreter in a process, and makes sure of it.
//!
//! Interpreters are recognised by what a mapped file exports, not by its name: they are embedded in editors, databases
//! and servers. What is found is only believed after [`validate`] has read a real frame with it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fdtrace_common::python::{PyOffsets, PyProcess};
use thiserror::Error;

use super::elf::{self, ASYNCIO_WORDS, Image};
use super::memory::ReadMem;
use super::offsets::{self, OffsetsError, Version};
use super::{code, walk};
use crate::who::maps::{FileId, Mapping};

/// An interpreter in a process.
#[derive(Clone, Debug)]
pub struct Interpreter {
    pub version: Version,
    /// The file that contains it, as the process sees it, and which file that is.
    pub path: PathBuf,
    pub file: FileId,
    pub build_id: Option<Box<[u8]>>,
    pub bias: u64,
    /// Addresses in the process, and offsets: what the kernel side gets.
    pub process: PyProcess,
}

/// There is an interpreter, but its frames cannot be walked. Native stacks remain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unsupported {
    #[error("{error} ({})", path.display())]
    Offsets { path: PathBuf, error: OffsetsError },
    #[error("the version of the Python interpreter cannot be told ({})", path.display())]
    Versionless { path: PathBuf },
    #[error("the Python interpreter does not export `{symbol}` ({})", path.display())]
    Symbol { path: PathBuf, symbol: &'static str },
    #[error("the Python interpreter is not mapped as its file says ({})", path.display())]
    Mapping { path: PathBuf },
}

/// Files already looked at, by identity: most processes of a machine share theirs.
#[derive(Debug, Default)]
pub struct Images {
    by_file: HashMap<FileId, Option<Arc<Image>>>,
}

/// Finds the interpreter among the mappings of one process. For many processes, keep an [`Images`].
pub fn find(maps: &[Mapping], open: impl FnMut(&Mapping) -> Option<File>) -> Result<Option<Interpreter>, Unsupported> {
    Images::default().find(maps, open)
}

/// One file and its first executable mapping.
struct Mapped<'a> {
    mapping: &'a Mapping,
    image: Arc<Image>,
}

impl Images {
    /// Finds the interpreter among the mappings of one process. `open` gives a mapping's file; one that it cannot give
    /// counts as not Python, and is asked for again next time.
    pub fn find(
        &mut self,
        maps: &[Mapping],
        mut open: impl FnMut(&Mapping) -> Option<File>,
    ) -> Result<Option<Interpreter>, Unsupported> {
        let mut mapped: Vec<Mapped<'_>> = Vec::new();
        // Only code is of interest: data files, fonts and archives are mapped too, but never executable.
        for mapping in maps.iter().filter(|mapping| mapping.executable && mapping.is_file()) {
            if mapped.iter().any(|seen| seen.mapping.file == mapping.file) {
                continue;
            }
            if let Some(image) = self.image(mapping, &mut open) {
                mapped.push(Mapped { mapping, image });
            }
        }
        let mut refusal = None;
        for candidate in mapped.iter().filter(|candidate| candidate.image.is_interpreter()) {
            match place(candidate, &mapped, maps) {
                Ok(interpreter) => return Ok(Some(interpreter)),
                Err(unsupported) => refusal = refusal.or(Some(unsupported)),
            }
        }
        refusal.map_or(Ok(None), Err)
    }

    /// Has each of these files been looked at, and found to be no interpreter?
    pub fn has_none(&self, mut files: impl Iterator<Item = FileId>) -> bool {
        files.all(|file| {
            let image = self.by_file.get(&file);
            image.is_some_and(|image| !image.as_ref().is_some_and(|image| image.is_interpreter()))
        })
    }

    fn image(&mut self, mapping: &Mapping, open: &mut impl FnMut(&Mapping) -> Option<File>) -> Option<Arc<Image>> {
        if let Some(known) = self.by_file.get(&mapping.file) {
            return known.clone();
        }
        let image = elf::read_file(open(mapping)?).filter(is_of_interest).map(Arc::new);
        self.by_file.insert(mapping.file, image.clone());
        image
    }
}

/// A program may hold the one copy of an interpreter's variables even though it contains no interpreter.
fn is_of_interest(image: &Image) -> bool {
    image.is_interpreter() || image.asyncio_debug.is_some() || image.program
}

/// What a file says of the interpreter in it, in the file's own addresses; for a program that has not been started yet.
/// `Ok(None)`: there is none. `name` is the file's, and decides nothing unless the file does not know its version.
pub fn describe(image: &Image, name: &Path) -> Result<Option<(Version, PyProcess)>, Unsupported> {
    if !image.is_interpreter() {
        return Ok(None);
    }
    described(image, name, image.asyncio_debug.as_ref()).map(Some)
}

fn described(
    image: &Image,
    path: &Path,
    asyncio_debug: Option<&[u64; ASYNCIO_WORDS]>,
) -> Result<(Version, PyProcess), Unsupported> {
    let version = version(image, path).ok_or_else(|| Unsupported::Versionless { path: path.into() })?;
    let offsets = offsets::find(version, image.debug_offsets.as_deref(), asyncio_debug)
        .map_err(|error| Unsupported::Offsets { path: path.into(), error })?;
    Ok((version, addresses(image, path, offsets)?))
}

fn addresses(image: &Image, path: &Path, offsets: PyOffsets) -> Result<PyProcess, Unsupported> {
    let symbols = &image.symbols;
    let need = |address: Option<u64>, symbol| address.ok_or(Unsupported::Symbol { path: path.into(), symbol });
    Ok(PyProcess {
        runtime: need(symbols.runtime.or(symbols.interp_head), "_PyRuntime")?,
        code_type: need(symbols.code_type, "PyCode_Type")?,
        type_type: need(symbols.type_type, "PyType_Type")?,
        unicode_type: need(symbols.unicode_type, "PyUnicode_Type")?,
        long_type: need(symbols.long_type, "PyLong_Type")?,
        builtin_type: need(symbols.builtin_type, "PyCFunction_Type")?,
        offsets,
    })
}

/// The surest source first. Before 3.11 that is the cache tag, and only without one the file's name.
fn version(image: &Image, path: &Path) -> Option<Version> {
    let described = image.debug_offsets.as_ref().and_then(|words| u32::try_from(*words.get(1)?).ok());
    if let Some(hex) = image.symbols.version.or(described) {
        return Some(Version::from_hex(hex));
    }
    image.cache_tag.map(|minor| Version::new(3, minor)).or_else(|| version_from_name(path))
}

/// `python3.9`, `libpython3.6m.so.1.0`, `libpython2.7.so`.
fn version_from_name(path: &Path) -> Option<Version> {
    let (_, version) = path.file_name()?.to_str()?.split_once("python")?;
    let (major, minor) = version.split_once('.')?;
    let digits = minor.bytes().take_while(u8::is_ascii_digit).count();
    Some(Version::new(major.parse().ok()?, minor[..digits].parse().ok()?))
}

fn place(candidate: &Mapped<'_>, all: &[Mapped<'_>], maps: &[Mapping]) -> Result<Interpreter, Unsupported> {
    let Mapped { mapping, image } = candidate;
    let path = &PathBuf::from(OsStr::from_bytes(mapping.file_path()));
    let asyncio = all.iter().find_map(|other| other.image.asyncio_debug.as_ref());
    let (version, process) = described(image, path, asyncio)?;
    let bias = bias(image, mapping.file, maps).ok_or_else(|| Unsupported::Mapping { path: path.clone() })?;
    let mut process = process.at(bias);
    // A program linked against libpython may have been given its own copy of a variable (`R_X86_64_COPY`); all uses,
    // those of the library included, then go to that copy.
    let program = all.iter().find(|other| other.image.program && other.mapping.file != mapping.file);
    if let Some((program, bias)) =
        program.and_then(|other| Some((other, self::bias(&other.image, other.mapping.file, maps)?)))
    {
        let symbols = &program.image.symbols;
        for (address, copy) in [
            (&mut process.code_type, symbols.code_type),
            (&mut process.type_type, symbols.type_type),
            (&mut process.unicode_type, symbols.unicode_type),
            (&mut process.long_type, symbols.long_type),
            (&mut process.builtin_type, symbols.builtin_type),
        ] {
            if let Some(copy) = copy {
                *address = copy.wrapping_add(bias);
            }
        }
    }
    Ok(Interpreter { version, path: path.clone(), file: mapping.file, build_id: image.build_id.clone(), bias, process })
}

/// From the code if possible: the whole file may be mapped a second time, as data.
fn bias(image: &Image, file: FileId, maps: &[Mapping]) -> Option<u64> {
    let of_file = || maps.iter().filter(|mapping| mapping.file == file);
    of_file()
        .filter(|mapping| mapping.executable)
        .chain(of_file())
        .find_map(|mapping| image.bias(mapping.start, mapping.offset, mapping.executable))
}

/// What a look at the live interpreter says about its description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// A frame was read and made sense.
    Valid,
    /// Nothing contradicts the description, but nothing runs by which it could be proven: too early, or too late.
    NotYet,
    /// Do not use it; says what did not fit.
    Invalid(&'static str),
}

/// Threads looked at, for one that runs Python code.
const THREADS_MAX: usize = 1024;
/// Frames of one thread looked at.
const FRAMES_MAX: usize = 64;
/// Looks at a running process: its frames may change between two reads.
const TRIES: usize = 5;

/// Reads a frame of the live process by its description.
pub fn validate(mem: &impl ReadMem, py: &PyProcess) -> Validity {
    let types = [
        (py.type_type, &b"type"[..]),
        (py.code_type, b"code"),
        (py.unicode_type, b"str"),
        (py.long_type, b"int"),
        (py.builtin_type, b"builtin_function_or_method"),
    ];
    for (address, name) in types {
        let Some(at) = mem.read_u64(address.wrapping_add(py.offsets.type_name.into())) else {
            return Validity::Invalid("the builtin types cannot be read");
        };
        match mem.read_c_string(at, 64) {
            Some(found) if found == name => {}
            Some(_) => return Validity::Invalid("the builtin types are not where they should be"),
            // The dynamic linker has not been here: the slot is empty, or holds an address of the file.
            None => return Validity::NotYet,
        }
    }
    // The addresses of types are filled in when the interpreter starts.
    match mem.read_u64(py.code_type.wrapping_add(py.offsets.object_type.into())) {
        Some(0) => return Validity::NotYet,
        Some(kind) if kind == py.type_type => {}
        _ => return Validity::Invalid("the builtin types are not of type `type`"),
    }
    let mut validity = Validity::NotYet;
    for _ in 0..TRIES {
        validity = look(mem, py);
        if !matches!(validity, Validity::Invalid(_)) {
            break;
        }
    }
    validity
}

fn look(mem: &impl ReadMem, py: &PyProcess) -> Validity {
    let mut validity = Validity::NotYet;
    for thread in walk::threads(mem, py).take(THREADS_MAX) {
        let stack = walk::frames(mem, py, thread.state, FRAMES_MAX);
        match stack.frames.first() {
            Some(frame) => match code::read(mem, py, frame.code) {
                _ if !is_thread_pointer(mem, thread.id) => {
                    validity = Validity::Invalid("threads are not known by their thread pointer");
                }
                Some(def) if !def.file.as_os_str().is_empty() && !def.name.is_empty() => {
                    return Validity::Valid;
                }
                _ => validity = Validity::Invalid("a frame's code object could not be read"),
            },
            None if stack.end != walk::End::Complete => {
                validity = Validity::Invalid("the frames of a thread could not be read");
            }
            None if stack.skipped > 0 => validity = Validity::Invalid("the frames of a thread have no code objects"),
            None => {}
        }
    }
    validity
}

/// On x86-64 a thread pointer points to itself, whatever the C library: the kernel side finds threads by it.
fn is_thread_pointer(mem: &impl ReadMem, id: u64) -> bool {
    !cfg!(target_arch = "x86_64") || mem.read_u64(id) == Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_names() {
        for (name, version) in [
            ("/usr/bin/python3.11", Some("3.11")),
            ("/usr/lib/libpython3.6m.so.1.0", Some("3.6")),
            ("/usr/bin/python3", None),
            ("/usr/lib/libpython2.7.so", Some("2.7")),
            ("/usr/bin/python3.", None),
            ("/usr/bin/python3.999", None),
            ("/", None),
        ] {
            let found = version_from_name(Path::new(name)).map(|version| version.to_string());
            assert_eq!(found.as_deref(), version, "{name}");
        }
    }

    /// Words and names by address: all else cannot be read.
    #[derive(Default)]
    struct Sparse {
        words: HashMap<u64, u64>,
        names: HashMap<u64, &'static [u8]>,
    }

    impl ReadMem for Sparse {
        fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
            if let (Some(word), 8) = (self.words.get(&addr), buf.len()) {
                buf.copy_from_slice(&word.to_ne_bytes());
                return true;
            }
            let Some(name) = self.names.get(&addr) else { return false };
            buf.fill(0);
            buf[..name.len()].copy_from_slice(name);
            true
        }
    }

    #[test]
    fn a_program_that_is_not_linked_yet_contradicts_nothing() {
        let offsets = offsets::find(Version::new(3, 9), None, None).expect("known");
        let at = |base: u64| PyProcess {
            type_type: base,
            code_type: base + 0x1000,
            unicode_type: base + 0x2000,
            long_type: base + 0x3000,
            builtin_type: base + 0x4000,
            offsets,
            ..PyProcess::default()
        };
        let py = at(0x7f00_0000_0000);
        let names: [&[u8]; 5] = [b"type", b"code", b"str", b"int", b"builtin_function_or_method"];
        let types = [py.type_type, py.code_type, py.unicode_type, py.long_type, py.builtin_type];
        let mut mem = Sparse::default();
        assert!(matches!(validate(&mem, &py), Validity::Invalid(_)), "nothing is there");
        // As `ld` leaves a slot that is relocated later: empty, or with the address that the file has for it.
        for slot in [0, 0x5000] {
            mem.words.extend(types.map(|kind| (kind + u64::from(offsets.type_name), slot)));
            assert_eq!(validate(&mem, &py), Validity::NotYet, "{slot}");
        }
        for (kind, (name, place)) in types.into_iter().zip(names.into_iter().zip(0x100u64..)) {
            mem.words.insert(kind + u64::from(offsets.type_name), place * 32);
            mem.names.insert(place * 32, name);
        }
        mem.words.insert(py.code_type + u64::from(offsets.object_type), 0);
        assert_eq!(validate(&mem, &py), Validity::NotYet, "the types have no type yet");
        mem.names.insert(0x101 * 32, b"cell");
        assert!(matches!(validate(&mem, &py), Validity::Invalid(_)), "another type is there");
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        assert!(find(&[], |_| None).is_ok_and(|found| found.is_none()));
        let maps = crate::who::maps::read(std::process::id()).expect("own mappings");
        let found = find(&maps, |mapping| crate::who::open::mapped_file(std::process::id(), mapping).ok());
        assert!(found.is_ok_and(|found| found.is_none()));
    }
}
