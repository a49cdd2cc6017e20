//! Handles of processes, and descriptors taken through them.

use core::sync::atomic::Ordering::SeqCst;

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::birth::Making;
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Pidfd;
use crate::shared::{Phase, Slot};

const WITH_PIDFD: u64 = libc::CLONE_PIDFD as u64;

fn make(a: &mut Agent, number: i64, flags: u64) -> i64 {
    a.spawn(Making { number, flags: flags | WITH_PIDFD })
}

pub const OPS: &[Op] = &[
    op("pidfd_open", Pidfd, 2, |a| {
        let Some(other) = someone(a) else { return SKIP };
        open(a, other.pid.load(SeqCst))
    }),
    op("pidfd_open nobody", Pidfd, 1, |a| open(a, i32::MAX as u32 - 1)),
    op("pidfd_getfd", Pidfd, 5, getfd),
    op("pidfd_getfd closed", Pidfd, 1, |a| {
        // Closed here, or closed in the other process, where no number is that high.
        let closed = a.closed_fd();
        let pidfd = a.live_of(Kind::Pidfd).filter(|_| a.rng.chance(60)).unwrap_or(closed);
        a.call(nr::PIDFD_GETFD, &[pidfd.into(), 100_000.into(), 0.into()])
    }),
    op("clone pidfd", Pidfd, 1, |a| make(a, nr::CLONE, 0)),
    op("clone3 pidfd", Pidfd, 1, |a| make(a, nr::CLONE3, 0)),
    op("clone3 pidfd files", Pidfd, 1, |a| make(a, nr::CLONE3, libc::CLONE_FILES as u64)),
    op("clone pidfd vfork", Pidfd, 1, |a| make(a, nr::CLONE, (libc::CLONE_VM | libc::CLONE_VFORK) as u64)),
    op("waitid closed", Pidfd, 1, |a| {
        let closed = a.closed_fd();
        a.call(nr::WAITID, &[3.into(), closed.into(), 0.into(), (libc::WEXITED | libc::WNOHANG).into(), 0.into()])
    }),
];

/// A task that leads its process: the one whose table a pidfd leads to.
fn someone(a: &mut Agent) -> Option<&'static Slot> {
    let fits = |slot: &&Slot| {
        let pid = slot.pid.load(SeqCst);
        pid != 0
            && pid == slot.tid.load(SeqCst)
            && matches!(slot.phase(), Phase::Running | Phase::Parked)
            && slot.execing.load(SeqCst) == 0
    };
    let slots = &a.region.slots;
    let chosen = a.rng.below(slots.iter().filter(fits).count());
    slots.iter().filter(fits).nth(chosen)
}

fn open(a: &Agent, pid: u32) -> i64 {
    let ret = a.call(nr::PIDFD_OPEN, &[pid.into(), 0.into()]);
    a.made(ret, Kind::Pidfd, true)
}

fn getfd(a: &mut Agent) -> i64 {
    let Some(other) = someone(a) else { return SKIP };
    let account = &a.region.tables[other.table.load(SeqCst) as usize];
    let chosen = a.rng.below(account.live().count());
    let Some((fd, held)) = account.live().nth(chosen) else { return SKIP };
    let pidfd = open(a, other.pid.load(SeqCst));
    if pidfd < 0 {
        return pidfd;
    }
    let ret = a.call(nr::PIDFD_GETFD, &[pidfd.into(), fd.into(), 0.into()]);
    a.copied(ret, Some(held), true);
    if a.rng.chance(60) {
        a.close(pidfd as i32);
    }
    ret
}
