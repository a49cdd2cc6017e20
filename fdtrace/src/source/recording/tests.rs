use std::{
    cell::RefCell,
    io::{self, Write},
    rc::Rc,
};

use fdtrace_common::wire::{self, Header, Plain, bytes_of};

use super::{
    about::{About, End},
    frame::{HEAD, Head, MAGIC, NoHead, STORED_MAX, block},
    pack::Packer,
    reader::Reader,
    unpack::unpack,
    writer::{Recorder, Rotation},
    *,
};
use crate::source::live::Totals;

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.roll() >> 11) % limit
    }
}

type Records = Vec<(u64, Vec<u8>)>;

/// A run as threads make it, with records of every kind and some of none.
fn run(count: usize) -> Records {
    let mut dice = Dice(7);
    let (mut pos, mut time) = (0, 1_000_000_000);
    let mut records = Vec::new();
    for index in 0..count {
        time += dice.below(20_000);
        let tid = 100 + dice.below(3) as u32;
        let header = |kind| Header { kind, tgid: 100, tid, time, table: 0xffff_8880_0000_1000, ..Header::default() };
        let begun = |kind| wire::Call {
            header: header(kind),
            enter_time: time - 700,
            enter_pos: if index % 13 == 0 { wire::NOT_SEEN } else { pos },
            nr: 3,
            before: 0xffff_8881_0000_0000 + 256 * (index as u64 % 40),
            ..wire::Call::default()
        };
        let record = match dice.below(8) {
            0 | 1 => bytes_of(&begun(kind::CALL)).to_vec(),
            2 | 3 => {
                let path = format!("/tmp/file-{}", dice.below(30));
                let call = wire::Call { nr: 257, ret: 3, ..begun(kind::CALL_PATH) };
                let head = wire::CallPath { call, path_len: path.len() as u32, ..wire::CallPath::default() };
                [bytes_of(&head), path.as_bytes()].concat()
            }
            4 => bytes_of(&wire::Fork { header: header(kind::FORK), ..wire::Fork::default() }).to_vec(),
            5 => bytes_of(&wire::Table { header: header(kind::TABLE), ..wire::Table::default() }).to_vec(),
            6 => bytes_of(&wire::Tick { header: header(kind::TICK) }).to_vec(),
            _ => {
                let mut bytes = bytes_of(&header(9000)).to_vec();
                bytes.extend((0..dice.below(300)).map(|_| dice.roll() as u8));
                bytes
            }
        };
        let took = if took_room(wire::read::<Header>(&record).unwrap().0.kind) { record.len() as u64 + 8 } else { 0 };
        records.push((pos, record));
        pos += took.next_multiple_of(8);
    }
    records
}

fn unpacked(block: &[u8]) -> Records {
    let mut records = Vec::new();
    unpack(block, |pos, record| records.push((pos, record.to_vec()))).unwrap();
    records
}

#[test]
fn what_is_packed_comes_back_exactly() {
    let records = run(20_000);
    let mut packer = Packer::default();
    let mut back = Vec::new();
    for (pos, record) in &records {
        assert!(packer.push(*pos, record));
        if packer.is_full(1 << 16) {
            back.extend(unpacked(&packer.take()));
        }
    }
    back.extend(unpacked(&packer.take()));
    assert!(back == records, "a record was changed");
}

#[test]
fn any_words_survive() {
    let mut dice = Dice(3);
    let mut packer = Packer::default();
    let mut records = Vec::new();
    for _ in 0..3000 {
        let len = 32 + dice.below(1400);
        let mut bytes: Vec<u8> = (0..len).map(|_| if dice.below(3) == 0 { 0xff } else { dice.roll() as u8 }).collect();
        bytes[..2].copy_from_slice(&(dice.below(60) as u16).to_le_bytes());
        records.push((dice.roll(), bytes));
    }
    for (pos, record) in &records {
        assert!(packer.push(*pos, record));
        assert!(!packer.is_full(usize::MAX));
    }
    assert!(unpacked(&packer.take()) == records);
}

#[test]
fn what_is_no_record_is_refused() {
    let mut packer = Packer::default();
    assert!(!packer.push(0, &[]) && !packer.push(0, &[0; 31]));
    assert!(!packer.push(0, &vec![0; 1 << 20]));
    assert!(packer.is_empty());
}

#[test]
fn a_damaged_block_is_an_error_and_no_more() {
    let mut packer = Packer::default();
    for (pos, record) in run(60) {
        packer.push(pos, &record);
    }
    let block = packer.take();
    for at in 0..block.len() {
        for bit in [1, 0x80] {
            let mut damaged = block.clone();
            damaged[at] ^= bit;
            // Some damage cannot be noticed without the checksum; none may do harm.
            let _ = unpack(&damaged, |_, record| assert!(record.len() <= 128 * 8 + (64 << 10)));
        }
        assert!(unpack(&block[..at], |_, _| {}).is_err() || at == 0 || unpacked(&block[..at]).len() < 60);
    }
}

/// A file in memory, or several.
#[derive(Clone, Default)]
struct Files(Rc<RefCell<Vec<Vec<u8>>>>);

struct InFile(Files, usize);

impl Write for InFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.borrow_mut()[self.1].extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Files {
    fn recorder(&self, rotation: Rotation) -> Recorder {
        let files = self.clone();
        let open = Box::new(move |_| -> io::Result<Box<dyn Write>> {
            files.0.borrow_mut().push(Vec::new());
            let number = files.0.borrow().len() - 1;
            Ok(Box::new(InFile(files.clone(), number)))
        });
        let about = About { wire: wire::VERSION, started_boot: 5, ..About::default() };
        Recorder::new(open, about, rotation).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.borrow().concat()
    }
}

fn recorded(records: &Records) -> Vec<u8> {
    let files = Files::default();
    let mut recorder = files.recorder(Rotation::default());
    recorder.introduce(|about| about.already_open = 3).unwrap();
    for (index, (pos, record)) in records.iter().enumerate() {
        recorder.record(*pos, record);
        if index % 50 == 49 {
            recorder.flush(Totals::default()).unwrap();
        }
    }
    recorder.end(Totals { captured: 9, produced: 9, ..Totals::default() }, 77).unwrap();
    files.bytes()
}

/// All records, how many blocks, and what was wrong.
fn read(bytes: &[u8]) -> (Records, Vec<Head>, reader::Damage) {
    let mut reader = Reader::new(bytes).unwrap();
    let (mut records, mut heads) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block().unwrap() {
        heads.push(block.head);
        if block.head.block == block::DATA {
            records.extend(unpacked(&block.content));
        }
    }
    assert_eq!(reader.offset(), bytes.len() as u64, "every byte is used or skipped");
    (records, heads, reader.damage())
}

fn may(records: Records) -> Records {
    records.into_iter().filter(|(_, record)| may_be_recorded(wire::read::<Header>(record).unwrap().0.kind)).collect()
}

#[test]
fn a_recording_holds_what_it_may() {
    let records = run(1000);
    let bytes = recorded(&records);
    let (back, heads, damage) = read(&bytes);
    let expected = may(records.clone());
    assert!(expected.len() < records.len(), "there were kinds that may not be recorded");
    assert!(back == expected);
    assert_eq!(damage, reader::Damage::default());
    assert_eq!(heads.iter().map(|head| head.seq).collect::<Vec<_>>(), (0..heads.len() as u64).collect::<Vec<_>>());
    assert_eq!(heads.last().map(|head| head.block), Some(block::END));
    let mut reader = Reader::new(&bytes[..]).unwrap();
    let mut last = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        last = block.content;
    }
    let end: End = serde_json::from_slice(&last).unwrap();
    assert_eq!((end.captured, end.duration_ns), (9, 77));
}

#[test]
fn what_costs_no_event_is_not_lost_in_a_recording_either() {
    let files = Files::default();
    let mut recorder = files.recorder(Rotation::default());
    let mut totals = Totals { captured: 50, produced: 52, ..Totals::default() };
    (totals.by_class[wire::loss::RING_CALL], totals.by_class[wire::loss::RING_STACK]) = (2, 5);
    for (pos, record) in run(50) {
        recorder.record(pos, &record);
    }
    recorder.flush(totals).unwrap();
    recorder.end(totals, 77).unwrap();
    let (_, heads, _) = read(&files.bytes());
    assert_eq!(heads.last().map(Head::lost), Some(2));
    assert_eq!(totals.lost(), 2);
}

/// However much is taken in at once: 2 s of records without anybody asking what is due.
#[test]
fn no_block_waits_for_more_than_its_time() {
    let files = Files::default();
    let mut recorder = files.recorder(Rotation::default());
    let records = run(200_000);
    let time = |record: &[u8]| wire::read::<Header>(record).unwrap().0.time;
    for (pos, record) in &records {
        recorder.record(*pos, record);
    }
    let (_, heads, _) = read(&files.bytes());
    let data: Vec<&Head> = heads.iter().filter(|head| head.block == block::DATA).collect();
    let late = u64::try_from(writer::FLUSH_AFTER.as_nanos()).unwrap() + 200_000;
    assert!(data.len() > 5 && data.iter().all(|head| head.last_time - head.first_time <= late), "{data:?}");
    let last = data.last().unwrap().last_time;
    assert!(time(&records[records.len() - 1].1) - last <= late);
}

#[test]
fn every_truncation_keeps_all_whole_blocks() {
    let bytes = recorded(&run(120));
    let (_, heads, _) = read(&bytes);
    let mut ends = vec![0];
    for head in &heads {
        ends.push(ends[ends.len() - 1] + HEAD + head.stored as usize);
    }
    for len in 0..bytes.len() {
        let (_, whole, damage) = read(&bytes[..len]);
        let expected = ends.iter().rposition(|end| *end <= len).unwrap();
        assert_eq!(whole.len(), expected, "cut at {len}");
        assert_eq!(damage.skipped, (len - ends[expected]) as u64);
    }
}

#[test]
fn every_flipped_byte_costs_one_block() {
    let bytes = recorded(&run(120));
    let (_, heads, _) = read(&bytes);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let (_, left, damage) = read(&damaged);
            assert_eq!(left.len(), heads.len() - 1, "byte {at}");
            assert!(damage.skipped > 0);
        }
    }
}

#[test]
fn rubbish_between_blocks_is_skipped() {
    let bytes = recorded(&run(200));
    let (records, heads, _) = read(&bytes);
    let cut = HEAD + heads[0].stored as usize;
    let rubbish = [&MAGIC[..], b"not a block", &MAGIC[..5]].concat();
    let mixed = [&rubbish[..], &bytes[..cut], &rubbish, &bytes[cut..], &rubbish].concat();
    let (back, left, damage) = read(&mixed);
    assert!(back == records);
    assert_eq!((left.len(), damage.skipped), (heads.len(), 3 * rubbish.len() as u64));
}

#[test]
fn lengths_are_not_believed() {
    let mut head = Head { version: 1, block: block::DATA, stored: STORED_MAX as u32 + 1, ..Head::default() };
    assert_eq!(Head::from_bytes(&head.to_bytes()), Err(NoHead::Broken));
    head.stored = 10;
    head.raw = u32::MAX;
    assert_eq!(Head::from_bytes(&head.to_bytes()), Err(NoHead::Broken));
    head.raw = 10;
    assert_eq!(Head::from_bytes(&head.to_bytes()), Ok(Head { checksum: 0, ..head }));
    head.version = 2;
    assert_eq!(Head::from_bytes(&head.to_bytes()), Err(NoHead::Newer(2)));
    // A block that unpacks to something longer than it says.
    let stored = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
    let head = Head {
        version: 1,
        block: block::DATA,
        flags: frame::COMPRESSED,
        stored: stored.len() as u32,
        raw: 100,
        checksum: crc32c::crc32c(&stored),
        ..Head::default()
    };
    let (_, heads, damage) = read(&[&head.to_bytes()[..], &stored].concat());
    assert_eq!((heads.len(), damage.skipped), (0, (HEAD + stored.len()) as u64));
}

#[test]
fn each_file_of_a_rotation_stands_alone() {
    let files = Files::default();
    let mut recorder = files.recorder(Rotation { bytes: Some(2000), time: None });
    for (index, (pos, record)) in run(2000).iter().enumerate() {
        recorder.record(*pos, record);
        if index % 20 == 0 {
            recorder.flush(Totals::default()).unwrap();
        }
        if recorder.wants_snapshot() {
            let tick = wire::Tick { header: Header { kind: kind::TICK, ..Header::default() } };
            recorder.snapshot(*pos, |out| out(bytes_of(&tick))).unwrap();
        }
    }
    recorder.end(Totals::default(), 0).unwrap();
    let each = files.0.borrow();
    assert!(each.len() > 3);
    for (number, bytes) in each.iter().enumerate() {
        let (_, heads, damage) = read(bytes);
        assert_eq!(damage, reader::Damage::default());
        assert_eq!(heads[0].block, block::ABOUT);
        assert_eq!(heads[1].block == block::SNAPSHOT, number > 0);
    }
    drop(each);
    assert_eq!(read(&files.bytes()).2, reader::Damage::default(), "the sequence goes on from file to file");
}

#[test]
fn a_full_disk_costs_what_it_refuses() {
    struct Full(Rc<RefCell<(bool, Vec<u8>)>>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.borrow_mut();
            if state.0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let state = Rc::new(RefCell::new((false, Vec::new())));
    let shared = Rc::clone(&state);
    let open = Box::new(move |_| -> io::Result<Box<dyn Write>> { Ok(Box::new(Full(Rc::clone(&shared)))) });
    let mut recorder = Recorder::new(open, About::default(), Rotation::default()).unwrap();
    for (index, (pos, record)) in run(100).iter().enumerate() {
        recorder.record(*pos, record);
        state.borrow_mut().0 = (30..60).contains(&index);
        let full = (30..60).contains(&index);
        let may = may_be_recorded(wire::read::<Header>(record).unwrap().0.kind);
        assert_eq!(recorder.flush(Totals::default()).is_err(), full && may);
    }
    let (records, _, damage) = read(&state.borrow().1);
    assert_eq!(records.len() as u64 + damage.missing, may(run(100)).len() as u64);
    assert!(damage.missing > 0 && damage.skipped == 0);
}

#[test]
fn plain_records_are_little_endian() {
    fn first<T: Plain>(record: &T) -> u8 {
        bytes_of(record)[0]
    }
    assert_eq!(first(&Header { kind: 0x0102, ..Header::default() }), 2, "the format stores words this way");
}
