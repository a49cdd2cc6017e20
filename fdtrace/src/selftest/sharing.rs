//! One file in the hands of two processes.

use super::{Case, sys};

pub(super) const CASES: &[Case] = &[
    Case::new("shared-stream", talk_in_turns, write_or_read),
    Case::new("shared-offset", write_in_turns, write_at_places),
    Case::new("shared-flags", blocking_no_more, blocking_again),
    Case::new("posix-lock-dropped", locked_by_process, locked_by_description),
    Case::new("held-by-fork", address_kept, address_given_back),
];

/// How often each side has its turn. fdtrace begins to look when it learns of the fork: the first turns may go unseen.
const TURNS: i64 = 12;
/// Milliseconds between turns.
const TURN: u64 = 20;

/// Calls `ours` and `theirs` in turns, the second one in a child.
fn in_turns(ours: impl Fn(i64), theirs: impl Fn(i64)) {
    let ((our_r, our_w), (their_r, their_w)) = (sys::pipe(), sys::pipe());
    let child = sys::fork(|| {
        for turn in 0..TURNS {
            sys::read(their_r);
            theirs(turn);
            sys::write(our_w);
        }
    });
    for turn in 0..TURNS {
        sys::sleep(TURN);
        ours(turn);
        sys::write(their_w);
        sys::read(our_r);
    }
    sys::wait(child);
}

/// A connection from whose other end enough has come for everybody.
fn conversation() -> i32 {
    let (socket, peer) = sys::socket_pair();
    for _ in 0..2 * TURNS {
        sys::write(peer);
    }
    socket
}

/// Both ask, and then both take an answer.
fn talk_in_turns() {
    let socket = conversation();
    let talk = |turn| {
        if turn % 2 == 0 {
            sys::write(socket)
        } else {
            sys::read(socket)
        };
    };
    in_turns(talk, talk);
}

/// After the first words one side only writes, and the other one only reads.
fn write_or_read() {
    let socket = conversation();
    sys::write(socket);
    let write = |_| {
        sys::write(socket);
    };
    let read = |_| {
        sys::read(socket);
    };
    in_turns(write, read);
}

fn write_in_turns() {
    let file = sys::file(libc::O_CLOEXEC);
    let write = |_| {
        sys::write(file);
    };
    in_turns(write, write);
}

fn write_at_places() {
    let file = sys::file(libc::O_CLOEXEC);
    let write_at = |place| {
        sys::pwrite(file, place);
    };
    in_turns(|turn| write_at(2 * turn), |turn| write_at(2 * turn + 1));
}

/// A socket whose flags a child changes with `change`, and which is read from here then.
fn with_flags(change: impl Fn(i32)) {
    let (socket, peer) = sys::socket_pair();
    in_turns(
        |turn| {
            if turn + 1 == TURNS {
                // Who does not want to wait is told that there is nothing; who does must find something.
                if sys::fcntl(socket, libc::F_GETFL, 0) & libc::O_NONBLOCK == 0 {
                    sys::write(peer);
                }
                sys::read(socket);
            }
        },
        |_| change(socket),
    );
}

fn blocking_no_more() {
    with_flags(|socket| {
        sys::fcntl(socket, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK);
    });
}

fn blocking_again() {
    with_flags(|socket| {
        sys::fcntl(socket, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK);
        sys::fcntl(socket, libc::F_SETFL, libc::O_RDWR);
    });
}

fn locked_by_process() {
    let (one, two) = sys::file_twice(libc::O_CLOEXEC);
    sys::lock(one, libc::F_SETLK);
    sys::close(two);
    sys::close(one);
}

fn locked_by_description() {
    let (one, two) = sys::file_twice(libc::O_CLOEXEC);
    sys::lock(one, libc::F_OFD_SETLK);
    sys::close(two);
    sys::close(one);
}

/// Binds, forks, closes, and binds anew while the child lives; `child` begins with the socket.
fn bind_anew(child: impl FnOnce(i32)) {
    let us = std::process::id();
    let socket = sys::stream_socket();
    sys::bind(socket, us);
    let ((ready_r, ready_w), (over_r, over_w)) = (sys::pipe(), sys::pipe());
    let process = sys::fork(|| {
        child(socket);
        sys::write(ready_w);
        sys::read(over_r);
    });
    sys::read(ready_r);
    sys::close(socket);
    let anew = sys::stream_socket();
    sys::try_bind(anew, us);
    sys::write(over_w);
    sys::wait(process);
}

fn address_kept() {
    bind_anew(|_| ());
}

fn address_given_back() {
    bind_anew(|socket| {
        sys::close(socket);
    });
}
