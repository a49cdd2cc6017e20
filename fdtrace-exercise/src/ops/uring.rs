//! Descriptors opened, closed and installed by io_uring: at the submission, by a worker, or by the polling thread.
//!
//! What a worker or the polling thread does is done in serial rounds only: its end could come after a quiet point.

use super::{Op, op, serial};
use crate::agent::{Agent, SKIP};
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Uring;
use crate::ring::{Ring, SETUP_SQPOLL, Submission, setup};
use crate::sys::Arg;

pub const OPS: &[Op] = &[
    op("io_uring_setup", Uring, 2, |a| setup(a)),
    op("uring OPENAT", Uring, 3, |a| with(a, Place::Inline, openat)),
    serial("uring OPENAT worker", Uring, 2, |a| with(a, Place::Worker, openat)),
    serial("uring OPENAT sqpoll", Uring, 1, |a| with(a, Place::Poller, openat)),
    op("uring OPENAT2", Uring, 2, |a| with(a, Place::Inline, openat2)),
    op("uring CLOSE", Uring, 3, |a| with(a, Place::Inline, close)),
    serial("uring CLOSE worker", Uring, 2, |a| with(a, Place::Worker, close)),
    serial("uring CLOSE sqpoll", Uring, 1, |a| with(a, Place::Poller, close)),
    op("uring CLOSE closed", Uring, 1, |a| with(a, Place::Inline, close_closed)),
    op("uring SOCKET", Uring, 2, |a| with(a, Place::Inline, socket)),
    serial("uring ACCEPT", Uring, 2, |a| with(a, Place::Inline, accept)),
    op("uring EPOLL_CTL", Uring, 2, |a| with(a, Place::Inline, epoll_ctl)),
    op("uring PIPE", Uring, 1, |a| with(a, Place::Inline, pipe)),
    op("uring direct", Uring, 2, |a| with(a, Place::Inline, direct)),
    op("uring FIXED_FD_INSTALL", Uring, 2, |a| with(a, Place::Inline, install)),
];

const ACCEPT: u8 = 13;
const OPENAT: u8 = 18;
const CLOSE: u8 = 19;
const OPENAT2: u8 = 28;
const EPOLL_CTL: u8 = 29;
const SOCKET: u8 = 45;
const FIXED_FD_INSTALL: u8 = 54;
const PIPE: u8 = 62;

const FIXED_FILE: u8 = 1;
const ASYNC: u8 = 1 << 4;
const REGISTER_FILES: u32 = 2;
const INSTALL_NO_CLOEXEC: u32 = 1;

/// Who carries the operation out.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Inline,
    Worker,
    Poller,
}

struct Job<'a> {
    ring: &'a Ring,
    flags: u8,
}

fn with(a: &mut Agent, place: Place, run: fn(&mut Agent, &Job<'_>) -> i64) -> i64 {
    if place == Place::Worker {
        // A worker that was made before its task took a table for itself goes on with the old one for as long as it is
        // kept, some seconds: where a descriptor lands is not a matter of the seed then.
        if a.stale_workers {
            return SKIP;
        }
        a.has_workers = true;
    }
    let ring = match Ring::new(a, if place == Place::Poller { SETUP_SQPOLL } else { 0 }) {
        Ok(ring) => ring,
        Err(error) => return error,
    };
    let ret = run(a, &Job { ring: &ring, flags: if place == Place::Worker { ASYNC } else { 0 } });
    ring.end(a);
    ret
}

fn submit(a: &Agent, job: &Job<'_>, submission: Submission) -> i64 {
    job.ring.submit(a, Submission { flags: submission.flags | job.flags, ..submission })
}

fn open_flags(a: &mut Agent) -> (u32, bool) {
    let cloexec = a.rng.chance(50);
    // O_CREAT would send any open to a worker.
    ((libc::O_RDWR | if cloexec { libc::O_CLOEXEC } else { 0 }) as u32, cloexec)
}

fn openat(a: &mut Agent, job: &Job<'_>) -> i64 {
    let (op_flags, cloexec) = open_flags(a);
    let address = Arg::from(super::open::FILES[a.rng.below(6)]).0;
    let ret =
        submit(a, job, Submission { opcode: OPENAT, fd: libc::AT_FDCWD, address, op_flags, ..Submission::default() });
    a.made(ret, Kind::File, cloexec)
}

fn openat2(a: &mut Agent, job: &Job<'_>) -> i64 {
    let (flags, cloexec) = open_flags(a);
    let how = [u64::from(flags), 0, 0];
    let address = Arg::from(super::open::FILES[a.rng.below(6)]).0;
    let offset = Arg::read(&how).0;
    let ret = submit(
        a,
        job,
        Submission { opcode: OPENAT2, fd: libc::AT_FDCWD, address, len: 24, offset, ..Submission::default() },
    );
    a.made(ret, Kind::File, cloexec)
}

fn close(a: &mut Agent, job: &Job<'_>) -> i64 {
    // A ring refuses to close itself, and any other ring. What has to be flushed would go to a worker.
    let Some(fd) = a.live_where(|kind| !matches!(kind, Kind::Uring | Kind::Mqueue | Kind::Path)) else { return SKIP };
    let ret = submit(a, job, Submission { opcode: CLOSE, fd, ..Submission::default() });
    if ret != -i64::from(libc::ETIME) {
        a.table().clear(fd);
    }
    ret
}

fn close_closed(a: &mut Agent, job: &Job<'_>) -> i64 {
    let fd = a.closed_fd();
    let ret = submit(a, job, Submission { opcode: CLOSE, fd, ..Submission::default() });
    if ret == 0 {
        // Another thread had opened it.
        a.table().clear(fd);
    }
    ret
}

fn socket(a: &mut Agent, job: &Job<'_>) -> i64 {
    let cloexec = a.rng.chance(50);
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | if cloexec { libc::SOCK_CLOEXEC } else { 0 };
    let ret =
        submit(a, job, Submission { opcode: SOCKET, fd: libc::AF_UNIX, offset: kind as u64, ..Submission::default() });
    a.made(ret, Kind::Socket, cloexec)
}

fn accept(a: &mut Agent, job: &Job<'_>) -> i64 {
    let Some(listener) = a.live_of(Kind::Listener) else { return SKIP };
    let client = match super::socket::connect_to(a, listener) {
        Ok(client) => client,
        Err(error) => return error,
    };
    let cloexec = a.rng.chance(50);
    let op_flags = if cloexec { libc::SOCK_CLOEXEC as u32 } else { 0 };
    let ret = submit(a, job, Submission { opcode: ACCEPT, fd: listener, op_flags, ..Submission::default() });
    a.made(ret, Kind::Socket, cloexec);
    a.close(client);
    ret
}

fn epoll_ctl(a: &mut Agent, job: &Job<'_>) -> i64 {
    let (Some(epoll), Some(fd)) =
        (a.live_of(Kind::Epoll), a.live_where(|kind| kind == Kind::Eventfd || kind == Kind::Pipe))
    else {
        return SKIP;
    };
    // Packed or not, the events come first and the data is this number.
    let event = [libc::EPOLLIN as u32, fd as u32, fd as u32, 0];
    let address = Arg::read(&event).0;
    let len = libc::EPOLL_CTL_ADD as u32;
    submit(
        a,
        job,
        Submission { opcode: EPOLL_CTL, fd: epoll, offset: fd as u64, address, len, ..Submission::default() },
    )
}

fn pipe(a: &mut Agent, job: &Job<'_>) -> i64 {
    let mut ends = [-1_i32; 2];
    let cloexec = a.rng.chance(50);
    let op_flags = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
    let address = Arg::write(&mut ends).0;
    let ret = submit(a, job, Submission { opcode: PIPE, address, op_flags, ..Submission::default() });
    if ret == 0 {
        for end in ends {
            a.made(end.into(), Kind::Pipe, cloexec);
        }
    }
    ret
}

fn register(a: &Agent, job: &Job<'_>, fd: i32) -> i64 {
    let files = [fd];
    a.call(nr::IO_URING_REGISTER, &[job.ring.fd.into(), REGISTER_FILES.into(), Arg::read(&files), 1.into()])
}

/// An open into the ring's own table: no number at all, until it is installed.
fn direct(a: &mut Agent, job: &Job<'_>) -> i64 {
    let ret = register(a, job, -1);
    if ret < 0 {
        return ret;
    }
    let address = Arg::from(c"f3").0;
    let opened = submit(
        a,
        job,
        Submission {
            opcode: OPENAT,
            fd: libc::AT_FDCWD,
            address,
            op_flags: libc::O_RDWR as u32,
            file_index: 1,
            ..Submission::default()
        },
    );
    if opened < 0 || a.rng.chance(40) {
        return opened;
    }
    let ret =
        submit(a, job, Submission { opcode: FIXED_FD_INSTALL, flags: FIXED_FILE, fd: 0, ..Submission::default() });
    a.made(ret, Kind::File, true)
}

/// A registered file under a number: the same description.
fn install(a: &mut Agent, job: &Job<'_>) -> i64 {
    let Some(fd) = a.live_where(|kind| matches!(kind, Kind::File | Kind::Eventfd | Kind::Pipe | Kind::Timerfd)) else {
        return SKIP;
    };
    let held = a.table().get(fd);
    let ret = register(a, job, fd);
    if ret < 0 {
        return ret;
    }
    let cloexec = a.rng.chance(50);
    let op_flags = if cloexec { 0 } else { INSTALL_NO_CLOEXEC };
    let ret =
        submit(a, job, Submission { opcode: FIXED_FD_INSTALL, flags: FIXED_FILE, op_flags, ..Submission::default() });
    a.copied(ret, held, cloexec)
}
