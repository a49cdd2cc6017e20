//! Closed twice, by the wrong one, at the wrong time; and used after that.

use super::{Case, flush, sys};

pub(super) const CASES: &[Case] = &[
    Case::new("double-close", closed_twice, closed_and_opened_again),
    // Without an owner it is the victim's error that tells.
    Case::new("stale-close", closed_by_its_former_owner, closed_by_its_owner).also(&["use-after-close"]),
    Case::new("use-after-close", read_after_close, read_before_close),
    // What the second close finds is part of it.
    Case::new("close-after-eintr", flush::close_again, flush::close_once).also(&["double-close"]),
    Case::new("close-while-blocked", closed_under_a_reader, closed_after_the_reader),
    Case::new("bulk-close", swept_under_a_reader, swept_in_a_child),
];

/// A number that is far from all others.
const OUT_OF_REACH: i32 = 200;

/// Somebody who could take the number.
fn with_a_thread(program: impl FnOnce()) {
    let (r, w) = sys::pipe();
    let waiter = std::thread::spawn(move || sys::read(r));
    program();
    sys::write(w);
    let _ = waiter.join();
}

fn closed_twice() {
    with_a_thread(|| {
        let fd = sys::zero();
        sys::close(fd);
        sys::close(fd);
    });
}

fn closed_and_opened_again() {
    with_a_thread(|| {
        for _ in 0..2 {
            let fd = sys::zero();
            sys::close(fd);
        }
    });
}

fn closed_by_its_former_owner() {
    let former = sys::zero();
    sys::close(former);
    let fd = sys::zero();
    sys::close(former);
    sys::read(fd);
}

fn closed_by_its_owner() {
    let former = sys::zero();
    sys::close(former);
    let fd = sys::zero();
    sys::read(fd);
    sys::close(fd);
}

fn read_after_close() {
    // A number that had no life before, so that nothing can be suspected of that.
    let fd = sys::fcntl(sys::zero(), libc::F_DUPFD_CLOEXEC, OUT_OF_REACH);
    sys::close(fd);
    sys::read(fd);
}

fn read_before_close() {
    let fd = sys::zero();
    sys::read(fd);
    sys::close(fd);
}

/// Long enough for a thread to be inside its call, milliseconds.
const INSIDE: u64 = 50;

fn closed_under_a_reader() {
    let (r, w) = sys::pipe();
    let reader = std::thread::spawn(move || sys::read(r));
    sys::sleep(INSIDE);
    sys::close(r);
    sys::sleep(INSIDE);
    sys::write(w);
    let _ = reader.join();
}

fn closed_after_the_reader() {
    let (r, w) = sys::pipe();
    let reader = std::thread::spawn(move || sys::read(r));
    sys::sleep(INSIDE);
    sys::write(w);
    let _ = reader.join();
    sys::close(r);
}

/// A reader of a pipe among the lowest numbers, and the other end of it out of reach of the sweep.
fn sweep(sweep: impl FnOnce()) {
    let (r, w) = sys::pipe();
    sys::dup2(w, OUT_OF_REACH);
    let reader = std::thread::spawn(move || sys::read(r));
    sys::sleep(INSIDE);
    sweep();
    sys::sleep(INSIDE);
    sys::write(OUT_OF_REACH);
    let _ = reader.join();
}

fn swept_under_a_reader() {
    sweep(|| sys::close_range(3, 100));
}

fn swept_in_a_child() {
    sweep(|| {
        let child = sys::fork(|| sys::close_range(3, 100));
        sys::wait(child);
    });
}
