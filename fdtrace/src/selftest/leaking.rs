//! Too many, or in the wrong hands.

use super::{Case, sys};

pub(super) const CASES: &[Case] = &[
    Case::new("fd-leak", never_closed, always_closed),
    Case::new("fd-limit", opened_to_the_limit, opened_within_the_limit),
    Case::new("exec-leak", passed_on, kept_back),
    Case::new("cloexec-race", marked_too_late, marked_at_once),
];

/// More than anybody has of one kind on purpose.
const MANY: usize = 48;
const LIMIT: u64 = 20;

fn never_closed() {
    for _ in 0..MANY {
        sys::read(sys::zero());
    }
}

fn always_closed() {
    for _ in 0..MANY {
        let fd = sys::zero();
        sys::read(fd);
        sys::close(fd);
    }
}

fn opened_to_the_limit() {
    sys::limit(LIMIT);
    while sys::try_open(c"/dev/zero", libc::O_RDONLY | libc::O_CLOEXEC) >= 0 {}
}

fn opened_within_the_limit() {
    sys::limit(LIMIT);
    let fds = [(); 4].map(|()| sys::zero());
    for fd in fds {
        sys::close(fd);
    }
}

fn start_with_a_file(flags: i32) {
    sys::file(flags);
    let child = sys::fork(|| sys::become_part(c"nothing"));
    sys::wait(child);
}

fn passed_on() {
    start_with_a_file(0);
}

fn kept_back() {
    start_with_a_file(libc::O_CLOEXEC);
}

/// One thread opens, another starts a program, and the first marks what it opened.
fn start_in_between(flags: i32) {
    let fd = sys::open(c"/dev/zero", libc::O_RDONLY | flags);
    let starter = std::thread::spawn(|| sys::fork(|| sys::become_part(c"linger")));
    let Ok(child) = starter.join() else { sys::exit(sys::NO_SCENE) };
    sys::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
    sys::wait(child);
}

fn marked_too_late() {
    start_in_between(0);
}

fn marked_at_once() {
    start_in_between(libc::O_CLOEXEC);
}
