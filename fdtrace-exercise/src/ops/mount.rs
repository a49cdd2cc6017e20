//! Descriptors of the mount interface. Nothing is attached to the tree.

use super::{Op, op};
use crate::agent::Agent;
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Rare;

pub const OPS: &[Op] = &[
    op("fsopen", Rare, 1, |a| fsopen(a).0),
    op("fsmount", Rare, 1, fsmount),
    op("fspick", Rare, 1, |a| {
        const CLOEXEC: i32 = 1;
        let cloexec = a.rng.chance(50);
        let ret = a.call(nr::FSPICK, &[libc::AT_FDCWD.into(), c"/".into(), (i32::from(cloexec) * CLOEXEC).into()]);
        a.made(ret, Kind::Fscontext, cloexec)
    }),
    op("open_tree", Rare, 2, |a| open_tree(a, nr::OPEN_TREE)),
    op("open_tree_attr", Rare, 1, |a| open_tree(a, nr::OPEN_TREE_ATTR)),
];

fn fsopen(a: &mut Agent) -> (i64, bool) {
    let cloexec = a.rng.chance(50);
    let ret = a.call(nr::FSOPEN, &[c"tmpfs".into(), i32::from(cloexec).into()]);
    (a.made(ret, Kind::Fscontext, cloexec), cloexec)
}

fn fsmount(a: &mut Agent) -> i64 {
    const CREATE: i32 = 6;
    let (context, _) = fsopen(a);
    if context < 0 {
        return context;
    }
    let ret = a.call(nr::FSCONFIG, &[context.into(), CREATE.into(), 0.into(), 0.into(), 0.into()]);
    if ret < 0 {
        return ret;
    }
    let cloexec = a.rng.chance(50);
    let ret = a.call(nr::FSMOUNT, &[context.into(), i32::from(cloexec).into(), 0.into()]);
    a.close(context as i32);
    a.made(ret, Kind::Mount, cloexec)
}

fn open_tree(a: &mut Agent, number: i64) -> i64 {
    const CLONE: i32 = 1;
    let cloexec = a.rng.chance(50);
    let clone = if a.rng.chance(50) { CLONE } else { 0 };
    let flags = clone | if cloexec { libc::O_CLOEXEC } else { 0 };
    let ret = a.call(number, &[libc::AT_FDCWD.into(), c".".into(), flags.into(), 0.into(), 0.into()]);
    a.made(ret, Kind::Mount, cloexec)
}
