//! How far the kernel has come in the ring: a word in a page that it shares with whoever reads the ring.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::param::page_size;

/// The page, mapped beside what aya has mapped of the ring and keeps to itself.
pub struct Producer {
    page: NonNull<AtomicU64>,
}

// SAFETY: memory that may be read from anywhere.
unsafe impl Send for Producer {}

impl Producer {
    /// The second page of a ring buffer, since 5.8:
    /// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/ringbuf.c#L35>.
    pub fn map(ring: BorrowedFd<'_>) -> io::Result<Self> {
        let len = page_size();
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let page = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, ring.as_raw_fd(), len as i64)
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { page })
    }

    /// Bytes that were reserved since the ring was made.
    pub fn position(&self) -> u64 {
        // SAFETY: mapped for as long as this lives, and the kernel stores the word as a whole.
        unsafe { self.page.as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // SAFETY: what `map` has mapped, which nobody else knows.
        unsafe { libc::munmap(self.page.as_ptr().cast(), page_size()) };
    }
}
