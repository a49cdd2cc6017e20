//! The reports that `fdtrace explain` and `docs/rules.md` show: drawn here from findings as the rules would make them.

use Confidence::{Likely, Possible, Proven};
use Role::{Culprit, RootCause, Victim};
use Verb::*;

use super::*;
use crate::{
    detect::{
        finding::{Act, Confidence, Role, Verb},
        rules,
    },
    sink::fixture::{PID, Say, act, finding, matches_file, with_source},
};

const FILE_IO: &str = "_io.FileIO";
const A: u64 = 0x7f12_3456_7180;
const B: u64 = 0x7f12_3456_7200;
const CHILD: u32 = 4243;

#[test]
fn examples_are_what_is_told() {
    for rule in rules::all() {
        let findings = story(rule.name);
        assert!(!findings.is_empty(), "{} has no example", rule.name);
        assert_eq!(findings[0].rule, rule.name);
        let options = TextOptions { notes: true, ..TextOptions::default() };
        let mut sink = TextSink::new(Vec::new(), Vec::new(), options);
        let (name, cmdline) = command(rule.example.file);
        let mut meta = fixture::meta(&cmdline);
        meta.targets[0].name = name.as_str().into();
        sink.meta(&meta).unwrap();
        for finding in findings {
            let finding = with_source(finding, rule.example.file, rule.example.source);
            sink.finding(&run_as(finding, &name)).unwrap();
        }
        sink.end(&Summary::default()).unwrap();
        let text = String::from_utf8(sink.reports).unwrap();
        matches_file(&format!("src/detect/rules/examples/{}.txt", rule.name), text.trim_end_matches('\n'));
    }
}

/// Command name and arguments of the process that runs an example.
fn command(file: &str) -> (String, String) {
    let (stem, kind) = file.rsplit_once('.').unwrap();
    if kind == "py" {
        ("python3".to_owned(), format!("python3 {file}"))
    } else {
        (stem.to_owned(), format!("./{stem}"))
    }
}

fn run_as(mut finding: Finding, name: &str) -> Finding {
    let parts = [&mut finding.root_cause, &mut finding.culprit, &mut finding.victim];
    let acts = finding.timeline.iter_mut().chain(parts.into_iter().flatten()).map(|act| &mut act.process);
    for process in acts.chain([&mut finding.process]).filter(|process| **process == "python3".into()) {
        *process = name.into();
    }
    finding
}

fn story(rule: &str) -> Vec<Finding> {
    match rule {
        "double-close" => double_close(),
        "stale-close" => vec![stale_close()],
        "foreign-close" => vec![foreign_close(), stale_close(), use_after_stale_close()],
        "two-owners" => two_owners(),
        "close-after-eintr" => close_after_eintr(),
        "close-while-blocked" => close_while_blocked(),
        "bulk-close" => bulk_close(),
        "use-after-close" => use_after_close(),
        "stale-use" => stale_use(),
        "clobbered-fd" => clobbered_fd(),
        "saved-fd-overwritten" => saved_fd_overwritten(),
        "stdio-recycled" => stdio_recycled(),
        "epoll-shared-across-fork" => epoll_shared_across_fork(),
        "ghost-event" => ghost_event(),
        "epoll-stale-ctl" => epoll_stale_ctl(),
        "epoll-duplicate-entry" => epoll_duplicate_entry(),
        "epoll-lost-registration" => epoll_lost_registration(),
        "shared-stream" => shared_stream(),
        "shared-offset" => shared_offset(),
        "shared-flags" => shared_flags(),
        "posix-lock-dropped" => posix_lock_dropped(),
        "held-by-fork" => held_by_fork(),
        "fd-leak" => fd_leak(),
        "fd-limit" => fd_limit(),
        "exec-leak" => exec_leak(),
        "cloexec-race" => cloexec_race(),
        _ => Vec::new(),
    }
}

fn module(line: u32) -> [(u32, &'static str); 1] {
    [(line, "<module>")]
}

/// The acts of the program of `stale-close`, without parts.
fn rebind() -> Vec<Act> {
    vec![
        act(0, 3, 1, Opened, "openat").of("/dev/zero").own(FILE_IO, A).py("a.py", &module(2)),
        act(310, 3, 1, Closed, "close").of("/dev/zero").py("a.py", &module(4)),
        act(390, 3, 2, Opened, "openat").of("/dev/zero").own(FILE_IO, B).py("a.py", &module(6)),
        act(420, 3, 2, Closed, "close").of("/dev/zero").own(FILE_IO, A).py("a.py", &module(6)),
        act(470, 3, 2, Used, "read").fails("EBADF").own(FILE_IO, B).py("a.py", &module(7)),
    ]
}

pub fn foreign_close() -> Finding {
    let mut acts = rebind();
    acts.truncate(2);
    acts[1] = acts[1].clone().is(RootCause, "behind the object's back");
    finding("foreign-close", Proven, "fd 3 was closed by number while a FileIO object owned it", acts)
}

pub fn stale_close() -> Finding {
    let mut acts = rebind();
    acts.truncate(4);
    acts[1] = acts[1].clone().is(RootCause, "behind the object's back");
    acts[3] = acts[3].clone().is(Culprit, "owned generation 1");
    acts[2] = acts[2].clone().is(Victim, "");
    finding("stale-close", Proven, "fd 3 was closed by an object that owned an earlier file of that number", acts)
}

pub fn use_after_stale_close() -> Finding {
    let mut acts = rebind();
    acts[3] = acts[3].clone().is(Culprit, "");
    acts[4] = acts[4].clone().is(Victim, "");
    finding("use-after-close", Proven, "read of fd 3 failed: another object had closed it", acts)
}

fn double_close() -> Vec<Finding> {
    let acts = vec![
        act(0, 3, 1, Opened, "openat").of("app.conf").c("config.c", &[(7, "load"), (41, "main")]),
        act(96, 3, 1, Closed, "close")
            .c("config.c", &[(3, "parse"), (8, "load"), (41, "main")])
            .remark("the first close"),
        act(98, 3, 1, Closed, "close")
            .fails("EBADF")
            .c("config.c", &[(9, "load"), (41, "main")])
            .is(Culprit, "the second"),
    ];
    vec![finding("double-close", Proven, "fd 3 was closed twice; nothing had been opened in between", acts)]
}

fn two_owners() -> Vec<Finding> {
    let acts = vec![
        act(0, 3, 1, Opened, "socket").of("TCP 127.0.0.1:7000").own("socket.socket", A).py("talk.py", &module(6)),
        act(320, 3, 1, Used, "fstat")
            .own(FILE_IO, B)
            .py("talk.py", &[(4, "reader"), (7, "<module>")])
            .is(Culprit, "a second owner"),
    ];
    vec![finding("two-owners", Proven, "fd 3 belongs to a socket and to a FileIO object, and each will close it", acts)]
}

fn close_after_eintr() -> Vec<Finding> {
    let acts = vec![
        act(0, 5, 1, Opened, "openat").of("/net/store/x").c("store.c", &[(22, "main")]),
        act(4_100, 5, 1, Closed, "close")
            .fails("EINTR")
            .c("store.c", &[(4, "save"), (30, "main")])
            .remark("the number is gone"),
        act(4_102, 5, 1, Closed, "close").fails("EBADF").c("store.c", &[(4, "save"), (30, "main")]).is(Culprit, ""),
    ];
    vec![finding("close-after-eintr", Proven, "close of fd 5 was tried again after EINTR had closed it", acts)]
}

fn close_while_blocked() -> Vec<Finding> {
    let acts = vec![
        act(0, 3, 1, Opened, "socket").of("TCP 0.0.0.0:7000").own("socket.socket", A).py("server.py", &module(7)),
        act(700, 3, 1, Waited, "accept4")
            .by(PID, CHILD)
            .own("socket.socket", A)
            .py("server.py", &[(5, "serve")])
            .is(Victim, "still waits"),
        act(950, 3, 1, Closed, "close").py("server.py", &module(9)).is(Culprit, ""),
    ];
    vec![finding("close-while-blocked", Proven, "fd 3 was closed while thread 4243 waited in accept4 on it", acts)]
}

fn bulk_close() -> Vec<Finding> {
    let poll = |micros, call| {
        act(micros, 3, 2, Waited, call).by(CHILD, 4244).own("select.epoll", A).py("spawn.py", &[(7, "poll")])
    };
    let acts = vec![
        act(0, 3, 1, Opened, "epoll_create1").of("epoll").own("select.epoll", A).py("spawn.py", &module(3)),
        act(800, 3, 2, Inherited, "").of("epoll").by(CHILD, CHILD).py("spawn.py", &module(9)),
        act(1_400, 3, 2, Closed, "close_range")
            .by(CHILD, CHILD)
            .py("spawn.py", &module(11))
            .is(Culprit, "one of 253 numbers"),
        poll(101_000, "epoll_wait").fails("EBADF").is(Victim, ""),
    ];
    vec![finding("bulk-close", Proven, "fd 3 was closed by close_range(3, 255) while thread 4244 polled it", acts)]
}

fn use_after_close() -> Vec<Finding> {
    let acts = vec![
        act(0, 4, 1, Opened, "openat").of("app.log").c("log.c", &[(14, "start"), (31, "main")]),
        act(2_000_000, 4, 1, Closed, "close").c("log.c", &[(2, "rotate"), (38, "main")]).is(Culprit, ""),
        act(2_310_000, 4, 1, Used, "write").fails("EBADF").c("log.c", &[(7, "note"), (40, "main")]).is(Victim, ""),
    ];
    vec![finding("use-after-close", Proven, "write to fd 4 failed: it had been closed 0.310 s before", acts)]
}

fn stale_use() -> Vec<Finding> {
    let acts = vec![
        act(0, 3, 1, Opened, "openat").of("/dev/zero").own(FILE_IO, A).py("mix.py", &module(2)),
        act(40, 3, 1, Closed, "close").py("mix.py", &module(4)).is(RootCause, "behind the object's back"),
        act(60, 3, 2, Opened, "openat").of("B.txt").own(FILE_IO, B).py("mix.py", &module(5)),
        act(90, 3, 2, Closed, "close").own(FILE_IO, A).py("mix.py", &module(6)).remark("owned generation 1"),
        act(130, 3, 3, Opened, "openat")
            .of("C.txt")
            .own(FILE_IO, 0x7f12_3456_7280)
            .py("mix.py", &module(7))
            .is(Victim, ""),
        act(170, 3, 3, Used, "write").own(FILE_IO, B).py("mix.py", &module(8)).is(Culprit, "owned generation 2, B.txt"),
    ];
    vec![finding("stale-use", Proven, "13 bytes meant for B.txt were written to C.txt, through fd 3", acts)]
}

fn clobbered_fd() -> Vec<Finding> {
    let acts = vec![
        act(0, 4, 1, Opened, "openat").of("db.bin").c("agent.c", &[(2, "setup"), (50, "main")]),
        act(210, 4, 1, Replaced, "dup2")
            .c("agent.c", &[(3, "setup"), (50, "main")])
            .is(Culprit, "by a copy of fd 7, a pipe"),
        act(390, 4, 2, Used, "pwrite64")
            .fails("ESPIPE")
            .of("pipe")
            .c("agent.c", &[(8, "serve"), (4, "setup")])
            .is(Victim, ""),
    ];
    vec![finding("clobbered-fd", Proven, "dup2 put a pipe over fd 4, which was db.bin and in use", acts)]
}

fn saved_fd_overwritten() -> Vec<Finding> {
    let here = |line| [(line, "main")];
    let acts = vec![
        act(0, 5, 1, Duplicated, "dup").of("/dev/pts/0").c("launch.c", &here(1)).remark("the saved copy of fd 1"),
        act(12, 5, 1, Replaced, "dup2").c("launch.c", &here(3)).is(RootCause, ""),
        act(12, 5, 2, Duplicated, "dup2").of("pipe").c("launch.c", &here(3)),
        act(800, 1, 3, Duplicated, "dup2").of("pipe").c("launch.c", &here(5)).is(Victim, "was /dev/pts/0 before"),
    ];
    vec![finding(
        "saved-fd-overwritten",
        Proven,
        "fd 1 was restored from fd 5, which is not the saved file any more",
        acts,
    )]
}

fn stdio_recycled() -> Vec<Finding> {
    let acts = vec![
        act(0, 2, 1, Closed, "close").of("/dev/pts/0").py("daemon.py", &module(3)).is(RootCause, ""),
        act(180, 2, 2, Opened, "openat").of("data").py("daemon.py", &module(4)),
        act(2_900, 2, 1, Inherited, "").of("data").by(CHILD, CHILD).named("sh").remark("through fork and exec"),
        act(4_100, 2, 1, Used, "write").by(CHILD, CHILD).named("sh").is(Culprit, "36 bytes"),
    ];
    let mut found =
        finding("stdio-recycled", Proven, "sh wrote to its standard error, fd 2, which is the file data", acts);
    found.root_cause = found.timeline.first().cloned();
    vec![found]
}

pub fn epoll_shared_across_fork() -> Vec<Finding> {
    const LOOP: &[(u32, &str)] = &[(4, "main"), (12, "<module>")];
    let select = |line, function| [(line, function)];
    let file = "/usr/lib/python3.11/selectors.py";
    let acts = vec![
        act(0, 3, 1, Opened, "epoll_create1")
            .of("epoll")
            .own("select.epoll", A)
            .py(file, &select(348, "__init__"))
            .py("loop.py", &module(12)),
        act(900, 6, 1, Registered, "epoll_ctl")
            .of("TCP 0.0.0.0:7000")
            .own("select.epoll", A)
            .py(file, &select(357, "register"))
            .py("loop.py", LOOP)
            .is(Victim, "wakes no more"),
        act(2_300, 3, 1, Inherited, "")
            .of("epoll")
            .by(CHILD, CHILD)
            .py("loop.py", &[(5, "main")])
            .remark("the same instance"),
        act(2_800, 6, 1, Unregistered, "epoll_ctl")
            .of("TCP 0.0.0.0:7000")
            .by(CHILD, CHILD)
            .own("select.epoll", A)
            .py(file, &select(368, "unregister"))
            .py("loop.py", &[(8, "main"), (12, "<module>")])
            .is(Culprit, ""),
    ];
    vec![finding(
        "epoll-shared-across-fork",
        Proven,
        "pid 4243 removed fd 6 from the epoll instance of pid 4242, which gets no events for it any more",
        acts,
    )]
}

fn ghost_event() -> Vec<Finding> {
    let acts = |last| {
        vec![
            act(0, 3, 1, Opened, "epoll_create1").of("epoll").own("select.epoll", A).py("feed.py", &module(3)),
            act(30, 4, 1, Opened, "openat").of("feed.fifo").py("feed.py", &module(4)),
            act(60, 4, 1, Registered, "epoll_ctl").of("feed.fifo").own("select.epoll", A).py("feed.py", &module(5)),
            act(1_900, 4, 1, Inherited, "").of("feed.fifo").by(CHILD, CHILD).named("worker"),
            act(2_400, 4, 1, Closed, "close").of("feed.fifo").py("feed.py", &module(7)).is(Culprit, "still registered"),
            act(last, 4, 1, Waited, "epoll_wait")
                .own("select.epoll", A)
                .py("feed.py", &module(9))
                .is(Victim, "an event for fd 4"),
        ]
    };
    let found = |last| {
        finding(
            "ghost-event",
            Proven,
            "epoll delivered an event for fd 4, which is closed here; pid 4243 keeps its file open",
            acts(last),
        )
    };
    (0..8_000).map(|at| found(2_700 + at * 61)).collect()
}

fn epoll_stale_ctl() -> Vec<Finding> {
    let main = module(6);
    let acts = vec![
        act(0, 9, 1, Opened, "socket").of("TCP 127.0.0.1:7000").own("socket.socket", A).py("watch.py", &module(3)),
        act(400, 9, 1, Registered, "epoll_ctl").of("TCP 127.0.0.1:7000").py("watch.py", &module(5)),
        act(450, 9, 1, Closed, "close").py("watch.py", &main).is(Culprit, "still registered"),
        act(520, 9, 1, Modified, "epoll_ctl").fails("EBADF").py("watch.py", &module(7)).is(Victim, ""),
    ];
    vec![finding(
        "epoll-stale-ctl",
        Proven,
        "epoll_ctl(MOD) of fd 9 failed with EBADF: it was closed while registered",
        acts,
    )]
}

fn epoll_duplicate_entry() -> Vec<Finding> {
    let here = |line| [(line, "reconnect"), (33, "main")];
    let acts = vec![
        act(0, 7, 1, Registered, "epoll_ctl").of("TCP 10.0.0.5:443").c("pool.c", &[(19, "start"), (30, "main")]),
        act(61_000_000, 8, 1, Duplicated, "dup")
            .of("TCP 10.0.0.5:443")
            .c("pool.c", &here(2))
            .remark("keeps the entry alive"),
        act(61_000_040, 7, 1, Closed, "close")
            .of("TCP 10.0.0.5:443")
            .c("pool.c", &here(3))
            .is(Culprit, "still registered"),
        act(61_030_900, 7, 2, Opened, "socket").of("TCP 10.0.0.5:443").c("pool.c", &here(4)),
        act(61_031_200, 7, 2, Registered, "epoll_ctl")
            .of("TCP 10.0.0.5:443")
            .c("pool.c", &here(6))
            .is(Victim, "a second entry"),
    ];
    vec![finding("epoll-duplicate-entry", Proven, "epoll instance fd 3 has two entries of the number 7", acts)]
}

fn epoll_lost_registration() -> Vec<Finding> {
    let here = |line| [(line, "reconnect"), (33, "main")];
    let acts = vec![
        act(0, 7, 1, Registered, "epoll_ctl").of("TCP 10.0.0.5:443").c("pool.c", &[(19, "start"), (30, "main")]),
        act(61_000_040, 7, 1, Closed, "close").c("pool.c", &here(2)).is(Culprit, "ends the registration"),
        act(61_030_900, 7, 2, Opened, "socket").of("TCP 10.0.0.5:443").c("pool.c", &here(3)).remark("not registered"),
        act(121_031_200, 3, 1, Waited, "epoll_wait")
            .of("epoll")
            .c("pool.c", &[(7, "run"), (34, "main")])
            .is(Victim, "waits for 60 s"),
    ];
    vec![finding(
        "epoll-lost-registration",
        Possible,
        "fd 7 was registered, closed and opened again, and is not registered any more",
        acts,
    )]
}

fn shared_stream() -> Vec<Finding> {
    let work = |micros, pid, call| {
        act(micros, 3, 1, Used, call).of("TCP [::1]:5432").by(pid, pid).py("jobs.py", &[(7, "work"), (11, "<module>")])
    };
    let acts = vec![
        act(0, 3, 1, Opened, "socket").of("TCP [::1]:5432").py("jobs.py", &module(3)),
        act(31_000, 3, 1, Inherited, "").of("TCP [::1]:5432").by(CHILD, CHILD).py("jobs.py", &module(9)),
        work(31_900, PID, "sendto"),
        work(32_100, CHILD, "sendto").is(Culprit, ""),
        work(32_700, PID, "recvfrom").is(Victim, "may be the answer to pid 4243"),
        work(33_000, CHILD, "recvfrom"),
    ];
    vec![finding("shared-stream", Proven, "pid 4242 and pid 4243 use one connection, TCP [::1]:5432, in turn", acts)]
}

fn shared_offset() -> Vec<Finding> {
    let read = |micros, pid| act(micros, 3, 1, Used, "read").of("words.txt").by(pid, pid).py("split.py", &module(5));
    let acts = vec![
        act(0, 3, 1, Opened, "openat").of("words.txt").own(FILE_IO, A).py("split.py", &module(3)),
        act(800, 3, 1, Inherited, "").of("words.txt").by(CHILD, CHILD).py("split.py", &module(4)),
        read(1_000, PID),
        read(1_040, CHILD).is(Culprit, "moves the offset of both"),
        read(1_090, PID).is(Victim, "skips 64 bytes"),
        read(1_120, CHILD),
    ];
    vec![finding("shared-offset", Proven, "pid 4242 and pid 4243 move the one offset of words.txt in turn", acts)]
}

fn shared_flags() -> Vec<Finding> {
    let acts = vec![
        act(0, 1, 1, AlreadyOpen, "").of("/dev/pts/0"),
        act(900, 1, 1, Inherited, "").of("/dev/pts/0").by(CHILD, CHILD),
        act(1_500, 1, 1, Used, "fcntl")
            .of("/dev/pts/0")
            .by(CHILD, CHILD)
            .c("tee.c", &[(2, "child"), (20, "main")])
            .is(Culprit, "sets O_NONBLOCK"),
        act(9_200, 1, 1, Used, "write")
            .of("/dev/pts/0")
            .fails("EAGAIN")
            .c("tee.c", &[(7, "parent"), (23, "main")])
            .is(Victim, ""),
    ];
    vec![finding("shared-flags", Proven, "pid 4243 made fd 1 non-blocking for pid 4242 too, which got EAGAIN", acts)]
}

fn posix_lock_dropped() -> Vec<Finding> {
    let acts = vec![
        act(0, 3, 1, Opened, "openat").of("ledger").own(FILE_IO, A).py("ledger.py", &module(3)),
        act(60, 3, 1, Used, "fcntl").of("ledger").py("ledger.py", &module(4)).is(Victim, "F_SETLK, lost"),
        act(120, 4, 1, Opened, "openat").of("ledger").own(FILE_IO, B).py("ledger.py", &module(5)),
        act(190, 4, 1, Closed, "close").of("ledger").own(FILE_IO, B).py("ledger.py", &module(5)).is(Culprit, ""),
    ];
    vec![finding("posix-lock-dropped", Proven, "closing fd 4 dropped the record lock on ledger that fd 3 holds", acts)]
}

fn held_by_fork() -> Vec<Finding> {
    let acts = vec![
        act(0, 3, 1, Opened, "socket").of("TCP 0.0.0.0:7000").own("socket.socket", A).py("port.py", &module(3)),
        act(700, 3, 1, Inherited, "")
            .of("TCP 0.0.0.0:7000")
            .by(CHILD, CHILD)
            .py("port.py", &module(4))
            .is(Culprit, "never used"),
        act(820, 3, 1, Closed, "close").own("socket.socket", A).py("port.py", &module(6)),
        act(990, 3, 2, Used, "bind")
            .of("TCP 0.0.0.0:7000")
            .fails("EADDRINUSE")
            .py("port.py", &module(7))
            .is(Victim, ""),
    ];
    vec![finding("held-by-fork", Likely, "TCP 0.0.0.0:7000 was closed as fd 3 and is kept open by pid 4243", acts)]
}

fn fd_leak() -> Vec<Finding> {
    let open = |micros, fd| {
        act(micros, fd, 1, Opened, "openat").of("/proc/self/statm").py("memory.py", &[(4, "resident"), (31, "watch")])
    };
    let acts =
        vec![open(0, 3).is(RootCause, "the first of them"), open(44_000_000, 43).is(Culprit, "the last of them")];
    vec![finding(
        "fd-leak",
        Likely,
        "41 of /proc/self/statm (openat) are open, opened at one place, and none was ever closed (of the eldest 4 were \
         watched for 13 s: not used)",
        acts,
    )]
}

fn fd_limit() -> Vec<Finding> {
    let at = |act: Act| act.py("sizes.py", &[(4, "size"), (31, "scan")]);
    let acts = vec![
        at(act(0, 1023, 1, Opened, "openat").of("in/1021.bin"))
            .is(Culprit, "one of those that most of the open ones are like"),
        at(act(30_000, -1, 1, Opened, "openat").fails("EMFILE")).is(Victim, "found no number left"),
    ];
    vec![finding(
        "fd-limit",
        Proven,
        "openat failed with EMFILE: the process has as many descriptors as it may; 1024 are open, 1021 like in/1021.bin \
         (openat), 3 like /dev/pts/0 (openat)",
        acts,
    )]
}

fn exec_leak() -> Vec<Finding> {
    let acts = vec![
        act(0, 3, 1, Opened, "openat").of("data.mdb").py("shop.py", &module(3)).is(Culprit, "without O_CLOEXEC"),
        act(9_100, 3, 1, Inherited, "")
            .of("data.mdb")
            .by(CHILD, CHILD)
            .named("mailer")
            .is(Victim, "through exec of mailer"),
    ];
    vec![finding("exec-leak", Proven, "mailer (pid 4243) inherited fd 3, data.mdb, open for reading and writing", acts)]
}

fn cloexec_race() -> Vec<Finding> {
    const SHELL: u32 = 4250;
    let acts = vec![
        act(0, 6, 1, Opened, "socket")
            .of("TCP")
            .by(PID, CHILD)
            .c("net.c", &[(2, "connector")])
            .is(Culprit, "without SOCK_CLOEXEC"),
        act(7, 6, 1, Inherited, "")
            .of("TCP")
            .by(SHELL, SHELL)
            .named("sh")
            .is(Victim, "forked by thread 4244, then exec of sh"),
        act(11, 6, 1, Used, "fcntl")
            .of("TCP")
            .by(PID, CHILD)
            .c("net.c", &[(3, "connector")])
            .remark("FD_CLOEXEC, too late"),
    ];
    vec![finding("cloexec-race", Proven, "sh (pid 4250) got fd 6, a socket, between socket() and FD_CLOEXEC", acts)]
}
