//! Each rule: the shortest story that breaks it, and the twin that does not.

use crate::tests::story::{findings, run};

/// The findings of a story, without those of other rules.
fn of(rule: &str, script: &str) -> Vec<String> {
    findings(script).into_iter().filter(|line| line.starts_with(rule)).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn double_close() {
    assert_eq!(findings("1 open /a -> 3\n1 close 3\n1 close 3 = EBADF\nsleep 200"), ["double-close proven 1 3"]);
    assert_eq!(findings("1 open /a -> 3\n1 close 3\n1 open /b -> 3\n1 close 3\nsleep 200"), NONE);
    // Numbers that were never open.
    assert_eq!(findings("1 close 9 = EBADF\n1 close -1 = EBADF\nsleep 200"), NONE);
}

#[test]
fn a_sweep_is_no_double_close() {
    let mut script = String::from("1 open /a -> 5\n1 close 5\n");
    (3..30).for_each(|fd| script.push_str(&format!("1 close {fd} = EBADF\n")));
    assert_eq!(findings(&script), NONE);
}

#[test]
fn use_after_close() {
    assert_eq!(findings("1 open /a -> 3\n1 close 3\n1 read 3 = EBADF"), ["use-after-close proven 1 3"]);
    assert_eq!(findings("1 open /a -> 3\n1 close 3\n1 fstat 3 = EBADF"), NONE);
}

#[test]
fn close_after_eintr() {
    let rule = "close-after-eintr";
    assert_eq!(of(rule, "1 open /a -> 3\n1 close 3 = EINTR\n1 close 3 = EBADF"), ["close-after-eintr proven 1 3"]);
    let taken = "1 open /a -> 3\n1 thread 7\n1 close 3 = EIO\n1.7 open /b -> 3\n1 close 3";
    assert_eq!(of(rule, taken), ["close-after-eintr proven 1 3"]);
    assert_eq!(findings("1 open /a -> 3\n1 close 3 = EINTR\n1 open /b -> 3\n1 close 3"), NONE);
    assert_eq!(findings("1 open /a -> 3\n1 close 3 = EINTR\n1 exit"), NONE);
}

#[test]
fn a_socket_call_on_what_is_none_any_more() {
    let rule = "stale-use";
    let reused = "1 thread 7\n1 socket -> 3\n1.7 close 3\n1.7 open /a -> 3\n";
    assert_eq!(of(rule, &format!("{reused}1 sendto 3 = ENOTSOCK")), ["stale-use likely 1 3"]);
    assert_eq!(of(rule, &format!("{reused}1.7 sendto 3 = ENOTSOCK")), ["stale-use possible 1 3"], "its own doing");
    assert_eq!(of(rule, &format!("{reused}1 sendto 3 = ENOTSOCK\n1 sendto 3 = ENOTSOCK")).len(), 1, "once");
    assert_eq!(of(rule, &format!("{reused}1 getsockname 3 = ENOTSOCK")), NONE, "it asks");
    assert_eq!(of(rule, "1 open /a -> 3\n1 close 3\n1 open /b -> 3\n1 sendto 3 = ENOTSOCK"), NONE);
    assert_eq!(of(rule, "1 socket -> 1\n1 close 1\n1 pipe2 -> 1 4\n1 sendto 1 = ENOTSOCK"), NONE);
    let overwritten = "1 open /a -> 4\n1 socket -> 3\n1 thread 7\n1.7 dup2 4 3\n1 sendto 3 = ENOTSOCK";
    assert_eq!(of(rule, overwritten), NONE, "that is `clobbered-fd`");
    // Whoever tries `send` first on everything means no socket.
    let tries = "1 pipe2 -> 8 9\n1 sendto 9 = ENOTSOCK\n";
    assert_eq!(of(rule, &format!("{tries}{reused}1 sendto 3 = ENOTSOCK")), NONE);
    // Another program, which was given the number.
    let given = "1 socket -> 3\n1 close 3\n1 open /a -> 3\n1 exec /bin/cat\n1 sendto 3 = ENOTSOCK";
    assert_eq!(of(rule, given), NONE);
}

/// What a variable that keeps a number is told by.
fn kept(script: &str) -> Vec<String> {
    let rules = ["stale-close", "stale-use"];
    findings(script).into_iter().filter(|line| rules.iter().any(|rule| line.starts_with(rule))).collect()
}

#[test]
fn a_number_from_a_variable_means_the_generation_that_was_put_there() {
    let rotated = "1 open /log @1 $1 -> 3\n1 close 3 @2 $1\n1 open /db @3 -> 3\n";
    assert_eq!(kept(&format!("{rotated}1 write 3 @4 $1")), ["stale-use likely 1 3"]);
    assert_eq!(kept(&format!("{rotated}1 write 3 @4 $1\n1 write 3 @4 $1")).len(), 1, "once");
    assert_eq!(kept(&format!("{rotated}1 close 3 @4 $1")), ["stale-close likely 1 3"]);
    assert_eq!(kept(&format!("{rotated}1 write 3 @5\n1 close 3 @5")), NONE, "not by way of the variable");
    assert_eq!(kept(&format!("{rotated}1 write 3 @5 $2")), NONE, "of that one nothing is known");
    let twice = format!("{rotated}1 close 3 @5\n1 open /c @6 -> 3\n1 close 3 @4 $1");
    assert_eq!(kept(&twice), ["stale-close likely 1 3"]);
    // Whoever closed it.
    assert_eq!(kept("1 open /log @1 $1 -> 3\n1 close 3 @9\n1 open /db @3 -> 3\n1 close 3 @4 $1").len(), 1);
}

#[test]
fn a_variable_may_have_been_given_the_new_number() {
    let closed = "1 open /log @1 $1 -> 3\n1 close 3 @2 $1\n";
    assert_eq!(kept(&format!("{closed}1 open /log @1 $1 -> 3\n1 write 3 @4 $1\n1 close 3 @2 $1")), NONE);
    assert_eq!(kept(&format!("{closed}1 open /db -> 3\n1 write 3 @4 $1")), NONE, "it was not seen where that was made");
    assert_eq!(kept(&format!("{closed}1 open /db @3 -> 5\n1 dup2 5 3 @3\n1 write 3 @4 $1")), NONE, "the very number");
    assert_eq!(kept(&format!("{closed}1 open /db @3 -> 3\n1 dup2 3 3 @3\n1 write 3 @4 $1")), NONE, "the very number");
    assert_eq!(kept("1 open /log @1 $1 -> 3\n1 open /b @3 -> 5\n1 dup2 5 3 @3\n1 write 3 @4 $1"), NONE);
    // The standard streams' numbers are what is counted on.
    assert_eq!(kept("1 open /log @1 $1 -> 1\n1 close 1 @2\n1 open /b @3 -> 1\n1 write 1 @4 $1"), NONE);
    assert_eq!(
        kept(&format!("{closed}1 open /db @3 -> 3\n1 exec /bin/sh\n1 write 3 @4 $1")),
        NONE,
        "another program's"
    );
}

#[test]
fn a_child_has_its_parents_variables() {
    let forked = "1 open /log @1 $1 -> 3\n1 fork -> 2\n";
    let swept = format!("{forked}2 close 3 @5\n2 open /db @6 -> 3\n2 write 3 @4 $1");
    assert_eq!(kept(&swept), ["stale-use likely 2 3"]);
    assert_eq!(kept(&format!("{forked}2 write 3 @4 $1\n2 close 3 @2 $1\n1 write 3 @4 $1\n1 close 3 @2 $1")), NONE);
    assert_eq!(kept(&format!("{forked}2 close 3 @2 $1\n2 open /log @1 $1 -> 3\n2 write 3 @4 $1")), NONE);
    // The parent goes on with another one, and the child with what it had.
    let apart = "1 close 3 @2 $1\n1 open /log @1 $1 -> 3\n2 write 3 @4 $1\n1 write 3 @4 $1";
    assert_eq!(kept(&format!("{forked}{apart}")), NONE);
}

const EPOLL: &str = "1 epoll_create1 -> 3\n1 socket -> 4\n1 epoll_ctl 3 ADD 4\n";

#[test]
fn epoll_stale_ctl() {
    let rule = "epoll-stale-ctl";
    let story = |tail: &str| of(rule, &format!("{EPOLL}{tail}"));
    assert_eq!(story("1 close 4\n1 epoll_ctl 3 MOD 4 = EBADF"), ["epoll-stale-ctl proven 1 4"]);
    assert_eq!(story("1 close 4\n1 open /a -> 4\n1 epoll_ctl 3 DEL 4 = EPERM"), ["epoll-stale-ctl proven 1 4"]);
    let missing = "1 close 4\n1 socket -> 4\n1 epoll_ctl 3 MOD 4 = ENOENT\n";
    assert_eq!(story(&format!("{missing}sleep 200")), ["epoll-stale-ctl proven 1 4"]);
    assert_eq!(story(&format!("{missing}1 epoll_ctl 3 ADD 4\nsleep 200")), ["epoll-stale-ctl possible 1 4"]);
    assert_eq!(story("1 close 4\n1 socket -> 4\n1 epoll_ctl 3 DEL 4 = ENOENT\nsleep 200"), NONE);
    assert_eq!(story("1 epoll_ctl 3 ADD 4 = EEXIST\nsleep 200"), NONE);
    assert_eq!(story("1 epoll_ctl 3 DEL 4\n1 close 4"), NONE);
}

#[test]
fn ghost_event() {
    let rule = "ghost-event";
    let story = |tail: &str| of(rule, &format!("{EPOLL}{tail}"));
    assert_eq!(story("1 dup 4 -> 5\n1 close 4\n1 epoll_wait 3 -> 4"), ["ghost-event proven 1 4"]);
    assert_eq!(story("1 dup 4 -> 5\n1 close 4\n1 open /a -> 4\n1 epoll_wait 3 -> 4"), ["ghost-event proven 1 4"]);
    assert_eq!(story("1 epoll_wait 3 -> 4\n1 close 4\n1 epoll_wait 3"), NONE);
    // Under way when it was closed.
    assert_eq!(story("1 dup 4 -> 5\n1 thread 7\n1.7 begin\n1 close 4\n1.7 epoll_wait 3 -> 4"), NONE);
    // A child that has not run its program yet.
    assert_eq!(story("1 fork -> 2\n1 close 4\n1 epoll_wait 3 -> 4"), NONE);
    assert_eq!(story("1 fork -> 2\n1 close 4\nsleep 100\n1 epoll_wait 3 -> 4"), ["ghost-event proven 1 4"]);
}

#[test]
fn unknown_events_make_the_rule_ask() {
    let run = run("1 epoll_create1 -> 3\n1 epoll_wait 3 -> 9");
    assert_eq!(run.wants, [crate::detect::Want::EpollList { tgid: 1, fd: 3 }]);
}

#[test]
fn epoll_duplicate_entry() {
    let rule = "epoll-duplicate-entry";
    let story = |tail: &str| of(rule, &format!("{EPOLL}{tail}"));
    let again = "1 close 4\n1 socket -> 4\n1 epoll_ctl 3 ADD 4\n";
    assert_eq!(story(&format!("1 dup 4 -> 5\n{again}")), ["epoll-duplicate-entry proven 1 4"]);
    assert_eq!(story(again), NONE);
    assert_eq!(story(&format!("1 fork -> 2\n{again}2 exit\nsleep 100")), NONE);
    assert_eq!(story(&format!("1 fork -> 2\n{again}sleep 100")), ["epoll-duplicate-entry proven 1 4"]);
    // One that was registered unseen, of a file that another process holds: that process may have registered it.
    let shared = "1 epoll_create1 -> 3\n1 fork -> 2\n2 socket -> 4\n1 lists 3 4 2 4\n1 socket -> 4\n";
    assert_eq!(of(rule, &format!("{shared}1 epoll_ctl 3 ADD 4\nsleep 100")), NONE);
}

#[test]
fn epoll_lost_registration() {
    let rule = "epoll-lost-registration";
    let story = |tail: &str| of(rule, &format!("{EPOLL}{tail}"));
    let long_wait = "1 begin\nsleep 1100\n1 epoll_wait 3";
    let told = ["epoll-lost-registration possible 1 4"];
    assert_eq!(story(&format!("1 close 4\n1 socket -> 4\n{long_wait}")), told);
    assert_eq!(story(&format!("1 close 4\n1 socket -> 4\n1 epoll_ctl 3 ADD 4\n{long_wait}")), NONE);
    assert_eq!(story("1 close 4\n1 socket -> 4\n1 epoll_wait 3"), NONE);
    // Unregistered by closing it; and the number went to something else.
    assert_eq!(story(&format!("1 close 4\n{long_wait}")), NONE);
    assert_eq!(story(&format!("1 close 4\n1 open /a -> 4\n{long_wait}")), NONE);
    assert_eq!(story(&format!("1 epoll_ctl 3 DEL 4\n1 close 4\n1 socket -> 4\n{long_wait}")), NONE);
}

#[test]
fn close_while_blocked() {
    let rule = "close-while-blocked";
    let story = |tail: &str| of(rule, &format!("1 socket -> 3\n1 thread 7\n{tail}"));
    assert_eq!(
        story("1.7 begin\n1 close 3\nsleep 20\n1.7 recvfrom 3 = ECONNRESET"),
        ["close-while-blocked proven 1 3"]
    );
    assert_eq!(story("1 shutdown 3\n1.7 begin\n1 close 3\nsleep 20\n1.7 recvfrom 3"), NONE);
    // On its way out.
    assert_eq!(story("1.7 begin\n1 close 3\n1.7 recvfrom 3 5"), NONE);
    assert_eq!(story("1 open /a -> 4\n1.7 begin\n1 dup2 4 3\nsleep 20\n1.7 recvfrom 3"), NONE);
}

#[test]
fn bulk_close() {
    let rule = "bulk-close";
    let story = |tail: &str| of(rule, &format!("1 epoll_create1 -> 3\n1 thread 7\n{tail}"));
    assert_eq!(story("1 close_range 3 100\n1.7 epoll_wait 3 = EBADF"), ["bulk-close proven 1 3"]);
    assert_eq!(story("1.7 begin\n1 close_range 3 100\nsleep 20\n1.7 epoll_wait 3"), ["bulk-close proven 1 3"]);
    assert_eq!(story("1 close_range 3 100\n1 exec /bin/sh\n1 read 3 = EBADF"), NONE);
    assert_eq!(story("1 close_range 3 100"), NONE);
    let mut sweep = String::new();
    (3..20).for_each(|fd| sweep.push_str(&format!("1 close {fd}{}\n", if fd == 3 { "" } else { " = EBADF" })));
    assert_eq!(story(&format!("{sweep}1.7 epoll_wait 3 = EBADF")), ["bulk-close proven 1 3"]);
}

#[test]
fn clobbered_fd() {
    let rule = "clobbered-fd";
    let story = |tail: &str| of(rule, &format!("1 open /db rw -> 3\n1 pipe2 -> 4 5\n{tail}"));
    assert_eq!(story("1 dup2 4 3\n1 pwrite64 3 = ESPIPE"), ["clobbered-fd proven 1 3"]);
    assert_eq!(story("1 thread 7\n1.7 dup2 4 3\nsleep 1100"), ["clobbered-fd likely 1 3"]);
    assert_eq!(story("1 dup2 4 3\nsleep 1100"), NONE);
    assert_eq!(story("1 dup 3 -> 6\n1 dup2 4 3\n1 dup2 6 3"), NONE);
    assert_eq!(story("1 fork -> 2\n2 dup2 4 3\n2 exec /bin/sh\n2 pwrite64 3 = ESPIPE"), NONE);
    assert_eq!(story("1 open /dev/null -> 6\n1 dup2 6 3\n1 pwrite64 3 = ESPIPE"), NONE);
}

#[test]
fn saved_fd_overwritten() {
    let rule = "saved-fd-overwritten";
    let start = "1 open /out -> 1\n1 open /log -> 3\n1 pipe2 -> 8 9\n1 dup 1 -> 5\n1 dup2 3 1\n";
    assert_eq!(of(rule, &format!("{start}1 dup2 8 5\n1 dup2 5 1")), ["saved-fd-overwritten proven 1 5"]);
    assert_eq!(of(rule, &format!("{start}1 dup2 5 1\n1 close 5")), NONE);
    // Put back first, used for something else then.
    assert_eq!(of(rule, &format!("{start}1 dup2 5 1\n1 dup2 8 5\n1 dup2 5 1")), NONE);
}

#[test]
fn stdio_recycled() {
    let rule = "stdio-recycled";
    let story = |tail: &str| of(rule, &format!("1 open /tty rw -> 2\n1 close 2\n{tail}"));
    let shell = "1 fork -> 2\n2 exec /bin/sh\n2 write 2 40";
    assert_eq!(story(&format!("1 open /data.mdb rw -> 2\n{shell}")), ["stdio-recycled proven 2 2"]);
    assert_eq!(story(&format!("1 open /log append -> 2\n{shell}")), NONE);
    assert_eq!(story(&format!("1 open /data.mdb rw cloexec -> 2\n{shell}")), NONE);
    assert_eq!(story("1 open /data.mdb rw -> 2\n1 write 2 40"), NONE);
}

#[test]
fn shared_stream() {
    let rule = "shared-stream";
    let story = |tail: &str| of(rule, &format!("1 socket -> 3\n1 fork -> 2\n{tail}sleep 600"));
    let (a, b) = ("1 sendto 3 9\n", "2 sendto 3 9\n");
    let (answer, theirs) = ("1 recvfrom 3 9\n", "2 recvfrom 3 9\n");
    assert_eq!(story(&format!("{a}{b}{answer}{theirs}")), ["shared-stream proven 1 3"]);
    assert_eq!(story(&format!("{a}{b}{theirs}{answer}{b}{a}")), ["shared-stream proven 1 3"]);
    // Each has its answer before the other asks.
    let (ours, other) = (format!("{a}{answer}"), format!("{b}{theirs}"));
    assert_eq!(story(&format!("{ours}{other}{ours}{other}")), ["shared-stream likely 1 3"]);
    assert_eq!(story(&format!("{ours}{other}{other}{ours}")), NONE);
    // Nobody takes anything.
    assert_eq!(story(&format!("{a}{b}{a}{b}")), ["shared-stream possible 1 3"]);
    assert_eq!(story(&format!("{a}{b}{b}{b}{a}")), NONE);
    // One writes, one reads.
    assert_eq!(story(&format!("{a}{theirs}{a}{theirs}{a}{theirs}")), NONE);
    // Workers who take jobs in turn, and tell what came of them.
    let (ours, other) = (format!("{answer}{a}"), format!("{theirs}{b}"));
    assert_eq!(story(&format!("{ours}{other}{ours}{other}")), NONE);
    assert_eq!(story(&format!("{answer}{theirs}{a}{b}{answer}{theirs}")), NONE);
    let (c, gets) = ("3 sendto 3 9\n", "3 recvfrom 3 9\n");
    assert_eq!(story(&format!("1 fork -> 3\n{b}{a}{gets}{answer}{c}{theirs}{a}")), ["shared-stream proven 1 3"]);
    assert_eq!(story(&format!("{a}{b}2 exec /bin/cat\n{a}{b}")), NONE);
    // One question each, and then an answer. If they go on it is told once, as what it is by then.
    assert_eq!(story(&format!("{a}{b}{answer}")), ["shared-stream possible 1 3"]);
    assert_eq!(story(&format!("{a}{b}{answer}{b}")), ["shared-stream possible 1 3"]);
    assert_eq!(story(&format!("2 recvfrom 3 9\n{a}2 recvfrom 3 9\n")), NONE);
    assert_eq!(story(&format!("{a}{b}2 exit\n{answer}")), NONE);
    // Both asked, both took an answer; one of them, the wrong one, and is gone.
    assert_eq!(story(&format!("{a}{b}{theirs}2 exit\n{answer}")), ["shared-stream possible 1 3"]);
    assert_eq!(story(&format!("{a}{answer}{b}{theirs}2 exit\n{a}{answer}")), NONE);
    // The first that asked gets nothing, and two that asked after it do.
    let (c, gets) = ("3 sendto 3 9\n", "3 recvfrom 3 9\n");
    assert_eq!(story(&format!("1 fork -> 3\n{a}{b}{theirs}2 exit\n{c}{gets}3 exit\n")), ["shared-stream possible 1 3"]);
    assert_eq!(story(&format!("1 fork -> 3\n{a}{answer}{b}{theirs}2 exit\n{c}{gets}3 exit\n")), NONE);
    // A question from before the fork, to the answer of which the child sees.
    assert_eq!(of(rule, &format!("1 socket -> 3\n{a}1 fork -> 2\n{b}{theirs}2 exit\n{answer}sleep 600")), NONE);
    assert_eq!(of(rule, &format!("1 pipe2 -> 3 4\n1 fork -> 2\n{a}{b}{a}{b}")), NONE);
    // A program that another one started shares what it opened itself like any other.
    let (b, c) = ("2 sendto 3 9\n", "3 sendto 3 9\n");
    let (for_b, for_c) = ("2 recvfrom 3 9\n", "3 recvfrom 3 9\n");
    let started = "1 fork -> 2\n2 exec /bin/server\n2 socket -> 3\n2 fork -> 3\n";
    assert_eq!(of(rule, &format!("{started}{b}{c}{for_b}{for_c}")), ["shared-stream proven 2 3"]);
}

#[test]
fn shared_offset() {
    let rule = "shared-offset";
    let turns = "1 fork -> 2\n1 read 3 9\n2 read 3 9\n1 read 3 9\n2 read 3 9";
    assert_eq!(of(rule, &format!("1 open /words -> 3\n{turns}")), ["shared-offset possible 1 3"]);
    assert_eq!(of(rule, &format!("1 open /log append -> 3\n{turns}")), NONE);
    let own = turns.replace("read", "pread64");
    assert_eq!(of(rule, &format!("1 open /words -> 3\n{own}")), NONE);
}

#[test]
fn shared_flags() {
    let rule = "shared-flags";
    let story = |tail: &str| of(rule, &format!("1 socket -> 3\n1 fork -> 2\n{tail}"));
    assert_eq!(story("2 setfl 3 2048\n1 read 3 = EAGAIN"), ["shared-flags proven 1 3"]);
    assert_eq!(story("2 setfl 3 2048\n2 setfl 3 0\n1 read 3 = EAGAIN"), NONE);
    assert_eq!(story("1 setfl 3 2048\n1 read 3 = EAGAIN"), NONE);
    assert_eq!(story("2 setfl 3 2048\n1 setfl 3 2048\n1 read 3 = EAGAIN"), NONE, "they agree");
    let before = "1 socket -> 3\n1 setfl 3 2048\n1 fork -> 2\n2 setfl 3 2048\n1 read 3 = EAGAIN";
    assert_eq!(of(rule, before), NONE, "it was so before");
    // It lasts longer than whoever did it.
    let pipe = "1 pipe2 -> 3 4\n1 fork -> 2\n2 setfl 3 2048\n2 exit\n1 read 3 = EAGAIN";
    assert_eq!(of(rule, pipe), ["shared-flags proven 1 3"]);
}

#[test]
fn posix_lock_dropped() {
    let rule = "posix-lock-dropped";
    let story = |tail: &str| of(rule, &format!("1 open /ledger rw -> 3\n1 lock 3\n{tail}"));
    assert_eq!(story("1 open /ledger -> 4\n1 close 4"), ["posix-lock-dropped proven 1 3"]);
    assert_eq!(story("1 unlock 3\n1 open /ledger -> 4\n1 close 4"), NONE);
    assert_eq!(story("1 open /other -> 4\n1 close 4"), NONE);
    assert_eq!(story("1 close 3"), NONE);
}

#[test]
fn fd_limit_and_leak() {
    let mut script = String::new();
    (3..40).for_each(|fd| script.push_str(&format!("1 inotify_init1 -> {fd}\n")));
    assert_eq!(of("fd-leak", &format!("{script}1 exit")), ["fd-leak possible 1 39"]);
    assert_eq!(of("fd-leak", &format!("{script}1 close 5\n1 exit")), NONE);
    assert_eq!(of("fd-limit", &format!("{script}1 socket = EMFILE\n1 socket = EMFILE")), ["fd-limit proven 1 -1"]);
    assert_eq!(of("fd-leak", "1 inotify_init1 -> 3\n1 exit"), NONE);
}

#[test]
fn fd_leak_by_call_site() {
    let open = |line: &dyn Fn(i32) -> String, from: i32, to: i32| -> String {
        let pause = |fd: i32| if fd % 10 == 0 { "sleep 1000\n" } else { "" };
        (from..to).map(|fd| format!("{}{}\n", pause(fd), line(fd))).collect()
    };
    let leak = |script: &str| of("fd-leak", &format!("{script}1 exit"));
    let one_path = |fd: i32| format!("1 open /cfg @7 -> {fd}");
    let leak = |script: &str| leak(&format!("{script}sleep 1500\n"));
    assert_eq!(leak(&open(&one_path, 3, 43)), ["fd-leak likely 1 42"]);
    // The eldest is in use.
    assert_eq!(leak(&format!("{}1 read 3 9\n", open(&one_path, 3, 43))), NONE);
    // From two places.
    let two_places = |fd: i32| format!("1 open /cfg @{} -> {fd}", fd % 2);
    assert_eq!(leak(&open(&two_places, 3, 43)), ["fd-leak possible 1 42"]);
    // By two threads: a pool.
    let two_threads = |fd: i32| format!("1{} open /cfg @7 -> {fd}", [".7", ""][usize::from(fd % 2 == 0)]);
    assert_eq!(leak(&format!("1 thread 7\n{}", open(&two_threads, 3, 43))), ["fd-leak possible 1 42"]);
    // One of the place was closed, whatever it was.
    assert_eq!(
        leak(&format!("1 open /other @7 -> 3\n1 close 3\n{}", open(&one_path, 3, 43))),
        ["fd-leak possible 1 42"]
    );
    let one_place = |fd: i32| format!("1 open /in/{fd} @7 -> {fd}");
    assert_eq!(leak(&open(&one_place, 3, 73)), ["fd-leak possible 1 72"]);
    assert_eq!(leak(&open(&one_place, 3, 43)), NONE);
    let sockets = |fd: i32| format!("1 socket @7 -> {fd}");
    assert_eq!(leak(&open(&sockets, 3, 73)), ["fd-leak possible 1 72"]);
    // Clients are as many as they are.
    let clients = |fd: i32| format!("1 accept4 3 @7 -> {fd}");
    assert_eq!(leak(&format!("1 socket -> 3\n{}", open(&clients, 4, 84))), NONE);
    // In one go: what a program has from its start.
    let at_once: String = (3..73).map(|fd| format!("{}\n", one_place(fd))).collect();
    assert_eq!(leak(&at_once), NONE);
    assert_eq!(leak(&format!("{}1 open /x @7 -> 80\n1 close 80\n", open(&one_place, 3, 73))), NONE);
}

/// Of more origins than can be remembered nobody says that they were never closed, unless their place is known.
#[test]
fn fd_leak_after_many_closes() {
    let closes: String = (0..5000).map(|n| format!("1 open /in/{n} @1 -> 3\n1 close 3\n")).collect();
    let closed = "1 open /cfg @2 -> 3\n1 close 3\n";
    let leak = |before: &str, at: &str| -> Vec<String> {
        let open: String = (3..43).map(|fd| format!("1 open /cfg{at} -> {fd}\n")).collect();
        of("fd-leak", &format!("{before}{open}1 exit"))
    };
    assert_eq!(leak("", ""), ["fd-leak possible 1 42"]);
    assert_eq!(leak(&format!("{closes}{closed}"), ""), NONE);
    assert_eq!(leak(&closes, ""), NONE);
    assert_eq!(leak(&closes, " @3"), ["fd-leak possible 1 42"]);
    assert_eq!(leak(&format!("{closes}{closed}"), " @2"), NONE);
}

#[test]
fn fd_limit_names_the_places() {
    let script: String = (3..40).map(|fd| format!("1 open /in/{fd} @{} -> {fd}\n", fd % 3 / 2)).collect();
    let run = run(&format!("{script}1 socket = EMFILE"));
    let message = run.findings.iter().find(|finding| finding.rule == "fd-limit").map(|finding| finding.message.clone());
    let message = message.expect("a finding");
    assert!(message.ends_with("37 are open, 25 like /in/39 (openat), 12 like /in/38 (openat)"), "{message}");
}

#[test]
fn exec_leak() {
    let rule = "exec-leak";
    let story = |tail: &str| of(rule, &format!("1 open /data.mdb rw -> 3\n{tail}"));
    assert_eq!(story("1 fork -> 2\n2 exec /bin/ls\n2 exit"), ["exec-leak likely 2 3"]);
    assert_eq!(story("1 fork -> 2\n2 exec /bin/ls\n2 read 3 5\n2 exit"), NONE);
    assert_eq!(story("1 fork -> 2\n2 exec /bin/ls --db-fd=3\n2 exit"), NONE);
    assert_eq!(story("1 cloexec 3\n1 fork -> 2\n2 exec /bin/ls\n2 exit"), NONE);
    assert_eq!(story("1 cloexec 3\n1 nocloexec 3\n1 fork -> 2\n2 exec /bin/ls\n2 exit"), NONE);
    assert_eq!(of(rule, "1 pipe2 -> 3 4\n1 fork -> 2\n2 exec /bin/ls\n2 exit"), NONE);
}

#[test]
fn cloexec_race() {
    let rule = "cloexec-race";
    let story = |tail: &str| of(rule, &format!("1 thread 7\n1 socket -> 3\n{tail}"));
    assert_eq!(story("1.7 fork -> 2\n1 cloexec 3\n2 exec /bin/sh"), ["cloexec-race proven 1 3"]);
    assert_eq!(story("1.7 fork -> 2\n2 exec /bin/sh\n1 cloexec 3"), ["cloexec-race proven 1 3"]);
    assert_eq!(story("1.7 fork -> 2\n1 cloexec 3\n2 close 3\n2 exec /bin/sh"), NONE);
    assert_eq!(story("1 fork -> 2\n1 cloexec 3\n2 exec /bin/sh"), NONE);
    assert_eq!(story("1 cloexec 3\n1.7 fork -> 2\n2 exec /bin/sh"), NONE);
}

#[test]
fn held_by_fork() {
    let rule = "held-by-fork";
    let story = |tail: &str| of(rule, &format!("1 socket -> 3\n1 bind 3\n1 fork -> 2\n{tail}"));
    assert_eq!(story("1 close 3\n1 socket -> 3\n1 bind 3 = EADDRINUSE"), ["held-by-fork likely 1 3"]);
    assert_eq!(story("2 close 3\n1 close 3\n1 socket -> 3\n1 bind 3 = EADDRINUSE"), NONE);
    assert_eq!(story("1 close 3"), NONE);
}

#[test]
fn epoll_shared_across_fork() {
    let rule = "epoll-shared-across-fork";
    let story = |tail: &str| of(rule, &format!("{EPOLL}1 epoll_wait 3\n1 fork -> 2\n{tail}"));
    assert_eq!(story("2 epoll_ctl 3 DEL 4\n1 epoll_wait 3"), ["epoll-shared-across-fork proven 2 3"]);
    assert_eq!(story("2 close 3\n1 epoll_wait 3"), NONE);
}

#[test]
fn lost_events_leave_nothing_proven() {
    let mut run = crate::tests::story::Script::new();
    run.line("1 open /a -> 3");
    let at = crate::event::Interval { enter: None, exit: run.world.now() };
    let lost = crate::event::What::Lost { since: 0, by_class: [1; fdtrace_common::wire::loss::CLASSES] };
    run.world.apply(&crate::event::Event { at, tgid: 0, tid: 0, table: 0, what: lost }, &mut Vec::new());
    for line in ["1 close 3 = EINTR", "1 close 3 = EBADF", "1 read 3 = EBADF", "sleep 200"] {
        run.line(line);
    }
    assert!(!run.findings.is_empty());
    assert!(run.summary().iter().all(|line| line.contains(" possible ")), "{:?}", run.summary());
}
