//! The shared region, as a mapping of the control file.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context as _, Result, bail, ensure};

use crate::nr;
use crate::shared::{MAGIC, NOBODY, Region};
use crate::sys::{self, Arg};

/// The harness's mapping; unmapped when dropped.
pub struct Mapping {
    at: *mut Region,
}

impl Mapping {
    /// Makes the control file, open to every user: a tracer may run the exerciser as somebody else.
    pub fn create(path: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;

        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.with_context(|| format!("cannot make the control file {}", path.display()))?;
        file.set_len(size_of::<Region>() as u64).context("cannot size the control file")?;
        file.set_permissions(std::fs::Permissions::from_mode(0o666)).context("cannot share the control file")?;
        let mapping = Self::map(&file)?;
        mapping.magic.store(MAGIC, SeqCst);
        mapping.size.store(size_of::<Region>() as u64, SeqCst);
        mapping.turn.store(NOBODY, SeqCst);
        Ok(mapping)
    }

    fn map(file: &File) -> Result<Self> {
        let (prot, size) = (libc::PROT_READ | libc::PROT_WRITE, size_of::<Region>());
        // SAFETY: a new shared mapping of a file that is at least as long.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), size, prot, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        ensure!(at != libc::MAP_FAILED, "cannot map the control file: {}", std::io::Error::last_os_error());
        Ok(Self { at: at.cast() })
    }
}

impl Deref for Mapping {
    type Target = Region;

    fn deref(&self) -> &Region {
        // SAFETY: mapped until drop; everything in it is atomic and any bytes are valid.
        unsafe { &*self.at }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing that was borrowed from the mapping outlives it.
        unsafe { libc::munmap(self.at.cast(), size_of::<Region>()) };
    }
}

/// Maps the region for an exercising process, for good: three syscalls, and no descriptor stays.
pub fn of_worker(path: &Path) -> Result<&'static Region> {
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.push(0);
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    let call = |number, args: [Arg; 6]| {
        // SAFETY: the path is terminated; a new mapping touches no memory in use.
        unsafe { sys::syscall(number, args.map(|arg| arg.0)) }
    };
    let none = Arg(0);
    let fd = call(nr::OPENAT, [libc::AT_FDCWD.into(), Arg::read(name.as_slice()), flags.into(), none, none, none]);
    if fd < 0 {
        let error = std::io::Error::from_raw_os_error(-fd as i32);
        bail!("cannot open the control file {}: {error}", path.display());
    }
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let size = size_of::<Region>();
    let at = call(nr::MMAP, [none, size.into(), prot.into(), libc::MAP_SHARED.into(), fd.into(), none]);
    call(nr::CLOSE, [fd.into(), none, none, none, none, none]);
    ensure!(at > 0, "cannot map the control file: {}", std::io::Error::from_raw_os_error(-at as i32));
    let region = at as *const Region;
    // SAFETY: mapped for good, and made by a harness of the same layout, as the next lines check.
    let region = unsafe { &*region };
    ensure!(
        region.magic.load(SeqCst) == MAGIC && region.size.load(SeqCst) == size as u64,
        "{} was not made by this version of the exerciser",
        path.display()
    );
    Ok(region)
}
