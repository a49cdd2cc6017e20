//! Everybody opens, replaces and closes the same few numbers of one table at once.

use super::{Op, op};
use crate::agent::Agent;
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Storm;

pub const OPS: &[Op] = &[
    op("storm open", Storm, 10, |a| {
        let flags = libc::O_RDONLY | if a.rng.chance(30) { libc::O_CLOEXEC } else { 0 };
        super::open::open(a, nr::OPENAT, c"/dev/null", flags, Kind::Char)
    }),
    op("storm close", Storm, 10, |a| {
        let fd = number(a);
        a.close(fd)
    }),
    op("storm dup", Storm, 3, |a| {
        let fd = number(a);
        let from = a.table().get(fd);
        let ret = a.call(nr::DUP, &[fd.into()]);
        a.copied(ret, from, false)
    }),
    op("storm dup3", Storm, 4, |a| {
        let (fd, target) = (number(a), number(a));
        let from = a.table().get(fd);
        let ret = a.call(nr::DUP3, &[fd.into(), target.into(), 0.into()]);
        a.copied(ret, from, false)
    }),
    op("storm eventfd", Storm, 3, |a| {
        let ret = a.call(nr::EVENTFD2, &[0.into(), 0.into()]);
        a.made(ret, Kind::Eventfd, false)
    }),
    op("storm fstat", Storm, 2, |a| {
        let (fd, mut stat) = (number(a), [0_u8; 256]);
        a.call(nr::FSTAT, &[fd.into(), crate::sys::Arg::write(&mut stat)])
    }),
];

fn number(a: &mut Agent) -> i32 {
    3 + a.rng.below(10) as i32
}
