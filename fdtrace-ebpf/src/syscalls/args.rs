//! The arguments of a system call, and what they point to.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user;

use crate::kernel::{member, offset};

/// Reads user memory; zero when that fails.
#[inline(always)]
pub fn user<T: Copy + Default>(address: u64) -> T {
    let mut value = T::default();
    // SAFETY: a local of that size; the helper checks the address, and leaves zeros when it fails (see `kernel::read`).
    unsafe { bpf_probe_read_user((&raw mut value).cast::<c_void>(), size_of::<T>() as u32, address as *const c_void) };
    value
}

/// The arguments of a system call.
#[derive(Clone, Copy)]
pub struct Regs([u64; 6]);

impl Regs {
    /// Reads all of them at once, so that the two kinds of call differ here and nowhere else: the verifier would have to
    /// walk everything behind a difference twice.
    #[inline(always)]
    pub fn new(regs: *const c_void, compat: bool) -> Self {
        // SAFETY: `regs` is typed as `struct pt_regs *` by the tracepoint; the offsets come from BTF.
        unsafe {
            if compat {
                Self([
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[0]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[1]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[2]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[3]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[4]))),
                    u64::from(member::<u32>(regs, offset!(regs_arg_compat[5]))),
                ])
            } else {
                Self([arg(regs, 0), arg(regs, 1), arg(regs, 2), arg(regs, 3), arg(regs, 4), arg(regs, 5)])
            }
        }
    }

    /// An argument of the call; `i` is a constant.
    #[inline(always)]
    pub fn arg(self, i: usize) -> u64 {
        self.0[i]
    }
}

/// An argument of a native call; `i` is a constant.
#[inline(always)]
pub fn arg(regs: *const c_void, i: usize) -> u64 {
    // SAFETY: `regs` is typed as `struct pt_regs *` by the tracepoint; the offset comes from BTF.
    unsafe { member(regs, offset!(regs_arg[i])) }
}

/// An argument of a call of either kind.
#[inline(always)]
pub fn arg_of(regs: *const c_void, compat: bool, i: usize) -> u64 {
    if compat {
        // SAFETY: as in `arg`.
        u64::from(unsafe { member::<u32>(regs, offset!(regs_arg_compat[i])) })
    } else {
        arg(regs, i)
    }
}
