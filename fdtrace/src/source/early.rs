//! Hooks on the starts of single system calls: events of the kernel's performance counters, which run one program.
//!
//! aya finds them where tracefs is mounted. It need not be: here a tracefs of our own is looked at, which is mounted nowhere.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

/// Hooks in their places, until they are dropped.
pub struct Hooks(Vec<OwnedFd>);

impl Hooks {
    /// Has the kernel run `program` at the start of each of these calls.
    pub fn attach(calls: impl IntoIterator<Item = &'static str>, program: BorrowedFd<'_>) -> Result<Self> {
        let tracefs = tracefs().context("cannot look at tracefs")?;
        let attach = |call| {
            attach(id(&tracefs, call)?, program)
                .with_context(|| format!("cannot attach a program to the start of `{call}`"))
        };
        Ok(Self(calls.into_iter().map(attach).collect::<Result<_>>()?))
    }
}

/// Are there events for single calls?
pub fn look() -> Result<()> {
    id(&tracefs().context("cannot look at tracefs")?, "close").map(drop)
}

/// What the kernel calls the event at the start of a call.
fn id(tracefs: &OwnedFd, call: &str) -> Result<u64> {
    let event = format!("events/syscalls/sys_enter_{call}/id");
    let id = read_at(tracefs, &event).with_context(|| format!("tracefs has no {event}"))?;
    id.trim().parse().with_context(|| format!("{event} of tracefs is no number"))
}

impl Drop for Hooks {
    /// The kernel waits for a grace period for each, half a second in all, which nobody else has to.
    fn drop(&mut self) {
        let hooks = std::mem::take(&mut self.0);
        if let Err(error) = std::thread::Builder::new().name("hooks".to_owned()).spawn(|| drop(hooks)) {
            log::debug!("hooks are taken away on this thread: {error}");
        }
    }
}

/// A tracefs that is mounted nowhere: <https://docs.kernel.org/filesystems/mount_api.html>, since 5.2.
fn tracefs() -> io::Result<OwnedFd> {
    const CLOEXEC: libc::c_long = 1;
    const CREATE: libc::c_long = 6;
    let null = std::ptr::null::<u8>();
    // SAFETY: system calls that read a string at most.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), CLOEXEC) })?;
    // SAFETY: as above; of this command the last three arguments are nothing.
    done(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, null, null, 0) })?;
    // SAFETY: as above.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, 0) })
}

fn read_at(directory: &OwnedFd, path: &str) -> io::Result<String> {
    let path = std::ffi::CString::new(path)?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a system call that reads a string.
    let file = owned(unsafe { libc::syscall(libc::SYS_openat, directory.as_raw_fd(), path.as_ptr(), flags) })?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

/// The first version of `struct perf_event_attr`, which every kernel takes:
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/perf_event.h#L389>.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    rest: [u64; 6],
}

/// One event, of all tasks: a program runs on whatever processor the call is made.
fn attach(id: u64, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const TRACEPOINT: u32 = 2;
    const CLOEXEC: libc::c_ulong = 8;
    const SET_BPF: libc::c_ulong = 0x4004_2408;
    let event = Attributes { kind: TRACEPOINT, size: size_of::<Attributes>() as u32, config: id, rest: [0; 6] };
    let (tasks, processor, group) = (-1, 0, -1);
    // SAFETY: the kernel reads `size` bytes of a live structure.
    let event =
        owned(unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const event, tasks, processor, group, CLOEXEC) })?;
    // SAFETY: the command takes a descriptor.
    done(unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) }.into())?;
    Ok(event)
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    done(result)?;
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
