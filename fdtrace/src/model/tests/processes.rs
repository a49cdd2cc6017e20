//! Processes come and go, and copies of tables are made; some of it is not told.

use super::*;

#[test]
fn a_copied_table_with_what_an_open_has_not_told_yet() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    copied_before_an_open_returns(bench);
}

#[test]
fn a_copy_of_what_has_not_returned_yet_is_not_of_who_had_the_address_before() {
    let mut bench = Bench::new();
    let file = FileInfo { inode: 99, ..file(0xa0) };
    let install = Install { fd: 3, file, cloexec: false, source: Source::New, path: None, looked: 2 };
    bench.call("openat", at(1, 2), 3, Effect::Install(install));
    copied_before_an_open_returns(bench);
}

/// Somebody had the number and the address that an open gives out again.
fn copied_before_an_open_returns(mut bench: Bench) {
    bench.close(at(3, 4), 3, 0xa0, 0);
    // open 3: 5..9, at the old address. Fork: 6..7.
    bench.event(at(6, 7), TABLE, What::Fork { tgid: 2, tid: 2, table: COPY, start: 0, comm: [0; 16] });
    bench.list_copy(8, TableRow { fd: 3, file: 0xa0, cloexec: false }, false);
    bench.open(at(5, 9), 3, 0xa0);
    let copy = bench.slot_in(COPY, 3).live().expect("a copy");
    assert_eq!(copy.data.description.serial, bench.serial(3));
}

#[test]
fn a_copy_whose_rows_were_lost_does_not_keep_its_original() {
    let mut bench = Bench::new();
    bench.open(at(1, 2), 3, 0xa0);
    bench.event(at(3, 4), TABLE, What::Fork { tgid: 2, tid: 2, table: COPY, start: 0, comm: [0; 16] });
    // The listing is lost. The copy is read, and the parent ends.
    let mut apply = |pos, tgid, table, what| bench.tell(pos, (tgid, tgid, table), what);
    apply(6, 0, 0, What::Lost { since: 5, by_class: [0; 8] });
    apply(7, 0, 0, What::SnapshotBegin { reading: Some(1), threads: false });
    let row = |file| What::Row { fd: 3, file, cloexec: false, since: 7, path: None };
    apply(8, 1, TABLE, row(file(0xa0)));
    apply(9, 2, COPY, row(file(0xa0)));
    apply(10, 0, 0, What::SnapshotEnd { reading: 1 });
    apply(11, 1, TABLE, What::Exit { code: 0, group_dead: true, table_users: 0 });
    apply(12, 0, 0, What::Tick);
    assert_eq!(bench.world.tables.len(), 1, "{:?}", bench.world.tables);
    assert_eq!(bench.slot_in(COPY, 3).live().expect("the copy's").data.description.holders.get(), 1);
}

const NOBODY: (u32, u32, TableAddr) = (0, 0, 0);

/// Process 1, which has a file open, and of which so many threads are known.
fn with_threads(tids: std::ops::RangeInclusive<u32>) -> Bench {
    let mut bench = Bench::new();
    let found = What::Process { start: 1, comm: [0; 16], exe: [].into(), argv: [].into() };
    bench.tell(1, (1, 1, 0), found);
    for tid in tids {
        bench.tell(2, (1, tid, TABLE), row());
    }
    bench
}

fn row() -> What {
    What::Row { fd: 3, file: file(0xa0), cloexec: false, since: 1, path: None }
}

fn birth(tid: u32) -> What {
    What::Fork { tgid: 1, tid, table: TABLE, start: 0, comm: [0; 16] }
}

fn end() -> What {
    What::Exit { code: 0, group_dead: false, table_users: 1 }
}

fn tasks(bench: &Bench) -> Vec<u32> {
    bench.world.tables[&bench.world.by_addr[&TABLE]].tasks().iter().copied().collect()
}

/// After a loss everything is read, and the threads are listed with it.
fn begin_reading(bench: &mut Bench) {
    bench.tell(10, NOBODY, What::Lost { since: 9, by_class: [0; 8] });
    bench.tell(11, NOBODY, What::SnapshotBegin { reading: Some(1), threads: true });
}

#[test]
fn a_thread_whose_end_was_lost_does_not_keep_its_table() {
    let mut bench = with_threads(1..=4);
    let description = Rc::clone(&bench.live(3).data.description);
    begin_reading(&mut bench);
    // The birth of 7 was lost, and 4 ends before the rows come.
    for tid in [1, 4, 7] {
        bench.tell(11, (1, tid, 0), What::Thread);
    }
    bench.tell(12, (1, 4, TABLE), end());
    // Born since: in no list, and there.
    bench.tell(13, (1, 1, TABLE), birth(8));
    // A number that is given out again.
    bench.tell(14, (1, 1, TABLE), birth(3));
    bench.tell(15, (1, 1, TABLE), row());
    assert_eq!(tasks(&bench), [1, 2, 3, 7, 8]);
    bench.tell(16, NOBODY, What::SnapshotEnd { reading: 1 });
    assert_eq!(tasks(&bench), [1, 3, 7, 8], "which of them are there is told by the kernel");
    for tid in [1, 3, 7, 8] {
        assert_eq!(description.holders.get(), 1);
        bench.tell(20, (1, tid, TABLE), end());
    }
    assert_eq!(description.holders.get(), 0, "the table went with the last of them");
}

#[test]
fn a_process_whose_end_was_lost() {
    let mut bench = with_threads(1..=2);
    begin_reading(&mut bench);
    bench.tell(12, NOBODY, What::SnapshotEnd { reading: 1 });
    bench.tell(13, NOBODY, What::Tick);
    assert!(bench.changes.iter().any(|change| matches!(change, Change::Exited { process: 1, .. })));
    assert!(!bench.world.processes[&1].alive());
    assert!(bench.world.tables.is_empty(), "{:?}", bench.world.tables);
}

#[test]
fn a_thread_that_ends_before_its_process_has_been_read() {
    let mut bench = Bench::new();
    for tid in [1, 2] {
        bench.tell(1, (1, tid, 0), What::Thread);
    }
    bench.tell(2, (1, 2, TABLE), end());
    bench.tell(3, (1, 1, TABLE), row());
    assert_eq!(tasks(&bench), [1]);
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
    bench.list_copy(12, TableRow { fd: 3, file: 0xa0, cloexec: false }, true);
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
    bench.tell(9, (1, *last, COPY), What::Table { rows, more: false, beyond_walk: true });
    assert!(bench.slot_in(COPY, 3).live().is_some());
    assert!(bench.slot_in(COPY, 2000).live().is_some());
    assert!(!bench.world.by_addr.contains_key(&TABLE), "nobody uses the old one");
    assert!(bench.changes.iter().any(|change| matches!(change, Change::TableDied { .. })));
}
