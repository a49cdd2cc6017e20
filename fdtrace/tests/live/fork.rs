//! One epoll instance on both sides of a fork: no call fails, and somebody is not woken.

use super::harness::{Scratch, trace};

/// A loop in the parent, torn down by the child as `loop.close()` does it; the parent goes deaf.
const CHILD_CLOSES: &str = "\
import asyncio, os
async def main():
    loop = asyncio.get_running_loop()
    r, w = os.pipe()
    hit = asyncio.Event()
    loop.add_reader(r, hit.set)
    await asyncio.sleep(0.02)
    pid = os.fork()
    if pid == 0:
        loop._selector.unregister(r)
        os._exit(0)
    os.waitpid(pid, 0)
    os.write(w, b'x')
    try:
        await asyncio.wait_for(hit.wait(), 0.3)
    except asyncio.TimeoutError:
        print('deaf')
asyncio.run(main())
";

/// The loop is used by the child; the parent's destructor takes the registrations of both away.
const BOTH_USE: &str = "\
import asyncio, os, time
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(asyncio.sleep(0.01))
pid = os.fork()
if pid:
    time.sleep(0.1)
    loop.close()
    os.waitpid(pid, 0)
else:
    loop.run_until_complete(asyncio.sleep(0.3))
    os._exit(0)
";

/// The child inherits the instance and leaves it alone.
const CHILD_HOLDS: &str = "\
import os, select
e = select.epoll()
r, w = os.pipe()
e.register(r, select.EPOLLIN)
pid = os.fork()
if pid == 0:
    os.read(r, 1)
    os._exit(0)
e.poll(0.05)
e.unregister(r)
e.poll(0.05)
os.write(w, b'x')
os.waitpid(pid, 0)
";

/// A daemon's parent creates, forks and leaves; only the child uses it.
const PARENT_LEAVES: &str = "\
import os, select, time
e = select.epoll()
r, w = os.pipe()
e.register(r, select.EPOLLIN)
if os.fork():
    os._exit(0)
time.sleep(0.1)
e.poll(0.01)
e.unregister(r)
";

fn run(source: &str) -> super::harness::Report {
    let scratch = Scratch::new();
    let script = scratch.write("fork.py", source);
    trace(&[], &["python3".as_ref(), script.as_os_str()])
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_child_that_closes_the_loop_makes_the_parent_deaf() {
    let report = run(CHILD_CLOSES);
    let finding = report.the("epoll-shared-across-fork");
    assert_eq!(finding["confidence"], "proven");
    let (culprit, victim) = (&finding["culprit"], &finding["victim"]);
    assert_ne!(culprit["pid"], victim["pid"], "both processes are named");
    assert_eq!((culprit["call"].as_str(), culprit["verb"].as_str()), (Some("epoll_ctl"), Some("unregistered")));
    let message = finding["message"].as_str().expect("a message");
    for part in ["removed the registration of fd", "will not be woken"] {
        assert!(message.contains(part), "{message}");
    }
    for pid in [culprit["pid"].to_string(), victim["pid"].to_string()] {
        assert!(message.contains(&pid), "{pid} in {message}");
    }
    assert!(!report.stdout.contains("EBADF"), "nothing failed:\n{}", report.stdout);
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_loop_used_on_both_sides() {
    let report = run(BOTH_USE);
    let finding = report.the("epoll-shared-across-fork");
    assert_eq!(finding["confidence"], "proven", "{}", report.stdout);
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn holding_is_not_using() {
    for source in [CHILD_HOLDS, PARENT_LEAVES] {
        let report = run(source);
        assert_eq!(report.all(), Vec::<&str>::new(), "{}", report.stdout);
    }
}
