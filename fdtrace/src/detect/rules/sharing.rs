//! Rules about one description in several hands.

use super::{Example, RuleText, Since};
use crate::detect::finding::Severity;

pub(super) const RULES: &[RuleText] = &[
    RuleText {
        name: "shared-stream",
        title: "two processes talk over one connection at the same time",
        definition: "A connection was open when the process forked, and both sides use it. Requests mix, each reads answers meant for the other, \
            TLS breaks down with a bad record. Typical for a database connection that was opened before the workers were forked.",
        proof: "Proven by file and table identity: two live tables read and write one description of a stream socket, alternating at least twice \
            (A, B, A, B), and their questions cross: A asked, B asked before A had its answer, and both took an answer then. Every use is seen for \
            that, which is so for the first ones behind a fork. Likely if both ask and take answers in turns and no crossing was seen. Possible \
            if both write and only one reads; or if they did not go on after the questions crossed.",
        look_alikes: &[
            "one side hands over to the other and stays away (A, B): servers that fork for each client",
            "A, B, A in any other way: sshd with its separated privileges",
            "one process writes and the other one reads",
            "workers that take jobs from one stream in turn, and tell what came of them: they begin with a read",
            "pipes with several writers or readers, eventfds, logs, listening sockets: made to be shared",
        ],
        advice: "open connections after the fork, one for each process; in the child drop inherited ones without saying goodbye on them",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "jobs.py",
            source: r#"import os, psycopg2

db = psycopg2.connect("dbname=jobs")

def work():
    with db.cursor() as cursor:
        cursor.execute("select 1")

os.fork()
while True:
    work()
"#,
            report: include_str!("examples/shared-stream.txt"),
        },
    },
    RuleText {
        name: "shared-offset",
        title: "two processes move one file offset",
        definition: "After a fork both sides have the same open file, and with it the same position. Each read or write of one moves it for the \
            other: records are skipped, or overwritten.",
        proof: "Proven by file and table identity: reads, writes or seeks that move the offset of one regular file, alternating between two live \
            tables, without O_APPEND.",
        look_alikes: &[
            "files opened with O_APPEND: logs",
            "`pread` and `pwrite`, which have an offset of their own",
            "a shell and its children that take turns on one script, input or output",
        ],
        advice: "open the file in each process, or use `pread` and `pwrite`; for logs use O_APPEND",
        severity: Severity::Medium,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "split.py",
            source: r#"import os

words = open("words.txt", "rb", buffering=0)
os.fork()
while record := words.read(64):
    handle(record)
"#,
            report: include_str!("examples/shared-offset.txt"),
        },
    },
    RuleText {
        name: "shared-flags",
        title: "a process changed the flags of a file that another process uses",
        definition: "O_NONBLOCK and O_APPEND belong to the description. A process that makes its inherited standard output non-blocking makes it \
            so for everybody who has it; a program that never asked for it gets EAGAIN, and loses output.",
        proof: "Proven if a table sets O_NONBLOCK on a description shared with another live table, and that one, which never set it, gets EAGAIN \
            from it. The change alone is a note.",
        look_alikes: &[
            "flags that are put back before anybody else calls",
            "descriptions on which the other side uses poll or expects EAGAIN",
        ],
        advice: "open the file anew (`/proc/self/fd/N` for a terminal or pipe) before you change its flags, or put them back on exit",
        severity: Severity::Medium,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "tee.c",
            source: r#"void child(void) {
    fcntl(1, F_SETFL, O_NONBLOCK);
    stream();
}

void parent(void) {
    write(1, report, sizeof report);
}
"#,
            report: include_str!("examples/shared-flags.txt"),
        },
    },
    RuleText {
        name: "posix-lock-dropped",
        title: "closing another descriptor of the file dropped its record locks",
        definition: "Locks taken with `fcntl(F_SETLK)` belong to the process and the file. Closing any descriptor of that file, one opened to \
            glance at it for example, drops them all. The holder is not told.",
        proof: "Proven by file and inode: a lock is held through one description, and another of the same inode is closed in the same process \
            while the first lives.",
        look_alikes: &[
            "locks of open file descriptions (`F_OFD_SETLK`) and `flock`: they belong to the description",
            "a lock that was released before",
        ],
        advice: "use `F_OFD_SETLK` or `flock`, or open a locked file only once in each process",
        severity: Severity::Medium,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "ledger.py",
            source: r#"import fcntl

ledger = open("ledger", "r+")
fcntl.lockf(ledger, fcntl.LOCK_EX)
with open("ledger") as glance:
    print(glance.readline())
ledger.write(entry)
"#,
            report: include_str!("examples/posix-lock-dropped.txt"),
        },
    },
    RuleText {
        name: "held-by-fork",
        title: "a descriptor was closed, and a forked process keeps its file open",
        definition: "The last number of this process is closed, but a child that was forked earlier holds a copy of which it knows nothing. The peer \
            never sees the end of the stream, the port stays taken, the deleted file keeps its room on the disk.",
        proof: "Proven by file identity: no slot of this table is left on the description, a slot of another live table is, it came there by fork, \
            and was never used through it. Likely as long as that process might still use it.",
        look_alikes: &[
            "servers that fork and pass the connection on: the child uses it",
            "a child that is about to exec and has marked its copy CLOEXEC",
            "standard streams",
        ],
        advice: "close in the child what it does not need, or let it exec with O_CLOEXEC set; use `shutdown` to end a connection for everybody",
        severity: Severity::Medium,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "port.py",
            source: r#"import os, socket, time

listener = socket.create_server(("", 7000))
if os.fork() == 0:
    time.sleep(3600)
listener.close()
socket.create_server(("", 7000))
"#,
            report: include_str!("examples/held-by-fork.txt"),
        },
    },
];
