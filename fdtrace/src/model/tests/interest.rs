//! What is registered with epoll, as calls and listings tell.

use super::*;

#[test]
fn a_listed_registration_whose_file_is_held_under_another_number_goes_with_it() {
    for holder in [101, 2] {
        let (mut bench, instance) = with_epoll();
        bench.open(at(3, 4), 5, 0xa0);
        bench.dup(at(5, 6), 5, 6, 0xa0);
        // A process with a table of its own may be the one that holds it.
        bench.tell(7, (1, 101, TABLE), What::Fork { tgid: 2, tid: 2, table: COPY, start: 0, comm: [0; 16] });
        bench.list_copy(8, TableRow { fd: 6, file: 0xa0, cloexec: false }, false);
        bench.install("dup2", at(9, 10), 5, 0xb1, Source::New);
        if holder == 2 {
            bench.close(at(11, 12), 6, 0xa0, 0);
        } else {
            bench.tell(12, (2, 2, COPY), What::Exit { code: 0, group_dead: true, table_users: 1 });
        }
        for fd in [EpollEntry::BEGIN, 5, EpollEntry::END] {
            let (inode, held) = (file(0xa0).inode, (fd == 5).then_some((holder, 6)));
            let what =
                What::EpollEntry { epoll: 10, fd, events: 1, data: 5, inode, dev: 0, current: Some(false), held };
            bench.tell(20, (1, 101, TABLE), what);
        }
        let table = if holder == 2 { COPY } else { TABLE };
        let held = bench.slot_in(table, 6).live().expect("it is held").data.description.serial;
        assert_eq!(bench.entries(&instance), [(held, 5)]);
        if holder == 2 {
            bench.tell(22, (2, 2, COPY), What::Exit { code: 0, group_dead: true, table_users: 1 });
        } else {
            bench.close(at(21, 22), 6, 0xa0, 0);
        }
        assert_eq!(bench.entries(&instance), [], "the kernel dropped it with the file");
    }
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
