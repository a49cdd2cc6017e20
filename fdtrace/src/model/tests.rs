//! Which slots share a description, when calls return in another order than they took effect.

mod interest;
mod processes;

use fdtrace_common::wire::{EpollEntry, FileInfo};

use super::*;
use crate::{
    event::{Call, Effect, EpollOp, Install, Source, TableRow},
    syscalls::{self, Arch},
};

const TABLE: TableAddr = 0x1000;
const COPY: TableAddr = 0x2000;

fn moment(pos: u64) -> Moment {
    Moment { time: pos, pos }
}

fn at(enter: u64, exit: u64) -> Interval {
    Interval { enter: Some(moment(enter)), exit: moment(exit) }
}

/// A file at an address; what it is, is told by the last digit of the address.
fn file(address: u64) -> FileInfo {
    FileInfo { file: address, inode: 7 + address % 16, mode: 0o100_644, ..FileInfo::default() }
}

struct Bench {
    world: World,
    changes: Vec<Change>,
}

impl Bench {
    fn new() -> Self {
        Self { world: World::new(), changes: Vec::new() }
    }

    fn event(&mut self, at: Interval, table: TableAddr, what: What) {
        // The thread is told by when it began: one thread makes one call at a time.
        let tid = 100 + at.start() as u32;
        self.world.apply(&Event { at, tgid: 1, tid, table, what }, &mut self.changes);
    }

    /// What does not belong to one thread's call.
    fn tell(&mut self, pos: u64, (tgid, tid, table): (u32, u32, TableAddr), what: What) {
        let at = Interval { enter: None, exit: moment(pos) };
        self.world.apply(&Event { at, tgid, tid, table, what }, &mut self.changes);
    }

    /// Process 2 has a copy of the table, in which there is one number.
    fn list_copy(&mut self, pos: u64, row: TableRow, beyond_walk: bool) {
        self.tell(pos, (2, 2, COPY), What::Table { rows: vec![row], more: false, beyond_walk });
    }

    fn call(&mut self, name: &str, at: Interval, ret: i64, effect: Effect) {
        let calls = (0..512).filter_map(|nr| syscalls::lookup(Arch::X86_64, nr));
        let sys = calls.into_iter().find(|call| call.name == name).expect("a call");
        self.event(at, TABLE, What::Call(Call { sys, args: [0; 6], ret, enter_table: Some(TABLE), effect }));
    }

    fn install(&mut self, name: &str, at: Interval, fd: i32, address: u64, source: Source) {
        let (file, looked) = (file(address), at.exit.pos);
        let install = Install { fd, file, cloexec: false, source, path: None, looked };
        self.call(name, at, i64::from(fd), Effect::Install(install));
    }

    fn open(&mut self, at: Interval, fd: i32, address: u64) {
        self.install("openat", at, fd, address, Source::New);
    }

    fn dup(&mut self, at: Interval, from: i32, fd: i32, address: u64) {
        self.install("dup", at, fd, address, Source::Duplicated(from));
    }

    fn close(&mut self, at: Interval, fd: i32, before: u64, after: u64) {
        self.call("close", at, 0, Effect::Remove { fd, before, after });
    }

    /// A reading of the tables that finds these.
    fn read(&mut self, from: u64, rows: &[(i32, u64)]) {
        let once = |pos| Interval { enter: None, exit: moment(pos) };
        self.world.apply(
            &Event {
                at: once(from),
                tgid: 0,
                tid: 0,
                table: 0,
                what: What::SnapshotBegin { reading: Some(1), threads: false },
            },
            &mut self.changes,
        );
        let mut pos = from;
        for (fd, address) in rows {
            pos += 1;
            let what = What::Row { fd: *fd, file: file(*address), cloexec: false, since: from, path: None };
            self.world.apply(&Event { at: once(pos), tgid: 1, tid: 1, table: TABLE, what }, &mut self.changes);
        }
        let what = What::SnapshotEnd { reading: 1 };
        self.world.apply(&Event { at: once(pos + 1), tgid: 0, tid: 0, table: 0, what }, &mut self.changes);
    }

    /// A listing of the entries of the epoll behind 10, as number and whether they are of the file that it means now, all
    /// of one inode: the keys that are known after it.
    fn list(&mut self, epoll: &Serial, entries: &[(i32, bool)]) -> Vec<(Serial, i32)> {
        let entries: Vec<_> = entries.iter().map(|(fd, current)| (*fd, 1, *current, None)).collect();
        self.list_held(epoll, &entries)
    }

    /// The same with what is waited for, and with another number that means the file.
    fn list_held(&mut self, epoll: &Serial, entries: &[(i32, u32, bool, Option<i32>)]) -> Vec<(Serial, i32)> {
        let around = [EpollEntry::BEGIN, EpollEntry::END].map(|fd| (fd, 0, false, None));
        for (fd, events, current, held) in [&around[..1], entries, &around[1..]].into_iter().flatten().copied() {
            let (inode, current, held) = (file(0xa0).inode, Some(current), held.map(|fd| (101, fd)));
            let what = What::EpollEntry { epoll: 10, fd, events, data: 5, inode, dev: 0, current, held };
            // The thread that made the epoll.
            let event = Event { at: Interval { enter: None, exit: moment(20) }, tgid: 1, tid: 101, table: TABLE, what };
            self.world.apply(&event, &mut self.changes);
        }
        self.entries(epoll)
    }

    /// What is registered in an epoll.
    fn entries(&self, epoll: &Serial) -> Vec<(Serial, i32)> {
        self.world.epolls[epoll].entries.keys().copied().collect()
    }

    fn slot_in(&self, table: TableAddr, fd: i32) -> &Slot<Generation> {
        let table = self.world.by_addr[&table];
        self.world.slot(SlotId { table, fd }).expect("a slot")
    }

    fn live(&self, fd: i32) -> &crate::order::Life<Generation> {
        self.slot_in(TABLE, fd).live().expect("an occupant")
    }

    fn serial(&self, fd: i32) -> Serial {
        self.live(fd).data.description.serial
    }

    fn asks(&mut self) -> bool {
        !self.world.take_unseen().is_empty()
    }
}

#[test]
fn a_dup_that_returns_before_the_open_it_copied() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.close(at(3, 4), 3, 0xa0, 0);
    // open 3: 5..9 has taken effect; the kernel gave it the old address.
    bench.dup(at(6, 7), 3, 5, 0xa0);
    bench.open(at(5, 9), 3, 0xa0);
    assert_eq!(bench.serial(3), bench.serial(5));
    assert!(bench.live(3).data.by.as_ref().is_some_and(|by| by.is("openat")));
    assert_eq!(bench.live(3).data.description.holders.get(), 2);
    assert!(!bench.asks(), "nothing is left open");
    // Whoever receives it by its address alone receives this one.
    bench.install("pidfd_getfd", at(11, 12), 8, 0xa0, Source::Received);
    assert_eq!(bench.serial(8), bench.serial(3));
}

#[test]
fn a_dup_that_was_closed_before_its_address_came_again() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    let first = bench.serial(3);
    bench.dup(at(3, 8), 3, 5, 0xa0);
    bench.close(at(4, 9), 3, 0xa0, 0);
    // close 5: 9..20 has taken effect when this open, which began long before, is given the address.
    bench.open(at(7, 12), 6, 0xa0);
    assert_eq!(bench.serial(5), bench.serial(6), "as far as is known then");
    bench.close(at(9, 20), 5, 0xa0, 0);
    let life = bench.slot_in(TABLE, 5).past().next_back().expect("a life");
    assert_eq!(life.data.description.serial, first, "it was the first one after all");
    assert!(life.ambiguous);
    assert_eq!(bench.live(6).data.description.holders.get(), 1);
}

#[test]
fn an_address_that_comes_again_while_its_close_has_not_returned() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    // close 3: 4..9 has taken effect.
    bench.open(at(5, 7), 4, 0xa0);
    assert_ne!(bench.serial(3), bench.serial(4));
    assert!(bench.live(4).data.description.is_doubted() && bench.asks(), "3 may have been put into 4 by somebody");
    bench.close(at(4, 9), 3, 0xa0, 0);
    assert!(!bench.live(4).data.description.is_doubted() && !bench.asks(), "3 was over");
    assert!(!bench.live(4).ambiguous);
}

#[test]
fn an_open_whose_number_was_taken_over_before_it_returned() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    // open 4: 5..12 made 0xb0. dup2(3, 4): 6..9 replaced that before it returned.
    let install =
        Install { fd: 4, file: file(0xa0), cloexec: false, source: Source::Duplicated(3), path: None, looked: 9 };
    bench.call("dup2", at(6, 9), 4, Effect::Replace { install, before: 0 });
    bench.open(at(5, 12), 4, 0xa0);
    assert!(bench.slot_in(TABLE, 4).past().next().expect("a life").data.by.as_ref().is_some_and(|by| by.is("openat")));
    assert_eq!(bench.serial(3), bench.serial(4));
    assert!(bench.live(4).ambiguous && !bench.live(4).data.description.is_doubted() && !bench.asks());
}

#[test]
fn a_reading_does_not_speak_for_what_was_touched_meanwhile() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.open(at(5, 7), 4, 0xa0);
    bench.read(4, &[(3, 0xa0), (4, 0xa0)]);
    assert_ne!(bench.serial(3), bench.serial(4));
    bench.close(at(4, 30), 3, 0xa0, 0);
    assert!(!bench.asks());
}

#[test]
fn an_open_that_is_read_before_it_returns_has_its_path_all_the_same() {
    let mut bench = Bench::new();
    bench.read(3, &[(4, 0xa0)]);
    let path = |bench: &Bench| {
        let description = Rc::clone(&bench.slot_in(TABLE, 4).live().expect("it is open").data.description);
        description.details().and_then(|details| details.path.as_ref().map(|path| path.bytes.to_vec()))
    };
    assert_eq!(path(&bench), None);
    let given = Some(crate::event::Path { bytes: (*b"/etc/hosts").into(), truncated: false });
    let install = Install { fd: 4, file: file(0xa0), cloexec: false, source: Source::New, path: given, looked: 9 };
    bench.call("openat", at(1, 9), 4, Effect::Install(install));
    assert_eq!(path(&bench).as_deref(), Some(&b"/etc/hosts"[..]));
}

#[test]
fn another_file_at_the_same_address_is_no_doubt() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    let install = |info| Install { fd: 4, file: info, cloexec: false, source: Source::New, path: None, looked: 7 };
    bench.call("openat", at(5, 7), 4, Effect::Install(install(FileInfo { inode: 99, ..file(0xa0) })));
    assert!(!bench.asks());
    assert_ne!(bench.serial(3), bench.serial(4));
}

#[test]
fn an_open_beside_a_call_on_a_range() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.call("close_range", at(4, 6), 0, Effect::RemoveRange { first: 10, last: 20 });
    assert!(!bench.asks());
    bench.open(at(5, 8), 12, 0xa1);
    assert!(bench.asks(), "the range may have had it");
    bench.open(at(9, 10), 13, 0xa2);
    assert!(!bench.asks());
    // It returned first.
    bench.open(at(11, 12), 14, 0xa3);
    bench.call("close_range", at(12, 15), 0, Effect::CloexecRange { first: 14, last: 20 });
    assert!(bench.asks(), "it may have come after the range was marked");
    bench.call("close_range", at(16, 17), 0, Effect::CloexecRange { first: 14, last: 20 });
    assert!(!bench.asks());
}

#[test]
fn close_on_exec_that_two_calls_set_at_one_time() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.call("fcntl", at(3, 4), 0, Effect::SetCloexec { fd: 3, on: true });
    bench.call("fcntl", at(5, 6), 0, Effect::SetCloexec { fd: 3, on: false });
    assert!(!bench.asks(), "one after the other");
    bench.call("close_range", at(6, 8), 0, Effect::CloexecRange { first: 3, last: 20 });
    assert!(bench.asks(), "the range may have been marked first");
    bench.read(9, &[(3, 0xa0)]);
    assert!(!bench.live(3).data.cloexec, "the kernel has told");
    bench.call("fcntl", at(12, 14), 0, Effect::SetCloexec { fd: 3, on: true });
    bench.call("ioctl", at(13, 15), 0, Effect::SetCloexec { fd: 3, on: true });
    assert!(!bench.asks(), "whichever came last");
    // A row that was read while the call was on its way.
    bench.read(14, &[(3, 0xa0)]);
    assert!(bench.live(3).data.cloexec);
    // The number may have been another file's when the call came.
    bench.close(at(20, 21), 3, 0xa0, 0);
    bench.open(at(22, 23), 3, 0xa1);
    bench.call("fcntl", at(19, 24), 0, Effect::SetCloexec { fd: 3, on: true });
    assert!(bench.asks());
}

#[test]
fn a_dup_of_what_has_not_returned_yet_is_not_of_what_was_there_before() {
    let mut bench = Bench::new();
    // open 3: 1..2 had been closed by 2..4 when it looked.
    bench.open(at(1, 2), 3, 0);
    bench.close(at(2, 4), 3, 0, 0);
    let gone = bench.slot_in(TABLE, 3).past().next().expect("a life").data.description.serial;
    // open 3: 5..9 has taken effect when dup 6..7 copies it.
    bench.dup(at(6, 7), 3, 4, 0xa0);
    assert_ne!(bench.serial(4), gone);
    bench.open(at(5, 9), 3, 0xa0);
    assert_eq!(bench.serial(4), bench.serial(3));
}

#[test]
fn the_end_of_an_earlier_snapshot_does_not_end_a_later_one() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    let once = |pos| Interval { enter: None, exit: moment(pos) };
    let event = |pos, what| Event { at: once(pos), tgid: 0, tid: 0, table: 0, what };
    let mut apply = |pos, what| bench.world.apply(&event(pos, what), &mut bench.changes);
    apply(10, What::SnapshotBegin { reading: Some(2), threads: false });
    apply(11, What::SnapshotEnd { reading: 1 });
    assert_eq!(bench.world.snapshots_completed(), 0);
    assert!(bench.slot_in(TABLE, 3).live().is_some(), "nothing has been read yet");
    bench.world.apply(&event(12, What::SnapshotEnd { reading: 2 }), &mut bench.changes);
    assert!(bench.slot_in(TABLE, 3).live().is_none() && bench.world.snapshots_completed() == 1);
}

#[test]
fn a_row_that_was_lost_does_not_close_its_slot() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.open(at(3, 4), 4, 0xb0);
    let once = |pos| Interval { enter: None, exit: moment(pos) };
    let event = |pos, what| Event { at: once(pos), tgid: 0, tid: 0, table: 0, what };
    bench.world.apply(&event(10, What::SnapshotBegin { reading: Some(1), threads: false }), &mut bench.changes);
    bench.world.apply(&event(12, What::Lost { since: 11, by_class: [0; 8] }), &mut bench.changes);
    bench.world.apply(&event(13, What::SnapshotEnd { reading: 1 }), &mut bench.changes);
    assert!(bench.slot_in(TABLE, 3).live().is_some() && !bench.world.is_certain());
    // The next one is whole: what it does not show was closed in the gap.
    bench.read(20, &[(4, 0xb0)]);
    assert!(bench.slot_in(TABLE, 3).live().is_none() && bench.slot_in(TABLE, 4).live().is_some());
    assert!(bench.world.is_certain());
    assert!(bench.changes.iter().any(|change| matches!(change, Change::Healed { since: 11, .. })));
}
