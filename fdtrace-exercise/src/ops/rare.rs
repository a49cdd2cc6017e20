//! Descriptors that few programs make: secret memory, queues, rulesets, maps, counters, terminals, namespaces.

use super::open::open;
use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Rare;
use crate::sys::Arg;

pub const OPS: &[Op] = &[
    op("memfd_secret", Rare, 2, memfd_secret),
    op("mq_open", Rare, 2, mq_open),
    op("landlock_create_ruleset", Rare, 2, |a| {
        let handled = 1_u64;
        let ret = a.call(nr::LANDLOCK_CREATE_RULESET, &[Arg::read(&handled), 8.into(), 0.into()]);
        a.made(ret, Kind::Landlock, true)
    }),
    op("landlock version", Rare, 1, |a| a.call(nr::LANDLOCK_CREATE_RULESET, &[0.into(), 0.into(), 1.into()])),
    op("bpf map", Rare, 2, bpf_map),
    op("perf_event_open", Rare, 2, perf_event_open),
    op("userfaultfd", Rare, 2, userfaultfd),
    op("userfaultfd device", Rare, 1, userfaultfd_device),
    op("TIOCGPTPEER", Rare, 2, terminal),
    op("NS_GET_USERNS", Rare, 2, namespace),
    op("namespace of pidfd", Rare, 1, namespace_of_pidfd),
    op("SIOCGSKNS", Rare, 1, namespace_of_socket),
    op("open_by_handle_at", Rare, 2, open_by_handle),
];

/// The flag that this call knows, or none.
fn choice(a: &mut Agent, flag: i32) -> (i32, bool) {
    if a.rng.chance(50) { (flag, true) } else { (0, false) }
}

fn memfd_secret(a: &mut Agent) -> i64 {
    let (flags, cloexec) = choice(a, libc::O_CLOEXEC);
    let ret = a.call(nr::MEMFD_SECRET, &[flags.into()]);
    a.made(ret, Kind::Secret, cloexec)
}

fn mq_open(a: &mut Agent) -> i64 {
    // The names of queues are everybody's: this run's own, in letters that stand for its first process.
    let mut name = *b"fdtrace-exercise-........\0";
    let root = a.region.root_pid.load(core::sync::atomic::Ordering::SeqCst);
    for (index, letter) in name[17..25].iter_mut().enumerate() {
        *letter = b'a' + (root >> (4 * index) & 15) as u8;
    }
    let name = Arg::read(&name);
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NONBLOCK;
    let ret = a.call(nr::MQ_OPEN, &[name, flags.into(), 0o600.into(), 0.into()]);
    a.call(nr::MQ_UNLINK, &[name]);
    a.made(ret, Kind::Mqueue, true)
}

fn bpf_map(a: &mut Agent) -> i64 {
    const MAP_CREATE: i32 = 0;
    const MAP_GET_FD_BY_ID: i32 = 14;
    const OBJ_GET_INFO_BY_FD: i32 = 15;
    // An array of one value of eight bytes.
    let create = [2_u32, 4, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let fd = a.call(nr::BPF, &[MAP_CREATE.into(), Arg::read(&create), 48.into()]);
    if a.made(fd, Kind::Bpf, true) < 0 || a.rng.chance(50) {
        return fd;
    }
    let mut info = [0_u32; 20];
    let at = Arg::write(&mut info).0;
    let ask = [fd as u32, 80, at as u32, (at >> 32) as u32];
    let ret = a.call(nr::BPF, &[OBJ_GET_INFO_BY_FD.into(), Arg::read(&ask), 16.into()]);
    if ret < 0 {
        return ret;
    }
    let by_id = [info[1], 0, 0];
    let ret = a.call(nr::BPF, &[MAP_GET_FD_BY_ID.into(), Arg::read(&by_id), 12.into()]);
    a.made(ret, Kind::Bpf, true)
}

fn perf_event_open(a: &mut Agent) -> i64 {
    const SOFTWARE: u32 = 1;
    const SIZE: u32 = 64;
    const DUMMY: u32 = 9;
    const FD_CLOEXEC: i32 = 8;
    let (flags, cloexec) = choice(a, FD_CLOEXEC);
    let mut attributes = [0_u32; 16];
    attributes[..3].copy_from_slice(&[SOFTWARE, SIZE, DUMMY]);
    let (itself, any_cpu, no_group) = (0.into(), (-1).into(), (-1).into());
    let ret = a.call(nr::PERF_EVENT_OPEN, &[Arg::read(&attributes), itself, any_cpu, no_group, flags.into()]);
    a.made(ret, Kind::PerfEvent, cloexec)
}

fn userfaultfd(a: &mut Agent) -> i64 {
    const USER_MODE_ONLY: i32 = 1;
    let (flags, cloexec) = choice(a, libc::O_CLOEXEC);
    let ret = a.call(nr::USERFAULTFD, &[(flags | libc::O_NONBLOCK | USER_MODE_ONLY).into()]);
    a.made(ret, Kind::Userfault, cloexec)
}

fn userfaultfd_device(a: &mut Agent) -> i64 {
    const NEW: i32 = 0xaa00;
    let device = open(a, nr::OPENAT, c"/dev/userfaultfd", libc::O_RDWR, Kind::Char);
    if device < 0 {
        return device;
    }
    let (flags, cloexec) = choice(a, libc::O_CLOEXEC);
    let ret = a.call(nr::IOCTL, &[device.into(), NEW.into(), (flags | libc::O_NONBLOCK).into()]);
    a.close(device as i32);
    a.made(ret, Kind::Userfault, cloexec)
}

fn terminal(a: &mut Agent) -> i64 {
    const TIOCSPTLCK: u32 = 0x4004_5431;
    const TIOCGPTPEER: u32 = 0x5441;
    let (flags, cloexec) = choice(a, libc::O_CLOEXEC);
    let flags = flags | libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK;
    let master = open(a, nr::OPENAT, c"/dev/ptmx", flags, Kind::Terminal);
    if master < 0 {
        return master;
    }
    let unlocked = 0_i32;
    a.call(nr::IOCTL, &[master.into(), TIOCSPTLCK.into(), Arg::read(&unlocked)]);
    let ret = a.call(nr::IOCTL, &[master.into(), TIOCGPTPEER.into(), flags.into()]);
    if a.rng.chance(50) {
        a.close(master as i32);
    }
    a.made(ret, Kind::Terminal, cloexec)
}

fn namespace(a: &mut Agent) -> i64 {
    const NS_GET_USERNS: i32 = 0xb701;
    let (flags, _) = choice(a, libc::O_CLOEXEC);
    let path = [c"/proc/self/ns/uts", c"/proc/self/ns/net", c"/proc/self/ns/pid"][a.rng.below(3)];
    let fd = open(a, nr::OPENAT, path, flags, Kind::Namespace);
    if fd < 0 {
        return fd;
    }
    let ret = a.call(nr::IOCTL, &[fd.into(), NS_GET_USERNS.into()]);
    if a.rng.chance(50) {
        a.close(fd as i32);
    }
    a.made(ret, Kind::Namespace, true)
}

fn namespace_of_pidfd(a: &mut Agent) -> i64 {
    const PIDFD_GET_NET_NAMESPACE: i32 = 0xff04;
    let pidfd = a.call(nr::PIDFD_OPEN, &[a.pid.into(), 0.into()]);
    if a.made(pidfd, Kind::Pidfd, true) < 0 {
        return pidfd;
    }
    let ret = a.call(nr::IOCTL, &[pidfd.into(), PIDFD_GET_NET_NAMESPACE.into(), 0.into()]);
    a.close(pidfd as i32);
    a.made(ret, Kind::Namespace, true)
}

fn namespace_of_socket(a: &mut Agent) -> i64 {
    const SIOCGSKNS: i32 = 0x894c;
    let sockets = |kind| matches!(kind, Kind::Socket | Kind::Listener | Kind::Pair | Kind::Mailbox);
    let Some(fd) = a.live_where(sockets) else { return SKIP };
    let ret = a.call(nr::IOCTL, &[fd.into(), SIOCGSKNS.into(), 0.into()]);
    a.made(ret, Kind::Namespace, true)
}

fn open_by_handle(a: &mut Agent) -> i64 {
    // The room for the handle, its type, the handle.
    let mut handle = [0_u32; 34];
    handle[0] = 128;
    let mut mount = 0_i32;
    let name = c"f0";
    let at = libc::AT_FDCWD;
    let place = Arg::write(&mut handle);
    let ret = a.call(nr::NAME_TO_HANDLE_AT, &[at.into(), name.into(), place, Arg::write(&mut mount), 0.into()]);
    if ret < 0 {
        return ret;
    }
    let (flags, cloexec) = choice(a, libc::O_CLOEXEC);
    let ret = a.call(nr::OPEN_BY_HANDLE_AT, &[at.into(), place, (flags | libc::O_RDONLY).into()]);
    a.made(ret, Kind::File, cloexec)
}
