//! What functions are called: names of what a file takes from others, and of its own.

use std::{collections::HashMap, io};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

use super::{
    flow::Target,
    names::{Names, TABLE_MAX},
};
use crate::who::native::{
    elf::{u32_at, u64_at},
    object::Object,
};

const RELOCATION: usize = 24;
const R_X86_64_64: u32 = 1;
const R_X86_64_GLOB_DAT: u32 = 6;
const R_X86_64_JUMP_SLOT: u32 = 7;
const R_X86_64_RELATIVE: u32 = 8;

/// Functions of the C library that return a new descriptor, and nothing but that.
#[rustfmt::skip]
const CREATORS: [&str; 33] = [
    "accept", "accept4", "creat", "creat64", "dup", "epoll_create", "epoll_create1", "eventfd", "fanotify_init",
    "inotify_init", "inotify_init1", "memfd_create", "mkostemp", "mkostemp64", "mkstemp", "mkstemp64", "open", "open64",
    "openat", "openat64", "pidfd_open", "posix_openpt", "shm_open", "socket", "timerfd_create", "userfaultfd",
    "__open_2", "__open64_2", "__openat_2", "__openat64_2", "__libc_open", "__libc_open64", "__socket",
];

/// Those whose first argument is the number that they are about. Not those that ask what it is: `fstat`, `fcntl`, `ioctl`. A
/// program that knows its number may have been closed asks before it uses it.
#[rustfmt::skip]
const USERS: [&str; 41] = [
    "accept", "accept4", "bind", "close", "connect", "fallocate", "fchmod", "fchown", "fdatasync", "flock", "fsync",
    "ftruncate", "ftruncate64", "getdents64", "listen", "lseek", "lseek64", "pread", "pread64", "preadv",
    "pwrite", "pwrite64", "pwritev", "read", "readv", "recv", "recvfrom", "recvmsg", "send", "sendmsg", "sendto",
    "shutdown", "syncfs", "write", "writev", "__close", "__read_chk", "__pread_chk", "__recv_chk", "__libc_read",
    "__libc_write",
];

/// What a function of the C library has to do with numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    pub creates: bool,
    pub uses: bool,
}

/// `None`: nothing.
fn meaning(name: &[u8]) -> Option<Meaning> {
    let is_in = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
    let meaning = Meaning { creates: is_in(&CREATORS), uses: is_in(&USERS) };
    (meaning != Meaning::default()).then_some(meaning)
}

/// Functions that a file calls, and pointers in its data.
#[derive(Debug, Default)]
pub struct Imports {
    /// By the pointer that points to the function once the file is loaded.
    pointers: HashMap<u64, Meaning>,
    /// Functions of the file itself, where the library is part of it.
    own: HashMap<u64, Meaning>,
    /// Addresses that the loader writes into the data.
    pub relative: Vec<u64>,
}

impl Imports {
    pub fn load(object: &Object) -> io::Result<Self> {
        let mut imports = Self::default();
        let names = Names::load(object, b".dynsym")?;
        let mut is_alone = true;
        for section in [&b".rela.dyn"[..], b".rela.plt"] {
            let Some(section) = object.elf.section(section) else { continue };
            let rows = object.elf.section_data(&object.source, section, TABLE_MAX)?;
            for row in rows.chunks_exact(RELOCATION) {
                let (at, kind, symbol, addend) = (u64_at(row, 0), u32_at(row, 8), u32_at(row, 12), u64_at(row, 16));
                match kind {
                    R_X86_64_64 | R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT => {
                        is_alone = false;
                        let known = names.of(symbol).and_then(meaning);
                        imports.pointers.extend(known.map(|known| (at, known)));
                    }
                    R_X86_64_RELATIVE => imports.relative.push(addend),
                    _ => {}
                }
            }
        }
        // Where the library is elsewhere, a function of such a name is another one.
        if is_alone {
            let names = Names::load(object, b".symtab")?;
            imports.own.extend(names.functions().filter_map(|(address, name)| Some((address, meaning(name)?))));
        }
        Ok(imports)
    }

    pub fn meaning(&self, object: &Object, target: Target) -> Option<Meaning> {
        let pointer = match target {
            Target::Unknown => return None,
            Target::Pointer(at) => at,
            Target::Function(at) => match self.own.get(&at) {
                Some(known) => return Some(*known),
                None => stub(object, at)?,
            },
        };
        self.pointers.get(&pointer).copied()
    }
}

/// The pointer by which a stub of the linker's jumps: `endbr64`, perhaps, and a jump.
fn stub(object: &Object, at: u64) -> Option<u64> {
    const LONGEST: u64 = 16;
    let code = object.source.read(object.elf.offset_of_address(at)?, LONGEST, LONGEST).ok()?;
    let mut decoder = Decoder::with_ip(64, &code, at, DecoderOptions::NONE);
    let mut instruction = decoder.decode();
    if instruction.mnemonic() == Mnemonic::Endbr64 {
        instruction = decoder.decode();
    }
    let jumps = instruction.flow_control() == FlowControl::IndirectBranch && instruction.is_ip_rel_memory_operand();
    jumps.then(|| instruction.ip_rel_memory_address())
}
