//! Tasks made, replaced and ended.

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::birth::{Exec, Making, THREAD};
use crate::nr;
use crate::profile::Group::{self, Fork, SharedTable, Thread, Vfork};
use crate::sys::Arg;

use core::sync::atomic::Ordering::SeqCst;

const FILES: u64 = libc::CLONE_FILES as u64;
const VM: u64 = libc::CLONE_VM as u64;
const VFORK: u64 = libc::CLONE_VFORK as u64;

fn make(a: &mut Agent, number: i64, flags: u64) -> i64 {
    a.spawn(Making { number, flags })
}

pub const OPS: &[Op] = &[
    #[cfg(target_arch = "x86_64")]
    op("fork", Fork, 3, |a| make(a, nr::FORK, 0)),
    op("clone", Fork, 2, |a| make(a, nr::CLONE, 0)),
    op("clone3", Fork, 2, |a| make(a, nr::CLONE3, 0)),
    op("clone vm", Fork, 1, |a| make(a, nr::CLONE, VM)),
    #[cfg(target_arch = "x86_64")]
    op("vfork", Vfork, 3, |a| make(a, nr::VFORK, 0)),
    op("clone vfork", Vfork, 2, |a| make(a, nr::CLONE, VM | VFORK)),
    op("clone3 vfork", Vfork, 1, |a| make(a, nr::CLONE3, VM | VFORK)),
    op("clone vfork files", Vfork, 1, |a| make(a, nr::CLONE, VM | VFORK | FILES)),
    op("clone files", SharedTable, 3, |a| make(a, nr::CLONE, FILES)),
    op("clone3 files", SharedTable, 2, |a| make(a, nr::CLONE3, FILES)),
    op("clone vm files", SharedTable, 1, |a| make(a, nr::CLONE, VM | FILES)),
    op("thread", Thread, 4, |a| make(a, nr::CLONE, THREAD)),
    op("thread clone3", Thread, 3, |a| make(a, nr::CLONE3, THREAD)),
    op("exec", Group::Exec, 4, |a| a.exec(Exec::Path)),
    op("exec descriptor", Group::Exec, 2, |a| {
        let cloexec = a.rng.chance(50);
        a.exec(Exec::Descriptor { cloexec })
    }),
    op("exec refused", Group::Exec, 2, |a| {
        let nothing = [0_u64; 1];
        let path = [c"missing/program", c"f0", c"."][a.rng.below(3)];
        a.call_noted(nr::EXECVE, &[path.into(), Arg::read(&nothing), Arg::read(&nothing)], path.to_bytes())
    }),
    op("execveat closed", Group::Exec, 1, |a| {
        let fd = a.closed_fd();
        let nothing = [0_u64; 1];
        let nothing = Arg::read(&nothing);
        // In a parallel round the number may be open by now: a relative path that does not exist fails all the same.
        a.call(nr::EXECVEAT, &[fd.into(), c"missing".into(), nothing, nothing, 0.into()])
    }),
    op("exit process", Group::Exit, 2, exit_process),
    op("exit thread", Group::Exit, 2, |a| {
        if a.tid == a.pid {
            return SKIP;
        }
        a.count(super::index_of("exit thread"), 0);
        a.end(false)
    }),
];

/// The first process stays: there is always somebody to go on.
fn exit_process(a: &mut Agent) -> i64 {
    if a.pid == a.region.root_pid.load(SeqCst) {
        return SKIP;
    }
    a.count(super::index_of("exit process"), 0);
    a.end(true)
}
