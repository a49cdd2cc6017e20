//! System calls as the programs of the self-test make them: plain numbers, no owners, no checks of the standard library.
//! What must work for a program to mean anything ends it if it does not; what may fail returns what the kernel said.

use std::{
    ffi::{CStr, CString},
    io,
    os::unix::process::CommandExt as _,
    time::Duration,
};

use libc::c_int;

/// Exit status of a program that could not set the scene.
pub const NO_SCENE: i32 = 70;

/// Exit status of a program that this machine has no place for.
pub const NOT_HERE: i32 = 77;

/// Milliseconds in which fdtrace begins to look at what a rule has asked for.
pub const NOTICE: u64 = 250;

/// Ends the program: what it needs is not to be had here.
pub fn skip(why: &str) -> ! {
    eprintln!("{why}");
    exit(NOT_HERE)
}

/// Ends the program where a call failed that the scene needs.
fn must(call: &str, result: c_int) -> c_int {
    if result < 0 {
        fail(call);
    }
    result
}

fn fail(call: &str) -> ! {
    eprintln!("{call}: {}", io::Error::last_os_error());
    exit(NO_SCENE)
}

/// Without a clean-up: what is open stays open to the end.
pub fn exit(status: i32) -> ! {
    // SAFETY: nothing of ours runs after it.
    unsafe { libc::_exit(status) }
}

pub fn sleep(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

pub fn open(path: &CStr, flags: c_int) -> c_int {
    must("open", try_open(path, flags))
}

pub fn try_open(path: &CStr, flags: c_int) -> c_int {
    // SAFETY: a string that ends with zero.
    unsafe { libc::open(path.as_ptr(), flags) }
}

/// A file that was not there before.
pub fn open_new(path: &CStr) -> c_int {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: a string that ends with zero.
    must("open", unsafe { libc::open(path.as_ptr(), flags, 0o600) })
}

pub fn unlink(path: &CStr) {
    // SAFETY: a string that ends with zero.
    must("unlink", unsafe { libc::unlink(path.as_ptr()) });
}

/// A descriptor that can be read from for ever.
pub fn zero() -> c_int {
    open(c"/dev/zero", libc::O_RDONLY | libc::O_CLOEXEC)
}

/// A new regular file, open for reading and writing, whose name is gone already; twice, as two descriptions.
pub fn file_twice(flags: c_int) -> (c_int, c_int) {
    let name = std::env::temp_dir().join("fdtrace-self-test-XXXXXX");
    let mut name: Vec<u8> = std::os::unix::ffi::OsStringExt::into_vec(name.into_os_string());
    name.push(0);
    // SAFETY: a string that ends with zero, which the call writes into.
    let one = must("mkostemp", unsafe { libc::mkostemp(name.as_mut_ptr().cast(), flags) });
    let Ok(path) = CStr::from_bytes_with_nul(&name) else { fail("mkostemp") };
    let two = open(path, libc::O_RDWR | flags);
    unlink(path);
    (one, two)
}

/// A new regular file, open for reading and writing.
pub fn file(flags: c_int) -> c_int {
    let (one, two) = file_twice(flags);
    close(two);
    one
}

/// Closes, whatever the number is by now.
pub fn close(fd: c_int) -> c_int {
    // SAFETY: the program knows no owner of any number.
    unsafe { libc::close(fd) }
}

pub fn close_range(first: u32, last: u32) {
    // SAFETY: as `close`. By number: not every C library has it.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    must("close_range", c_int::try_from(result).unwrap_or(0));
}

pub fn read(fd: c_int) -> isize {
    let mut byte = [0_u8; 1];
    // SAFETY: one byte is there to be written.
    unsafe { libc::read(fd, byte.as_mut_ptr().cast(), 1) }
}

pub fn write(fd: c_int) -> isize {
    // SAFETY: one byte is there to be read.
    unsafe { libc::write(fd, c"x".as_ptr().cast(), 1) }
}

pub fn pwrite(fd: c_int, offset: i64) -> isize {
    // SAFETY: one byte is there to be read.
    unsafe { libc::pwrite64(fd, c"x".as_ptr().cast(), 1, offset) }
}

pub fn send(fd: c_int) -> isize {
    // SAFETY: one byte is there to be read.
    unsafe { libc::send(fd, c"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) }
}

pub fn dup(fd: c_int) -> c_int {
    // SAFETY: numbers only.
    must("dup", unsafe { libc::dup(fd) })
}

pub fn dup2(from: c_int, to: c_int) {
    // SAFETY: numbers only.
    must("dup2", unsafe { libc::dup2(from, to) });
}

/// The end to read from, and the one to write to.
pub fn pipe() -> (c_int, c_int) {
    let mut ends = [0; 2];
    // SAFETY: two numbers are there to be written.
    must("pipe2", unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) });
    (ends[0], ends[1])
}

/// Two ends of a stream.
pub fn socket_pair() -> (c_int, c_int) {
    let mut ends = [0; 2];
    // SAFETY: two numbers are there to be written.
    must("socketpair", unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr())
    });
    (ends[0], ends[1])
}

pub fn stream_socket() -> c_int {
    // SAFETY: numbers only.
    must("socket", unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}

/// Binds to an address that is this process's own, and of no file system.
pub fn try_bind(socket: c_int, process: u32) -> c_int {
    let name = format!("\0fdtrace-self-test-{process}");
    // SAFETY: all zeroes is a value of it.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + name.len();
    // SAFETY: the address is there, and longer than what is told of it.
    unsafe { libc::bind(socket, (&raw const address).cast(), length as libc::socklen_t) }
}

pub fn bind(socket: c_int, process: u32) {
    must("bind", try_bind(socket, process));
}

pub fn fcntl(fd: c_int, command: c_int, value: c_int) -> c_int {
    // SAFETY: the commands given here take a number.
    must("fcntl", unsafe { libc::fcntl(fd, command, value) })
}

/// Takes a lock on the whole file: `F_SETLK` or `F_OFD_SETLK`.
pub fn lock(fd: c_int, command: c_int) {
    // SAFETY: all zeroes is a value of it: the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: a lock is there to be read.
    must("fcntl", unsafe { libc::fcntl(fd, command, &raw const lock) });
}

pub fn epoll() -> c_int {
    // SAFETY: numbers only.
    must("epoll_create1", unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

pub fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int) -> c_int {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
    // SAFETY: an event is there to be read.
    unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) }
}

pub fn epoll_add(epoll: c_int, fd: c_int) {
    must("epoll_ctl", epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd));
}

pub fn epoll_del(epoll: c_int, fd: c_int) {
    must("epoll_ctl", epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd));
}

/// How many events there are at this moment.
pub fn epoll_wait(epoll: c_int) -> c_int {
    epoll_wait_for(epoll, 0)
}

pub fn epoll_wait_for(epoll: c_int, milliseconds: c_int) -> c_int {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
    // SAFETY: four events are there to be written.
    must("epoll_wait", unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), 4, milliseconds) })
}

/// Lowers the limit of open descriptors.
pub fn limit(numbers: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: numbers, rlim_max: numbers };
    // SAFETY: a limit is there to be read.
    must("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) });
}

/// Runs `child` in a forked process. It should do no more than make calls: other threads are not there, and their locks are.
pub fn fork(child: impl FnOnce()) -> c_int {
    // SAFETY: the child makes system calls and ends.
    let process = must("fork", unsafe { libc::fork() });
    if process == 0 {
        child();
        exit(0);
    }
    process
}

/// In a forked process: becomes another program, ourselves in another part.
pub fn become_part(part: &CStr) -> ! {
    become_us(c"/proc/self/exe", part)
}

/// The same, by a path that ends with `nickname`.
pub fn become_nicknamed_part(part: &CStr, nickname: c_int) -> ! {
    let us = open(c"/proc/self/exe", libc::O_PATH | libc::O_CLOEXEC);
    let number = fcntl(us, libc::F_DUPFD_CLOEXEC, nickname);
    let Ok(path) = CString::new(format!("/proc/self/fd/{number}")) else { fail("format") };
    become_us(&path, part)
}

fn become_us(path: &CStr, part: &CStr) -> ! {
    let arguments = [c"fdtrace".as_ptr(), c"self-test".as_ptr(), c"--part".as_ptr(), part.as_ptr(), std::ptr::null()];
    // SAFETY: strings that end with zero, and a null pointer after the last.
    unsafe { libc::execv(path.as_ptr(), arguments.as_ptr()) };
    fail("execv")
}

pub fn wait(process: c_int) {
    // SAFETY: no status is asked for.
    must("waitpid", unsafe { libc::waitpid(process, std::ptr::null_mut(), 0) });
}

/// In a forked process: becomes an interpreter that runs a script.
pub fn become_python(python: &str, script: &str) -> ! {
    let error = std::process::Command::new(python).args(["-I", "-c", script.trim_start()]).exec();
    eprintln!("{python}: {error}");
    exit(NO_SCENE)
}

/// Up to `most` bytes of what there is to be read.
pub fn read_all(fd: c_int, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; most];
    let mut length = 0;
    while length < most {
        // SAFETY: so many bytes are there to be written.
        let more = unsafe { libc::read(fd, bytes[length..].as_mut_ptr().cast(), most - length) };
        match usize::try_from(more) {
            Ok(more @ 1..) => length += more,
            _ => break,
        }
    }
    bytes.truncate(length);
    bytes
}
