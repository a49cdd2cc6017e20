//! Every map of the main object. All types here exist since 5.8: an unsupported one would sink the whole object.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use fdtrace_common::{
    next,
    wire::{Inflight, PerCpu, Scratch, TracedProcess, Watch, gate},
    witness::{
        ClassKey, CodeKey, CodeRoom, Holder, ImageKey, KNOWN_STACKS, KnownStack, PyEntry, PyImage, SlotKey, StackKey,
        StackRoom,
    },
};

use crate::{
    gate::{NUMBERS_EACH, Number},
    walk::Walk,
};

/// All records of all processors, in one order. User space chooses the size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// The rooms that are taken, see `turns`, and who is in them.
#[map]
pub static TAKEN: HashMap<u32, u64> = HashMap::with_max_entries(4096, 0);

/// The processes under observation, by tgid.
#[map]
pub static TRACED: HashMap<u32, TracedProcess> = HashMap::with_max_entries(65_536, 0);

/// What most calls of a process are asked, in words that lie side by side so that they cost one look at memory:
/// `gate::WORDS` for each value of the low bits of a tgid, see `fdtrace_common::wire::gate`.
#[map]
pub static GATES: Array<u64> = Array::with_max_entries(gate::PROCESSES * gate::WORDS, 0);

/// The same of the numbers of a process.
#[map]
pub static NUMBERS: Array<[Number; NUMBERS_EACH]> = Array::with_max_entries(gate::PROCESSES, 0);

/// What is known of the call each thread is in, indexed by the low bits of its tid.
/// An array and not a hash: pairing through a hash costs more than everything else together.
#[map]
pub static INFLIGHT: Array<Inflight> = Array::with_max_entries(INFLIGHT_ENTRIES, 0);
pub const INFLIGHT_ENTRIES: u32 = 65_536;

/// What is to be reported when it is used: slots by `fdtrace_common::wire::watch_key`, and files by their address.
/// [`crate::shared::WATCHED_NUMBERS`] is a coarse filter in front of it. Both sides put things in, and nobody takes out what
/// went with its process: the longest unused goes.
#[map]
pub static WATCHED: LruHashMap<u64, Watch> = LruHashMap::with_max_entries(65_536, 0);

/// Counters that must not bounce between processors.
#[map]
pub static PER_CPU: PerCpuArray<PerCpu> = PerCpuArray::with_max_entries(1, 0);

/// Room to build records of variable length.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// The interpreter of each process that has a known one, by tgid.
#[map]
pub static PYTHON: HashMap<u32, PyEntry> = HashMap::with_max_entries(8192, 0);

/// Files that contain an interpreter: what a process that runs one begins with, before user space has looked at it.
#[map]
pub static IMAGES: HashMap<ImageKey, PyImage> = HashMap::with_max_entries(256, 0);

/// Address of the `PyThreadState` of each thread, by tid. A hint: the state says itself whose it is.
#[map]
pub static THREAD_STATES: LruHashMap<u32, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Code objects that were defined, and what they mean for the search of the task (`python::MARK_*`).
#[map]
pub static CODES: LruHashMap<CodeKey, u32> = LruHashMap::with_max_entries(65_536, 0);

/// What is known of types: one of `witness::owns`.
#[map]
pub static CLASSES_SEEN: LruHashMap<ClassKey, u32> = LruHashMap::with_max_entries(32_768, 0);

/// The object last bound to each number.
#[map]
pub static HOLDERS: LruHashMap<SlotKey, Holder> = LruHashMap::with_max_entries(65_536, 0);

/// The number that each object was bound to.
#[map]
pub static HELD: LruHashMap<ClassKey, u32> = LruHashMap::with_max_entries(65_536, 0);

/// Stacks that user space has unwound before. It fills the map.
#[map]
pub static KNOWN: LruHashMap<StackKey, KnownStack> = LruHashMap::with_max_entries(KNOWN_STACKS, 0);

/// Room for one walk.
#[map]
pub static WALK: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);

/// Room for a stack, and for a definition made while it is being built.
#[map]
pub static STACK_ROOM: PerCpuArray<StackRoom> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static CODE_ROOM: PerCpuArray<CodeRoom> = PerCpuArray::with_max_entries(1, 0);

/// The programs that the hooks go on with. Two arrays, because one may hold only programs of one tracepoint. Those that
/// capture stacks are there where the kernel accepted them.
#[map]
pub static ENTER_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static EXIT_NEXT: ProgramArray = ProgramArray::with_max_entries(next::EXIT_PROGRAMS, 0);
