//! Interest lists that are shared, or have lost touch with the numbers.

use super::{Case, sys};

pub(super) const CASES: &[Case] = &[
    Case::new("epoll-shared-across-fork", edited_by_a_child, left_alone_by_a_child),
    Case::new("ghost-event", event_of_a_closed_number, event_after_removal),
    // The call that found the number closed is a use of it.
    Case::new("epoll-stale-ctl", removed_after_close, removed_before_close).also(&["use-after-close"]),
    Case::new("epoll-duplicate-entry", added_beside_a_copy, added_in_place),
    Case::new("epoll-lost-registration", opened_again_and_forgotten, opened_again_and_added),
];

fn edited_by_a_child() {
    let (epoll, (r, _w), (other_r, other_w)) = (sys::epoll(), sys::pipe(), sys::pipe());
    sys::epoll_add(epoll, r);
    sys::epoll_add(epoll, other_r);
    let child = sys::fork(|| sys::epoll_del(epoll, r));
    sys::wait(child);
    sys::write(other_w);
    sys::epoll_wait(epoll);
}

fn left_alone_by_a_child() {
    let (epoll, (r, w)) = (sys::epoll(), sys::pipe());
    sys::epoll_add(epoll, r);
    let child = sys::fork(|| {
        let own = sys::epoll();
        sys::epoll_add(own, r);
        sys::epoll_del(own, r);
    });
    sys::wait(child);
    sys::write(w);
    sys::epoll_wait(epoll);
}

fn event_of_a_closed_number() {
    let (epoll, (r, w)) = (sys::epoll(), sys::pipe());
    sys::epoll_add(epoll, r);
    sys::dup(r);
    sys::close(r);
    sys::write(w);
    sys::epoll_wait(epoll);
}

fn event_after_removal() {
    let (epoll, (r, w)) = (sys::epoll(), sys::pipe());
    sys::epoll_add(epoll, r);
    let copy = sys::dup(r);
    sys::epoll_del(epoll, r);
    sys::close(r);
    sys::epoll_add(epoll, copy);
    sys::write(w);
    sys::epoll_wait(epoll);
}

fn removed_after_close() {
    let (epoll, (r, _)) = (sys::epoll(), sys::pipe());
    sys::epoll_add(epoll, r);
    sys::close(r);
    sys::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, r);
}

fn removed_before_close() {
    let (epoll, (r, _)) = (sys::epoll(), sys::pipe());
    sys::epoll_add(epoll, r);
    sys::epoll_del(epoll, r);
    sys::close(r);
}

fn added_beside_a_copy() {
    let (epoll, (r, _)) = (sys::epoll(), sys::pipe());
    sys::epoll_add(epoll, r);
    sys::dup(r);
    sys::close(r);
    // Gets the number that has become free.
    let (next, _) = sys::pipe();
    sys::epoll_add(epoll, next);
}

fn added_in_place() {
    let (epoll, (r, _)) = (sys::epoll(), sys::pipe());
    sys::epoll_add(epoll, r);
    sys::dup(r);
    sys::epoll_del(epoll, r);
    sys::close(r);
    let (next, _) = sys::pipe();
    sys::epoll_add(epoll, next);
}

/// Long enough for a hang.
const WAIT: i32 = 1_200;

fn opened_again_and_forgotten() {
    let (epoll, (r, _)) = (sys::epoll(), sys::pipe());
    sys::epoll_add(epoll, r);
    sys::close(r);
    // Gets the number that has become free.
    sys::pipe();
    sys::epoll_wait_for(epoll, WAIT);
}

fn opened_again_and_added() {
    let (epoll, (r, _)) = (sys::epoll(), sys::pipe());
    sys::epoll_add(epoll, r);
    sys::close(r);
    let (next, _) = sys::pipe();
    sys::epoll_add(epoll, next);
    sys::epoll_wait_for(epoll, WAIT);
}
