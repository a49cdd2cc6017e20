//! Opens a file for output where another user may lie in wait. fdtrace runs as root, and whoever can write to a folder
//! on the way could lay a symbolic link there and have root overwrite what it points to.
//!
//! So: a new file is created, exclusively, readable by its owner only, and belongs to the user who called sudo. Nothing
//! is written through a symbolic link, and links on the way to the folder are followed only if root or that user made
//! them. An existing file is refused, or replaced as a whole. Nothing here writes a byte.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, fchown, fstat, openat, readlinkat, renameat, statat, unlinkat},
    io::{Errno, fcntl_dupfd_cloexec},
    process::{Gid, Uid, geteuid, getpid},
};

use crate::escape::escape_terminal;

/// As many as the kernel follows.
const LINKS_AT_MOST: usize = 40;

const WRITE_NEW: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why there is no output file, and what to do. The exit status for it is that of wrong use.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`: {why}; {hint}", escape_terminal(.path.as_os_str().as_bytes()))]
pub struct CannotWrite {
    pub path: PathBuf,
    pub why: String,
    pub hint: &'static str,
}

/// The user on whose behalf root works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

impl Caller {
    /// Who called sudo, if root was reached that way. Anybody can set these variables, so they count for root only.
    pub fn from_sudo() -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let id = |name| std::env::var(name).ok()?.parse().ok();
        Some(Self { uid: id("SUDO_UID")?, gid: id("SUDO_GID")? })
    }
}

/// Opens `path` for writing, as the user who called sudo where that is known. `-` and `/dev/stdout` are the standard
/// output. An existing file is replaced only with `force`: at once, and as a whole.
pub fn create(path: &Path, force: bool) -> Result<File, CannotWrite> {
    create_for(Caller::from_sudo(), path, force).map_err(|refusal| {
        let (why, hint) = refusal.told();
        CannotWrite { path: path.to_owned(), why, hint }
    })
}

fn create_for(caller: Option<Caller>, path: &Path, force: bool) -> Result<File, Refusal> {
    if let Some(stream) = standard_stream(path) {
        return Ok(File::from(stream?));
    }
    let Some(caller) = caller else {
        return open(path, force, None);
    };
    let as_caller = {
        let _rights = RightsOf::user(caller);
        open(path, force, Some(caller))
    };
    let file = match as_caller {
        // Root's own folders: `sudo -s` leaves the variables of sudo behind, and root may write where it says.
        Err(Refusal::Errno(Errno::ACCESS | Errno::PERM)) => open(path, force, Some(caller))?,
        other => other?,
    };
    let found = fstat(&file)?;
    if is_regular(found.st_mode) && found.st_uid != caller.uid {
        fchown(&file, Some(Uid::from_raw(caller.uid)), Some(Gid::from_raw(caller.gid)))?;
    }
    Ok(file)
}

fn open(path: &Path, force: bool, caller: Option<Caller>) -> Result<File, Refusal> {
    let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
        return Err(Refusal::NoFileName);
    };
    // `file_name` overlooks a final slash or dot, and would name the folder as a file.
    if path.as_os_str().as_bytes().ends_with(b"/") || path.as_os_str().as_bytes().ends_with(b"/.") {
        return Err(Refusal::NoFileName);
    }
    let folder = walk(parent, caller)?;
    match openat(&folder, name, WRITE_NEW, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        Err(Errno::EXIST) => existing(&folder, name, force),
        Err(errno) => Err(Refusal::Errno(errno)),
    }
}

fn existing(folder: &OwnedFd, name: &OsStr, force: bool) -> Result<File, Refusal> {
    let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Symlink => Err(Refusal::Symlink),
        FileType::Directory => Err(Refusal::Folder),
        FileType::CharacterDevice if found.st_rdev == rustix::fs::makedev(1, 3) => {
            // The null device keeps nothing and harms nobody.
            Ok(File::from(openat(folder, name, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?))
        }
        FileType::RegularFile if force => replace(folder, name),
        FileType::RegularFile => Err(Refusal::Exists),
        _ => Err(Refusal::NotRegular),
    }
}

/// Puts an empty file in the place of an old one. Who has the old one open, or linked elsewhere, keeps it as it was.
fn replace(folder: &OwnedFd, name: &OsStr) -> Result<File, Refusal> {
    let temporary = format!(".fdtrace-{}.tmp", getpid().as_raw_nonzero());
    let file = openat(folder, temporary.as_str(), WRITE_NEW, Mode::RUSR | Mode::WUSR)?;
    if let Err(errno) = renameat(folder, temporary.as_str(), folder, name) {
        // It holds nothing yet; that it stays behind would be the lesser of two errors.
        let _ = unlinkat(folder, temporary.as_str(), AtFlags::empty());
        return Err(Refusal::Errno(errno));
    }
    Ok(File::from(file))
}

/// Opens a folder, step by step, so that each symbolic link can be judged by who made it before it is followed.
fn walk(folder: &Path, caller: Option<Caller>) -> Result<OwnedFd, Refusal> {
    let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let start = |absolute| openat(CWD, if absolute { "/" } else { "." }, step | OFlags::DIRECTORY, Mode::empty());
    let trusted = |uid| uid == 0 || uid == geteuid().as_raw() || caller.is_some_and(|caller| caller.uid == uid);
    let steps_of = |path: &Path| path.iter().map(OsStr::to_owned).collect::<VecDeque<OsString>>();

    let mut here = start(folder.is_absolute())?;
    let mut ahead = steps_of(folder);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == "/" {
            continue;
        }
        let next = openat(&here, name.as_os_str(), step, Mode::empty())?;
        let found = fstat(&next)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => here = next,
            FileType::Symlink => {
                links += 1;
                if links > LINKS_AT_MOST {
                    return Err(Refusal::Errno(Errno::LOOP));
                }
                if !trusted(found.st_uid) {
                    return Err(Refusal::ForeignLink { name, owner: found.st_uid });
                }
                let target = OsString::from_vec(readlinkat(&next, "", Vec::new())?.into_bytes());
                let target = Path::new(&target);
                if target.is_absolute() {
                    here = start(true)?;
                }
                let mut through = steps_of(target);
                through.append(&mut ahead);
                ahead = through;
            }
            _ => return Err(Refusal::Errno(Errno::NOTDIR)),
        }
    }
    Ok(here)
}

/// A copy of the stream, for paths that mean one: opened by their path, these are links that nothing here would follow.
fn standard_stream(path: &Path) -> Option<Result<OwnedFd, Errno>> {
    let copy = |stream: rustix::fd::BorrowedFd<'_>| Some(fcntl_dupfd_cloexec(stream, 3));
    match path.to_str()? {
        "-" | "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => copy(std::io::stdout().as_fd()),
        "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => copy(std::io::stderr().as_fd()),
        _ => None,
    }
}

fn is_regular(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::RegularFile
}

/// This thread opens files with the rights of another user until this is dropped.
struct RightsOf {
    before: (libc::c_int, libc::c_int),
}

impl RightsOf {
    fn user(caller: Caller) -> Self {
        // SAFETY: both take a number and change rights of this thread only; the group goes first, while root may.
        let before = unsafe { (libc::setfsgid(caller.gid), libc::setfsuid(caller.uid)) };
        Self { before: (before.1, before.0) }
    }
}

impl Drop for RightsOf {
    fn drop(&mut self) {
        let (uid, gid) = self.before;
        // SAFETY: as above, with the numbers that the kernel told.
        unsafe {
            libc::setfsuid(uid.cast_unsigned());
            libc::setfsgid(gid.cast_unsigned());
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    NoFileName,
    Symlink,
    Folder,
    NotRegular,
    Exists,
    ForeignLink { name: OsString, owner: u32 },
    Errno(Errno),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl Refusal {
    /// Why, and what to do.
    fn told(&self) -> (String, &'static str) {
        let (why, hint) = match self {
            Self::NoFileName => ("it names no file", "give the path of a new file"),
            Self::Symlink => ("it is a symbolic link, and fdtrace writes through none", "name the file itself"),
            Self::Folder => ("it is a folder", "give the path of a new file in it"),
            Self::NotRegular => {
                ("it is not a regular file", "give the path of a new file, or `-` for the standard output")
            }
            Self::Exists => ("it exists already", "choose another name, or replace it with --force"),
            Self::ForeignLink { name, owner } => {
                let name = escape_terminal(name.as_bytes());
                let why = format!("`{name}` on the way is a symbolic link made by user {owner}");
                return (why, "give a path without that link");
            }
            Self::Errno(Errno::NOENT) => ("its folder does not exist", "create the folder first"),
            Self::Errno(Errno::NOTDIR) => ("a part of the way to it is not a folder", "correct the path"),
            Self::Errno(Errno::ACCESS | Errno::PERM) => {
                ("its folder does not allow it", "choose a folder that you can write to")
            }
            Self::Errno(Errno::ROFS) => ("its file system is read-only", "choose another folder"),
            Self::Errno(Errno::NOSPC | Errno::DQUOT) => {
                ("its file system is full", "make room, or choose another folder")
            }
            Self::Errno(errno) => {
                return (std::io::Error::from(*errno).to_string(), "choose another path");
            }
        };
        (why.to_owned(), hint)
    }
}

#[cfg(test)]
mod tests;
