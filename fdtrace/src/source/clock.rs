//! The clocks.

/// `CLOCK_BOOTTIME` in nanoseconds: the clock of every record.
pub fn boot_ns() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}

/// Wall clock in nanoseconds since 1970.
pub fn wall_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// What to add to `CLOCK_BOOTTIME` for the wall clock, nanoseconds: from readings of both that nothing came between.
pub fn wall_minus_boot() -> i128 {
    let reading = || {
        let before = boot_ns();
        let wall = wall_ns();
        (boot_ns() - before, i128::from(wall) - i128::from(before))
    };
    std::iter::repeat_with(reading).take(8).min().map_or(0, |(_, difference)| difference)
}

/// How long the kernel's jiffies are, nanoseconds: what its coarse clocks go by.
pub fn tick() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer to a plain structure; this clock exists since 2.6.32.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    nanoseconds(time)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer to a plain structure; these clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    nanoseconds(time)
}

fn nanoseconds(time: libc::timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
