//! Every map of the main object. All types here exist since 5.8: an unsupported one would sink the whole object.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use fdtrace_common::wire::{Inflight, PerCpu, Scratch, TracedProcess};

/// All records of all processors, in one order. User space chooses the size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// The processes under observation, by tgid.
#[map]
pub static TRACED: HashMap<u32, TracedProcess> = HashMap::with_max_entries(65_536, 0);

/// A coarse filter in front of [`TRACED`]: zero means that no traced process has these low bits of tgid.
/// Entries are set and never cleared, so a plain store is enough and a false negative is impossible.
#[map]
pub static SIEVE: Array<u32> = Array::with_max_entries(SIEVE_ENTRIES, 0);
pub const SIEVE_ENTRIES: u32 = 16_384;

/// What is known of the call each thread is in, indexed by the low bits of its tid.
/// An array and not a hash: pairing through a hash costs more than everything else together.
#[map]
pub static INFLIGHT: Array<Inflight> = Array::with_max_entries(INFLIGHT_ENTRIES, 0);
pub const INFLIGHT_ENTRIES: u32 = 65_536;

/// Counters that must not bounce between processors.
#[map]
pub static PER_CPU: PerCpuArray<PerCpu> = PerCpuArray::with_max_entries(1, 0);

/// Room to build records of variable length.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Words shared with user space, indexed by `fdtrace_common::wire::shared`.
#[map]
pub static SHARED: Array<u64> = Array::with_max_entries(fdtrace_common::wire::shared::WORDS, 0);
