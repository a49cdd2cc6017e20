//! Duplicates, and the close-on-exec mark.

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::nr;
use crate::profile::Group::Dup;
use crate::shared::FDS;
use crate::sys::Arg;

// The C libraries differ in the type of these.
const FIOCLEX: Arg = Arg(0x5451);
const FIONCLEX: Arg = Arg(0x5450);

pub const OPS: &[Op] = &[
    op("dup", Dup, 8, dup),
    #[cfg(target_arch = "x86_64")]
    op("dup2", Dup, 8, |a| onto(a, nr::DUP2, 0)),
    op("dup3", Dup, 6, |a| onto(a, nr::DUP3, 0)),
    op("dup3 cloexec", Dup, 4, |a| onto(a, nr::DUP3, libc::O_CLOEXEC)),
    #[cfg(target_arch = "x86_64")]
    op("dup2 same", Dup, 2, dup2_same),
    op("dup3 same", Dup, 1, dup3_same),
    op("dup closed", Dup, 3, dup_closed),
    op("dup beyond limit", Dup, 1, dup_beyond),
    op("F_DUPFD", Dup, 5, |a| dupfd(a, libc::F_DUPFD)),
    op("F_DUPFD_CLOEXEC", Dup, 5, |a| dupfd(a, libc::F_DUPFD_CLOEXEC)),
    op("F_SETFD", Dup, 8, setfd),
    op("FIOCLEX", Dup, 2, fioclex),
];

fn dup(a: &mut Agent) -> i64 {
    let Some(fd) = a.live_fd() else { return SKIP };
    let from = a.table().get(fd);
    let ret = a.call(nr::DUP, &[fd.into()]);
    a.copied(ret, from, false)
}

fn onto(a: &mut Agent, number: i64, flags: i32) -> i64 {
    let Some(fd) = a.live_fd() else { return SKIP };
    let target = a.target_fd();
    if fd == target {
        return SKIP;
    }
    let from = a.table().get(fd);
    let ret = a.call(number, &[fd.into(), target.into(), flags.into()]);
    a.copied(ret, from, flags != 0)
}

#[cfg(target_arch = "x86_64")]
fn dup2_same(a: &mut Agent) -> i64 {
    let fd = if a.rng.chance(70) { a.live_fd().unwrap_or(9) } else { a.closed_fd() };
    a.call(nr::DUP2, &[fd.into(), fd.into()])
}

fn dup3_same(a: &mut Agent) -> i64 {
    let Some(fd) = a.live_fd() else { return SKIP };
    a.call(nr::DUP3, &[fd.into(), fd.into(), 0.into()])
}

fn dup_closed(a: &mut Agent) -> i64 {
    let closed = a.closed_fd();
    let target = a.target_fd();
    let ret = match a.rng.below(3) {
        0 => a.call(nr::DUP, &[closed.into()]),
        1 if closed != target => a.call(nr::DUP3, &[closed.into(), target.into(), 0.into()]),
        _ => a.call(nr::FCNTL, &[closed.into(), libc::F_DUPFD.into(), 0.into()]),
    };
    // In a parallel round it may be open by now.
    a.copied(ret, a.table().get(closed), false)
}

/// EBADF for a number that no table of this process may have.
fn dup_beyond(a: &mut Agent) -> i64 {
    let Some(fd) = a.live_fd() else { return SKIP };
    let beyond = FDS as i32 + a.rng.below(5) as i32;
    if a.rng.chance(50) {
        return a.call(nr::FCNTL, &[fd.into(), libc::F_DUPFD.into(), beyond.into()]);
    }
    a.call(nr::DUP3, &[fd.into(), beyond.into(), 0.into()])
}

fn dupfd(a: &mut Agent, command: i32) -> i64 {
    let Some(fd) = a.live_fd() else { return SKIP };
    let from = a.table().get(fd);
    let least = a.target_fd();
    let ret = a.call(nr::FCNTL, &[fd.into(), command.into(), least.into()]);
    a.copied(ret, from, command == libc::F_DUPFD_CLOEXEC)
}

fn mark(a: &Agent, fd: i32, ret: i64, on: bool) -> i64 {
    if ret == 0
        && let Some(held) = a.table().get(fd)
    {
        a.table().set(fd, held.with_cloexec(on));
    }
    ret
}

fn setfd(a: &mut Agent) -> i64 {
    let Some(fd) = a.live_fd() else { return SKIP };
    let on = a.rng.chance(50);
    // Bits other than the lowest mean nothing.
    let value = i32::from(on) | if a.rng.chance(20) { 2 } else { 0 };
    let ret = a.call(nr::FCNTL, &[fd.into(), libc::F_SETFD.into(), value.into()]);
    mark(a, fd, ret, on)
}

fn fioclex(a: &mut Agent) -> i64 {
    let Some(fd) = a.live_where(|kind| kind != crate::kind::Kind::Path && kind != crate::kind::Kind::Mount) else {
        return SKIP;
    };
    let on = a.rng.chance(50);
    let ret = a.call(nr::IOCTL, &[fd.into(), if on { FIOCLEX } else { FIONCLEX }]);
    mark(a, fd, ret, on)
}
