use super::*;
use crate::{event::Moment, who::owner::Part};

pub fn at(enter: u64, exit: u64) -> Interval {
    let moment = |pos| Moment { time: pos, pos };
    Interval { enter: Some(moment(enter)), exit: moment(exit) }
}

pub fn by(tid: u32, enter: u64, exit: u64) -> Rc<Stamp> {
    Rc::new(Stamp {
        at: at(enter, exit),
        tgid: 1,
        tid,
        comm: [].into(),
        sys: None,
        args: [0; 6],
        ret: 0,
        seen: None,
        part: Part::default(),
    })
}

fn closer(slot: &Slot<&'static str>, number: u32) -> Option<u32> {
    slot.life(number)?.end().map(|end| end.by.tid)
}

#[test]
fn in_turn() {
    let mut slot = Slot::default();
    assert_eq!(slot.install(at(1, 2), 0xa, |_| "a"), Installed::Live { implied: false });
    assert_eq!(slot.remove(&by(1, 3, 4), How::Closed, Some(0xa), 0), Removed::Live(1));
    assert_eq!(slot.install(at(5, 6), 0xa, |_| "b"), Installed::Live { implied: false });
    assert_eq!(slot.live().map(|life| (life.number, life.data)), Some((2, "b")));
    assert_eq!(closer(&slot, 1), Some(1));
}

#[test]
fn a_slow_close_is_overtaken_by_the_next_open() {
    let mut slot = Slot::default();
    slot.install(at(1, 2), 0xa, |_| "a");
    // close: 3..8, open by another thread: 4..6.
    assert_eq!(slot.install(at(4, 6), 0xb, |_| "b"), Installed::Live { implied: true });
    assert_eq!(slot.remove(&by(1, 3, 8), How::Closed, Some(0xa), 0xb), Removed::Earlier(1));
    assert_eq!(slot.live().map(|life| life.data), Some("b"));
    assert!(!slot.life(1).expect("life 1").ambiguous);
}

#[test]
fn a_recycled_address_does_not_confuse_a_slow_close() {
    let mut slot = Slot::default();
    slot.install(at(1, 2), 0xa, |_| "a");
    slot.install(at(4, 6), 0xa, |_| "b");
    assert_eq!(slot.remove(&by(1, 3, 8), How::Closed, Some(0xa), 0xa), Removed::Earlier(1));
    assert_eq!(slot.live().map(|life| life.data), Some("b"));
    // A close that began after b's open cannot have ended a.
    assert_eq!(slot.remove(&by(2, 9, 10), How::Closed, Some(0xa), 0), Removed::Live(2));
}

#[test]
fn a_stale_close_that_races_a_fresh_open() {
    let mut slot = Slot::default();
    // open 1..6 in one thread, close 2..4 in another that never was told the number.
    assert_eq!(slot.remove(&by(2, 2, 4), How::Closed, Some(0), 0), Removed::Early);
    assert_eq!(slot.install(at(1, 6), 0, |_| "a"), Installed::BornDead);
    assert!(slot.live().is_none());
    assert_eq!(closer(&slot, 1), Some(2));
}

#[test]
fn two_closes_in_flight_are_ambiguous_unless_told_apart() {
    let mut slot = Slot::default();
    slot.install(at(1, 2), 0xa, |_| "a");
    slot.install(at(4, 6), 0xa, |_| "b");
    assert_eq!(slot.remove(&by(1, 3, 8), How::Closed, Some(0xa), 0), Removed::Earlier(1));
    assert_eq!(slot.remove(&by(2, 3, 9), How::Closed, Some(0xa), 0), Removed::Live(2));
    assert!(slot.life(1).expect("life 1").ambiguous);
}

#[test]
fn a_close_that_came_before_a_dup2() {
    let mut slot = Slot::default();
    slot.install(at(1, 2), 0xa, |_| "a");
    slot.replace(&by(2, 3, 6), 0xa, 0xb, |_| "b");
    assert_eq!(slot.remove(&by(1, 4, 8), How::Closed, Some(0xa), 0xb), Removed::Earlier(1));
    assert_eq!(slot.live().map(|life| life.data), Some("b"));
    assert_eq!(closer(&slot, 1), Some(1));
}

#[test]
fn a_dup2_that_found_the_slot_empty_replaced_nobody() {
    let mut slot = Slot::default();
    slot.install(at(1, 2), 0xa, |_| "a");
    // close 3..9 has taken effect when dup2 4..6 begins.
    assert_eq!(slot.replace(&by(2, 4, 6), 0, 0xb, |_| "b"), (None, Installed::Live { implied: false }));
    assert_eq!(slot.remove(&by(1, 3, 9), How::Closed, Some(0xa), 0xb), Removed::Earlier(1));
    assert_eq!(slot.live().map(|life| life.data), Some("b"));
}

#[test]
fn a_close_of_somebody_forgotten_ends_nobody_else() {
    let mut slot = Slot::default();
    slot.install(at(50, 51), 0xb, |_| "b");
    assert_eq!(slot.remove(&by(1, 3, 90), How::Closed, Some(0xa), 0xb), Removed::Early);
    assert_eq!(slot.live().map(|life| life.data), Some("b"));
    // Whom it ended may still come; if not, it was somebody that was not seen.
    assert!(slot.waits());
    assert_eq!(slot.expire(91, || "unseen"), 1);
}

#[test]
fn a_close_whose_beginning_was_not_seen_ends_nobody_that_is_still_there() {
    let mut slot = Slot::default();
    slot.install(at(50, 51), 0xb, |_| "b");
    let unseen = |exit| {
        let stamp = Rc::into_inner(by(1, 0, exit)).expect("nobody else's");
        Rc::new(Stamp { at: Interval { enter: None, ..stamp.at }, ..stamp })
    };
    assert_eq!(slot.remove(&unseen(60), How::Closed, Some(0), 0xb), Removed::Early);
    assert_eq!(slot.live().map(|life| life.data), Some("b"));
    assert_eq!(slot.remove(&unseen(70), How::Closed, Some(0), 0), Removed::Live(1));
}

#[test]
fn a_dup2_over_a_live_number_ends_its_life() {
    let mut slot = Slot::default();
    slot.install(at(1, 2), 0xa, |_| "a");
    assert_eq!(slot.replace(&by(1, 3, 4), 0xa, 0xb, |_| "b"), (Some(1), Installed::Live { implied: false }));
    assert_eq!(slot.life(1).and_then(Life::end).map(|end| end.how), Some(How::Replaced));
}

#[test]
fn a_look_at_the_table() {
    let mut slot = Slot::default();
    assert_eq!(slot.observe(at(5, 6), 0xa, || "seen"), Observed::New);
    assert_eq!(slot.observe(at(5, 7), 0xa, || "again"), Observed::Confirmed);
    // The open that made it was in flight.
    assert_eq!(slot.install(at(4, 9), 0xa, |old| old.unwrap_or("lost")), Installed::Explained);
    assert_eq!(slot.live().map(|life| (life.number, life.data)), Some((1, "seen")));
    // A row from before the close says nothing.
    slot.remove(&by(1, 10, 12), How::Closed, Some(0xa), 0);
    assert_eq!(slot.observe(at(11, 13), 0xa, || "old"), Observed::Stale);
    assert_eq!(slot.observe(at(13, 14), 0xc, || "unseen"), Observed::New);
}

#[test]
fn an_open_after_the_look_is_not_its_origin() {
    let mut slot = Slot::default();
    slot.observe(at(5, 6), 0xa, || "seen");
    assert_eq!(slot.install(at(8, 9), 0xa, |_| "new"), Installed::Live { implied: true });
}

#[test]
fn ebadf_is_explained_only_if_the_slot_was_closed_then() {
    let mut slot = Slot::default();
    slot.install(at(1, 2), 0xa, |_| "a");
    assert!(slot.subject(at(3, 4)).is_none(), "open all the time");
    slot.remove(&by(1, 5, 6), How::Closed, Some(0xa), 0);
    let subject = slot.subject(at(7, 8)).expect("closed");
    assert!(subject.certain && subject.life.number == 1);
    assert!(!slot.subject(at(5, 8)).expect("closed meanwhile").certain);
    slot.install(at(8, 12), 0xb, |_| "b");
    assert!(!slot.subject(at(10, 13)).expect("opened meanwhile").certain);
    assert!(slot.subject(at(13, 14)).is_none(), "open again");
}

#[test]
fn an_unexplained_removal_ends_something_unseen() {
    let mut slot = Slot::default();
    slot.remove(&by(1, 1, 2), How::Closed, Some(0xa), 0);
    assert_eq!(slot.expire(2, || "unseen"), 0);
    assert_eq!(slot.expire(3, || "unseen"), 1);
    assert_eq!(slot.past().map(|life| life.data).collect::<Vec<_>>(), ["unseen"]);
}

#[test]
fn what_no_call_explains_is_counted() {
    let mut slot = Slot::default();
    slot.install(at(1, 2), 0xa, |_| "a");
    slot.install(at(3, 4), 0xb, |_| "b");
    assert_eq!(slot.tally(), Tally { forced: 1, unexplained: 1 });
    slot.remove(&by(1, 3, 5), How::Closed, Some(0xa), 0xb);
    assert_eq!(slot.tally(), Tally { forced: 1, unexplained: 0 });
    slot.remove(&by(1, 6, 7), How::Closed, Some(0xb), 0);
    slot.remove(&by(2, 8, 9), How::Closed, Some(0), 0);
    assert_eq!(slot.tally().unexplained, 1);
    slot.expire(100, || "unseen");
    assert_eq!(slot.tally().unexplained, 1);
    for pos in 100..100 + 2 * PAST as u64 {
        slot.install(at(pos, pos), 0xc, |_| "c");
    }
    assert_eq!(slot.tally().unexplained, 2 * PAST as u64);
}

#[test]
fn an_open_that_was_overtaken_between_its_look_and_its_record() {
    let mut slot = Slot::default();
    // open 1..9 looked at 4: 0xa was its own. close 2..5 took it, open 3..7 has the number now.
    assert_eq!(slot.remove(&by(2, 2, 5), How::Closed, Some(0xa), 0), Removed::Early);
    assert_eq!(slot.install(at(3, 7), 0xb, |_| "b"), Installed::Live { implied: false });
    assert_eq!(slot.install_seen(at(1, 9), 4, 0xa, |_| "a"), Installed::BornDead);
    assert_eq!(slot.live().map(|life| life.data), Some("b"));
    assert_eq!(slot.past().map(|life| life.data).collect::<Vec<_>>(), ["a"]);
    // The same, and the close returns last.
    let mut slot = Slot::default();
    assert_eq!(slot.install(at(3, 7), 0xb, |_| "b"), Installed::Live { implied: false });
    assert_eq!(slot.install_seen(at(1, 9), 4, 0xa, |_| "a"), Installed::BornDead);
    assert_eq!(slot.remove(&by(2, 2, 10), How::Closed, Some(0xa), 0xb), Removed::Earlier(2));
    assert_eq!(slot.live().map(|life| life.data), Some("b"));
}

#[test]
fn old_lives_are_forgotten() {
    let mut slot = Slot::default();
    for i in 0..100 {
        slot.install(at(i * 4, i * 4 + 1), 0xa, |_| "x");
        slot.remove(&by(1, i * 4 + 2, i * 4 + 3), How::Closed, Some(0xa), 0);
    }
    assert_eq!(slot.past().count(), PAST);
    assert_eq!(slot.past().last().map(|life| life.number), Some(100));
}
