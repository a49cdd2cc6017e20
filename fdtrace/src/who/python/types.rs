//! Which types own descriptors: data for the rules about owners.
//!
//! A type owns if its instances keep the number at [`owner_fd`](fdtrace_common::python::PyOffsets::owner_fd) and set it
//! to -1 *before* they call `close`; only then can a close be told from a stale one by looking at the object. Of the
//! standard library these are the three kinds below, and all subclasses of them. Looked at and left out:
//!
//! - `mmap.mmap` closes its own duplicate first and forgets the number afterwards;
//! - `os.scandir` holds a `DIR *`, `ossaudiodev` (until 3.12) keeps its number elsewhere;
//! - `select.poll`, `ssl._SSLSocket`, `subprocess` and `multiprocessing` use numbers that others own;
//! - `select.kqueue` and `select.devpoll` do not exist on Linux.

use fdtrace_common::python::PyProcess;

use super::memory::ReadMem;
use super::objects;

/// What kind of descriptor a type's instances own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnerKind {
    /// `_io.FileIO`, below every file opened with `open`.
    FileIo,
    /// `_socket.socket`, the base of `socket.socket`.
    Socket,
    /// `select.epoll`.
    Epoll,
}

/// The type from which a kind inherits its layout. The names are those in C, which the module gave them.
struct Origin {
    kind: OwnerKind,
    name: &'static [u8],
    /// Its base. A class of the program that was given such a name is told apart by it where the base is not `object`.
    base: &'static [u8],
}

const ORIGINS: [Origin; 3] = [
    Origin { kind: OwnerKind::FileIo, name: b"_io.FileIO", base: b"_io._RawIOBase" },
    Origin { kind: OwnerKind::Socket, name: b"_socket.socket", base: b"object" },
    Origin { kind: OwnerKind::Epoll, name: b"select.epoll", base: b"object" },
];

/// What an address that was taken for a type turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// Its instances own a descriptor. The name is the type's own, without a module for classes written in Python.
    Owner {
        kind: OwnerKind,
        name: String,
    },
    /// A type, but not of owners.
    Other,
    NotAType,
    /// Memory could not be read: ask again.
    Unreadable,
}

/// Longest chain of bases that is followed; real ones have less than ten.
const BASES_MAX: usize = 64;
const NAME_MAX: usize = 256;
/// `Py_TPFLAGS_TYPE_SUBCLASS`: the type's instances are types.
const TYPE_SUBCLASS: u64 = 1 << 31;

/// Is this a type whose instances own a descriptor? `at` is the type's address.
pub fn classify(mem: &impl ReadMem, py: &PyProcess, at: u64) -> Class {
    match is_type(mem, py, at) {
        Some(true) => {}
        Some(false) => return Class::NotAType,
        None => return Class::Unreadable,
    }
    let Some(own_name) = name(mem, py, at) else {
        return Class::Unreadable;
    };
    let mut current = Some((at, own_name.clone()));
    for _ in 0..BASES_MAX {
        let Some((of, name)) = current else {
            return Class::Other;
        };
        let Ok(base) = base(mem, py, of) else {
            return Class::Unreadable;
        };
        current = match base {
            None => None,
            Some(base) => match self::name(mem, py, base) {
                Some(name) => Some((base, name)),
                None => return Class::Unreadable,
            },
        };
        let base_name = current.as_ref().map(|(_, name)| name.as_slice());
        let origin = ORIGINS.iter().find(|origin| origin.name == name && Some(origin.base) == base_name);
        if let Some(origin) = origin {
            return Class::Owner { kind: origin.kind, name: String::from_utf8_lossy(&own_name).into_owned() };
        }
    }
    Class::Other
}

/// Is `at` the type with this name, or derived from it? False also if memory could not be read.
pub fn is_subtype(mem: &impl ReadMem, py: &PyProcess, at: u64, wanted: &[u8]) -> bool {
    let mut current = at;
    for _ in 0..BASES_MAX {
        if name(mem, py, current).as_deref() == Some(wanted) {
            return true;
        }
        match base(mem, py, current) {
            Ok(Some(base)) => current = base,
            _ => return false,
        }
    }
    false
}

/// `tp_name`: with its module for types made in C, without for classes of a program.
pub fn name(mem: &impl ReadMem, py: &PyProcess, at: u64) -> Option<Vec<u8>> {
    let name = mem.read_ptr(at.wrapping_add(py.offsets.type_name.into()))?;
    mem.read_c_string(name, NAME_MAX)
}

/// The type's type is `type`, or a metaclass: `abc.ABCMeta` is one, so a subclass of `io.RawIOBase` has it.
fn is_type(mem: &impl ReadMem, py: &PyProcess, at: u64) -> Option<bool> {
    let meta = mem.read_u64(at.wrapping_add(py.offsets.object_type.into()))?;
    if meta == py.type_type {
        return Some(true);
    }
    // An address that was no type may lead anywhere, or nowhere.
    let read = |offset: u32| mem.read_u64(meta.wrapping_add(offset.into()));
    let (Some(of_meta), Some(flags)) = (read(py.offsets.object_type), read(py.offsets.type_flags)) else {
        return Some(false);
    };
    let is_metaclass =
        of_meta == py.type_type || objects::type_of(mem, py, of_meta).is_some_and(|kind| kind == py.type_type);
    Some(is_metaclass && flags & TYPE_SUBCLASS != 0)
}

/// `tp_base`; none for `object`.
fn base(mem: &impl ReadMem, py: &PyProcess, at: u64) -> Result<Option<u64>, ()> {
    match mem.read_u64(at.wrapping_add(py.offsets.type_base.into())) {
        Some(0) => Ok(None),
        Some(base) => Ok(Some(base)),
        None => Err(()),
    }
}
