//! Rules about numbers that were replaced while they were needed.

use super::{Example, RuleText, Since};
use crate::detect::finding::Severity;

pub(super) const RULES: &[RuleText] = &[
    RuleText {
        name: "clobbered-fd",
        title: "dup2 replaced a descriptor that somebody else was using",
        definition: "`dup2` and `dup3` close whatever has the new number, without a word. Code that moves its files to fixed numbers \
            (\"our pipe is 4\") destroys what a library happened to open there.",
        proof: "That a live number was replaced is proven by the call. It is reported if the two files are of different kinds or the \
            replaced one has another user, and the process does not go on to exec; proven once that user stumbles over it, likely before.",
        look_alikes: &[
            "0, 1 and 2: redirecting them is what `dup2` is for",
            "shuffling numbers between fork and exec",
            "`dup2` onto a number that its owner gives up in the same moment: the safe way to swap a file under a number",
            "an event loop that makes its epoll anew after a fork",
        ],
        advice: "do not choose numbers: keep what `dup` or `fcntl(F_DUPFD_CLOEXEC)` gives, or reserve the fixed ones at start",
        severity: Severity::Medium,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "agent.c",
            source: r#"void setup(int channel) {
    struct db *db = db_open("db.bin");
    dup2(channel, 4);
    serve(db);
}

void serve(struct db *db) {
    pwrite(db->fd, page, sizeof page, 0);
}
"#,
            report: include_str!("examples/clobbered-fd.txt"),
        },
    },
    RuleText {
        name: "saved-fd-overwritten",
        title: "a saved copy was destroyed before it was put back",
        definition: "To redirect a stream for a while one saves it (`saved = dup(1)`), replaces it, and puts it back (`dup2(saved, 1)`). If \
            something else takes the number of the saved copy in between, what is put back is another file.",
        proof: "Proven by file identity: the description that lands in the slot is not the one that was copied from it, although the call \
            names the number of the copy.",
        look_alikes: &[
            "copies that are closed unused",
            "a save and restore around which the saved number is opened anew by the same code",
        ],
        advice: "keep saved copies above the numbers you assign: `fcntl(fd, F_DUPFD_CLOEXEC, 10)`, as shells do",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "launch.c",
            source: r#"int saved = dup(1);         /* gives 5 */
dup2(out, 1);
dup2(control, 5);           /* 5 is the child's control number */
run();
dup2(saved, 1);             /* puts the control pipe on stdout */
"#,
            report: include_str!("examples/saved-fd-overwritten.txt"),
        },
    },
    RuleText {
        name: "stdio-recycled",
        title: "0, 1 or 2 became another file, and somebody writes to it as stdio",
        definition: "With a standard number closed, the next open gets it. From then on every message, warning or panic of this process, \
            or of a child that inherited it over exec, goes into that file: a database, a socket.",
        proof: "Proven if a program that was started by exec with the number open writes to it: it cannot know it as anything but stdio. \
            Within the process proven only by the stack of the writer. That the number got another file is a note by itself.",
        look_alikes: &[
            "`</dev/null` by close and open: the way shells and daemons redirect",
            "terminals, pipes, logs opened for appending, the null device",
            "a number that is put back before anybody writes",
        ],
        advice: "never leave 0, 1 or 2 closed: put /dev/null there, before anything else is opened",
        severity: Severity::High,
        severity_varies: "a note until somebody writes to it as stdio",
        since: Since::Implemented,
        example: Example {
            file: "daemon.py",
            source: r#"import os, lmdb, subprocess

os.close(2)
env = lmdb.open("data", subdir=False)
subprocess.run(["sh", "-c", "nosuchcommand"])
"#,
            report: include_str!("examples/stdio-recycled.txt"),
        },
    },
];
