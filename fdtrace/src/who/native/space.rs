//! The executable memory of one process: which file each address belongs to, and the unwind rules found so far.
//!
//! Built from `/proc/PID/maps` while the process lives; answers afterwards too. Modules are never removed, so that the
//! index in a frame keeps its meaning after `dlclose`.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::elf::PF_X;
use super::object::{Object, Objects};
use super::perf_map::PerfMap;
use super::rule::{self, Context, Rule};
use super::unwind::{End, Lost, Snapshot, Stack};
use crate::who::maps::{self, Mapping};

/// Most rules kept of one process; then it starts over.
const RULES_MAX: usize = 1 << 15;
/// Most files of one process that are looked at.
const MODULES_MAX: usize = 4096;
/// A process that returns into nowhere again and again must not make us read its mappings each time.
const REFRESH_EVERY: Duration = Duration::from_millis(50);
/// The vDSO has two to four pages.
const VDSO_MAX: u64 = 64 << 10;

/// A file, or the vDSO, where a process has it.
#[derive(Debug)]
pub struct Module {
    pub object: Arc<Object>,
    /// Address in the process minus address in the file.
    pub bias: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    module: Option<u32>,
    inode: u64,
}

/// What is known of a code address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code {
    pub module: Option<u32>,
    pub rule: Rule,
}

pub struct AddressSpace {
    pid: u32,
    /// Executable memory, by address.
    regions: Vec<Region>,
    modules: Vec<Module>,
    rules: HashMap<u64, Code, BuildHasherDefault<AddressHasher>>,
    /// What rules are read with, once one has been.
    context: Option<Context>,
    pub(super) perf_map: Option<PerfMap>,
    refreshed: Instant,
}

impl AddressSpace {
    /// Reads the mappings of a process.
    pub fn load(pid: u32, objects: &mut Objects) -> io::Result<Self> {
        let mut space = Self::empty(pid);
        space.refresh(objects)?;
        Ok(space)
    }

    /// As [`AddressSpace::load`], from mappings that were read before.
    pub fn from_mappings(pid: u32, mappings: &[Mapping], objects: &mut Objects) -> Self {
        let mut space = Self::empty(pid);
        space.update(mappings, objects);
        space
    }

    /// Nothing is known yet.
    pub fn empty(pid: u32) -> Self {
        Self {
            pid,
            regions: Vec::new(),
            modules: Vec::new(),
            rules: HashMap::default(),
            context: None,
            perf_map: None,
            refreshed: Instant::now(),
        }
    }

    /// Reads the mappings anew; true when executable memory has changed. Worth calling when [`AddressSpace::covers`]
    /// denies an instruction pointer, or a stack ends with [`super::Lost::NotCode`]. An error (the process is gone)
    /// changes nothing.
    pub fn refresh(&mut self, objects: &mut Objects) -> io::Result<bool> {
        let mappings = maps::read(self.pid)?;
        // A zombie has no mappings any more; ours are better.
        if mappings.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.update(&mappings, objects))
    }

    /// As [`AddressSpace::refresh`], from mappings that were read before.
    pub fn update(&mut self, mappings: &[Mapping], objects: &mut Objects) -> bool {
        let mut regions = Vec::new();
        for mapping in mappings.iter().filter(|mapping| mapping.executable && mapping.path != b"[vsyscall]") {
            let module = self.module_of(mapping, objects).unwrap_or_else(|error| {
                log::debug!("cannot read `{}` of process {}: {error}", mapping.path.escape_ascii(), self.pid);
                // Perhaps the process has just died. What was there a moment ago is the best answer.
                let same = |region: &&Region| (region.start, region.end) == (mapping.start, mapping.end);
                self.regions.iter().find(same).and_then(|region| region.module)
            });
            regions.push(Region { start: mapping.start, end: mapping.end, module, inode: mapping.file.inode });
        }
        regions.sort_unstable_by_key(|region| region.start);
        if regions.iter().any(|region| region.module.is_none()) && self.perf_map.is_none() {
            self.perf_map = PerfMap::open(self.pid);
        }
        let changed = regions != self.regions;
        if changed {
            self.regions = regions;
            self.rules.clear();
        }
        changed
    }

    /// Adds one mapping of executable memory, told by somebody else than `/proc`. `false`: that was known, or cannot be
    /// read.
    pub fn add(&mut self, mapping: &Mapping, objects: &mut Objects) -> bool {
        if self.region_at(mapping.start).is_some_and(|region| region.module.is_some()) {
            return false;
        }
        let module = match self.module_of(mapping, objects) {
            Ok(Some(module)) => module,
            Ok(None) => return false,
            Err(error) => {
                log::debug!("cannot read `{}` of process {}: {error}", mapping.path.escape_ascii(), self.pid);
                return false;
            }
        };
        self.regions.retain(|region| region.end <= mapping.start || region.start >= mapping.end);
        let module = Some(module);
        self.regions.push(Region { start: mapping.start, end: mapping.end, module, inode: mapping.file.inode });
        self.regions.sort_unstable_by_key(|region| region.start);
        self.rules.clear();
        true
    }

    /// As [`AddressSpace::add`], for the program itself: `start` is the address of its first executable segment, and of
    /// the mapping only the file is known.
    pub fn add_program(&mut self, start: u64, file: &Mapping, objects: &mut Objects) -> bool {
        const PAGE: u64 = 0xfff;
        let Ok(Some(object)) = objects.open(self.pid, file) else { return false };
        let code = object.elf.loads().filter(|segment| segment.flags & PF_X != 0).min_by_key(|segment| segment.vaddr);
        let Some(code) = code else { return false };
        let mapping = Mapping {
            start: start & !PAGE,
            end: start.saturating_add(code.memsz),
            offset: code.offset & !PAGE,
            ..file.clone()
        };
        self.add(&mapping, objects)
    }

    /// Unwinds while the process may still live: when the walk meets memory that has become executable since (`dlopen`,
    /// a JIT compiler), the mappings are read anew, at most once in [`REFRESH_EVERY`].
    pub fn unwind_live(&mut self, snapshot: &Snapshot<'_>, objects: &mut Objects) -> Stack {
        let stack = self.unwind(snapshot);
        if stack.end != End::Lost(Lost::NotCode) || self.refreshed.elapsed() < REFRESH_EVERY {
            return stack;
        }
        self.refreshed = Instant::now();
        match self.refresh(objects) {
            Ok(true) => self.unwind(snapshot),
            _ => stack,
        }
    }

    /// The process has ended: what remains is to name frames that are kept, for which most of the memory is not needed.
    pub fn retire(&mut self) {
        self.rules = HashMap::default();
        self.context = None;
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Does it tell what is in the memory of a process, or `own`: was it read from that process, and not from its parent? What
    /// a JIT compiler has made is in a file that each process has for itself.
    pub fn is_of(&self, pid: u32, own: bool) -> bool {
        self.pid == pid || !own && self.perf_map.is_none()
    }

    /// Does it tell of code there that is not this file's?
    pub fn has_other(&self, there: &Range<u64>, inode: u64) -> bool {
        let mut overlapping = self.regions.iter().filter(|region| region.start < there.end && there.start < region.end);
        overlapping.any(|region| region.inode != inode)
    }

    pub fn module(&self, index: u32) -> Option<&Module> {
        self.modules.get(index as usize)
    }

    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Whether an address is in executable memory, as far as is known.
    pub fn covers(&self, address: u64) -> bool {
        self.region_at(address).is_some()
    }

    /// Bytes of memory of this process alone, without the objects.
    pub fn memory(&self) -> usize {
        size_of_val(self.regions.as_slice())
            + size_of_val(self.modules.as_slice())
            + self.rules.capacity() * size_of::<(u64, Code)>()
            + self.context.as_ref().map_or(0, |_| size_of::<gimli::UnwindTableRow<usize>>() * 4)
    }

    /// The file whose code is there: its module, and its inode.
    pub fn file_at(&self, address: u64) -> Option<(Option<u32>, u64)> {
        self.region_at(address).map(|region| (region.module, region.inode))
    }

    pub(super) fn code_at(&mut self, address: u64) -> Option<Code> {
        if let Some(code) = self.rules.get(&address) {
            return Some(*code);
        }
        let module = self.region_at(address)?.module;
        let rule = match module.and_then(|index| self.modules.get(index as usize)) {
            Some(module) => {
                let context = self.context.get_or_insert_with(Context::new);
                rule::rule_at(&module.object, address.wrapping_sub(module.bias), context)
            }
            None => Rule::Uncovered,
        };
        if self.rules.len() >= RULES_MAX {
            self.rules.clear();
        }
        let code = Code { module, rule };
        self.rules.insert(address, code);
        Some(code)
    }

    /// The object of a piece of code, the address in its terms, and scratch memory.
    pub(super) fn object_and_context(&mut self, code: &Code, address: u64) -> Option<(&Object, u64, &mut Context)> {
        let module = self.modules.get(code.module? as usize)?;
        let context = self.context.get_or_insert_with(Context::new);
        Some((&module.object, address.wrapping_sub(module.bias), context))
    }

    fn region_at(&self, address: u64) -> Option<&Region> {
        let after = self.regions.partition_point(|region| region.start <= address);
        self.regions[..after].last().filter(|region| address < region.end)
    }

    fn module_of(&mut self, mapping: &Mapping, objects: &mut Objects) -> io::Result<Option<u32>> {
        let (object, address) = if mapping.path == b"[vdso]" {
            let Some(object) = objects.vdso(self.pid, read_memory(self.pid, mapping)?) else {
                return Ok(None);
            };
            let first = object.elf.loads().next().map(|segment| segment.vaddr);
            (object, first)
        } else if mapping.is_file() {
            let Some(object) = objects.open(self.pid, mapping)? else {
                return Ok(None);
            };
            let address = object.elf.address_of_offset(mapping.offset, true);
            (object, address)
        } else {
            return Ok(None);
        };
        let Some(address) = address else {
            return Ok(None);
        };
        let bias = mapping.start.wrapping_sub(address);
        let known = self.modules.iter().position(|module| module.bias == bias && Arc::ptr_eq(&module.object, &object));
        let index = known.unwrap_or(self.modules.len());
        if known.is_none() {
            if index == MODULES_MAX {
                return Ok(None);
            }
            self.modules.push(Module { object, bias });
        }
        Ok(u32::try_from(index).ok())
    }
}

fn read_memory(pid: u32, mapping: &Mapping) -> io::Result<Vec<u8>> {
    let size = (mapping.end - mapping.start).min(VDSO_MAX);
    let mut bytes = vec![0; size as usize];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, mapping.start)?;
    Ok(bytes)
}

/// Addresses are spread well enough by one multiplication. A process that makes its own addresses collide slows down
/// its own unwinding, within the bound on rules.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // The table takes its position from the low bits and its tag from the high ones.
        let spread = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}
