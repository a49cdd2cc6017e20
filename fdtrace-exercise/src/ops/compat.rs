//! 32-bit calls from a 64-bit program. Their pointers lead to a page below 4 GiB.

use core::sync::atomic::Ordering::SeqCst;

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::kind::Kind;
use crate::profile::Group::Compat;
use crate::worker;

pub const OPS: &[Op] = &[
    op("i386 open", Compat, 4, |a| open(a, OPEN)),
    op("i386 openat", Compat, 2, |a| open(a, OPENAT)),
    op("i386 creat", Compat, 1, |a| open(a, CREAT)),
    op("i386 close", Compat, 4, |a| {
        let Some(fd) = a.live_where(|_| true) else { return SKIP };
        close(a, fd)
    }),
    op("i386 close closed", Compat, 1, |a| {
        let fd = a.closed_fd();
        close(a, fd)
    }),
    op("i386 dup", Compat, 2, |a| dup(a, DUP, 0)),
    op("i386 dup2", Compat, 2, |a| dup(a, DUP2, 0)),
    op("i386 dup3", Compat, 2, |a| dup(a, DUP3, libc::O_CLOEXEC)),
    op("i386 fcntl", Compat, 2, fcntl),
    op("i386 pipe", Compat, 2, pipe),
    op("i386 socket", Compat, 2, |a| {
        let ret = call(a, SOCKET, [libc::AF_UNIX as u32, (libc::SOCK_DGRAM | libc::SOCK_NONBLOCK) as u32, 0]);
        a.made(ret, Kind::Socket, false)
    }),
    op("i386 eventfd2", Compat, 1, |a| {
        let ret = call(a, EVENTFD2, [0, libc::EFD_CLOEXEC as u32, 0]);
        a.made(ret, Kind::Eventfd, true)
    }),
    op("i386 epoll_create1", Compat, 1, |a| {
        let ret = call(a, EPOLL_CREATE1, [0, 0, 0]);
        a.made(ret, Kind::Epoll, false)
    }),
    op("i386 close_range", Compat, 1, |a| {
        let first = 3 + a.rng.below(40) as u32;
        let last = first + a.rng.below(6) as u32;
        let ret = call(a, CLOSE_RANGE, [first, last, 0]);
        if ret == 0 {
            (first..=last).for_each(|fd| a.table().clear(fd as i32));
        }
        ret
    }),
];

const OPEN: u32 = 5;
const CLOSE: u32 = 6;
const CREAT: u32 = 8;
const DUP: u32 = 41;
const PIPE: u32 = 42;
const DUP2: u32 = 63;
const FCNTL64: u32 = 221;
const OPENAT: u32 = 295;
const EVENTFD2: u32 = 328;
const EPOLL_CREATE1: u32 = 329;
const DUP3: u32 = 330;
const SOCKET: u32 = 359;
const CLOSE_RANGE: u32 = 436;

fn call(a: &Agent, number: u32, args: [u32; 3]) -> i64 {
    if a.region.capabilities.load(SeqCst) & worker::COMPAT == 0 || a.low == 0 {
        return -i64::from(libc::ENOSYS);
    }
    a.call_compat(number, args)
}

/// This task's own bytes of the low page.
fn low(a: &Agent) -> Option<*mut [u8; 32]> {
    (a.low != 0).then(|| (a.low + 32 * a.slot as u64) as *mut [u8; 32])
}

fn open(a: &mut Agent, number: u32) -> i64 {
    let Some(page) = low(a) else { return SKIP };
    let mut name = [0; 32];
    name[..2].copy_from_slice(b"f0");
    // SAFETY: these bytes are this task's own.
    unsafe { page.write(name) };
    let cloexec = number != CREAT && a.rng.chance(50);
    let flags = (libc::O_RDWR | if cloexec { libc::O_CLOEXEC } else { 0 }) as u32;
    let path = page as *mut u8 as usize as u32;
    let ret = match number {
        OPEN => call(a, number, [path, flags, 0]),
        OPENAT => call(a, number, [libc::AT_FDCWD as u32, path, flags]),
        _ => call(a, number, [path, 0o600, 0]),
    };
    a.made(ret, Kind::File, cloexec)
}

fn close(a: &Agent, fd: i32) -> i64 {
    let ret = call(a, CLOSE, [fd as u32, 0, 0]);
    if ret != -i64::from(libc::ENOSYS) {
        a.table().clear(fd);
    }
    ret
}

fn dup(a: &mut Agent, number: u32, flags: i32) -> i64 {
    let Some(fd) = a.live_fd() else { return SKIP };
    let target = a.target_fd();
    if fd == target {
        return SKIP;
    }
    let held = a.table().get(fd);
    let ret = call(a, number, [fd as u32, target as u32, flags as u32]);
    a.copied(ret, held, flags != 0)
}

fn fcntl(a: &mut Agent) -> i64 {
    let Some(fd) = a.live_fd() else { return SKIP };
    let held = a.table().get(fd);
    if a.rng.chance(50) {
        let ret = call(a, FCNTL64, [fd as u32, libc::F_DUPFD_CLOEXEC as u32, 5]);
        return a.copied(ret, held, true);
    }
    let on = a.rng.chance(50);
    let ret = call(a, FCNTL64, [fd as u32, libc::F_SETFD as u32, u32::from(on)]);
    if ret == 0
        && let Some(held) = held
    {
        a.table().set(fd, held.with_cloexec(on));
    }
    ret
}

fn pipe(a: &mut Agent) -> i64 {
    let Some(page) = low(a) else { return SKIP };
    let ret = call(a, PIPE, [page as *mut u8 as usize as u32, 0, 0]);
    if ret == 0 {
        // SAFETY: these bytes are this task's own, and the kernel has written two numbers.
        let ends = unsafe { page.cast::<[i32; 2]>().read() };
        for end in ends {
            a.made(end.into(), Kind::Pipe, false);
        }
    }
    ret
}
