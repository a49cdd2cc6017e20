//! Calls that find no free number.

use super::{Op, serial};
use crate::agent::Agent;
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Limit;
use crate::shared::FDS;
use crate::sys::Arg;

pub const OPS: &[Op] = &[serial("EMFILE", Limit, 1, exhausted)];

fn set_limit(a: &Agent, soft: u64) -> i64 {
    let mut old = [0_u64; 2];
    a.call(nr::PRLIMIT64, &[0.into(), libc::RLIMIT_NOFILE.into(), 0.into(), Arg::write(&mut old)]);
    let new = [soft.min(old[1]), old[1]];
    a.call(nr::PRLIMIT64, &[0.into(), libc::RLIMIT_NOFILE.into(), Arg::read(&new), 0.into()])
}

/// Lowers the limit until few numbers are left, tries all that make descriptors, and puts it back.
fn exhausted(a: &mut Agent) -> i64 {
    let soft = 3 + a.rng.below(12) as u64;
    if set_limit(a, soft) < 0 {
        return -i64::from(libc::EPERM);
    }
    let mut last = 0;
    for _ in 0..6 {
        last = match a.rng.below(5) {
            0 => super::open::open(a, nr::OPENAT, c"f2", libc::O_RDONLY, Kind::File),
            1 => {
                let mut ends = [-1_i32; 2];
                let ret = a.call(nr::PIPE2, &[Arg::write(&mut ends), 0.into()]);
                if ret == 0 {
                    for end in ends {
                        a.made(i64::from(end), Kind::Pipe, false);
                    }
                }
                ret
            }
            2 => super::socket::pair(a, libc::SOCK_STREAM, false).map_or_else(|error| error, |_| 0),
            3 => {
                let from = a.table().get(0);
                let ret = a.call(nr::DUP, &[0.into()]);
                a.copied(ret, from, false)
            }
            _ => {
                let ret = a.call(nr::EVENTFD2, &[0.into(), 0.into()]);
                a.made(ret, Kind::Eventfd, false)
            }
        };
    }
    set_limit(a, FDS as u64);
    last
}
