//! Rooms that one processor's programs share, where the kernel preempts programs.
//!
//! Up to Linux 6.18 a program that is running on a processor keeps it until it is through, so whatever is there once for
//! each processor is its own. Later kernels preempt it, and another program may run there meanwhile.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_smp_processor_id},
};

use crate::maps::TAKEN;

#[unsafe(no_mangle)]
static PREEMPTIBLE: u32 = 0;

/// The kernel preempts programs. A constant to the verifier.
#[inline(always)]
pub fn preemptible() -> bool {
    // SAFETY: a read of an initialised static, replaced by user space before load.
    unsafe { core::ptr::read_volatile(&raw const PREEMPTIBLE) != 0 }
}

/// What there is once for each processor.
#[derive(Clone, Copy)]
pub enum Room {
    /// `SCRATCH`.
    Scratch = 0,
    /// `WALK`, `STACK_ROOM` and `CODE_ROOM`.
    Stack = 1,
}

/// Takes a room of this processor. `false`: a program that was preempted here is still in it.
#[inline(always)]
pub fn take(room: Room) -> bool {
    // A key can be inserted once: that is the only test-and-set that every kernel has.
    !preemptible() || TAKEN.insert(key(room), bpf_get_current_pid_tgid(), u64::from(BPF_NOEXIST)).is_ok()
}

/// Gives it back.
#[inline(always)]
pub fn give_back(room: Room) {
    if preemptible() {
        // It is there.
        let _ = TAKEN.remove(key(room));
    }
}

#[inline(always)]
fn key(room: Room) -> u32 {
    // SAFETY: the helper has no preconditions. A program stays on its processor even where it is preempted.
    let processor = unsafe { bpf_get_smp_processor_id() };
    processor << 1 | room as u32
}
