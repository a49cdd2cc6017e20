//! Any bytes as records of the ring: each is two bytes of length and what follows.
//!
//! `cargo +nightly fuzz run record`

#![no_main]

use fdtrace::{pipeline::Stages, syscalls::Arch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut stages = Stages::new(Arch::X86_64).with_lifetimes();
    let (mut news, mut rest, mut pos) = (Vec::new(), bytes, 0);
    while let Some((len, tail)) = rest.split_first_chunk::<2>() {
        let (record, tail) = tail.split_at(tail.len().min(usize::from(u16::from_le_bytes(*len))));
        stages.feed(pos, record, &mut news);
        pos += record.len() as u64 + 8;
        rest = tail;
        news.clear();
    }
    stages.finish(&mut news);
});
