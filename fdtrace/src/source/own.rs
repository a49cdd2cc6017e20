//! What fdtrace itself uses: memory and processor time.

use std::time::Duration;

/// Bytes that this process alone has: no files, and nothing that is shared. `None`: `/proc` does not tell.
pub fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Processor time of this process, in user space and the kernel.
pub fn cpu() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills what the pointer leads to, and zeros are a valid value of plain numbers.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

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
