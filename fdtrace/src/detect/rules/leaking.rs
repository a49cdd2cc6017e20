//! Rules about descriptors that stay, or get where they should not.

use super::{Example, RuleText, Since};
use crate::detect::finding::Severity;

pub(super) const RULES: &[RuleText] = &[
    RuleText {
        name: "fd-leak",
        title: "descriptors opened at one place pile up",
        definition: "One call site opens descriptors that are neither closed nor used again. Their number grows until the limit is reached, and \
            then calls fail that have nothing to do with it.",
        proof: "Likely if one thread opened one path at one call site at least 32 times, at four times or more with at least a second \
            between them, nothing that was opened there was ever closed, and of the eldest, whose uses are watched once the table has \
            grown, none was used again. Possible if that many of one call, kind and path are open whoever opened them, or 64 of one \
            call site whatever they are, none was closed, and none of the eldest was seen in use. Never proven: what a program keeps \
            it may want to keep. Told when the process ends, or when it has no numbers left. To follow a leak for long at little \
            cost: --arm-at 100.",
        look_alikes: &[
            "pools that grow to a size and stay there: their eldest are in use, and several threads open them",
            "what a program opens when it starts: it comes in one go",
            "descriptors that are watched by an epoll; connections that were accepted",
            "whatever is open at exit, by itself: the kernel closes it",
        ],
        advice: "close at the place that the report names, also on its error paths: `with`, `defer`, RAII",
        severity: Severity::Medium,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "memory.py",
            source: r#"import os

def resident():
    fd = os.open("/proc/self/statm", os.O_RDONLY)
    return int(os.pread(fd, 64, 0).split()[1])
"#,
            report: include_str!("examples/fd-leak.txt"),
        },
    },
    RuleText {
        name: "fd-limit",
        title: "the limit on open descriptors was reached",
        definition: "A call failed with EMFILE (this process has as many descriptors as it may) or ENFILE (the machine has). The call that fails is \
            a bystander: the report names the places that opened most of what is open.",
        proof: "Proven by the error. Who is to blame is not: the places where most of what is open was opened are named, by how many it is.",
        look_alikes: &["a limit that the program probes on purpose, and lowers or raises then"],
        advice: "look at the first places in the list; if they are all needed, raise the limit (`ulimit -n`, LimitNOFILE=)",
        severity: Severity::Medium,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "sizes.py",
            source: r#"import os

def size(path):
    fd = os.open(path, os.O_RDONLY)
    return os.fstat(fd).st_size
"#,
            report: include_str!("examples/fd-limit.txt"),
        },
    },
    RuleText {
        name: "exec-leak",
        title: "a program that was started inherited a descriptor it knows nothing of",
        definition: "The descriptor was not marked CLOEXEC, so every program started from here has it. It keeps ports and locks taken and files open, \
            and can be read by a program with fewer rights.",
        proof: "Proven by the exec: the number was open and not marked. It is reported for kinds that hurt (listening sockets, files open for \
            writing, databases, epoll instances, devices) and once the program has run for a while without using it.",
        look_alikes: &[
            "0, 1 and 2",
            "numbers that are named on the command line or in the environment: the job server of make, socket activation",
            "numbers passed on purpose (`pass_fds`, `posix_spawn_file_actions_adddup2`)",
            "pipes that the program does use",
        ],
        advice: "open with O_CLOEXEC (`open(…, O_CLOEXEC)`, `accept4`, `pipe2`), and clear it only for what the child shall have",
        severity: Severity::Medium,
        severity_varies: "",
        since: Since::Implemented,
        example: Example {
            file: "shop.py",
            source: r#"import lmdb, subprocess

env = lmdb.open("data.mdb", subdir=False)
subprocess.run(["mailer"], close_fds=False)
"#,
            report: include_str!("examples/exec-leak.txt"),
        },
    },
    RuleText {
        name: "cloexec-race",
        title: "a process was forked between the opening of a descriptor and its CLOEXEC mark",
        definition: "Opening and then marking (`open`, `fcntl(F_SETFD, FD_CLOEXEC)`) takes two calls. Another thread forked between them: its child has \
            the descriptor without the mark, and takes it through exec.",
        proof: "Proven by the order of three calls: opened without the mark by one thread, forked by another, marked by the first; and the child \
            did exec with it. As long as no fork falls between, the two steps are a note.",
        look_alikes: &["the same in a process with one thread", "a child that closes the number before it execs"],
        advice: "mark in the call that opens: O_CLOEXEC, SOCK_CLOEXEC, `pipe2`, `accept4`, `F_DUPFD_CLOEXEC`, `mkostemp`",
        severity: Severity::Medium,
        severity_varies: "a note if no fork fell between",
        since: Since::Implemented,
        example: Example {
            file: "net.c",
            source: r#"void *connector(void *arg) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return use(fd);
}

void *launcher(void *arg) {
    system("backup");
    return 0;
}
"#,
            report: include_str!("examples/cloexec-race.txt"),
        },
    },
];
