//! `docs/syscalls.md` says of every system call how it is covered. It is made from the table that the tracer works with and
//! from what the exerciser does; this test fails when it is not what they say. `FDTRACE_BLESS=1` writes it anew.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use fdtrace::syscalls::{self, Arch, Syscall};
use fdtrace_common::class;
use fdtrace_exercise::nr;

const HEAD: &str = "\
# System calls and descriptors

Made by a test from the table that fdtrace works with: `FDTRACE_BLESS=1 cargo test -p fdtrace-exercise --test syscalls`.

- *how*: what fdtrace does with the call.
- *tested*: `cargo test -p fdtrace-exercise` makes the call at random in real processes and compares the result with the \
kernel's own tables; what is not in there is told by the same code as the tested calls of its kind.
- Numbers are those of the machine; `-`: it has no such call.

";

/// What no hook sees, and how it is found.
const UNSEEN: &str = "\
## What system calls do not show

| what | found |
|---|---|
| a process ends, by `exit` or by a signal | by the scheduler's hook, before the table goes |
| close-on-exec slots at `execve` | by listing the table when they are gone, before the program runs |
| the table of a child | by listing it before the child runs; above 1024 numbers it is copied from the parent's |
| io_uring's opens, closes, accepts and installs | by reading the table after each `io_uring_enter`; by a submission thread alone: at the next periodic reading |
| `ioctl` that leaves a descriptor in a structure (DRM, DMA heaps, V4L2, GPIO, binder, autofs, …) | at the next periodic reading |
| `seccomp` ADDFD, which puts a descriptor into another process | at the next periodic reading |
| descriptors of all but the first message of one `recvmmsg` | by reading the table after the call |
| `read` of fanotify and userfaultfd events that carry a descriptor | at the next periodic reading |
| `SCTP` peel-off, netlink handshakes, cachefiles | at the next periodic reading |

Until it is found such a descriptor is not known; then it is shown as *unseen origin*, and never guessed.
";

fn how(call: &Syscall) -> (&'static str, &'static str) {
    match call.class {
        class::RETURNS_FD => ("makes", "the result, and what it is, at the end"),
        class::OPEN_PATH0 | class::OPEN_PATH1 => ("makes", "the result, what it is, and its path, at the end"),
        class::PAIR_AT0 | class::PAIR_AT3 => ("makes", "both numbers, read from memory at the end"),
        class::CLONE_FLAGS | class::CLONE3 => {
            ("makes", "the fork hook tells of the table; a pidfd is read from memory")
        }
        class::CLONE => ("table", "the fork or exec hook lists the table; the start is kept for the interval"),
        class::CLOSE => ("closes", "the file in the slot at the start and at the end"),
        class::CLOSE_RANGE => ("closes", "its range; with CLOSE_RANGE_UNSHARE the new table is listed"),
        class::DUP2 => ("replaces", "the file in the slot at the start and at the end"),
        class::FCNTL => ("makes", "by command: duplicates, close-on-exec, status flags, locks"),
        class::IOCTL => ("makes", "by command: known makers of descriptors, close-on-exec"),
        class::EPOLL_CTL => ("registers", "the instance, the target and the event"),
        class::EPOLL_WAIT => ("reports", "the first events it delivered"),
        class::UNSHARE => ("table", "the new table is listed"),
        class::RECVMSG => ("receives", "the numbers in the control data, at the end"),
        class::RECVMMSG => ("receives", "the first message as recvmsg; the table is read for the others"),
        class::SOCKETCALL => ("makes", "as the call that it stands for"),
        class::GETSOCKOPT => ("makes", "SO_PEERPIDFD: the pidfd is read from memory"),
        class::URING => ("table", "the table is read after it"),
        class::REPORT => ("uses", "always told"),
        _ if call.fds.is_empty() => ("uses", "when it fails with EBADF; the numbers are in memory and not looked at"),
        _ => ("uses", "when it fails with EBADF, blocks while others can change the table, or the slot is watched"),
    }
}

fn page() -> String {
    let tested: BTreeSet<&str> = nr::NAMES.iter().copied().collect();
    let mut calls: Vec<&Syscall> = syscalls::all().iter().collect();
    calls.sort_by_key(|call| (how(call).0 == "uses", call.name));
    let mut page = String::from(HEAD);
    page.push_str("| call | x86-64 | aarch64 | i386 | it | how | tested |\n|---|---|---|---|---|---|---|\n");
    let number = |call: &Syscall, arch| call.number(arch).map_or_else(|| "-".to_owned(), |nr| nr.to_string());
    for call in calls {
        let (what, seen) = how(call);
        let numbers = [Arch::X86_64, Arch::Aarch64, Arch::I386].map(|arch| number(call, arch)).join(" | ");
        let tested = if tested.contains(call.name) { "yes" } else { "" };
        let _ = writeln!(page, "| `{}` | {numbers} | {what} | {seen} | {tested} |", call.name);
    }
    page.push('\n');
    page.push_str(UNSEEN);
    page
}

#[test]
fn the_page_of_system_calls_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/syscalls.md");
    let page = page();
    if std::env::var_os("FDTRACE_BLESS").is_some() {
        fs::write(&path, &page).expect("docs/syscalls.md can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/syscalls.md is stale: run this test with FDTRACE_BLESS=1");
}

/// Calls that make, receive, replace or close descriptors are what the tables rest on: all that this machine's kernel is
/// likely to have are exercised, and the others are listed here with the reason.
#[test]
fn what_changes_tables_is_exercised() {
    const NOT: [(&str, &str); 4] = [
        ("socketcall", "32-bit programs; the exerciser makes its 32-bit calls by their own numbers"),
        ("fcntl32", "32-bit programs"),
        ("recvmmsg_time64", "32-bit programs"),
        ("setns", "needs a namespace to enter, and changes no table"),
    ];
    let tested: BTreeSet<&str> = nr::NAMES.iter().copied().collect();
    let changes = |call: &&Syscall| !matches!(how(call).0, "uses" | "reports" | "registers");
    let untested: Vec<&str> = syscalls::all()
        .iter()
        .filter(changes)
        .map(|call| call.name)
        .filter(|name| !tested.contains(name) && !NOT.iter().any(|(not, _)| not == name))
        .collect();
    assert!(untested.is_empty(), "no test makes {}", untested.join(", "));
}
