//! With `--late-after`, and while no traced process has threads, the hook on the start of all calls is taken away. What is
//! found has to be the same, there and when it is back.

use super::harness::{Report, known_pythons, scripted};

/// Alone, then with a child, then with a thread; what each does wrong if it is told to.
const PHASES: &str = r#"
import os, select, socket, sys, threading, time
wrong = WRONG
time.sleep(0.3)

# An object whose number was closed behind its back closes the next one.
f = open("/dev/null")
if wrong:
    os.close(f.fileno())
g = open("/dev/zero", "rb", buffering=0)
if wrong:
    try:
        f.close()
        g.read(1)
    except OSError:
        pass
else:
    f.close()
    g.close()

# An entry of an interest list outlives its number.
events = select.epoll()
r, w = os.pipe()
os.write(w, b"x")
events.register(r, select.EPOLLIN)
for _ in range(2000):
    assert events.poll(1)
copy = os.dup(r)
if not wrong:
    events.unregister(r)
os.close(r)
events.poll(0.01)
os.close(copy)
os.close(w)

# Both sides of a fork talk over one connection.
here, there = socket.socketpair()
child = os.fork()
if child == 0:
    if wrong:
        for _ in range(3):
            here.send(b"child")
            time.sleep(0.02)
    os._exit(0)
if wrong:
    for _ in range(3):
        time.sleep(0.01)
        here.send(b"parent")
        time.sleep(0.01)
os.waitpid(child, 0)

# A thread waits for what another one closes.
a, b = os.pipe()
def wait():
    time.sleep(0.3)
    os.read(a, 1)
thread = threading.Thread(target=wait)
thread.start()
time.sleep(0.6)
if wrong:
    os.close(a)
    time.sleep(0.2)
os.write(b, b"x")
thread.join()
"#;

/// Was the hook taken away, and put back when there was a thread?
fn changed(report: &Report) -> bool {
    let away = report.stderr.find("the hook on the start of all calls is taken away");
    let back = report.stderr.rfind("all calls are looked at when they begin");
    let needed = report.stderr.contains("this kernel needs the hook on the start of all calls");
    needed || away.is_some_and(|away| back.is_some_and(|back| away < back))
}

fn run(wrong: bool) -> Vec<(String, Report)> {
    let script = PHASES.replace("WRONG", if wrong { "True" } else { "False" });
    scripted(&["-vv", "--late-after", "0"], "phases.py", &script, known_pythons().take(2)).collect()
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn mistakes_are_found_without_the_hook_on_all_starts() {
    for (name, report) in run(true) {
        assert_eq!(report.status, Some(0), "{name}: {}", report.stderr);
        assert!(changed(&report), "{name}: the hook was there all the time");
        let rules = report.all();
        for rule in ["foreign-close", "stale-close", "use-after-close", "ghost-event", "close-while-blocked"] {
            assert!(rules.contains(&rule), "{name}: {rule} is not among {rules:?}");
        }
    }
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn correct_programs_are_left_alone_without_it() {
    for (name, report) in run(false) {
        assert_eq!(report.status, Some(0), "{name}: {}", report.stderr);
        assert!(changed(&report), "{name}: the hook was there all the time");
        assert!(report.all().is_empty(), "{name}: {:?}", report.all());
    }
}
