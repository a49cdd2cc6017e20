//! Any bytes as a recording: through the reader, the unpacker and all stages.
//!
//! `cargo +nightly fuzz run recording`

#![no_main]

use fdtrace::{
    pipeline::Stages,
    source::recording::{frame::block, reader::Reader, unpack::unpack},
    syscalls::Arch,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut stages = Stages::new(Arch::X86_64).with_lifetimes();
    let mut news = Vec::new();
    let mut feed = |content: &[u8]| {
        let _ = unpack(content, |pos, record| stages.feed(pos, record, &mut news));
        news.clear();
    };
    let Ok(mut reader) = Reader::new(bytes) else { return };
    while let Ok(Some(found)) = reader.next_block() {
        if found.head.block == block::DATA || found.head.block == block::SNAPSHOT {
            feed(&found.content);
        }
    }
    // A checksum keeps the fuzzer out, so the content of a block is tried by itself too.
    feed(bytes);
    stages.finish(&mut news);
});
