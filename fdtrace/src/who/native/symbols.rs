//! Names frames: function, source line, module.
//!
//! Files are read when a report first needs a name from them, through the descriptors that [`Object`]s keep. Names come
//! from hostile files:
//! they are bounded and valid UTF-8 here, and whoever prints them escapes them.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::debug::{self, DebugInfo, Place};
use super::demangle::demangle;
use super::elf::{Elf, Source, u32_at};
use super::object::Object;
use super::rule::{self, Context};
use super::space::{AddressSpace, Module};
use super::stack::NativeFrame;
use super::symtab::SymbolTable;
use super::unwind::Frame;
use crate::collections::Map;

/// Names kept; then the cache starts over.
const NAMES_MAX: usize = 1 << 16;
/// Memory for tables and debug information; then they are read again.
const MEMORY_MAX: usize = 1 << 30;
/// Functions so large that the compiler splits them, and that must be recognised in stripped files.
const SPLIT: &[&[u8]] = &[b"_PyEval_EvalFrameDefault"];

/// Names of all objects, as far as they were needed.
#[derive(Default)]
pub struct Symbols {
    objects: Map<u64, ObjectSymbols>,
    names: Map<(u64, u64), Rc<[Name]>>,
    memory: usize,
}

struct ObjectSymbols {
    path: Rc<str>,
    build_id: Option<Rc<str>>,
    table: SymbolTable,
    debug: Debug,
    /// Where the function is with which the GNU C library opens its streams. Its name is part of what the library exports,
    /// so a stripped one has it as well.
    opens_streams: Option<Range<u64>>,
    /// Parts of functions of [`SPLIT`] that no symbol covers.
    parts: Vec<(Range<u64>, Vec<u8>)>,
}

/// Debug information, which is read when a line is first asked for: of a C library it takes a tenth of a second.
enum Debug {
    InFile,
    Separate(Box<(Elf, Source)>),
    Read(Box<DebugInfo>),
    None,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Name {
    symbol: Option<Rc<str>>,
    file: Option<Rc<str>>,
    line: Option<u32>,
}

impl Symbols {
    pub fn new() -> Self {
        Self::default()
    }

    /// Names frames of a process, which may have died. Inlined functions become frames of their own, before the one
    /// that contains them.
    pub fn resolve(&mut self, space: &mut AddressSpace, frames: &[Frame]) -> Vec<NativeFrame> {
        let mut named = Vec::with_capacity(frames.len());
        for frame in frames {
            match frame.module.and_then(|index| space.module(index)) {
                Some(module) => {
                    let offset = frame.address.wrapping_sub(module.bias);
                    let names = self.names_at(&module.object, frame.lookup_address().wrapping_sub(module.bias));
                    let ObjectSymbols { path, build_id, .. } = self.object(&module.object);
                    named.extend(names.iter().enumerate().map(|(at, name)| NativeFrame {
                        address: frame.address,
                        module: Some(Rc::clone(path)),
                        build_id: build_id.clone(),
                        offset: Some(offset),
                        symbol: name.symbol.clone(),
                        file: name.file.clone(),
                        line: name.line,
                        inlined: at + 1 < names.len(),
                        by_frame_pointer: frame.by_frame_pointer,
                    }));
                }
                None => {
                    let symbol = space
                        .perf_map
                        .as_mut()
                        .and_then(|map| map.name(frame.lookup_address()))
                        .map(|name| Rc::from(&*name));
                    named.push(NativeFrame {
                        address: frame.address,
                        symbol,
                        by_frame_pointer: frame.by_frame_pointer,
                        ..NativeFrame::default()
                    });
                }
            }
        }
        named
    }

    /// As [`Symbols::resolve`], without lines and inlined functions, for which debug information has to be read.
    pub fn functions(&mut self, space: &AddressSpace, frames: &[Frame]) -> Vec<NativeFrame> {
        let mut function = |frame: &Frame| {
            let module = frame.module.and_then(|index| space.module(index));
            let named = module.map(|Module { object, bias }| {
                let symbols = self.object(object);
                let symbol = symbols.function(object, frame.lookup_address().wrapping_sub(*bias));
                (Rc::clone(&symbols.path), symbol.map(|name| demangle(&name).into()))
            });
            let (module, symbol) = named.map_or((None, None), |(path, symbol)| (Some(path), symbol));
            let by_frame_pointer = frame.by_frame_pointer;
            NativeFrame { address: frame.address, module, symbol, by_frame_pointer, ..NativeFrame::default() }
        };
        frames.iter().map(&mut function).collect()
    }

    /// Is it sure that an open from here is none by which the C library makes a stream? The frames are those of the call, as
    /// many as may be the library's.
    pub fn opens_no_stream(&mut self, space: &AddressSpace, frames: &[Frame]) -> bool {
        let [innermost, _, ..] = frames else { return false };
        let Some(library) = innermost.module.and_then(|index| space.module(index)) else { return false };
        let Some(opens) = self.object(&library.object).opens_streams.clone() else { return false };
        let is_there = |frame: &Frame| {
            frame.module == innermost.module && opens.contains(&frame.lookup_address().wrapping_sub(library.bias))
        };
        !frames.iter().any(|frame| frame.by_frame_pointer || is_there(frame))
    }

    /// Bytes of memory that tables and debug information take.
    pub fn memory(&self) -> usize {
        self.memory
    }

    fn names_at(&mut self, object: &Object, address: u64) -> Rc<[Name]> {
        if let Some(names) = self.names.get(&(object.id, address)) {
            return Rc::clone(names);
        }
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        let symbols = self.object(object);
        let read = symbols.read_debug(object);
        let names: Rc<[Name]> = symbols.names(object, address).into();
        self.memory += read;
        self.names.insert((object.id, address), Rc::clone(&names));
        names
    }

    fn object(&mut self, object: &Object) -> &mut ObjectSymbols {
        if self.memory > MEMORY_MAX && !self.objects.contains_key(&object.id) {
            self.objects.clear();
            self.memory = 0;
        }
        let memory = &mut self.memory;
        self.objects.entry(object.id).or_insert_with(|| {
            let symbols = ObjectSymbols::load(object);
            *memory += symbols.table.memory();
            symbols
        })
    }
}

impl ObjectSymbols {
    fn load(object: &Object) -> Self {
        let mut table = SymbolTable::load(object);
        let debug = if DebugInfo::is_in(&object.elf) {
            Debug::InFile
        } else if let Some((elf, source)) = debug::separate(object) {
            table.load_separate(&elf, &source, &object.elf);
            Debug::Separate(Box::new((elf, source)))
        } else {
            Debug::None
        };
        let parts = SPLIT.iter().flat_map(|name| split_parts(object, &table, name)).collect();
        let build_id = object.build_id.as_deref().map(Rc::from);
        let opens_streams = table.range_of(b"_IO_file_open");
        let path = String::from_utf8_lossy(&object.path).into();
        Self { path, build_id, table, debug, opens_streams, parts }
    }

    /// Reads the debug information, unless that was done; the memory that it takes.
    fn read_debug(&mut self, object: &Object) -> usize {
        let read = match &self.debug {
            Debug::InFile => DebugInfo::load(&object.elf, &object.source),
            Debug::Separate(file) => DebugInfo::load(&file.0, &file.1),
            Debug::Read(_) | Debug::None => return 0,
        };
        let read = read.unwrap_or_else(|error| {
            log::debug!("no source lines of `{}`: {error}", object.path.escape_ascii());
            None
        });
        let memory = read.as_ref().map_or(0, DebugInfo::memory);
        self.debug = read.map_or(Debug::None, |read| Debug::Read(Box::new(read)));
        memory
    }

    /// The function at an address, or the one that it is a part of.
    fn function(&self, object: &Object, address: u64) -> Option<Vec<u8>> {
        let part = || {
            let (_, name) = self.parts.iter().find(|(range, _)| range.contains(&address))?;
            Some([name, &b".cold"[..]].concat())
        };
        self.table.find(object, address).map(|(_, name)| name.to_vec()).or_else(part)
    }

    /// At least one name, though perhaps an empty one.
    fn names(&self, object: &Object, address: u64) -> Vec<Name> {
        let symbol = self.function(object, address);
        let debug = if let Debug::Read(debug) = &self.debug { Some(debug) } else { None };
        let places = debug.map(|debug| debug.places(address)).transpose().unwrap_or_else(|error| {
            log::debug!("no source line for {address:#x} in `{}`: {error}", object.path.escape_ascii());
            None
        });
        let mut places = places.unwrap_or_default();
        if places.is_empty() {
            places.push(Place::default());
        }
        let last = places.len() - 1;
        let name = |(at, place): (usize, Place)| {
            // The symbol table knows what was compiled, parts and clones included; debug information knows what was
            // written.
            let symbol = if at == last { symbol.as_ref().or(place.function.as_ref()) } else { place.function.as_ref() };
            Name { symbol: symbol.map(|name| demangle(name).into()), file: place.file.map(Rc::from), line: place.line }
        };
        places.into_iter().enumerate().map(name).collect()
    }
}

/// The parts of a function that the compiler placed elsewhere, in a file without symbols for them: table entries that
/// begin in the middle of a frame, and that the function jumps into at least twice. Two, because bytes that look like a
/// jump need not be one.
fn split_parts(object: &Object, table: &SymbolTable, name: &[u8]) -> Vec<(Range<u64>, Vec<u8>)> {
    const CODE_MAX: u64 = 4 << 20;
    let Some(function) = table.range_of(name).filter(|_| cfg!(target_arch = "x86_64")) else {
        return Vec::new();
    };
    let code = object
        .elf
        .offset_of_address(function.start)
        .map(|offset| object.source.read(offset, function.end - function.start, CODE_MAX));
    let Some(Ok(code)) = code else {
        return Vec::new();
    };
    let mut entries: HashMap<u64, (Range<u64>, u32)> = HashMap::new();
    for at in 0..code.len().saturating_sub(6) {
        // `jmp rel32` and `jcc rel32`.
        let displacement = match code[at..] {
            [0xe9, ..] => at + 1,
            [0x0f, 0x80..=0x8f, ..] => at + 2,
            _ => continue,
        };
        let next = function.start + displacement as u64 + 4;
        let target = next.wrapping_add_signed(i64::from(u32_at(&code, displacement) as i32));
        if function.contains(&target) || table.find(object, target).is_some() {
            continue;
        }
        if let Some(range) = rule::entry_range(object, target) {
            entries.entry(range.start).or_insert((range, 0)).1 += 1;
        }
    }
    let mut context = Context::new();
    entries.retain(|start, (_, jumps)| *jumps >= 2 && rule::is_continuation(object, *start, &mut context));
    entries.into_values().map(|(range, _)| (range, name.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::who::native::Objects;

    /// The address of a function that the C library of this process exports.
    fn exported(name: &std::ffi::CStr) -> Option<u64> {
        // SAFETY: a string with an end; nothing is called.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        (!address.is_null()).then_some(address as u64)
    }

    #[test]
    fn who_opens_a_stream() {
        let mut space = AddressSpace::load(std::process::id(), &mut Objects::default()).unwrap();
        let all: Option<Vec<u64>> = [c"open64", c"_IO_file_open", c"opendir"].map(exported).into_iter().collect();
        let Some(&[open, stream, other]) = all.as_deref() else {
            eprintln!("skipped: another C library");
            return;
        };
        let mut frame = |address: u64| Frame {
            address: address + 8,
            module: space.code_at(address).unwrap().module,
            is_return_address: true,
            by_frame_pointer: false,
        };
        let program = who_opens_a_stream as *const () as u64;
        let [open, stream, other, program] = [open, stream, other, program].map(&mut frame);
        let mut symbols = Symbols::new();
        let mut none = |frames: &[Frame]| symbols.opens_no_stream(&space, frames);
        assert!(none(&[open, other, program]) && none(&[open, program]));
        assert!(!none(&[open, stream, program]) && !none(&[open, other, stream]));
        // Nothing is sure of what is not the library's, or was guessed, or nobody called.
        assert!(!none(&[program, program]) && !none(&[open]));
        assert!(!none(&[open, Frame { by_frame_pointer: true, ..other }]));
    }
}
