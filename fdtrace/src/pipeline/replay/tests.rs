//! A small recording, whole and in every state of damage.

use std::{
    cell::RefCell,
    io::{self, Write},
    path::PathBuf,
    rc::Rc,
};

use fdtrace_common::wire::{CallPath, FileInfo, ProcessInfo, SnapBegin, SnapEnd, Tick};

use super::*;
use crate::{
    sink::{json::JsonSink, lanes::LanesSink},
    source::{
        live::Totals,
        recording::writer::{Recorder, Rotation},
    },
};

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const SECOND: u64 = 1_000_000_000;

/// Opened, closed, read: of a hostile name.
fn records() -> Vec<(u64, Vec<u8>)> {
    let header =
        |kind, time| Header { kind, tgid: 70, tid: 70, time, table: 0xffff_8880_0000_1000, ..Header::default() };
    let file = FileInfo { file: 0xffff_8881_0000_0100, inode: 9, mode: 0o100_644, ..FileInfo::default() };
    let call = |kind, nr, a0: u64, ret, time, pos| wire::Call {
        header: header(kind, time),
        enter_time: time - 900,
        enter_pos: pos,
        nr,
        args: [a0, 0, 0, 0, 0, 0],
        ret,
        ..wire::Call::default()
    };
    let path = b"/tmp/</script>\x1b[2J\xff\n=1+1";
    let comm = *b"vic\x1btim\0\0\0\0\0\0\0\0\0";
    let process = ProcessInfo { header: header(kind::PROCESS, SECOND), start: 5, comm, exe_len: 4, argv_len: 0 };
    let opened = CallPath {
        call: call(kind::CALL_PATH, 257, 0, 3, SECOND + 2000, 100),
        file,
        path_len: path.len() as u32,
        ..CallPath::default()
    };
    let closed = wire::Call { before: file.file, ..call(kind::CALL, 3, 3, 0, SECOND + 4000, 400) };
    vec![
        (0, [bytes_of(&process), b"/bin"].concat()),
        (0, bytes_of(&SnapBegin { header: header(kind::SNAP_BEGIN, SECOND), reading: 1 }).to_vec()),
        (8, bytes_of(&SnapEnd { header: header(kind::SNAP_END, SECOND + 1), reading: 1 }).to_vec()),
        (120, [bytes_of(&opened), &path[..]].concat()),
        (420, bytes_of(&closed).to_vec()),
        (700, bytes_of(&call(kind::CALL, 0, 3, -9, SECOND + 9000, 600)).to_vec()),
        (900, bytes_of(&Tick { header: header(kind::TICK, 2 * SECOND) }).to_vec()),
    ]
}

fn recorded() -> Vec<u8> {
    let out = Shared::default();
    let to = out.clone();
    let open = Box::new(move |_| -> io::Result<Box<dyn Write>> { Ok(Box::new(to.clone())) });
    let about = About {
        wire: wire::VERSION,
        kernel: "6.18.0".to_owned(),
        arch: "x86_64".to_owned(),
        fdtrace: "0.1.0".to_owned(),
        started_wall: 1_763_895_600_000_000_000,
        started_boot: SECOND,
        ..About::default()
    };
    let mut recorder = Recorder::new(open, about, Rotation::default()).unwrap();
    recorder.introduce(|_| {}).unwrap();
    for (index, (pos, record)) in records().into_iter().enumerate() {
        recorder.record(pos, &record);
        if index == 3 {
            recorder.flush(Totals::default()).unwrap();
        }
    }
    recorder.end(Totals { captured: 4, produced: 4, ..Totals::default() }, SECOND).unwrap();
    out.0.take()
}

/// A file that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("fdtrace-replay-{name}-{}", std::process::id())))
    }

    /// The JSON of what these bytes tell.
    fn told(&self, bytes: &[u8]) -> Result<(String, Replayed), Failure> {
        std::fs::write(&self.0, bytes).unwrap();
        let reading = Reading { files: vec![self.0.clone()], range: Range::default(), quiet: true };
        let out = Shared::default();
        let lanes = LanesSink::new(io::sink(), 80, false);
        let mut sinks = Sinks(vec![Box::new(JsonSink::new(out.clone())), Box::new(lanes)]);
        let replayed = replay(&reading, &mut sinks, &mut Quiet::default(), Progress::over(&reading, true), true)?;
        let text = String::from_utf8(out.0.take()).unwrap();
        Ok((text, replayed))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The file was written by the first version of the format. It is never written anew: a reader that cannot read it is
/// wrong.
#[test]
fn the_first_version_is_read_for_ever() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/replay/v1.fdt");
    if !path.exists() && std::env::var_os("FDTRACE_UPDATE").is_some() {
        std::fs::write(&path, recorded()).unwrap();
    }
    let (text, replayed) = Scratch::new("golden").told(&std::fs::read(path).unwrap()).unwrap();
    assert!(replayed.ended && replayed.damage == Damage::default());
    for said in ["\"use-after-close\"", "\"lifetime\"", "\"proven\"", "vic\\u001btim"] {
        assert!(text.contains(said), "{said} in {text}");
    }
    let (today, _) = Scratch::new("today").told(&recorded()).unwrap();
    assert_eq!(text, today, "what was recorded then is told as what is recorded today");
}

#[test]
fn every_truncation_is_a_partial_report_or_an_error() {
    let bytes = recorded();
    let scratch = Scratch::new("cut");
    let mut partial = 0;
    for len in 0..bytes.len() {
        match scratch.told(&bytes[..len]) {
            Ok((_, replayed)) => {
                assert!(!replayed.ended, "cut at {len}");
                partial += 1;
            }
            Err(failure) => assert_eq!(failure.code, 2, "cut at {len}: {failure}"),
        }
    }
    assert!(partial > bytes.len() / 2);
}

#[test]
fn every_flipped_byte_is_a_partial_report_or_an_error() {
    let bytes = recorded();
    let scratch = Scratch::new("flip");
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x11;
        match scratch.told(&damaged) {
            Ok((_, replayed)) => assert!(replayed.damage.skipped > 0, "byte {at}"),
            Err(failure) => assert_eq!(failure.code, 2, "byte {at}: {failure}"),
        }
    }
}

/// What the fuzz target `record` broke once.
#[test]
fn records_that_a_fuzzer_made_are_no_panic() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/record");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let mut stages = crate::pipeline::Stages::new(crate::syscalls::Arch::X86_64).with_lifetimes();
        let (mut news, mut rest, mut pos) = (Vec::new(), &bytes[..], 0);
        while let Some((len, tail)) = rest.split_first_chunk::<2>() {
            let (record, tail) = tail.split_at(tail.len().min(usize::from(u16::from_le_bytes(*len))));
            stages.feed(pos, record, &mut news);
            pos += record.len() as u64 + 8;
            rest = tail;
        }
        stages.finish(&mut news);
        count += 1;
    }
    assert!(count > 0, "nothing was read");
}

#[test]
fn a_range_that_ends_before_it_begins_does_nothing() {
    for (args, known) in [([9, 3, 0], false), ([9, 3, 4], false), ([3, 9, 0], true)] {
        let header = Header { kind: kind::CALL, tgid: 1, tid: 1, table: 1, ..Header::default() };
        let args = [args[0], args[1], args[2], 0, 0, 0];
        let call = wire::Call { header, nr: 436, enter_table: 1, args, ..wire::Call::default() };
        let event = crate::decode::decode(0, bytes_of(&call), crate::syscalls::Arch::X86_64).expect("a record");
        assert_eq!(event.is_some(), known, "{args:?}");
    }
}
