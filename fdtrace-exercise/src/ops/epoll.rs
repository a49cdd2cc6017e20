//! Epoll: instances, registrations, waits that do not wait.

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Epoll;
use crate::sys::Arg;

pub const OPS: &[Op] = &[
    #[cfg(target_arch = "x86_64")]
    op("epoll_create", Epoll, 2, |a| {
        let ret = a.call(nr::EPOLL_CREATE, &[8.into()]);
        a.made(ret, Kind::Epoll, false)
    }),
    op("epoll_create1", Epoll, 3, epoll_create1),
    op("epoll_ctl add", Epoll, 8, |a| control(a, libc::EPOLL_CTL_ADD)),
    op("epoll_ctl mod", Epoll, 3, |a| control(a, libc::EPOLL_CTL_MOD)),
    op("epoll_ctl del", Epoll, 4, |a| control(a, libc::EPOLL_CTL_DEL)),
    op("epoll_ctl closed", Epoll, 2, control_closed),
    #[cfg(target_arch = "x86_64")]
    op("epoll_wait", Epoll, 2, |a| wait(a, nr::EPOLL_WAIT)),
    op("epoll_pwait", Epoll, 2, |a| wait(a, nr::EPOLL_PWAIT)),
    op("epoll_pwait2", Epoll, 2, |a| wait(a, nr::EPOLL_PWAIT2)),
    op("epoll_wait closed", Epoll, 1, wait_closed),
];

/// As the kernel has it: packed on x86-64.
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
#[derive(Clone, Copy, Default)]
struct Event {
    events: u32,
    data: u64,
}

fn epoll_create1(a: &mut Agent) -> i64 {
    let cloexec = a.rng.chance(50);
    let flags = if cloexec { libc::EPOLL_CLOEXEC } else { 0 };
    let ret = a.call(nr::EPOLL_CREATE1, &[flags.into()]);
    a.made(ret, Kind::Epoll, cloexec)
}

fn issue(a: &mut Agent, epoll: i32, operation: i32, fd: i32) -> i64 {
    let extra = [0, libc::EPOLLET, libc::EPOLLONESHOT, libc::EPOLLOUT][a.rng.below(4)];
    let event = Event { events: (libc::EPOLLIN | extra) as u32, data: fd as u32 as u64 };
    a.call(nr::EPOLL_CTL, &[epoll.into(), operation.into(), fd.into(), Arg::read(&event)])
}

fn control(a: &mut Agent, operation: i32) -> i64 {
    if operation != libc::EPOLL_CTL_ADD && a.rng.chance(75) {
        let (epoll, fd) = a.recent[a.rng.below(a.recent.len())];
        // Either may be closed, or another file's, by now; a process made by fork has its parent's registrations.
        return if epoll < 0 { SKIP } else { issue(a, epoll, operation, fd) };
    }
    let Some(epoll) = a.live_of(Kind::Epoll) else { return SKIP };
    // Mostly what can be polled; files give EPERM, epolls nest, the epoll itself is EINVAL.
    let fd = if a.rng.chance(85) {
        a.live_where(|kind| !matches!(kind, Kind::File | Kind::Dir | Kind::Path | Kind::Memfd))
    } else {
        a.live_fd()
    };
    let Some(fd) = fd else { return SKIP };
    let ret = issue(a, epoll, operation, fd);
    if ret == 0 && operation == libc::EPOLL_CTL_ADD {
        a.recent[a.rng.below(a.recent.len())] = (epoll, fd);
    }
    ret
}

fn control_closed(a: &mut Agent) -> i64 {
    let closed = a.closed_fd();
    let operation = [libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_DEL, libc::EPOLL_CTL_MOD][a.rng.below(3)];
    match a.live_of(Kind::Epoll) {
        Some(epoll) if a.rng.chance(70) => issue(a, epoll, operation, closed),
        _ => issue(a, closed, operation, 0),
    }
}

fn wait_on(a: &Agent, number: i64, fd: i32) -> i64 {
    let mut events = [Event::default(); 8];
    let no_time = [0_u64; 2];
    let timeout = if number == nr::EPOLL_PWAIT2 { Arg::read(&no_time) } else { Arg(0) };
    a.call(number, &[fd.into(), Arg::write(&mut events), 8.into(), timeout, Arg(0), Arg(8)])
}

fn wait(a: &mut Agent, number: i64) -> i64 {
    match a.live_of(Kind::Epoll) {
        Some(epoll) => wait_on(a, number, epoll),
        None => SKIP,
    }
}

fn wait_closed(a: &mut Agent) -> i64 {
    let closed = a.closed_fd();
    wait_on(a, nr::EPOLL_PWAIT, closed)
}
