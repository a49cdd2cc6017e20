//! Descriptors in messages: sent to other tasks' named sockets, received with and without room, close-on-exec, a peek.
//!
//! The data of a message says what its descriptors are, so that the receiver's account knows.

use super::{Op, op};
use crate::account::Held;
use crate::agent::{Agent, SKIP};
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Pass;
use crate::shared::SLOTS;
use crate::sys::Arg;

use core::sync::atomic::Ordering::SeqCst;

pub const OPS: &[Op] = &[
    op("mailbox", Pass, 3, mailbox),
    op("SCM_RIGHTS send", Pass, 6, send),
    op("SCM_RIGHTS send closed", Pass, 1, send_closed),
    op("SCM_RIGHTS recvmsg", Pass, 5, |a| receive(a, Way::Plain)),
    op("SCM_RIGHTS truncated", Pass, 2, |a| receive(a, Way::Truncated)),
    op("SCM_RIGHTS peek", Pass, 1, |a| receive(a, Way::Peek)),
    op("SCM_RIGHTS fault", Pass, 2, |a| receive(a, Way::Fault)),
    op("SCM_RIGHTS recvmmsg", Pass, 3, receive_many),
    op("SCM_RIGHTS in pair", Pass, 3, within_pair),
    op("SO_PEERPIDFD", Pass, 1, peer_pidfd),
];

/// Descriptors in one message, at most.
const MOST: usize = 4;
const SO_PASSPIDFD: i32 = 76;
const SO_PEERPIDFD: i32 = 77;
const SCM_PIDFD: i32 = 4;

#[repr(C)]
struct Vector {
    base: u64,
    len: u64,
}

#[repr(C)]
struct Header {
    name: u64,
    name_len: u32,
    vectors: u64,
    vector_count: u64,
    control: u64,
    control_len: u64,
    flags: u32,
}

/// A control message that holds descriptors; the header's length says how many.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Control {
    len: u64,
    level: i32,
    kind: i32,
    fds: [i32; MOST],
}

const CONTROL_HEADER: u64 = 16;

type Address = [u8; 110];

/// The abstract name of a slot's mailbox, and its length. Names are the run's own.
fn name_of(a: &Agent, slot: usize) -> (Address, u32) {
    let mut address: Address = [0; 110];
    address[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    address[3..11].copy_from_slice(b"exercise");
    address[11..15].copy_from_slice(&a.region.root_pid.load(SeqCst).to_ne_bytes());
    address[15] = slot as u8;
    (address, 16)
}

fn mailbox(a: &mut Agent) -> i64 {
    let cloexec = a.rng.chance(30);
    let flags = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | if cloexec { libc::SOCK_CLOEXEC } else { 0 };
    let fd = a.call(nr::SOCKET, &[libc::AF_UNIX.into(), flags.into(), 0.into()]);
    if a.made(fd, Kind::Mailbox, cloexec) < 0 {
        return fd;
    }
    if a.rng.chance(25) {
        let on = 1_i32;
        let option = [fd.into(), libc::SOL_SOCKET.into(), SO_PASSPIDFD.into(), Arg::read(&on), 4.into()];
        a.call(nr::SETSOCKOPT, &option);
    }
    let (address, len) = name_of(a, a.slot);
    // In use while a socket of an earlier call, or its copy in a child, is alive.
    let ret = a.call(nr::BIND, &[fd.into(), Arg::read(&address), len.into()]);
    if ret == 0 {
        a.own_slot().mailbox.store(1, SeqCst);
    }
    ret
}

/// Sends descriptors, with what they are as the data.
fn send_fds(a: &Agent, socket: i64, to: Option<(Address, u32)>, fds: &[i32]) -> i64 {
    let mut control = Control { level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, ..Control::default() };
    let mut data = [0_u64; MOST];
    for ((to, word), fd) in control.fds.iter_mut().zip(&mut data).zip(fds) {
        *to = *fd;
        *word = a.table().get(*fd).map_or(0, |held| held.0);
    }
    control.len = CONTROL_HEADER + 4 * fds.len() as u64;
    let vector = Vector { base: Arg::read(&data).0, len: 8 * fds.len() as u64 };
    let (address, name_len) = to.unwrap_or(([0; 110], 0));
    let header = Header {
        name: if name_len > 0 { Arg::read(&address).0 } else { 0 },
        name_len,
        vectors: Arg::read(&vector).0,
        vector_count: 1,
        control: Arg::read(&control).0,
        control_len: control.len.next_multiple_of(8),
        flags: 0,
    };
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    a.call(nr::SENDMSG, &[socket.into(), Arg::read(&header), flags.into()])
}

fn choose(a: &mut Agent) -> ([i32; MOST], usize) {
    let mut fds = [0; MOST];
    let count = 1 + a.rng.below(MOST);
    for fd in &mut fds {
        *fd = a.live_fd().unwrap_or(0);
    }
    (fds, count)
}

fn socket_to_send(a: &mut Agent) -> i64 {
    let flags = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK;
    let fd = a.call(nr::SOCKET, &[libc::AF_UNIX.into(), flags.into(), 0.into()]);
    if a.made(fd, Kind::Socket, false) >= 0 && a.rng.chance(50) {
        // With a name of its own, the receiver has an address to write out.
        let family = libc::AF_UNIX as u16;
        a.call(nr::BIND, &[fd.into(), Arg::read(&family), 2.into()]);
    }
    fd
}

fn send(a: &mut Agent) -> i64 {
    let (fds, count) = choose(a);
    // Mostly to somebody who is there.
    let slots = a.region.slots.iter().enumerate();
    let with_mailbox = slots.filter(|(_, slot)| slot.mailbox.load(SeqCst) == 1);
    let chosen = a.rng.below(with_mailbox.clone().count() + 1);
    let slot = with_mailbox.map(|(slot, _)| slot).nth(chosen).unwrap_or(SLOTS - 1);
    let to = name_of(a, slot);
    let socket = socket_to_send(a);
    if socket < 0 {
        return socket;
    }
    let ret = send_fds(a, socket, Some(to), &fds[..count]);
    a.close(socket as i32);
    ret
}

/// EBADF for a number inside a message.
fn send_closed(a: &mut Agent) -> i64 {
    let Some(socket) = a.live_of(Kind::Pair) else { return SKIP };
    let fds = [a.live_fd().unwrap_or(0), a.closed_fd()];
    send_fds(a, socket.into(), None, &fds)
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Plain,
    /// Room for one descriptor only.
    Truncated,
    Peek,
    /// The address cannot be written: the call fails after it has installed the descriptors.
    Fault,
}

/// Room for what one message may bring: rights, and a pidfd.
#[repr(C)]
struct Incoming {
    data: [u64; MOST],
    control: [Control; 2],
    vector: Vector,
}

impl Incoming {
    fn new() -> Self {
        Self { data: [0; MOST], control: [Control::default(); 2], vector: Vector { base: 0, len: 0 } }
    }

    fn header(&mut self, way: Way) -> Header {
        self.vector = Vector { base: Arg::write(&mut self.data).0, len: 8 * MOST as u64 };
        Header {
            name: if way == Way::Fault { 8 } else { 0 },
            name_len: if way == Way::Fault { 64 } else { 0 },
            vectors: Arg::read(&self.vector).0,
            vector_count: 1,
            control: Arg::write(&mut self.control).0,
            control_len: if way == Way::Truncated { CONTROL_HEADER + 4 } else { size_of_val(&self.control) as u64 },
            flags: 0,
        }
    }

    /// Enters what was installed. The control messages are looked at even after a failure.
    fn enter(&self, a: &Agent, cloexec: bool) {
        // SAFETY: plain integers, as bytes.
        let bytes: [u8; 64] = unsafe { core::mem::transmute(self.control) };
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            i32::from_ne_bytes(word)
        };
        let mut at = 0;
        while at + 16 <= bytes.len() {
            let (len, kind) = (word(at) as usize, word(at + 12));
            if len < 16 || at + len > bytes.len() {
                break;
            }
            let fds = (at + 16..at + len).step_by(4).map(word);
            for (fd, data) in fds.zip(self.data).filter(|(fd, _)| *fd >= 0) {
                if kind == SCM_PIDFD {
                    a.made(fd.into(), Kind::Pidfd, true);
                } else {
                    let held = (data != 0).then_some(Held(data));
                    a.copied(fd.into(), held, cloexec);
                }
            }
            at += len.next_multiple_of(8);
        }
    }
}

fn receive(a: &mut Agent, way: Way) -> i64 {
    let Some(socket) = a.live_of(Kind::Mailbox) else { return SKIP };
    let mut incoming = Incoming::new();
    let mut header = incoming.header(way);
    let cloexec = a.rng.chance(50);
    let mut flags = libc::MSG_DONTWAIT | if cloexec { libc::MSG_CMSG_CLOEXEC } else { 0 };
    if way == Way::Peek {
        flags |= libc::MSG_PEEK;
    }
    let ret = a.call(nr::RECVMSG, &[socket.into(), Arg::write(&mut header), flags.into()]);
    incoming.enter(a, cloexec);
    ret
}

#[repr(C)]
struct Many {
    header: Header,
    len: u32,
}

fn receive_many(a: &mut Agent) -> i64 {
    let Some(socket) = a.live_of(Kind::Mailbox) else { return SKIP };
    let mut incoming = [Incoming::new(), Incoming::new(), Incoming::new()];
    let mut headers = incoming.each_mut().map(|one| Many { header: one.header(Way::Plain), len: 0 });
    let cloexec = a.rng.chance(50);
    let flags = libc::MSG_DONTWAIT | if cloexec { libc::MSG_CMSG_CLOEXEC } else { 0 };
    let ret = a.call(nr::RECVMMSG, &[socket.into(), Arg::write(&mut headers), 3.into(), flags.into(), 0.into()]);
    for one in &incoming {
        one.enter(a, cloexec);
    }
    ret
}

/// Sent and received by one task: the same descriptions under new numbers.
fn within_pair(a: &mut Agent) -> i64 {
    let (fds, count) = choose(a);
    let ends = match super::socket::pair(a, libc::SOCK_DGRAM, true) {
        Ok(ends) => ends,
        Err(error) => return error,
    };
    let sent = send_fds(a, ends[0].into(), None, &fds[..count]);
    let mut incoming = Incoming::new();
    let mut header = incoming.header(Way::Plain);
    let ret = a.call(nr::RECVMSG, &[ends[1].into(), Arg::write(&mut header), libc::MSG_DONTWAIT.into()]);
    incoming.enter(a, false);
    for end in ends {
        a.close(end);
    }
    if sent < 0 { sent } else { ret }
}

fn peer_pidfd(a: &mut Agent) -> i64 {
    let Some(socket) = a.live_of(Kind::Pair) else { return SKIP };
    let (mut pidfd, mut len) = (-1_i32, 4_u32);
    let value = Arg::write(&mut pidfd);
    let ret = a.call(
        nr::GETSOCKOPT,
        &[socket.into(), libc::SOL_SOCKET.into(), SO_PEERPIDFD.into(), value, Arg::write(&mut len)],
    );
    if ret == 0 {
        a.made(pidfd.into(), Kind::Pidfd, true);
    }
    ret
}
