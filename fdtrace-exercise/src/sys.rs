//! Raw syscalls, and tasks made by them.
//!
//! The exerciser does not go through the C library: the exact number counts, `errno` would be shared by threads that
//! have no thread-local storage of their own, and a task made by a bare `clone` may not call anything that locks,
//! allocates or remembers its thread. Everything that runs in such a task is built on this module alone.

use crate::nr;

/// Arguments of one syscall.
pub type Args = [u64; 6];

/// One argument. Pointers are made from references that live through the call.
#[derive(Clone, Copy)]
pub struct Arg(pub u64);

macro_rules! arg_from_integer {
    ($($t:ty),+) => { $(
        impl From<$t> for Arg {
            fn from(value: $t) -> Self {
                Self(value as u64)
            }
        }
    )+ };
}
arg_from_integer!(i32, i64, u32, u64, usize);

impl From<&core::ffi::CStr> for Arg {
    fn from(text: &core::ffi::CStr) -> Self {
        Self(text.as_ptr() as u64)
    }
}

impl Arg {
    /// Memory that the kernel reads.
    pub fn read<T: ?Sized>(value: &T) -> Self {
        Self(core::ptr::from_ref(value).cast::<u8>() as u64)
    }

    /// Memory that the kernel writes.
    pub fn write<T: ?Sized>(value: &mut T) -> Self {
        Self(core::ptr::from_mut(value).cast::<u8>() as u64)
    }
}

/// Issues syscall `nr`; a failure is a negative errno.
///
/// # Safety
/// As for the syscall itself: pointers must be valid for what the kernel does with them.
#[cfg(target_arch = "x86_64")]
pub unsafe fn syscall(nr: i64, a: Args) -> i64 {
    let ret: i64;
    // SAFETY: the caller vouches for the arguments; the kernel clobbers rcx and r11 only.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") nr => ret,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    ret
}

/// Issues syscall `nr`; a failure is a negative errno.
///
/// # Safety
/// As for the syscall itself: pointers must be valid for what the kernel does with them.
#[cfg(target_arch = "aarch64")]
pub unsafe fn syscall(nr: i64, a: Args) -> i64 {
    let ret: i64;
    // SAFETY: the caller vouches for the arguments; the kernel preserves all registers but x0.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") nr,
            inlateout("x0") a[0] as i64 => ret,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack),
        );
    }
    ret
}

/// What a new task runs. It gets the argument and never returns.
pub type Entry = extern "C" fn(*mut u8) -> !;

/// Issues a syscall that makes a task (`fork`, `vfork`, `clone`, `clone3`). The parent gets the result; the child moves
/// to the stack that ends at `stack_top` before it does anything else, so it never touches a frame of its parent.
///
/// # Safety
/// `stack_top` is the 16-byte aligned end of a stack that nothing else uses; `entry` and `argument` fit together.
#[cfg(target_arch = "x86_64")]
pub unsafe fn spawn(nr: i64, a: Args, stack_top: u64, entry: Entry, argument: *mut u8) -> i64 {
    let ret: i64;
    // SAFETY: the child leaves this frame untouched and never comes back to it; the parent sees an ordinary syscall.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rsp, r12",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r14",
            "ud2",
            "2:",
            inlateout("rax") nr => ret,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            in("r12") stack_top, in("r13") argument, in("r14") entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    ret
}

/// Issues a syscall that makes a task (`clone`, `clone3`). The parent gets the result; the child moves to the stack that
/// ends at `stack_top` before it does anything else, so it never touches a frame of its parent.
///
/// # Safety
/// `stack_top` is the 16-byte aligned end of a stack that nothing else uses; `entry` and `argument` fit together.
#[cfg(target_arch = "aarch64")]
pub unsafe fn spawn(nr: i64, a: Args, stack_top: u64, entry: Entry, argument: *mut u8) -> i64 {
    let ret: i64;
    // SAFETY: the child leaves this frame untouched and never comes back to it; the parent sees an ordinary syscall.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov sp, x20",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x21",
            "blr x22",
            "brk #1",
            "2:",
            in("x8") nr,
            inlateout("x0") a[0] as i64 => ret,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            in("x20") stack_top, in("x21") argument, in("x22") entry,
        );
    }
    ret
}

/// Issues a 32-bit syscall (`int 0x80`) from 64-bit code. Pointers must lie below 4 GiB.
///
/// # Safety
/// As for the syscall itself. A kernel without 32-bit emulation kills the caller: see [`crate::worker::probe`].
#[cfg(target_arch = "x86_64")]
pub unsafe fn compat(nr: i64, a: [u32; 3]) -> i64 {
    let ret: i64;
    // SAFETY: the caller vouches for the arguments; rbx is put back, and r8 to r11 may be zeroed by the kernel.
    unsafe {
        core::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) u64::from(a[0]) => _,
            inlateout("rax") nr => ret,
            in("rcx") u64::from(a[1]), in("rdx") u64::from(a[2]),
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    // A 32-bit result is not sign-extended.
    i64::from(ret as i32)
}

fn plain(nr: i64, a: Args) -> i64 {
    // SAFETY: used below only for calls whose pointers are local and that have no effect on memory safety.
    unsafe { syscall(nr, a) }
}

pub fn getpid() -> u32 {
    plain(nr::GETPID, [0; 6]) as u32
}

pub fn gettid() -> u32 {
    plain(nr::GETTID, [0; 6]) as u32
}

/// Ends the calling thread.
pub fn exit_thread() -> ! {
    loop {
        plain(nr::EXIT, [0; 6]);
    }
}

/// Ends the calling process.
pub fn exit_process(code: u64) -> ! {
    loop {
        plain(nr::EXIT_GROUP, [code, 0, 0, 0, 0, 0]);
    }
}

/// Whether the task still exists. A zombie does.
pub fn exists(tgid: u32, tid: u32) -> bool {
    plain(nr::TGKILL, [u64::from(tgid), u64::from(tid), 0, 0, 0, 0]) != -i64::from(libc::ESRCH)
}

/// Sleeps; no shorter than asked unless a signal comes.
pub fn sleep_micros(micros: u64) {
    let time = [micros / 1_000_000, micros % 1_000_000 * 1000];
    plain(nr::NANOSLEEP, [time.as_ptr() as u64, 0, 0, 0, 0, 0]);
}

/// `CLOCK_MONOTONIC`, microseconds. For time-outs only: nothing that is chosen depends on it.
pub fn now_micros() -> u64 {
    let mut time = [0_u64; 2];
    plain(nr::CLOCK_GETTIME, [1, time.as_mut_ptr() as u64, 0, 0, 0, 0]);
    time[0] * 1_000_000 + time[1] / 1000
}

/// Waits until `word` is no longer `seen`, somebody wakes it, or the time is up. `word` may be shared between processes.
pub fn futex_wait(word: &core::sync::atomic::AtomicU32, seen: u32, micros: u64) {
    let time = [micros / 1_000_000, micros % 1_000_000 * 1000];
    plain(nr::FUTEX, [word.as_ptr() as u64, 0, u64::from(seen), time.as_ptr() as u64, 0, 0]);
}

/// Wakes everybody who waits on `word`.
pub fn futex_wake(word: &core::sync::atomic::AtomicU32) {
    plain(nr::FUTEX, [word.as_ptr() as u64, 1, i32::MAX as u64, 0, 0, 0]);
}
