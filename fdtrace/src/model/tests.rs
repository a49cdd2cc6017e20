//! Which slots share a description, when calls return in another order than they took effect.

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
            &Event { at: once(from), tgid: 0, tid: 0, table: 0, what: What::SnapshotBegin { reading: Some(1) } },
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
            let (inode, current) = (file(0xa0).inode, Some(current));
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
fn a_copied_table_with_what_an_open_has_not_told_yet() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.close(at(3, 4), 3, 0xa0, 0);
    // open 3: 5..9, at the old address. Fork: 6..7.
    let what = What::Fork { tgid: 2, tid: 2, table: COPY, start: 0, comm: [0; 16] };
    bench.event(at(6, 7), TABLE, what);
    let rows = vec![TableRow { fd: 3, file: 0xa0, cloexec: false }];
    let listing = What::Table { rows, more: false, beyond_walk: false };
    let once = Interval { enter: None, exit: moment(8) };
    bench.world.apply(&Event { at: once, tgid: 2, tid: 2, table: COPY, what: listing }, &mut bench.changes);
    bench.open(at(5, 9), 3, 0xa0);
    let copy = bench.slot_in(COPY, 3).live().expect("a copy");
    assert_eq!(copy.data.description.serial, bench.serial(3));
}

#[test]
fn a_copy_of_what_has_not_returned_yet_is_not_of_who_had_the_address_before() {
    let mut bench = Bench::new();
    let file = FileInfo { inode: 99, ..file(0xa0) };
    let install = Install { fd: 3, file, cloexec: false, source: Source::New, path: None, looked: 2 };
    bench.call("openat", at(1, 2), 3, Effect::Install(install));
    bench.close(at(3, 4), 3, 0xa0, 0);
    // open 3: 5..9, at the old address. Fork: 6..7.
    bench.event(at(6, 7), TABLE, What::Fork { tgid: 2, tid: 2, table: COPY, start: 0, comm: [0; 16] });
    let rows = vec![TableRow { fd: 3, file: 0xa0, cloexec: false }];
    let listing = What::Table { rows, more: false, beyond_walk: false };
    let once = Interval { enter: None, exit: moment(8) };
    bench.world.apply(&Event { at: once, tgid: 2, tid: 2, table: COPY, what: listing }, &mut bench.changes);
    bench.open(at(5, 9), 3, 0xa0);
    let copy = bench.slot_in(COPY, 3).live().expect("a copy");
    assert_eq!(copy.data.description.serial, bench.serial(3));
}

#[test]
fn a_listed_registration_whose_file_is_held_under_another_number_goes_with_it() {
    let mut bench = Bench::new();
    let epoll = FileInfo { file: 0xe0, inode: 1, ..FileInfo::default() };
    let install = Install { fd: 10, file: epoll, cloexec: false, source: Source::New, path: None, looked: 2 };
    bench.call("epoll_create1", at(1, 2), 10, Effect::Install(install));
    bench.open(at(3, 4), 5, 0xa0);
    bench.dup(at(5, 6), 5, 6, 0xa0);
    bench.install("dup2", at(7, 8), 5, 0xb1, Source::New);
    let (instance, description) = (bench.serial(10), Rc::clone(&bench.live(10).data.description));
    bench.world.epolls.insert(instance, Epoll::new(description, None));
    for fd in [EpollEntry::BEGIN, 5, EpollEntry::END] {
        let (inode, held) = (file(0xa0).inode, (fd == 5).then_some(6));
        let what = What::EpollEntry { epoll: 10, fd, events: 1, data: 5, inode, dev: 0, current: Some(false), held };
        let at = Interval { enter: None, exit: moment(20) };
        bench.world.apply(&Event { at, tgid: 1, tid: 101, table: TABLE, what }, &mut bench.changes);
    }
    assert!(bench.world.epolls[&instance].entries.contains_key(&(bench.serial(6), 5)));
    bench.close(at(21, 22), 6, 0xa0, 0);
    assert!(bench.world.epolls[&instance].entries.is_empty(), "the kernel dropped it with the file");
}

/// The listing is read at once, and its record comes before those of the calls that are still in the ring.
#[test]
fn a_registration_that_is_listed_before_its_number_is_seen_to_be_closed_is_that_number_s() {
    let (mut bench, epoll) = with_epoll();
    bench.open(at(3, 4), 5, 0xa0);
    let listed = bench.serial(5);
    for closed in [false, true] {
        if closed {
            bench.dup(at(21, 22), 5, 6, 0xa0);
            bench.close(at(23, 24), 5, 0xa0, 0);
        }
        assert_eq!(bench.list(&epoll, &[(5, false)]), [(listed, 5)], "closed: {closed}");
    }
}

#[test]
fn a_copy_whose_rows_were_lost_does_not_keep_its_original() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.event(at(3, 4), TABLE, What::Fork { tgid: 2, tid: 2, table: COPY, start: 0, comm: [0; 16] });
    // The listing is lost. The copy is read, and the parent ends.
    let once = |pos| Interval { enter: None, exit: moment(pos) };
    let mut apply =
        |pos, tgid, table, what| bench.world.apply(&Event { at: once(pos), tgid, tid: tgid, table, what }, &mut vec![]);
    apply(6, 0, 0, What::Lost { since: 5, by_class: [0; 8] });
    apply(7, 0, 0, What::SnapshotBegin { reading: Some(1) });
    let row = |file| What::Row { fd: 3, file, cloexec: false, since: 7, path: None };
    apply(8, 1, TABLE, row(file(0xa0)));
    apply(9, 2, COPY, row(file(0xa0)));
    apply(10, 0, 0, What::SnapshotEnd { reading: 1 });
    apply(11, 1, TABLE, What::Exit { code: 0, group_dead: true, table_users: 0 });
    apply(12, 0, 0, What::Tick);
    assert_eq!(bench.world.tables.len(), 1, "{:?}", bench.world.tables);
    assert_eq!(bench.slot_in(COPY, 3).live().expect("the copy's").data.description.holders.get(), 1);
}

#[test]
fn a_process_that_is_found_under_the_number_of_a_dead_one() {
    let mut bench = Bench::new();
    let found = |start| What::Process { start, comm: [0; 16], exe: [].into(), argv: [].into() };
    bench.event(at(1, 1), TABLE, found(1));
    bench.open(at(2, 3), 3, 0xa0);
    bench.event(at(4, 5), TABLE, What::Exit { code: 0, group_dead: true, table_users: 0 });
    bench.open(at(6, 7), 4, 0xa1);
    assert!(
        bench.world.by_addr.get(&TABLE).is_none_or(|id| !bench.world.tables[id].slots.contains_key(&4)),
        "a straggler"
    );
    bench.event(at(8, 8), COPY, found(8));
    bench.event(at(9, 9), COPY, What::Row { fd: 3, file: file(0xa2), cloexec: false, since: 8, path: None });
    bench.open(at(10, 11), 5, 0xa3);
    assert!(bench.slot_in(TABLE, 5).live().is_some(), "it is heard");
}

/// A fork at 10..11 of a table with a number above the part that is listed.
fn forked_beyond_the_walk(bench: &mut Bench) {
    bench.event(at(10, 11), TABLE, What::Fork { tgid: 2, tid: 2, table: COPY, start: 0, comm: [0; 16] });
    let rows = vec![TableRow { fd: 3, file: 0xa0, cloexec: false }];
    let listing = What::Table { rows, more: false, beyond_walk: true };
    let once = Interval { enter: None, exit: moment(12) };
    bench.world.apply(&Event { at: once, tgid: 2, tid: 2, table: COPY, what: listing }, &mut bench.changes);
}

#[test]
fn a_call_beside_a_copy_that_is_not_listed_to_the_end() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.open(at(3, 4), 2000, 0xa1);
    forked_beyond_the_walk(&mut bench);
    assert!(!bench.asks(), "nobody else was about");
    assert!(bench.slot_in(COPY, 2000).live().is_some());
    // close 2000: 9..14. Was the copy made before it?
    bench.close(at(9, 14), 2000, 0xa1, 0);
    assert!(bench.asks());
    bench.close(at(15, 16), 3, 0xa0, 0);
    assert!(!bench.asks(), "it began later");
    // The same, returned before the listing.
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.open(at(3, 10), 2000, 0xa1);
    forked_beyond_the_walk(&mut bench);
    assert!(bench.asks());
}

#[test]
fn the_last_one_that_leaves_a_table_takes_all_of_it_along() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.open(at(3, 4), 2000, 0xa1);
    // All threads but one are known to have gone when that one's copy is told.
    let tids: Vec<u32> = bench.world.tables[&bench.world.by_addr[&TABLE]].tasks().iter().copied().collect();
    let (last, others) = tids.split_last().expect("tasks");
    for tid in others {
        let what = What::Exit { code: 0, group_dead: false, table_users: 1 };
        bench.world.apply(&Event { at: at(5, 6), tgid: 1, tid: *tid, table: TABLE, what }, &mut bench.changes);
    }
    let calls = (0..512).filter_map(|nr| syscalls::lookup(Arch::X86_64, nr));
    let sys = calls.into_iter().find(|call| call.name == "unshare").expect("a call");
    let call = Call { sys, args: [0; 6], ret: 0, enter_table: Some(TABLE), effect: Effect::None };
    let event = Event { at: at(7, 8), tgid: 1, tid: *last, table: COPY, what: What::Call(call) };
    bench.world.apply(&event, &mut bench.changes);
    let rows = vec![TableRow { fd: 3, file: 0xa0, cloexec: false }];
    let listing = What::Table { rows, more: false, beyond_walk: true };
    let once = Interval { enter: None, exit: moment(9) };
    bench.world.apply(&Event { at: once, tgid: 1, tid: *last, table: COPY, what: listing }, &mut bench.changes);
    assert!(bench.slot_in(COPY, 3).live().is_some());
    assert!(bench.slot_in(COPY, 2000).live().is_some());
    assert!(!bench.world.by_addr.contains_key(&TABLE), "nobody uses the old one");
    assert!(bench.changes.iter().any(|change| matches!(change, Change::TableDied { .. })));
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
fn what_epoll_knows_goes_to_the_heir() {
    let mut bench = Bench::new();
    let mut name = [0; 24];
    name[..9].copy_from_slice(b"eventpoll");
    bench.event(at(0, 1), TABLE, What::FopKind { fop: 0, name });
    bench.open(at(1, 2), 3, 0xa0);
    bench.close(at(3, 4), 3, 0xa0, 0);
    bench.dup(at(6, 7), 3, 5, 0xa1);
    bench.open(at(5, 9), 3, 0xa1);
    let serial = bench.serial(3);
    assert_eq!(bench.serial(5), serial);
    assert!(bench.world.epolls.contains_key(&serial));
    assert!(bench.world.epolls.keys().all(|known| *known == serial), "no instance without a holder");
}

fn ctl(epoll: u64, fd: i32, target: [u64; 2]) -> Effect {
    let epoll_file = FileInfo { fop: 0xe1, ..file(epoll) };
    Effect::EpollCtl(crate::event::EpollCtl { epoll: 10, epoll_file, op: EpollOp::Add, fd, target, events: 1, data: 5 })
}

/// An epoll at 10, of its own address.
fn with_epoll() -> (Bench, Serial) {
    let mut bench = Bench::new();
    let mut name = [0; 24];
    name[..9].copy_from_slice(b"eventpoll");
    bench.event(at(0, 1), TABLE, What::FopKind { fop: 0xe1, name });
    let (file, source) = (FileInfo { fop: 0xe1, ..file(0xee) }, Source::New);
    let install = Install { fd: 10, file, cloexec: false, source, path: None, looked: 2 };
    bench.call("epoll_create1", at(1, 2), 10, Effect::Install(install));
    let serial = bench.serial(10);
    (bench, serial)
}

/// The epoll at 10, which a call puts under 11.
fn dup_of_epoll(bench: &mut Bench, at: Interval) {
    let (file, source) = (FileInfo { fop: 0xe1, ..file(0xee) }, Source::Duplicated(10));
    let install = Install { fd: 11, file, cloexec: false, source, path: None, looked: at.exit.pos };
    bench.call("dup", at, 11, Effect::Install(install));
}

#[test]
fn a_registration_beside_a_close_of_its_number() {
    let (mut bench, _) = with_epoll();
    bench.open(at(3, 4), 5, 0xa0);
    bench.call("epoll_ctl", at(5, 6), 0, ctl(0xee, 5, [0xa0, 0xa0]));
    assert!(!bench.asks(), "nobody else was about");
    // close 5: 6..9. Had it gone before?
    bench.close(at(6, 9), 5, 0xa0, 0);
    assert!(bench.asks());
    bench.open(at(10, 11), 5, 0xa1);
    assert!(!bench.asks());
    // The other way round.
    bench.close(at(12, 14), 5, 0xa1, 0);
    bench.open(at(12, 15), 5, 0xa2);
    assert!(!bench.asks());
    bench.call("epoll_ctl", at(13, 16), 0, ctl(0xee, 5, [0xa2, 0xa2]));
    assert!(bench.asks());
}

#[test]
fn a_registration_whose_epoll_has_left_its_number_by_the_end() {
    let (mut bench, epoll) = with_epoll();
    bench.open(at(3, 4), 5, 0xa0);
    dup_of_epoll(&mut bench, at(5, 6));
    bench.close(at(8, 9), 10, 0xee, 0);
    assert!(!bench.asks());
    bench.call("epoll_ctl", at(7, 10), 0, ctl(0, 5, [0xa0, 0xa0]));
    let entries = bench.entries(&epoll);
    assert_eq!(bench.serial(11), epoll);
    assert_eq!(entries, [(bench.serial(5), 5)], "it is in the list of the one that 11 still means");
    assert!(bench.asks(), "and is looked up, because the call did not see which one it was");
}

#[test]
fn a_registration_of_what_has_not_been_returned_yet() {
    let (mut bench, epoll) = with_epoll();
    // open 5: 3..9 has taken effect.
    bench.call("epoll_ctl", at(5, 6), 0, ctl(0xee, 5, [0xa0, 0xa0]));
    bench.open(at(3, 9), 5, 0xa0);
    let entries = bench.entries(&epoll);
    assert_eq!(entries, [(bench.serial(5), 5)]);
    bench.close(at(10, 11), 5, 0xa0, 0);
    assert!(bench.world.epolls[&epoll].entries.is_empty());
}

#[test]
fn a_registration_of_what_has_gone_before_it_was_returned() {
    let (mut bench, epoll) = with_epoll();
    // open 5: 3..9 has taken effect, and so have the others.
    bench.call("epoll_ctl", at(5, 6), 0, ctl(0xee, 5, [0xa0, 0xa0]));
    bench.close(at(7, 8), 5, 0xa0, 0);
    assert!(bench.asks(), "whoever made it is not known yet");
    bench.open(at(3, 9), 5, 0);
    assert!(bench.slot_in(TABLE, 5).live().is_none());
    assert!(bench.asks(), "what there was of it may have gone since");
    assert_eq!(bench.list(&epoll, &[]), []);
}

#[test]
fn a_registration_outlives_its_number_by_a_dup_that_returns_late() {
    let (mut bench, epoll) = with_epoll();
    bench.open(at(3, 4), 5, 0xa0);
    bench.call("epoll_ctl", at(5, 6), 0, ctl(0xee, 5, [0xa0, 0xa0]));
    bench.close(at(8, 9), 5, 0xa0, 0);
    assert!(bench.world.epolls[&epoll].entries.is_empty());
    bench.dup(at(7, 10), 5, 6, 0xa0);
    let entries = bench.entries(&epoll);
    assert_eq!(entries, [(bench.serial(6), 5)]);
}

#[test]
fn a_registration_whose_epoll_and_file_both_return_late() {
    for (epoll_goes_first, epoll_comes_first) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut bench, epoll) = with_epoll();
        bench.open(at(3, 4), 5, 0xa0);
        bench.call("epoll_ctl", at(5, 6), 0, ctl(0xee, 5, [0xa0, 0xa0]));
        // As when a thread exits whose table another one has copied, which is told descriptor by descriptor.
        let (first, second) = if epoll_goes_first { (11, 13) } else { (13, 11) };
        let mut gone = [(first, 10, 0xee), (second, 5, 0xa0)];
        gone.sort_unstable();
        gone.into_iter().for_each(|(pos, fd, address)| bench.close(at(pos - 1, pos), fd, address, 0));
        assert!(!bench.world.epolls.contains_key(&epoll));
        if epoll_comes_first {
            dup_of_epoll(&mut bench, at(8, 14));
            assert!(bench.world.epolls[&epoll].entries.is_empty(), "nobody is known to hold the file");
        }
        bench.dup(at(7, 15), 5, 6, 0xa0);
        if !epoll_comes_first {
            dup_of_epoll(&mut bench, at(8, 16));
        }
        let entries = bench.entries(&epoll);
        assert_eq!(entries, [(bench.serial(6), 5)], "{epoll_goes_first} {epoll_comes_first}");
        bench.close(at(17, 18), 6, 0xa0, 0);
        assert!(bench.world.epolls[&epoll].entries.is_empty());
    }
}

#[test]
fn a_file_that_goes_while_its_epoll_seems_to_be_gone() {
    let (mut bench, epoll) = with_epoll();
    bench.open(at(3, 4), 5, 0xa0);
    bench.call("epoll_ctl", at(5, 6), 0, ctl(0xee, 5, [0xa0, 0xa0]));
    bench.close(at(8, 9), 10, 0xee, 0);
    bench.close(at(10, 11), 5, 0xa0, 0);
    dup_of_epoll(&mut bench, at(7, 12));
    assert!(bench.world.epolls[&epoll].entries.is_empty());
}

#[test]
fn a_target_that_changed_during_the_call_is_asked_for() {
    let (mut bench, epoll) = with_epoll();
    bench.open(at(3, 4), 5, 0xa0);
    bench.close(at(6, 7), 5, 0xa0, 0);
    bench.open(at(8, 9), 5, 0xb0);
    assert!(!bench.asks());
    bench.call("epoll_ctl", at(5, 12), 0, ctl(0xee, 5, [0xa0, 0xb0]));
    assert_eq!(bench.world.epolls[&epoll].entries.len(), 1);
    assert!(bench.asks());
}

#[test]
fn the_end_of_an_earlier_snapshot_does_not_end_a_later_one() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    let once = |pos| Interval { enter: None, exit: moment(pos) };
    let event = |pos, what| Event { at: once(pos), tgid: 0, tid: 0, table: 0, what };
    let mut apply = |pos, what| bench.world.apply(&event(pos, what), &mut bench.changes);
    apply(10, What::SnapshotBegin { reading: Some(2) });
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
    bench.world.apply(&event(10, What::SnapshotBegin { reading: Some(1) }), &mut bench.changes);
    bench.world.apply(&event(12, What::Lost { since: 11, by_class: [0; 8] }), &mut bench.changes);
    bench.world.apply(&event(13, What::SnapshotEnd { reading: 1 }), &mut bench.changes);
    assert!(bench.slot_in(TABLE, 3).live().is_some() && !bench.world.is_certain());
    // The next one is whole: what it does not show was closed in the gap.
    bench.read(20, &[(4, 0xb0)]);
    assert!(bench.slot_in(TABLE, 3).live().is_none() && bench.slot_in(TABLE, 4).live().is_some());
    assert!(bench.world.is_certain());
    assert!(bench.changes.iter().any(|change| matches!(change, Change::Healed { since: 11, .. })));
}

/// Two files of one inode, as all anonymous ones are, both registered as 5. The first one is held under 6 since.
fn with_two_under_one_number() -> (Bench, Serial) {
    let (mut bench, epoll) = with_epoll();
    bench.open(at(3, 4), 5, 0xa0);
    bench.call("epoll_ctl", at(5, 6), 0, ctl(0xee, 5, [0xa0, 0xa0]));
    bench.dup(at(7, 8), 5, 6, 0xa0);
    bench.close(at(9, 10), 5, 0xa0, 0);
    bench.open(at(11, 12), 5, 0xb0);
    bench.call("epoll_ctl", at(13, 14), 0, ctl(0xee, 5, [0xb0, 0xb0]));
    (bench, epoll)
}

#[test]
fn a_listing_of_two_registrations_under_one_number() {
    let (mut bench, epoll) = with_two_under_one_number();
    let known: Vec<_> = bench.world.epolls[&epoll].entries.keys().copied().collect();
    assert_eq!(known, [(bench.serial(6), 5), (bench.serial(5), 5)]);
    for first in [true, false] {
        let listed = bench.list(&epoll, &[(5, first), (5, !first)]);
        assert_eq!(listed, known, "the current one comes first: {first}");
    }
}

#[test]
fn a_listing_of_two_registrations_under_a_number_that_means_neither() {
    let (mut bench, epoll) = with_two_under_one_number();
    // The other one is held elsewhere.
    bench.dup(at(15, 16), 5, 7, 0xb0);
    bench.close(at(17, 18), 5, 0xb0, 0);
    bench.open(at(19, 20), 5, 0xa1);
    let known = [(bench.serial(6), 5), (bench.serial(7), 5)];
    let (here, elsewhere) = ((5, 1, false, Some(6)), (5, 3, false, None));
    for listing in [[elsewhere, here], [here, elsewhere]] {
        assert_eq!(bench.list_held(&epoll, &listing), known, "{listing:?}");
        let events = known.map(|key| bench.world.epolls[&epoll].entries[&key].events);
        assert_eq!(events, [1, 3], "{listing:?}");
    }
}

#[test]
fn a_listing_of_a_registration_that_was_made_unseen_beside_one_under_its_number() {
    for first in [true, false] {
        let (mut bench, epoll) = with_epoll();
        // Through io_uring, this one is registered, too.
        bench.open(at(3, 4), 5, 0xa0);
        bench.dup(at(7, 8), 5, 6, 0xa0);
        bench.close(at(9, 10), 5, 0xa0, 0);
        bench.open(at(11, 12), 5, 0xb0);
        bench.call("epoll_ctl", at(13, 14), 0, ctl(0xee, 5, [0xb0, 0xb0]));
        let known = (bench.serial(5), 5);
        let listed = bench.list(&epoll, &[(5, first), (5, !first)]);
        assert!(listed.len() == 2 && listed.contains(&known), "the current one comes first: {first}: {listed:?}");
        // The next one knows them both, in any order; and forgets the one that has gone.
        assert_eq!(bench.list(&epoll, &[(5, false), (5, true)]), listed);
        assert_eq!(bench.list(&epoll, &[(5, true)]), [known]);
    }
}

#[test]
fn a_registration_of_what_was_there_before_may_outlive_its_last_number() {
    let (mut bench, epoll) = with_epoll();
    // Whoever started the program has it, too.
    let row = What::Row { fd: 5, file: file(0xa0), cloexec: false, since: 3, path: None };
    bench.event(at(3, 4), TABLE, row);
    let key = (bench.serial(5), 5);
    bench.call("epoll_ctl", at(7, 8), 0, ctl(0xee, 5, [0xa0, 0xa0]));
    assert!(!bench.asks());
    bench.close(at(9, 10), 5, 0xa0, 0);
    assert!(bench.asks());
    assert_eq!(bench.list(&epoll, &[(5, false)]), [key]);
    let entry = &bench.world.epolls[&epoll].entries[&key];
    assert_eq!(entry.added.as_ref().map(|by| by.at.exit.pos), Some(8), "who added it is known still");
    // What was opened here is held by nobody else.
    bench.open(at(11, 12), 5, 0xb0);
    bench.call("epoll_ctl", at(13, 14), 0, ctl(0xee, 5, [0xb0, 0xb0]));
    bench.close(at(15, 16), 5, 0xb0, 0);
    assert!(!bench.asks());
}
