//! A fixed list of descriptor calls, one after another, the same on every kernel: what a tracer makes of it can be
//! written down once and compared.
//!
//! Nothing here is random and nothing races: a task waits for its child before it goes on. Every result is checked, so
//! a kernel that answers differently is told from a tracer that sees differently.

use std::ffi::CStr;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result, ensure};

use crate::nr;
use crate::sys::{self, Arg};

const EBADF: i64 = -(libc::EBADF as i64);
const EEXIST: i64 = -(libc::EEXIST as i64);
const ENOENT: i64 = -(libc::ENOENT as i64);

/// Issues a call; a failure is a negative errno.
fn call(number: i64, arguments: &[Arg]) -> i64 {
    let mut all = [0; 6];
    for (place, argument) in all.iter_mut().zip(arguments) {
        *place = argument.0;
    }
    // SAFETY: every pointer below is made from a reference that outlives the call.
    unsafe { sys::syscall(number, all) }
}

macro_rules! expect {
    ($result:literal = $number:ident($($argument:expr),* $(,)?)) => {{
        let got = call(nr::$number, &[$(Arg::from($argument)),*]);
        ensure!(got == $result as i64, "{} gave {got} instead of {}", nr::name(nr::$number), $result);
    }};
    ($result:ident = $number:ident($($argument:expr),* $(,)?)) => {{
        let got = call(nr::$number, &[$(Arg::from($argument)),*]);
        ensure!(got == $result, "{} gave {got} instead of {}", nr::name(nr::$number), stringify!($result));
    }};
}

/// Runs the list. Descriptors 0, 1 and 2 must be open. Begins when a byte comes on descriptor 0, or its end.
pub fn run() -> Result<()> {
    expect!(0 = CLOSE_RANGE(3, u32::MAX, 0));
    call(nr::READ, &[0.into(), Arg::write(&mut [0_u8; 1]), 1.into()]);
    numbers()?;
    kinds()?;
    epoll()?;
    misuse()?;
    families()?;
    new_program()
}

/// Opens, duplicates, replaces, closes.
fn numbers() -> Result<()> {
    expect!(3 = OPENAT(libc::AT_FDCWD, c"/dev/null", libc::O_RDONLY | libc::O_CLOEXEC, 0));
    expect!(4 = DUP(3));
    expect!(10 = DUP3(3, 10, 0));
    expect!(20 = FCNTL(4, libc::F_DUPFD_CLOEXEC, 20));
    expect!(5 = OPENAT(libc::AT_FDCWD, c"/", libc::O_RDONLY | libc::O_DIRECTORY, 0));
    // Over a number that is in use.
    expect!(10 = DUP3(5, 10, libc::O_CLOEXEC));
    expect!(0 = FCNTL(10, libc::F_SETFD, 0));
    expect!(ENOENT = OPENAT(libc::AT_FDCWD, c"/nonexistent", libc::O_RDONLY, 0));
    expect!(0 = CLOSE(4));
    expect!(4 = OPENAT(libc::AT_FDCWD, c"/dev/zero", libc::O_RDONLY, 0));
    expect!(0 = CLOSE_RANGE(4, 5, 0));
    expect!(0 = CLOSE_RANGE(100, 200, 0));
    Ok(())
}

/// Descriptors without a path. 3, 10 and 20 are open before and after.
fn kinds() -> Result<()> {
    let mut pair = [0_i32; 2];
    let got = call(nr::PIPE2, &[Arg::write(&mut pair), libc::O_CLOEXEC.into()]);
    ensure!(got == 0 && pair == [4, 5], "pipe2 gave {got} and {pair:?}");
    let got = call(nr::SOCKETPAIR, &[libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0.into(), Arg::write(&mut pair)]);
    ensure!(got == 0 && pair == [6, 7], "socketpair gave {got} and {pair:?}");
    expect!(8 = EVENTFD2(0, libc::EFD_CLOEXEC));
    expect!(9 = TIMERFD_CREATE(libc::CLOCK_MONOTONIC, 0));
    expect!(11 = MEMFD_CREATE(c"script", 0));
    expect!(12 = INOTIFY_INIT1(0));
    expect!(13 = SOCKET(libc::AF_UNIX, libc::SOCK_DGRAM, 0));
    for fd in [4, 5, 6, 9, 11, 12, 13] {
        expect!(0 = CLOSE(fd));
    }
    Ok(())
}

/// An interest list with an entry that outlives its number. 3, 7, 8, 10 and 20 are open before.
fn epoll() -> Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 7 };
    expect!(4 = EPOLL_CREATE1(libc::EPOLL_CLOEXEC));
    let mut control = |op: i32, fd: i32| call(nr::EPOLL_CTL, &[4.into(), op.into(), fd.into(), Arg::write(&mut event)]);
    let got = [
        control(libc::EPOLL_CTL_ADD, 8),
        control(libc::EPOLL_CTL_ADD, 7),
        control(libc::EPOLL_CTL_ADD, 7),
        control(libc::EPOLL_CTL_MOD, 8),
        control(libc::EPOLL_CTL_DEL, 7),
        control(libc::EPOLL_CTL_DEL, 7),
    ];
    ensure!(got == [0, 0, EEXIST, 0, 0, ENOENT], "epoll_ctl gave {got:?}");
    expect!(5 = DUP(8));
    expect!(0 = CLOSE(8));
    expect!(0 = CLOSE(5));
    expect!(0 = CLOSE(4));
    expect!(0 = CLOSE(7));
    Ok(())
}

/// Calls on numbers that are not theirs any more. 3, 10 and 20 are open.
fn misuse() -> Result<()> {
    expect!(4 = DUP(3));
    expect!(0 = CLOSE(4));
    let got = call(nr::READ, &[4.into(), Arg::write(&mut [0_u8; 1]), 1.into()]);
    ensure!(got == EBADF, "read gave {got}");
    expect!(EBADF = CLOSE(4));
    expect!(EBADF = DUP(4));
    // Closed behind its owner's back, opened by another, closed by the first owner, missed by the other.
    expect!(4 = OPENAT(libc::AT_FDCWD, c"/dev/zero", libc::O_RDONLY, 0));
    expect!(0 = CLOSE(4));
    expect!(4 = OPENAT(libc::AT_FDCWD, c"/dev/zero", libc::O_RDONLY, 0));
    expect!(0 = CLOSE(4));
    let got = call(nr::READ, &[4.into(), Arg::write(&mut [0_u8; 1]), 1.into()]);
    ensure!(got == EBADF, "read gave {got}");
    Ok(())
}

/// Copies of the table and shares of it. 3, 10 and 20 are open, and 4 afterwards.
fn families() -> Result<()> {
    let child = |flags: i32, work: &dyn Fn() -> Result<()>| -> Result<()> {
        let signal = u64::from(libc::SIGCHLD.unsigned_abs());
        match call(nr::CLONE, &[Arg(u64::from(flags.unsigned_abs()) | signal), 0.into(), 0.into(), 0.into(), 0.into()])
        {
            0 => sys::exit_process(u64::from(work().is_err())),
            failed if failed < 0 => anyhow::bail!("clone gave {failed}"),
            child => wait(child),
        }
    };
    child(0, &|| {
        expect!(0 = CLOSE(10));
        expect!(4 = OPENAT(libc::AT_FDCWD, c"/dev/null", libc::O_RDONLY, 0));
        Ok(())
    })?;
    child(libc::CLONE_FILES, &|| {
        expect!(4 = OPENAT(libc::AT_FDCWD, c"/dev/zero", libc::O_RDONLY, 0));
        expect!(0 = CLOSE(20));
        Ok(())
    })?;
    child(libc::CLONE_FILES, &|| {
        expect!(0 = UNSHARE(libc::CLONE_FILES));
        expect!(0 = CLOSE(3));
        Ok(())
    })?;
    child(libc::CLONE_FILES, &|| {
        const CLOSE_RANGE_UNSHARE: u32 = 2;
        expect!(0 = CLOSE_RANGE(4, 10, CLOSE_RANGE_UNSHARE));
        Ok(())
    })?;
    expect!(20 = FCNTL(3, libc::F_DUPFD, 20));
    Ok(())
}

/// A child runs another program: 3 goes with exec, 4, 10 and 20 stay.
fn new_program() -> Result<()> {
    let path = std::env::temp_dir().join(format!("fdtrace-script-{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path)?;
    file.write_all(&SMALLEST)?;
    drop(file);
    let result = exec(&path);
    std::fs::remove_file(&path)?;
    result
}

fn exec(path: &std::path::Path) -> Result<()> {
    let path = path.to_str().context("the directory for temporary files has a name that is not UTF-8")?;
    let path = std::ffi::CString::new(path)?;
    let arguments: [*const libc::c_char; 2] = [path.as_ptr(), std::ptr::null()];
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    match call(nr::CLONE, &[libc::SIGCHLD.into(), 0.into(), 0.into(), 0.into(), 0.into()]) {
        0 => {
            let path: &CStr = &path;
            call(nr::EXECVE, &[path.into(), Arg::read(&arguments), Arg::read(&environment)]);
            sys::exit_process(1)
        }
        failed if failed < 0 => anyhow::bail!("clone gave {failed}"),
        child => wait(child),
    }
}

fn wait(child: i64) -> Result<()> {
    let mut status = -1_i32;
    let got = call(nr::WAIT4, &[child.into(), Arg::write(&mut status), 0.into(), 0.into()]);
    ensure!(got == child && status == 0, "child {child} ended with {status} (wait4 gave {got})");
    Ok(())
}

/// A program that ends at once, without a library or anything else that opens descriptors: one header, one segment.
const SMALLEST: [u8; 136] = smallest();

const fn smallest() -> [u8; 136] {
    const BASE: u64 = 0x40_0000;
    const CODE: u64 = 120;
    #[cfg(target_arch = "x86_64")]
    const MACHINE: u8 = 62;
    // mov eax, 231 (exit_group); xor edi, edi; syscall
    #[cfg(target_arch = "x86_64")]
    const INSTRUCTIONS: [u8; 12] = [0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0, 0, 0];
    #[cfg(target_arch = "aarch64")]
    const MACHINE: u8 = 183;
    // mov x8, #94 (exit_group); mov x0, #0; svc 0
    #[cfg(target_arch = "aarch64")]
    const INSTRUCTIONS: [u8; 12] = [0xc8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 0x01, 0, 0, 0xd4];

    let mut file = [0_u8; 136];
    // 64-bit, little endian, an executable.
    put(&mut file, 0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    put(&mut file, 16, &[2, 0, MACHINE, 0, 1, 0, 0, 0]);
    put(&mut file, 24, &(BASE + CODE).to_le_bytes());
    put(&mut file, 32, &64_u64.to_le_bytes());
    put(&mut file, 52, &[64, 0, 56, 0, 1, 0]);
    // Its one segment: the whole file, to be read and run.
    put(&mut file, 64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    put(&mut file, 80, &BASE.to_le_bytes());
    put(&mut file, 88, &BASE.to_le_bytes());
    put(&mut file, 96, &136_u64.to_le_bytes());
    put(&mut file, 104, &136_u64.to_le_bytes());
    put(&mut file, 112, &0x1000_u64.to_le_bytes());
    put(&mut file, CODE as usize, &INSTRUCTIONS);
    file
}

const fn put(file: &mut [u8; 136], at: usize, bytes: &[u8]) {
    let mut i = 0;
    while i < bytes.len() {
        file[at + i] = bytes[i];
        i += 1;
    }
}
