//! How the kernel side treats a system call: one byte per number, chosen by user space before load.
//!
//! The table of classes is data, not code, so that one BPF object serves every architecture and ABI.

/// Not ours: both hooks leave at once. An `EBADF` of a traced task is reported all the same.
pub const NONE: u8 = 0;
/// Takes a descriptor. Reported when it fails with `EBADF`, when it blocked while other tasks could change the table, or
/// when user space watches the slot; the start is kept so that the interval is known.
pub const USE: u8 = 1;
/// Returns a new descriptor.
pub const RETURNS_FD: u8 = 2;
/// Returns a new descriptor for the path that is argument 0.
pub const OPEN_PATH0: u8 = 3;
/// Returns a new descriptor for the path that is argument 1.
pub const OPEN_PATH1: u8 = 4;
/// `close(a0)`.
pub const CLOSE: u8 = 5;
/// `dup2` and `dup3`: makes slot `a1` what slot `a0` is.
pub const DUP2: u8 = 6;
/// Stores two new descriptors in the `int[2]` that argument 0 points to.
pub const PAIR_AT0: u8 = 7;
/// Stores two new descriptors in the `int[2]` that argument 3 points to.
pub const PAIR_AT3: u8 = 8;
/// `fcntl`: depends on the command.
pub const FCNTL: u8 = 9;
/// `epoll_ctl`.
pub const EPOLL_CTL: u8 = 10;
/// `epoll_wait` and its relatives: the events delivered.
pub const EPOLL_WAIT: u8 = 11;
/// `close_range`.
pub const CLOSE_RANGE: u8 = 12;
/// Makes a process or thread; the scheduler's fork hook reports it, the start is kept for the interval.
pub const CLONE: u8 = 13;
/// May give the calling thread another table (`unshare`); reported when it did.
pub const UNSHARE: u8 = 14;
/// `ioctl`: of all its commands, those that change close-on-exec.
pub const IOCTL: u8 = 15;
/// `recvmsg`: descriptors may arrive in its control data.
pub const RECVMSG: u8 = 16;
/// `recvmmsg`: the same for several messages.
pub const RECVMMSG: u8 = 17;
/// `clone`: may store a pidfd where argument 2 points to.
pub const CLONE_FLAGS: u8 = 18;
/// `clone3`: may store a pidfd where its structure says.
pub const CLONE3: u8 = 19;
/// `io_uring_enter`: what it did to the table is not seen; told so that the table is read.
pub const URING: u8 = 20;
/// `socketcall` of 32-bit x86: the call is argument 0, its arguments are in memory.
pub const SOCKETCALL: u8 = 21;
/// `getsockopt`: one option is a new pidfd.
pub const GETSOCKOPT: u8 = 22;
/// Takes a descriptor, and is rare enough, and tells enough, to be reported always.
pub const REPORT: u8 = 23;

/// What the hooks have to do with a system call, all in the one byte that they look at first: bits. 0: nothing.
pub mod hook {
    /// It is ours, native or as a 32-bit call.
    pub const OURS: u8 = 1;
    /// Native: it does nothing but use its descriptor, and of its end nothing is told unless that was asked for or it
    /// failed or waited.
    pub const USES: u8 = 2;
    /// As [`USES`], and nothing needs to be looked at when it begins, but for the next two.
    pub const LIGHT: u8 = 4;
    /// [`super::witness::BIND_ONCE`].
    pub const SEARCHED: u8 = 8;
    /// [`super::witness::BIND_EMPTY_PATH`].
    pub const EMPTY_PATH: u8 = 16;
    /// [`super::witness::MAPS`].
    pub const MAPS: u8 = 32;
}

/// Which witnesses are called for a system call: bits.
pub mod witness {
    /// The stack when it begins: it destroys or edits something.
    pub const AT_ENTER: u8 = 1;
    /// Who holds the number in argument 0, even if somebody is known to.
    pub const BIND: u8 = 2;
    /// Who holds the number in argument 0, if nobody is known to.
    pub const BIND_ONCE: u8 = 4;
    /// The stack when it has made a descriptor.
    pub const AT_EXIT: u8 = 8;
    /// It may map an interpreter.
    pub const MAPS: u8 = 16;
    /// [`BIND`], if the flags in argument 3 say that the number itself is meant (`AT_EMPTY_PATH`).
    pub const BIND_EMPTY_PATH: u8 = 32;
    /// The stack when it fails with `EBADF`: implied by every other bit.
    pub const ON_FAILURE: u8 = 64;
    /// It reads a directory into the buffer in argument 1.
    pub const DIRECTORY: u8 = 128;
}
