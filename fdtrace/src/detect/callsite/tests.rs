use super::*;
use crate::{
    detect::finding::{Name, Severity, Who},
    sink::fixture::{act, finding},
};

fn at(mut act: Act, generation: u32, functions: &[&str]) -> Act {
    let frame = |function: &&str| Frame {
        function: Name::from(*function),
        file: None,
        line: None,
        module: ["open", "open64", "close", "pipe"].contains(function).then(|| Name::from("/usr/lib/libc.so.6")),
        source: None,
    };
    act.generation = Some(generation);
    act.who = Who { native: functions.iter().map(frame).collect(), ..Who::default() };
    act
}

/// Opened, closed, opened, closed; by these functions. What is made of the suspicion.
fn told(stacks: [&[&str]; 4]) -> Option<Confidence> {
    let [own, earlier, hit, closer] = stacks;
    let timeline = vec![
        at(act(0, 3, 1, Verb::Opened, "openat"), 1, own),
        at(act(1, 3, 1, Verb::Closed, "close"), 1, earlier),
        at(act(2, 3, 2, Verb::Opened, "openat"), 2, hit),
        at(act(3, 3, 2, Verb::Closed, "close"), 2, closer),
    ];
    let base = finding("stale-close", Confidence::Possible, "", timeline.clone());
    let mut finding = Finding {
        root_cause: Some(timeline[1].clone()),
        culprit: Some(timeline[3].clone()),
        complete: true,
        severity: Severity::High,
        ..base
    };
    weigh(&mut finding).then_some(finding.confidence)
}

#[test]
fn a_destructor_of_what_the_earlier_generation_was() {
    let drop_stream = [
        "close",
        "core::ptr::drop_in_place<std::os::fd::owned::OwnedFd>",
        "core::ptr::drop_in_place<std::os::unix::net::stream::UnixStream>",
        "main",
    ];
    let pair = ["socketpair", "<std::os::unix::net::stream::UnixStream>::pair", "main"];
    let create = ["open", "std::fs::File::create", "main"];
    let raw = ["close", "xcb_disconnect", "main"];
    assert_eq!(told([&pair, &raw, &create, &drop_stream]), Some(Confidence::Likely));
    // The object closes what is its own, and somebody else goes on using the number.
    assert_eq!(told([&create, &raw, &pair, &drop_stream]), None);
    // Two of a kind: whose the second was is not known.
    assert_eq!(told([&pair, &raw, &pair, &drop_stream]), Some(Confidence::Possible));
}

/// Opened, closed, used; by these functions. Who is to blame for the use?
fn blamed(number: u32, stacks: [&[&str]; 3]) -> bool {
    let [opener, closer, user] = stacks;
    let timeline = vec![
        at(act(0, 3, number, Verb::Opened, "openat"), number, opener),
        at(act(1, 3, number, Verb::Closed, "close"), number, closer).with_role(Role::Culprit, "it"),
        at(act(2, 3, number, Verb::Used, "write"), number, user).with_role(Role::Victim, "found it closed"),
    ];
    let base = finding("use-after-close", Confidence::Proven, "", timeline.clone());
    let mut finding = Finding {
        culprit: Some(timeline[1].clone()),
        victim: Some(timeline[2].clone()),
        generation: Some(number),
        ..base
    };
    assert!(weigh(&mut finding));
    assert_eq!(finding.culprit.is_some(), finding.timeline[1].role.is_some());
    finding.culprit.is_some()
}

#[test]
fn who_closes_what_it_opened_for_a_moment_is_not_to_blame() {
    let [load, unload, log] = [["open", "load", "main"], ["close", "load", "main"], ["write", "log", "main"]];
    assert!(!blamed(7, [&load, &unload, &log]));
    // There is no other that could have been meant.
    assert!(blamed(1, [&load, &unload, &log]));
    // It gave the number on, and closed it too early.
    assert!(blamed(7, [&load, &unload, &["write", "log", "load"]]));
    assert!(blamed(7, [&load, &["close", "unload", "main"], &log]));
    assert!(blamed(7, [&["open", "main", ""], &["close", "main", ""], &log]));
    assert!(blamed(7, [&[], &[], &log]));
}

#[test]
fn libraries_that_open_and_close() {
    let (fopen, fclose) = (["open64", "_IO_new_fopen", "main"], ["close", "_IO_new_fclose", "main"]);
    let (open, close) = (["open64", "main"], ["close", "main"]);
    assert_eq!(told([&fopen, &close, &open, &fclose]), Some(Confidence::Likely));
    assert_eq!(told([&open, &close, &fopen, &fclose]), None);
    assert_eq!(told([&["open64", "opendir"], &close, &open, &["close", "closedir"]]), Some(Confidence::Likely));
}

#[test]
fn finalisers_are_suspicious() {
    let handle = ["uv__fs_close", "node::fs::FileHandle::~FileHandle", "v8::internal::Heap::PerformGarbageCollection"];
    let raw = ["uv__fs_open", "node::fs::Open"];
    let worker = ["uv__fs_open", "worker"];
    assert_eq!(told([&worker, &["uv__fs_close", "worker"], &raw, &handle]), Some(Confidence::Likely));
    assert_eq!(told([&worker, &["uv__fs_close", "worker"], &worker, &handle]), Some(Confidence::Possible));
}

#[test]
fn whoever_opened_it_may_close_it() {
    let (load, main) = (["open", "load"], ["pipe", "main"]);
    assert_eq!(told([&load, &["close", "load"], &main, &["close", "main"]]), None);
    // One function did it all, or nobody knows who did: the history fits, and nothing contradicts.
    assert_eq!(told([&load, &["close", "load"], &load, &["close", "load"]]), Some(Confidence::Possible));
    assert_eq!(told([&[], &[], &[], &[]]), Some(Confidence::Possible));
    assert_eq!(told([&load, &["close", "stop"], &main, &["close", "stop"]]), Some(Confidence::Possible));
}

#[test]
fn who_runs_the_event_loop_has_no_say() {
    let worker = ["open", "uv__fs_open", "worker"];
    let closed = ["close", "uv__fs_close", "worker"];
    let script = ["node::fs::Open", "Builtins_CEntry", "node::InternalCallbackScope::Close", "uv_run"];
    let collector = [
        "close",
        "uv__fs_close",
        "node::fs::FileHandle::Close",
        "node::fs::FileHandle::~FileHandle",
        "v8::internal::Heap::PerformGarbageCollection",
        "Builtins_CEntry",
        "node::InternalCallbackScope::~InternalCallbackScope",
        "uv_run",
    ];
    assert_eq!(told([&worker, &closed, &script, &collector]), Some(Confidence::Likely));
}
