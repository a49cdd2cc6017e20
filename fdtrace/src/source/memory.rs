//! The memory of fdtrace itself.

/// Returns to the kernel what the allocator keeps of freed memory. Loading the kernel's type information takes 17 MiB of
/// which nothing is needed afterwards, and glibc keeps them. Other C libraries return memory by themselves, or cannot.
/// <https://man7.org/linux/man-pages/man3/malloc_trim.3.html>
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it has no preconditions, and leaves what is allocated alone.
    unsafe {
        libc::malloc_trim(0);
    }
}
