//! Descriptors that came with a message, in its control data.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use fdtrace_common::wire::{CallReceived, RECEIVED_FILES, RECEIVED_MAX, kind, loss};

use super::{SOL_SOCKET, args::user, done::Done};
use crate::{
    emit, kernel,
    turns::{self, Room},
};

const SCM_RIGHTS: u32 = 1;
const SCM_PIDFD: u32 = 4;
/// Control messages of one message that are looked at: the kernel writes at most a handful.
const CONTROLS: usize = 3;

impl Done {
    /// Descriptors that came with the control data of the message header at `header`, as the kernel has rewritten it.
    #[inline(always)]
    pub fn received(&self, header: u64) {
        let compat = self.compat;
        let (mut at, len) = if compat {
            (u64::from(user::<u32>(header + 16)), u64::from(user::<u32>(header + 20)))
        } else {
            (user::<u64>(header + 32), user::<u64>(header + 40))
        };
        if at == 0 || len < 12 {
            return;
        }
        let end = at + len;
        let head = if compat { 12 } else { 16 };
        let (mut first, mut count, mut pidfd) = (0, 0, 0);
        for _ in 0..CONTROLS {
            if at + head > end {
                break;
            }
            // `struct cmsghdr`: length, level, type.
            let size = if compat { u64::from(user::<u32>(at)) } else { user::<u64>(at) };
            let level = user::<u32>(at + head - 8);
            let kind = user::<u32>(at + head - 4);
            if size < head {
                break;
            }
            // The kernel puts all descriptors into one control message.
            if level == SOL_SOCKET && kind == SCM_RIGHTS {
                first = at + head;
                count = (size - head) / 4;
            }
            if level == SOL_SOCKET && kind == SCM_PIDFD {
                pidfd = at + head;
            }
            let align = if compat { 4 } else { 8 };
            at += (size + align - 1) & !(align - 1);
        }
        if count > 0 {
            self.report_received(first, count);
        }
        if pidfd != 0 {
            self.at(pidfd);
        }
    }

    /// The numbers of `count` descriptors, which stand at `first`, and the files behind the first of them. What each file
    /// is, is told by the table it came from, or found when this one is read.
    #[inline(always)]
    fn report_received(&self, first: u64, count: u64) {
        let Some(scratch) = emit::take_scratch(loss::RING_CALL) else { return };
        let record = scratch.cast::<CallReceived>();
        let array = self.files.array();
        let count = if count > RECEIVED_MAX as u64 { RECEIVED_MAX as u64 } else { count };
        let size = (count as u32 & 0xff) * size_of::<i32>() as u32;
        // SAFETY: the scratch buffer has room for the record and `RECEIVED_MAX` numbers, and is ours alone. Both helpers
        // check the addresses that they read from.
        unsafe {
            let numbers = scratch.cast::<u8>().add(size_of::<CallReceived>());
            if bpf_probe_read_user(numbers.cast(), size, first as *const c_void) != 0 {
                emit::missing(loss::USER_READ);
                turns::give_back(Room::Scratch);
                return;
            }
            self.fill(&raw mut (*record).call, kind::CALL_RECEIVED, 0);
            (*record).call.after = emit::position();
            // All of them, read or not: a loop that can end anywhere is walked from every end by the verifier.
            for i in 0..RECEIVED_FILES {
                let fd = numbers.cast::<u32>().add(i).read_volatile();
                (*record).files[i] = kernel::read::<u64>(array + u64::from(fd) * 8);
            }
            (*record).count = count as u32;
            (*record).reserved = 0;
        }
        emit::variable(scratch, size_of::<CallReceived>() + size as usize, loss::RING_CALL);
        turns::give_back(Room::Scratch);
    }
}
