//! Pipes, counters, timers, signals and watches: descriptors without a path.

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Make;
use crate::sys::Arg;

pub const OPS: &[Op] = &[
    #[cfg(target_arch = "x86_64")]
    op("pipe", Make, 5, |a| pipe(a, nr::PIPE)),
    op("pipe2", Make, 5, |a| pipe(a, nr::PIPE2)),
    #[cfg(target_arch = "x86_64")]
    op("eventfd", Make, 2, |a| {
        let ret = a.call(nr::EVENTFD, &[0.into()]);
        a.made(ret, Kind::Eventfd, false)
    }),
    op("eventfd2", Make, 4, eventfd2),
    op("timerfd_create", Make, 3, timerfd_create),
    #[cfg(target_arch = "x86_64")]
    op("signalfd", Make, 2, |a| signalfd(a, nr::SIGNALFD, false)),
    op("signalfd4", Make, 3, |a| signalfd(a, nr::SIGNALFD4, false)),
    op("signalfd rearm", Make, 2, |a| signalfd(a, nr::SIGNALFD4, true)),
    #[cfg(target_arch = "x86_64")]
    op("inotify_init", Make, 2, |a| inotify(a, nr::INOTIFY_INIT)),
    op("inotify_init1", Make, 2, |a| inotify(a, nr::INOTIFY_INIT1)),
];

fn pipe(a: &mut Agent, number: i64) -> i64 {
    let mut ends = [-1_i32; 2];
    let flags = match a.rng.below(4) {
        _ if number == nr::PIPE => 0,
        0 => libc::O_CLOEXEC,
        1 => libc::O_CLOEXEC | libc::O_NONBLOCK,
        2 => libc::O_DIRECT,
        _ => 0,
    };
    let ret = a.call(number, &[Arg::write(&mut ends), flags.into()]);
    if ret == 0 {
        for end in ends {
            a.made(i64::from(end), Kind::Pipe, flags & libc::O_CLOEXEC != 0);
        }
    }
    ret
}

fn eventfd2(a: &mut Agent) -> i64 {
    let cloexec = a.rng.chance(50);
    let flags = if cloexec { libc::EFD_CLOEXEC } else { libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE };
    let ret = a.call(nr::EVENTFD2, &[3.into(), flags.into()]);
    a.made(ret, Kind::Eventfd, cloexec)
}

fn timerfd_create(a: &mut Agent) -> i64 {
    let cloexec = a.rng.chance(50);
    let flags = libc::TFD_NONBLOCK | if cloexec { libc::TFD_CLOEXEC } else { 0 };
    let ret = a.call(nr::TIMERFD_CREATE, &[libc::CLOCK_MONOTONIC.into(), flags.into()]);
    a.made(ret, Kind::Timerfd, cloexec)
}

fn signalfd(a: &mut Agent, number: i64, rearm: bool) -> i64 {
    let mask: u64 = 1 << (libc::SIGUSR1 - 1) | u64::from(rearm) << (libc::SIGUSR2 - 1);
    let fd = match rearm {
        // Now and then another kind, for EINVAL.
        true if a.rng.chance(20) => a.live_fd(),
        true => a.live_of(Kind::Signalfd),
        false => Some(-1),
    };
    let Some(fd) = fd else { return SKIP };
    let cloexec = number == nr::SIGNALFD4 && a.rng.chance(50);
    let flags = if cloexec { libc::SFD_CLOEXEC | libc::SFD_NONBLOCK } else { 0 };
    let ret = a.call(number, &[fd.into(), Arg::read(&mask), 8.into(), flags.into()]);
    // Re-arming makes nothing, and leaves the mark as it is.
    if rearm { ret } else { a.made(ret, Kind::Signalfd, cloexec) }
}

fn inotify(a: &mut Agent, number: i64) -> i64 {
    let cloexec = number == nr::INOTIFY_INIT1 && a.rng.chance(50);
    let flags = libc::IN_NONBLOCK | if cloexec { libc::IN_CLOEXEC } else { 0 };
    let fd = a.call(number, &[flags.into()]);
    if a.made(fd, Kind::Inotify, cloexec) >= 0 && a.rng.chance(50) {
        a.call(nr::INOTIFY_ADD_WATCH, &[fd.into(), c"f5".into(), libc::IN_ATTRIB.into()]);
    }
    fd
}
