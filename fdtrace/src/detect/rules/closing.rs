//! Rules about `close`: too often, by the wrong one, at the wrong time.

use super::{Example, RuleText, Since};
use crate::detect::finding::Severity;

pub(super) const RULES: &[RuleText] = &[
    RuleText {
        name: "double-close",
        title: "a number was closed that had been closed already",
        definition: "A descriptor was closed, nothing was opened in its place, and it was closed again: the second close \
            failed with EBADF. That it failed is luck. Had another thread opened a file in between, the second close would \
            have closed that one, without an error: then it is a `stale-close`.",
        proof: "Proven by the history of the slot alone: a life that ended by a close, no life after it, a close that \
            failed with EBADF. Nothing is inferred about why.",
        look_alikes: &[
            "`close(-1)` and numbers that were never open: the usual error path",
            "loops that close every number there might be, before an exec or in a daemon: eight or more closes of \
             neighbouring numbers by one thread are no mistake but a storm",
            "a child that closes its copies after a fork: its table is its own",
            "`close` failing with another error: the number is gone then, see `close-after-eintr`",
        ],
        advice: "close each descriptor in one place, and forget its number there (`fd = -1`)",
        severity: Severity::Medium,
        severity_varies: "a note if the table belongs to a single thread, as in shells, for then nobody can take the number in between",
        since: Since::Implemented,
        example: Example {
            file: "config.c",
            source: r#"static void parse(int fd) {
    while (read(fd, line, sizeof line) > 0) take(line);
    close(fd);
}

void load(const char *path) {
    int fd = open(path, O_RDONLY);
    parse(fd);
    close(fd);
}
"#,
            report: include_str!("examples/double-close.txt"),
        },
    },
    RuleText {
        name: "stale-close",
        title: "a descriptor was closed by somebody who owned an earlier one of the same number",
        definition: "The kernel gives a closed number to the next file that is opened. Somebody who still holds the number \
            from before closes it, and closes a file of which he knows nothing. The close succeeds. The damage shows later, \
            elsewhere: the rightful owner gets EBADF, or writes into whatever gets the number next.",
        proof: "Proven if the object that closes was seen to own an earlier generation of the slot and not this one. With no \
            owner known, it takes an EBADF of whoever goes on using this generation, and call sites: likely if the close was made \
            by the destructor or library of the type that had opened the earlier generation, which other code closed, and \
            other code opened this one; possible if the history of the slot merely fits. It is not told where the function or the type \
            that opened this generation closed it: that is a plain use after close. Likely as well if the number was taken \
            from a static variable that keeps an earlier generation: nothing writes to the variable but calls that return \
            new numbers, and the one that made this generation left it elsewhere. That is read from the program's code \
            (x86-64, in files with a symbol table).",
        look_alikes: &[
            "a descriptor that one thread opens and another closes: thread pools of libuv, Go and Java do it all the time",
            "a number that was passed on, with its owner giving it up (`detach`, `into_raw_fd`, `release`)",
            "objects that close a number which was handed to them on construction",
            "a variable that is not reset when its number is closed, and not used again",
            "a program that puts another file under the number that it knows, by `dup2`, or compares the numbers, or asks by \
             `fstat` what the number is",
        ],
        advice: "close the object instead of its number (`file.close()`), or take the number from it (`detach()`) before you close that",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "a.py",
            source: r#"import os
file = open("/dev/zero")
file.read(5)
os.close(file.fileno())

file = open("/dev/zero")  # opens the same number, and only then drops the old object
file.read(5)
"#,
            report: include_str!("examples/stale-close.txt"),
        },
    },
    RuleText {
        name: "foreign-close",
        title: "a number was closed behind the back of the object that owns it",
        definition: "An object owns the number: a Python file or socket, a `FILE*`, a Java stream. It was closed by a bare \
            `close`, past the object, which does not know and will use and close the number again. This is the mistake itself, \
            seen before it does damage; `stale-close`, `stale-use` and `use-after-close` are what becomes of it.",
        proof: "Proven if the object was seen to own this generation, and at the close its own field still holds the number. \
            Likely if only the call sites differ in kind: opened through `fopen`, closed by a plain `close`.",
        look_alikes: &[
            "an object that was told not to close (`closefd=False`, `detach`, `into_raw_fd`)",
            "a close in a child between fork and exec: the object lives on in the parent",
            "`close_range` and loops over all numbers in such a child",
        ],
        advice: "close the object instead of its number: `file.close()`, `fclose(file)`; or take the number from it first: `detach()`",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "a.py",
            source: r#"import os
file = open("/dev/zero")
file.read(5)
os.close(file.fileno())

file = open("/dev/zero")
file.read(5)
"#,
            report: include_str!("examples/foreign-close.txt"),
        },
    },
    RuleText {
        name: "two-owners",
        title: "two objects own one descriptor, and each will close it",
        definition: "A second object was made from the number of a first one: `os.fdopen(sock.fileno())`, \
            `socket.socket(fileno=file.fileno())`, `from_raw_fd(as_raw_fd())`. Both believe that they must close it. Whichever \
            is closed last closes nothing, or another file.",
        proof: "Proven if both objects were seen to hold the number of one generation at the same time, and both are of kinds \
            that close what they hold. Likely if the second was only seen at its construction.",
        look_alikes: &[
            "a buffered or text layer over a raw file: one of them owns, the others ask it",
            "objects made with `closefd=False`, and borrowed descriptors (`BorrowedFd`)",
            "`os.dup(file.fileno())`: another number, another life",
        ],
        advice: "make the second object from a copy (`os.dup(fd)`, `try_clone()`), or take the number from the first (`detach()`, `into_raw_fd()`)",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "talk.py",
            source: r#"import os, socket

def reader(conn):
    return os.fdopen(conn.fileno(), "rb")

conn = socket.create_connection(("localhost", 7000))
lines = reader(conn)
conn.close()
lines.close()
"#,
            report: include_str!("examples/two-owners.txt"),
        },
    },
    RuleText {
        name: "close-after-eintr",
        title: "a close that had failed was tried again",
        definition: "On Linux `close` gives the number back whatever it returns. If it was interrupted (EINTR) or could not write \
            the last data (EIO, ENOSPC), the descriptor is gone all the same, and closing it again closes nothing or, in a \
            program with threads, somebody else's file.",
        proof: "Proven by two calls of one thread: a close that failed with anything but EBADF, and a close of the same number \
            with no open by that thread between them.",
        look_alikes: &["a close that failed, followed by an open that gave the same number to the same thread"],
        advice: "never retry a close: after any error but EBADF the number is gone; report the error and go on",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "store.c",
            source: r#"int save(int fd) {
    int rc;
    do {
        rc = close(fd);
    } while (rc < 0 && errno == EINTR);
    return rc;
}
"#,
            report: include_str!("examples/close-after-eintr.txt"),
        },
    },
    RuleText {
        name: "close-while-blocked",
        title: "a descriptor was closed while another thread waited in a call on it",
        definition: "Closing a descriptor wakes nobody. A thread that waits in `read`, `accept` or `epoll_wait` keeps the file, \
            goes on waiting, and can no longer be reached through the number, which the next open gives to another file. If it \
            waits in a loop, its next turn is on that file.",
        proof: "Proven by times and file identity: the close lies between the beginning and the end of the other thread's call on \
            the same description.",
        look_alikes: &[
            "a socket that was shut down before: `shutdown` does wake its waiters",
            "a `dup2` that puts a dead socket over the number first, as the JDK does: the number never changes hands",
            "a call that returns before the close and is only reported after it",
        ],
        advice: "wake the waiting thread first (`shutdown`, an eventfd, a signal), let it leave the call, then close",
        severity: Severity::Medium,
        severity_varies: "high if the number is opened again while the thread waits, or if the thread comes back to it",
        since: Since::Implemented,
        example: Example {
            file: "server.py",
            source: r#"import os, socket, threading

def serve(listener):
    while True:
        conn, peer = listener.accept()

listener = socket.create_server(("", 7000))
threading.Thread(target=serve, args=[listener]).start()
os.close(listener.detach())
"#,
            report: include_str!("examples/close-while-blocked.txt"),
        },
    },
    RuleText {
        name: "bulk-close",
        title: "a loop or close_range closed what another thread was using",
        definition: "Code that closes every number it does not know, to start clean, also closes what libraries keep open: the \
            epoll of an event loop, a connection, a log. In a process with other live threads, or in a forked child that does not \
            exec, these go on using their numbers, and then other people's.",
        proof: "Proven if the number was closed as one of many, and another live task of the same table was inside a call on it, or \
            gets EBADF from it before the next exec. Nothing is said before somebody is hit.",
        look_alikes: &[
            "the same between fork and exec, in a child with one thread",
            "a daemon that closes everything before it starts threads",
            "numbers that were not open",
        ],
        advice: "open everything with O_CLOEXEC and let exec close it; otherwise close only what this code has opened",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "spawn.py",
            source: r#"import os, select, threading

poller = select.epoll()

def poll():
    while True:
        poller.poll(0.1)

if os.fork() == 0:
    threading.Thread(target=poll).start()
    os.closerange(3, 256)
"#,
            report: include_str!("examples/bulk-close.txt"),
        },
    },
];
