//! Rules about interest lists, which know descriptions by number and file, and outlive the number.

use super::{Example, RuleText, Since};
use crate::detect::finding::Severity;

pub(super) const RULES: &[RuleText] = &[
    RuleText {
        name: "epoll-shared-across-fork",
        title: "a process edited the epoll instance of the process that it was forked from, or the other way round",
        definition: "Fork copies the number of an epoll instance, not the instance. What the child adds, changes or removes is added, \
            changed and removed for the parent: the parent goes deaf for a socket, or gets events for numbers it does not have and cannot \
            remove. No call fails. The usual way there is a child that tears down the event loop it has inherited.",
        proof: "Proven by file and table identity: a successful `epoll_ctl` through a table that is not the one which created the instance but \
            a copy of it by fork with no exec in between, and both sides using the instance after they parted. Likely if the other \
            side had waited on it before the fork, and was not yet seen to do so again.",
        look_alikes: &[
            "a child that only closes its copy, as redis and nginx do",
            "a child that uses an inherited instance its parent has given up",
            "a removal that finds nothing (ENOENT): libuv removes on suspicion",
            "threads, and processes that share a table",
        ],
        advice: "in the child, use none of the parent's event loop: make a new one, or exec; do not even close the old one through its own close()",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "loop.py",
            source: r#"import asyncio, os

async def main():
    reader = await listen()
    pid = os.fork()
    if pid == 0:
        loop = asyncio.get_running_loop()
        loop.remove_reader(reader)
        os._exit(0)
    await serve(reader)

asyncio.run(main())
"#,
            report: include_str!("examples/epoll-shared-across-fork.txt"),
        },
    },
    RuleText {
        name: "ghost-event",
        title: "epoll delivered an event for a number that is closed, or is another file by now",
        definition: "An epoll entry belongs to a description. It goes away when the last reference to that is closed, not when the number is. \
            With a copy left (`dup`, fork, a descriptor passed on), the entry lives: events arrive for a number that means nothing, or \
            another file. They cannot be removed by that number, and a level-triggered one comes back at once: the loop spins.",
        proof: "Proven by the kernel's own entry: an event was delivered for (file, number), and the slot of that number in the table which \
            registered it is closed or holds another file. The data of the event, often but not always the number, is not relied on.",
        look_alikes: &[
            "events that were in the same batch as the one whose handler closed the number: reported as a note, once",
            "entries of files whose last reference is closed: they are gone",
        ],
        advice: "remove it from epoll (`EPOLL_CTL_DEL`) before you close the number, and mark copies CLOEXEC",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "feed.py",
            source: r#"import os, select, subprocess

poller = select.epoll()
feed = os.open("feed.fifo", os.O_RDONLY | os.O_NONBLOCK)
poller.register(feed, select.EPOLLIN)
subprocess.Popen(["worker"], pass_fds=[feed])
os.close(feed)
while True:
    poller.poll()
"#,
            report: include_str!("examples/ghost-event.txt"),
        },
    },
    RuleText {
        name: "epoll-stale-ctl",
        title: "epoll_ctl was called for a number that is closed, or is another file by now",
        definition: "An event loop changed or removed the registration of a number which had been closed behind its back. `EPOLL_CTL_MOD` or \
            `DEL` gives EBADF if the number is closed, EPERM if it has become a regular file, and MOD gives ENOENT if it has become \
            another socket. Some loops abort on that; others go on with a list that is no longer true.",
        proof: "Proven by the call and the history of the slot: the number was registered in this instance in an earlier generation, and the \
            error is one of the three.",
        look_alikes: &[
            "`EPOLL_CTL_DEL` with ENOENT: libuv and uvloop remove on suspicion",
            "`EPOLL_CTL_ADD` with EEXIST: libuv adds first and modifies then",
        ],
        advice: "stop the watcher before you close its number, and let the loop close it",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "watch.py",
            source: r#"import os, gevent, gevent.socket

conn = gevent.socket.create_connection(("localhost", 7000))
watcher = gevent.get_hub().loop.io(conn.fileno(), 1)
watcher.start(print)
os.close(conn.fileno())
watcher.events = 3
"#,
            report: include_str!("examples/epoll-stale-ctl.txt"),
        },
    },
    RuleText {
        name: "epoll-duplicate-entry",
        title: "one epoll instance has two entries of the same number",
        definition: "The number was closed while registered, with a copy of the file elsewhere, and opened again and registered again. The \
            instance now watches two files under one number, and the program cannot tell their events apart.",
        proof: "Proven by the registrations: two live entries of one instance with the same number and different descriptions, registered \
            through one table.",
        look_alikes: &[
            "entries with the same number that different processes made in an instance they share: see `epoll-shared-across-fork`",
        ],
        advice: "remove it from epoll (`EPOLL_CTL_DEL`) before you close the number",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "pool.c",
            source: r#"void reconnect(struct conn *c) {
    int spare = dup(c->fd);     /* kept for the shutdown message */
    close(c->fd);
    c->fd = dial(c->address);
    struct epoll_event event = { EPOLLIN, { .fd = c->fd } };
    epoll_ctl(c->poller, EPOLL_CTL_ADD, c->fd, &event);
    c->spare = spare;
}
"#,
            report: include_str!("examples/epoll-duplicate-entry.txt"),
        },
    },
    RuleText {
        name: "epoll-lost-registration",
        title: "a registration ended with its file, and nobody registered the successor",
        definition: "The number was registered, closed, and opened again: the entry went with the old file, without a word. Code that believes \
            the number to be watched still waits for events that cannot come. The program hangs; no call fails.",
        proof: "A heuristic, so never more than possible: that the entry is gone is proven, that somebody counts on it is not. It is a \
            note, told with `--notes` once a thread has waited in the instance for more than a second, and for nothing.",
        look_alikes: &["closing a registered descriptor: legal, and the way nginx unregisters"],
        advice: "register the new descriptor after each reconnect: epoll forgets a closed file",
        severity: Severity::Note,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "pool.c",
            source: r#"void reconnect(struct conn *c) {
    close(c->fd);
    c->fd = dial(c->address);   /* the same number: still registered, or so it seems */
}

void run(struct conn *c) {
    while (epoll_wait(c->poller, events, 16, -1) > 0) handle(c);
}
"#,
            report: include_str!("examples/epoll-lost-registration.txt"),
        },
    },
];
