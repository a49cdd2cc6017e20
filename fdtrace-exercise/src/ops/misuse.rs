//! Use of descriptors, mostly of numbers that are closed.

use super::{Op, op, serial};
use crate::agent::SKIP;
use crate::nr;
use crate::profile::Group::Use;
use crate::shared::FDS;
use crate::sys::Arg;

// The C libraries differ in the type of this.
const FIONREAD: Arg = Arg(0x541b);

pub const OPS: &[Op] = &[
    serial("read closed", Use, 3, |a| {
        let (fd, mut buffer) = (a.closed_fd(), [0_u8; 8]);
        a.call(nr::READ, &[fd.into(), Arg::write(&mut buffer), 8.into()])
    }),
    serial("write closed", Use, 3, |a| {
        let (fd, buffer) = (a.closed_fd(), [0_u8; 8]);
        a.call(nr::WRITE, &[fd.into(), Arg::read(&buffer), 8.into()])
    }),
    op("pread64 closed", Use, 2, |a| {
        let (fd, mut buffer) = (a.closed_fd(), [0_u8; 8]);
        a.call(nr::PREAD64, &[fd.into(), Arg::write(&mut buffer), 8.into(), 0.into()])
    }),
    op("fstat closed", Use, 3, |a| {
        let (fd, mut stat) = (a.closed_fd(), [0_u8; 256]);
        a.call(nr::FSTAT, &[fd.into(), Arg::write(&mut stat)])
    }),
    op("fcntl closed", Use, 2, |a| {
        let fd = a.closed_fd();
        let command = [libc::F_GETFD, libc::F_GETFL, libc::F_SETFD][a.rng.below(3)];
        a.call(nr::FCNTL, &[fd.into(), command.into(), 0.into()])
    }),
    op("lseek closed", Use, 1, |a| {
        let fd = a.closed_fd();
        a.call(nr::LSEEK, &[fd.into(), 0.into(), libc::SEEK_CUR.into()])
    }),
    op("ioctl closed", Use, 1, |a| {
        let (fd, mut count) = (a.closed_fd(), 0_i32);
        a.call(nr::IOCTL, &[fd.into(), FIONREAD, Arg::write(&mut count)])
    }),
    op("getsockopt closed", Use, 1, |a| {
        let (fd, mut value, mut len) = (a.closed_fd(), 0_i32, 4_u32);
        let value = Arg::write(&mut value);
        a.call(nr::GETSOCKOPT, &[fd.into(), libc::SOL_SOCKET.into(), libc::SO_TYPE.into(), value, Arg::write(&mut len)])
    }),
    op("recvfrom closed", Use, 1, |a| {
        let (fd, mut buffer) = (a.closed_fd(), [0_u8; 8]);
        a.call(nr::RECVFROM, &[fd.into(), Arg::write(&mut buffer), 8.into(), libc::MSG_DONTWAIT.into()])
    }),
    serial("sendfile closed", Use, 2, |a| {
        let closed = a.closed_fd();
        let live = a.live_fd().unwrap_or(closed);
        let (out, from) = if a.rng.chance(50) { (closed, live) } else { (live, closed) };
        a.call(nr::SENDFILE, &[out.into(), from.into(), 0.into(), 8.into()])
    }),
    serial("splice closed", Use, 1, |a| {
        let (one, two) = (a.closed_fd(), a.closed_fd());
        a.call(nr::SPLICE, &[one.into(), 0.into(), two.into(), 0.into(), 8.into(), 2.into()])
    }),
    op("pselect6 closed", Use, 1, |a| {
        // A number in a set of bits.
        let (fd, mut set) = (a.closed_fd(), [0_u64; FDS / 64]);
        set[fd as usize / 64] |= 1 << (fd % 64);
        let (count, no_time) = (fd + 1, [0_u64; 2]);
        let set = Arg::write(&mut set);
        a.call(nr::PSELECT6, &[count.into(), set, 0.into(), 0.into(), Arg::read(&no_time), 0.into()])
    }),
    op("poll closed", Use, 1, |a| {
        // No EBADF here: the answer is in the events.
        let (fd, no_time) = (a.closed_fd(), [0_u64; 2]);
        let mut set = [fd as u32, 1];
        a.call(nr::PPOLL, &[Arg::write(&mut set), 1.into(), Arg::read(&no_time), 0.into()])
    }),
    op("copy_file_range closed", Use, 1, |a| {
        let (one, two) = (a.closed_fd(), a.closed_fd());
        a.call(nr::COPY_FILE_RANGE, &[one.into(), 0.into(), two.into(), 0.into(), 8.into(), 0.into()])
    }),
    op("mmap closed", Use, 1, |a| {
        let fd = a.closed_fd();
        let prot = libc::PROT_READ;
        let ret =
            a.call(nr::MMAP, &[0.into(), 4096.into(), prot.into(), libc::MAP_PRIVATE.into(), fd.into(), 0.into()]);
        if ret >= 0 {
            // Another thread opened the number meanwhile.
            a.call(nr::MUNMAP, &[ret.into(), 4096.into()]);
            return 0;
        }
        ret
    }),
    op("fstat", Use, 3, |a| {
        let mut stat = [0_u8; 256];
        let Some(fd) = a.live_fd() else { return SKIP };
        a.call(nr::FSTAT, &[fd.into(), Arg::write(&mut stat)])
    }),
    op("fcntl F_GETFL", Use, 2, |a| {
        let Some(fd) = a.live_fd() else { return SKIP };
        let ret = a.call(nr::FCNTL, &[fd.into(), libc::F_GETFL.into()]);
        // The flags of the standard three are not a matter of the seed.
        ret.min(0)
    }),
    op("write wrong mode", Use, 1, |a| {
        // EBADF on a live number: it was opened for reading.
        let fd = super::open::open(a, nr::OPENAT, c"/dev/zero", libc::O_RDONLY, crate::kind::Kind::Char);
        if fd < 0 {
            return fd;
        }
        let buffer = [0_u8; 8];
        let ret = a.call(nr::WRITE, &[fd.into(), Arg::read(&buffer), 8.into()]);
        a.close(fd as i32);
        ret
    }),
];
