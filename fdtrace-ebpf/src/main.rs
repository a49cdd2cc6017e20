//! The kernel side of fdtrace. This file holds the entry points, each with the prototype of the hook it depends on.
//!
//! Two BTF tracepoints see every system call of the machine and leave after a few instructions unless the call is ours
//! and the task is traced; three follow processes; one iterator takes the snapshot. They were chosen over per-syscall
//! tracepoints and raw tracepoints by measurement: see ARCHITECTURE.md, "Which hooks".
#![no_std]
#![no_main]
// LLVM would turn runs of stores into calls of memset, which is a loop over bytes here.
#![no_builtins]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only way to an atomic add on a target without compare-and-swap")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "map methods are given references, as aya 0.15 and later want them"
)]

mod classes;
mod emit;
mod filter;
mod forked;
mod fresh;
mod gate;
mod kernel;
mod known;
mod loaded;
mod maps;
mod owner;
mod process;
mod python;
mod shared;
mod snapshot;
mod stack;
mod stdio;
mod syscalls;
mod turns;
mod waits;
mod walk;
mod watch;

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, macros::btf_tracepoint, maps::ProgramArray, programs::BtfTracePointContext};
use fdtrace_common::{next, wire::loss};

use syscalls::Turn;

/// Nonzero: send diagnostics through aya-log. A constant to the verifier, which removes the branch when it is zero.
#[unsafe(no_mangle)]
static DEBUG: u32 = 0;

/// The helpers that read kernel memory are reserved for programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Since 4.18: `TP_PROTO(struct pt_regs *regs, long id)`.
/// <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/syscalls.h#L18>
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    at_enter(&ctx, Turn::First)
}

/// A second copy, where the kernel preempts programs and so skips one that is running on the same processor: it does what
/// the first one was kept from.
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter_again(ctx: BtfTracePointContext) -> i32 {
    at_enter(&ctx, Turn::Second)
}

#[inline(always)]
fn at_enter(ctx: &BtfTracePointContext, turn: Turn) -> i32 {
    if let Some((task, watched)) = syscalls::enter(ctx.arg(0), ctx.arg(1), turn)
        && syscalls::wants_at_enter(ctx.arg(0), ctx.arg(1), &task, watched)
    {
        // SAFETY: does not return if there is a program, and does nothing if there is none.
        unsafe { maps::ENTER_NEXT.tail_call(ctx, 0) };
    }
    0
}

/// Reached from [`sys_enter`].
#[btf_tracepoint(function = "sys_enter")]
pub fn stack_at_enter(ctx: BtfTracePointContext) -> i32 {
    stack::at_enter(ctx.arg(0), ctx.arg(1));
    on_its_task_s_stack(&ctx, &maps::ENTER_NEXT);
    0
}

/// Since 4.18: `TP_PROTO(struct pt_regs *regs, long ret)`.
/// <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/syscalls.h#L44>
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    at_exit(&ctx, Turn::First)
}

/// As [`sys_enter_again`].
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit_again(ctx: BtfTracePointContext) -> i32 {
    at_exit(&ctx, Turn::Second)
}

#[inline(always)]
fn at_exit(ctx: &BtfTracePointContext, turn: Turn) -> i32 {
    if syscalls::may_be_ours(ctx.arg(0), ctx.arg(1), turn) && !syscalls::tells_nothing(ctx.arg(0), ctx.arg(1)) {
        if syscalls::wants_at_exit(ctx.arg(0), ctx.arg(1)) {
            // SAFETY: does not return if there is a program, and does nothing if there is none.
            unsafe { maps::EXIT_NEXT.tail_call(ctx, next::EXIT_STACK) };
        }
        tell(ctx);
    }
    0
}

/// Goes on with the program that makes the call's record.
#[inline(always)]
fn tell(ctx: &BtfTracePointContext) {
    if let Some(program) = syscalls::teller(ctx.arg(0), ctx.arg(1)) {
        // SAFETY: does not return: user space puts the programs in place before it attaches the hooks.
        unsafe { maps::EXIT_NEXT.tail_call(ctx, program) };
        emit::missing(loss::RING_CALL);
    }
}

/// Reached from [`sys_exit`]; the call's own record is made by the next one.
#[btf_tracepoint(function = "sys_exit")]
pub fn stack_at_exit(ctx: BtfTracePointContext) -> i32 {
    stack::at_exit(ctx.arg(0), ctx.arg(1));
    tell(&ctx);
    0
}

/// Reached from [`sys_exit`] or [`stack_at_exit`], as the next two.
#[btf_tracepoint(function = "sys_exit")]
pub fn call_at_exit(ctx: BtfTracePointContext) -> i32 {
    syscalls::tell_call(ctx.arg(0), ctx.arg(1));
    on_its_task_s_stack(&ctx, &maps::EXIT_NEXT);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn memory_at_exit(ctx: BtfTracePointContext) -> i32 {
    syscalls::tell_memory(ctx.arg(0), ctx.arg(1));
    on_its_task_s_stack(&ctx, &maps::EXIT_NEXT);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn table_at_exit(ctx: BtfTracePointContext) -> i32 {
    syscalls::tell_table(ctx.arg(0), ctx.arg(1));
    on_its_task_s_stack(&ctx, &maps::EXIT_NEXT);
    0
}

/// Keeps a program that is reached by a tail call on the stack of the task that runs it.
///
/// From 6.13 on the kernel gives a program of a hook a stack that there is once for each processor, and keeps it from
/// running twice there; but whoever is reached by a tail call is not kept from it. Where programs are preempted, two tasks
/// then have one stack, and the kernel writes through whatever one of them left there: Linux 7.2 died of it. A program
/// with a tail call of its own, even one that goes nowhere, is given no such stack.
/// `check_max_stack_depth` in <https://github.com/torvalds/linux/blob/v6.13/kernel/bpf/verifier.c>.
#[inline(always)]
fn on_its_task_s_stack(ctx: &BtfTracePointContext, array: &ProgramArray) {
    if turns::preemptible() {
        // SAFETY: there is no program of that number: the call does nothing.
        unsafe { array.tail_call(ctx, next::NOBODY) };
    }
}

/// `TP_PROTO(struct task_struct *parent, struct task_struct *child)`.
/// <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sched.h#L370>
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    process::fork(ctx.arg(0), ctx.arg(1));
    0
}

/// The same, after it: kernels that have no loops go without.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn forked_files(ctx: BtfTracePointContext) -> i32 {
    forked::files(ctx.arg(0), ctx.arg(1));
    0
}

/// `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
/// <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sched.h#L396>
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: read of a static that user space may have replaced before load.
    if unsafe { core::ptr::read_volatile(&raw const DEBUG) } != 0 {
        aya_log_ebpf::debug!(&ctx, "exec in process {}", ctx.tgid());
    }
    process::exec(ctx.arg(1), ctx.arg(2));
    0
}

/// The same, after it, and as [`forked_files`].
#[btf_tracepoint(function = "sched_process_exec")]
pub fn laid_out(ctx: BtfTracePointContext) -> i32 {
    loaded::laid_out(ctx.arg(2));
    0
}

/// `TP_PROTO(struct task_struct *p)`; from 6.17 on a second argument tells whether the whole group dies.
/// <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sched.h#L327>
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    process::exit(ctx.arg(0));
    0
}

/// `iter/task_file` (5.8): called once for each descriptor of each table. aya-ebpf has no macro for iterators.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn snapshot(ctx: *const c_void) -> i32 {
    // SAFETY: the kernel passes a `struct bpf_iter__task_file`, and the verifier checks every access to it.
    let done = snapshot::row(unsafe { &*ctx.cast::<snapshot::TaskFile>() });
    // 1: `read` fails with `EAGAIN`, and the next one begins with the same descriptor.
    // <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/bpf_iter.c#L179>
    i32::from(!done)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
