//! Rules about the use of numbers that have died, or live on as something else.

use super::{Example, RuleText, Since};
use crate::detect::finding::Severity;

pub(super) const RULES: &[RuleText] = &[
    RuleText {
        name: "use-after-close",
        title: "a closed number was used, and the call failed with EBADF",
        definition: "A read, write, send, accept, wait or the like was made on a number that had been open and is closed. The \
            error shows where the program stumbles and not who closed the number; the report does. It is the best single sign \
            of a lifetime bug: in half a million system calls of healthy programs it did not occur once.",
        proof: "Proven by the history of the slot: a life that ended, none after it, an EBADF. The close that ended it is named as \
            the culprit; not so where the function that closed the number had opened it too, and there were earlier generations: then one of those \
            may have been meant, and it was there by chance.",
        look_alikes: &[
            "probes that ask whether a number is open: `fcntl(F_GETFD)`, `F_SETFD`, `fstat`",
            "numbers that were never open, such as -1",
            "the old number of `dup2`, which also gives EBADF when the new one is beyond the limit",
        ],
        advice: "look at who closed the number: either that close is the mistake, or the user must be told of it before",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "log.c",
            source: r#"void rotate(struct log *log) {
    close(log->fd);
    rename("app.log", "app.log.1");
}

void note(struct log *log, const char *line) {
    write(log->fd, line, strlen(line));
}
"#,
            report: include_str!("examples/use-after-close.txt"),
        },
    },
    RuleText {
        name: "stale-use",
        title: "somebody used a number that has become another file",
        definition: "Somebody who owned an earlier generation of the slot reads, writes, sends or controls through the number, which \
            belongs to another file by now. No call fails. What was meant for a log lands in a database; what another reader waits \
            for is stolen.",
        proof: "Likely if the object that makes the call was seen to own an earlier generation and not this one, or if the \
            number was taken from a static variable that keeps an earlier one (see `stale-close`). Without \
            owners where the kind gives it away: a socket call on what was a socket and is none now (ENOTSOCK) is likely to be one \
            if another thread gave the number away, and possible if the caller's did.",
        look_alikes: &[
            "ENOTSOCK on the standard streams: programs ask them whether they are sockets",
            "programs that try `send` on whatever they have, and fall back to `write`",
            "a number that two objects share by agreement, one of them borrowing",
            "thread pools: which thread made the call says nothing",
        ],
        advice: "let nobody keep the bare number longer than the object it came from; ask the object each time",
        severity: Severity::High,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "mix.py",
            source: r#"import os
a = open("/dev/zero")
a.read(5)
os.close(a.fileno())
b = open("B.txt", "w")
a = None
c = open("C.txt", "w")
b.write("secret for B\n"); b.flush()
"#,
            report: include_str!("examples/stale-use.txt"),
        },
    },
];
