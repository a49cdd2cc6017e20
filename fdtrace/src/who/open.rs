//! Opens files that another process names, without falling for what it put there.
//!
//! Everything is first opened with `O_PATH`, which neither blocks on a FIFO nor wakes a device; only a regular file is
//! then opened for reading. Paths of a process are resolved below *its* root directory, where a symbolic link cannot
//! lead out into ours.

use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::who::maps::Mapping;

/// The file behind a mapping, even when it was deleted, replaced or lies in another mount namespace.
pub fn mapped_file(pid: u32, mapping: &Mapping) -> io::Result<File> {
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    match path_only(Path::new(&link)).and_then(|file| regular(&file)) {
        Ok(file) => Ok(file),
        // Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE. The path may name another file by now: compare the inode.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput || mapping.is_deleted() => Err(error),
        Err(error) => {
            let path = mapping.file_path();
            let file = match in_root(pid, path, Links::Refuse) {
                // The process is gone, and most have our root directory.
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => on_host(Path::new(OsStr::from_bytes(path)))?,
                opened => opened?,
            };
            if file.metadata()?.ino() == mapping.file.inode { Ok(file) } else { Err(error) }
        }
    }
}

/// Whether the last part of a path may be a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Links {
    Follow,
    Refuse,
}

/// A regular file by its path below the root directory of a process.
pub fn in_root(pid: u32, path: &[u8], links: Links) -> io::Result<File> {
    let root = path_only(Path::new(&format!("/proc/{pid}/root")))?;
    let path = CString::new(path).map_err(|_| refused("path with a NUL byte"))?;
    // SAFETY: all-zero is a valid `open_how`.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC | if links == Links::Refuse { libc::O_NOFOLLOW } else { 0 }) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the descriptor, path and structure live across the call, and the size is the structure's.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &raw const how, size_of::<libc::open_how>())
    };
    let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the call has just returned this descriptor; nobody else owns it.
    regular(&unsafe { File::from_raw_fd(fd) })
}

/// A regular file of this machine, by path.
pub fn on_host(path: &Path) -> io::Result<File> {
    regular(&path_only(path)?)
}

fn path_only(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

/// Opens for reading what an `O_PATH` descriptor refers to.
fn regular(path_only: &File) -> io::Result<File> {
    if !path_only.metadata()?.is_file() {
        return Err(refused("not a regular file"));
    }
    // By way of the descriptor, so that it is the file that was looked at.
    let link = format!("/proc/self/fd/{}", path_only.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC).open(link)
}

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    dev: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl From<&Metadata> for Identity {
    fn from(meta: &Metadata) -> Self {
        Self { dev: meta.dev(), inode: meta.ino(), size: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files() {
        assert!(on_host(Path::new("/dev/null")).is_err());
        assert!(on_host(Path::new("/proc/self/exe")).is_ok());
        let pid = std::process::id();
        assert!(in_root(pid, b"/dev/zero", Links::Follow).is_err());
        assert!(in_root(pid, b"/proc/self/exe", Links::Follow).is_err(), "magic links are not followed");
        assert!(in_root(pid, b"/etc/../../../etc/passwd", Links::Follow).is_ok(), "`..` stops at the root");
    }

    #[test]
    fn what_is_mapped_and_not_what_took_the_place_of_its_name() {
        let maps = crate::who::maps::read(std::process::id()).expect("own mappings");
        let here = what_is_mapped_and_not_what_took_the_place_of_its_name as *const () as u64;
        let own = maps.iter().find(|mapping| (mapping.start..mapping.end).contains(&here)).expect("own code");
        assert!(own.executable && own.is_file());
        assert!(mapped_file(std::process::id(), own).is_ok());
        // Nothing is mapped like that, so it is opened by its name; a name that is gone tells nothing.
        let by_name = Mapping { end: own.end + 4096, ..own.clone() };
        assert!(mapped_file(std::process::id(), &by_name).is_ok());
        let gone = Mapping { path: [&own.path[..], b" (deleted)"].concat(), ..by_name };
        assert!(mapped_file(std::process::id(), &gone).is_err());
    }

    #[test]
    fn a_fifo_does_not_block() {
        let path = std::env::temp_dir().join(format!("fdtrace-fifo-{}", std::process::id()));
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a valid C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let opened = on_host(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(opened.is_err());
    }
}
