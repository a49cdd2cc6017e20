//! Sockets, pairs, and connections accepted over loopback or an abstract name.

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Make;
use crate::sys::Arg;

pub const OPS: &[Op] = &[
    op("socket", Make, 4, socket),
    op("socket refused", Make, 1, |a| a.call(nr::SOCKET, &[libc::AF_UNIX.into(), 77.into(), 0.into()])),
    op("socketpair", Make, 5, socketpair),
    op("listen", Make, 3, listen),
    op("accept", Make, 3, |a| accept(a, nr::ACCEPT)),
    op("accept4", Make, 3, |a| accept(a, nr::ACCEPT4)),
    op("accept nobody", Make, 1, accept_nobody),
    op("accept closed", Make, 1, accept_closed),
];

/// Room for any address.
type Address = [u8; 128];

fn socket(a: &mut Agent) -> i64 {
    let (family, kind) = match a.rng.below(5) {
        0 => (libc::AF_UNIX, libc::SOCK_STREAM),
        1 => (libc::AF_UNIX, libc::SOCK_DGRAM),
        2 => (libc::AF_INET, libc::SOCK_STREAM),
        3 => (libc::AF_INET, libc::SOCK_DGRAM),
        _ => (libc::AF_NETLINK, libc::SOCK_RAW),
    };
    let cloexec = a.rng.chance(50);
    let flags = libc::SOCK_NONBLOCK | if cloexec { libc::SOCK_CLOEXEC } else { 0 };
    let ret = a.call(nr::SOCKET, &[family.into(), (kind | flags).into(), 0.into()]);
    a.made(ret, Kind::Socket, cloexec)
}

/// A pair; enters both ends.
pub fn pair(a: &Agent, kind: i32, cloexec: bool) -> Result<[i32; 2], i64> {
    let mut ends = [-1_i32; 2];
    let flags = kind | libc::SOCK_NONBLOCK | if cloexec { libc::SOCK_CLOEXEC } else { 0 };
    let ret = a.call(nr::SOCKETPAIR, &[libc::AF_UNIX.into(), flags.into(), 0.into(), Arg::write(&mut ends)]);
    if ret < 0 {
        return Err(ret);
    }
    for end in ends {
        a.made(i64::from(end), Kind::Pair, cloexec);
    }
    Ok(ends)
}

fn socketpair(a: &mut Agent) -> i64 {
    let kind = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET][a.rng.below(3)];
    let cloexec = a.rng.chance(50);
    pair(a, kind, cloexec).map_or_else(|error| error, |_| 0)
}

fn listen(a: &mut Agent) -> i64 {
    let family = if a.rng.chance(70) { libc::AF_UNIX } else { libc::AF_INET };
    let cloexec = a.rng.chance(50);
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | if cloexec { libc::SOCK_CLOEXEC } else { 0 };
    let fd = a.call(nr::SOCKET, &[family.into(), flags.into(), 0.into()]);
    if a.made(fd, Kind::Listener, cloexec) < 0 {
        return fd;
    }
    // The family alone: the kernel chooses an abstract name. For the internet: loopback, any port.
    let mut address: Address = [0; 128];
    address[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    let len = if family == libc::AF_UNIX {
        2
    } else {
        address[4..8].copy_from_slice(&[127, 0, 0, 1]);
        16
    };
    a.call(nr::BIND, &[fd.into(), Arg::read(&address), len.into()]);
    a.call(nr::LISTEN, &[fd.into(), 8.into()])
}

fn accept(a: &mut Agent, number: i64) -> i64 {
    let Some(listener) = a.live_of(Kind::Listener) else {
        listen(a);
        return SKIP;
    };
    let client = match connect_to(a, listener) {
        Ok(client) => client,
        Err(error) => return error,
    };
    let cloexec = number == nr::ACCEPT4 && a.rng.chance(50);
    let flags = if cloexec { libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK } else { 0 };
    let fd = a.call(number, &[listener.into(), 0.into(), 0.into(), flags.into()]);
    a.made(fd, Kind::Socket, cloexec);
    if a.rng.chance(60) {
        a.close(client);
    }
    fd
}

/// A new socket, connected to a listener: there is somebody to accept.
pub fn connect_to(a: &Agent, listener: i32) -> Result<i32, i64> {
    let mut address: Address = [0; 128];
    let mut len = address.len() as u32;
    let ret = a.call(nr::GETSOCKNAME, &[listener.into(), Arg::write(&mut address), Arg::write(&mut len)]);
    if ret < 0 {
        return Err(ret);
    }
    let family = i32::from(u16::from_ne_bytes([address[0], address[1]]));
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    let client = a.call(nr::SOCKET, &[family.into(), flags.into(), 0.into()]);
    if a.made(client, Kind::Socket, false) < 0 {
        return Err(client);
    }
    a.call(nr::CONNECT, &[client.into(), Arg::read(&address), len.into()]);
    Ok(client as i32)
}

fn accept_nobody(a: &mut Agent) -> i64 {
    let Some(fd) = a.live_where(|kind| matches!(kind, Kind::Listener | Kind::Eventfd | Kind::File)) else {
        return SKIP;
    };
    let number = if a.rng.chance(50) { nr::ACCEPT } else { nr::ACCEPT4 };
    let ret = a.call(number, &[fd.into(), 0.into(), 0.into(), 0.into()]);
    a.made(ret, Kind::Socket, false)
}

fn accept_closed(a: &mut Agent) -> i64 {
    let fd = a.closed_fd();
    let ret = a.call(nr::ACCEPT4, &[fd.into(), 0.into(), 0.into(), 0.into()]);
    a.made(ret, Kind::Socket, false)
}
