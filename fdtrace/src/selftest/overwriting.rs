//! Numbers that something else was put over.

use super::{Case, sys};

pub(super) const CASES: &[Case] = &[
    Case::new("clobbered-fd", overwritten_in_use, overwritten_and_put_back),
    Case::new("saved-fd-overwritten", saved_and_lost, saved_and_put_back),
    Case::new("stdio-recycled", complaints_into_a_file, complaints_into_nothing),
];

fn overwritten_in_use() {
    let ((socket, _), file) = (sys::socket_pair(), sys::file(libc::O_CLOEXEC));
    sys::send(socket);
    sys::dup2(file, socket);
    sys::sleep(sys::NOTICE);
    sys::send(socket);
}

fn overwritten_and_put_back() {
    let ((socket, _), file) = (sys::socket_pair(), sys::file(libc::O_CLOEXEC));
    sys::send(socket);
    let saved = sys::dup(socket);
    sys::dup2(file, socket);
    sys::sleep(sys::NOTICE);
    sys::dup2(saved, socket);
    sys::close(saved);
    sys::send(socket);
}

fn saved_and_lost() {
    let [fd, one, two] = [(); 3].map(|()| sys::file(libc::O_CLOEXEC));
    let saved = sys::dup(fd);
    sys::dup2(one, saved);
    sys::dup2(two, fd);
    sys::dup2(saved, fd);
}

fn saved_and_put_back() {
    let [fd, one, two] = [(); 3].map(|()| sys::file(libc::O_CLOEXEC));
    let saved = sys::dup(fd);
    sys::dup2(one, fd);
    sys::dup2(two, fd);
    sys::dup2(saved, fd);
}

fn complaints_into_a_file() {
    sys::close(2);
    // The lowest number that is free.
    sys::file(0);
    sys::sleep(sys::NOTICE);
    complain();
}

fn complaints_into_nothing() {
    sys::close(2);
    sys::open(c"/dev/null", libc::O_RDWR);
    complain();
}

/// Starts a program that has something to say on its standard error.
fn complain() {
    let child = sys::fork(|| sys::become_part(c"complain"));
    sys::wait(child);
}
