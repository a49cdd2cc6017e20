//! Closes: of live numbers, of closed ones, of nonsense, and of ranges.

use core::sync::atomic::Ordering::SeqCst;

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::nr;
use crate::profile::Group::{Close, Range};
use crate::shared::FDS;

const UNSHARE: u32 = 2;
const CLOEXEC: u32 = 4;

pub const OPS: &[Op] = &[
    op("close", Close, 40, close_live),
    op("close twice", Close, 3, close_twice),
    op("close closed", Close, 4, close_closed),
    op("close nonsense", Close, 2, close_nonsense),
    op("close standard", Close, 1, close_standard),
    op("close_range", Range, 4, |a| range(a, 0)),
    op("close_range cloexec", Range, 3, |a| range(a, CLOEXEC)),
    op("close_range unshare", Range, 2, |a| range(a, UNSHARE)),
    op("close_range unshare cloexec", Range, 1, |a| range(a, UNSHARE | CLOEXEC)),
    op("close_range refused", Range, 1, range_refused),
];

fn close_live(a: &mut Agent) -> i64 {
    match a.live_where(|_| true) {
        Some(fd) => a.close(fd),
        None => SKIP,
    }
}

fn close_twice(a: &mut Agent) -> i64 {
    let Some(fd) = a.live_where(|_| true) else { return SKIP };
    a.close(fd);
    a.close(fd)
}

fn close_closed(a: &mut Agent) -> i64 {
    let fd = a.closed_fd();
    a.close(fd)
}

fn close_nonsense(a: &mut Agent) -> i64 {
    let fd = [-1, i32::MIN, i32::MAX, FDS as i32, 100_000][a.rng.below(5)];
    a.close(fd)
}

fn close_standard(a: &mut Agent) -> i64 {
    let fd = a.rng.below(3) as i32;
    a.close(fd)
}

fn range(a: &mut Agent, flags: u32) -> i64 {
    let first = 3 + a.rng.below(40) as u32;
    let last = if a.rng.chance(15) { u32::MAX } else { first + a.rng.below(12) as u32 };
    let before = a.table_index();
    if flags & UNSHARE != 0 && !super::unshare::split_account(a) {
        return SKIP;
    }
    let ret = a.call(nr::CLOSE_RANGE, &[first.into(), last.into(), flags.into()]);
    if ret < 0 {
        a.own_slot().table.store(before as u32, SeqCst);
        return ret;
    }
    let table = a.table();
    for (fd, held) in table.live().filter(|(fd, _)| (first..=last).contains(&(*fd as u32))) {
        if flags & CLOEXEC != 0 { table.set(fd, held.with_cloexec(true)) } else { table.clear(fd) }
    }
    ret
}

fn range_refused(a: &mut Agent) -> i64 {
    let (first, last, flags) = if a.rng.chance(50) { (9_u32, 4_u32, 0_u32) } else { (3, 9, 64) };
    a.call(nr::CLOSE_RANGE, &[first.into(), last.into(), flags.into()])
}
