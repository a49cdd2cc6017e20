//! Who is to blame, and for what: not whoever was there by chance.

use super::harness::{known_pythons, pythons, scripted};

/// The loop's object had other numbers of generations before it than the number that it is asked for.
const LATE_UNREGISTER: &str = "\
import select, socket
for _ in range(5): select.epoll().close()
loop = select.epoll()
a, b = socket.socketpair()
number = a.fileno()
loop.register(number)
a.close()
try: loop.unregister(number)
except OSError: pass
";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn the_owner_of_a_loop_is_not_asked_about_what_it_watches() {
    for (name, report) in scripted(&[], "late.py", LATE_UNREGISTER, pythons()) {
        let [ctl, used] = ["epoll-stale-ctl", "use-after-close"].map(|rule| report.the(rule));
        assert_eq!(ctl["confidence"], "proven", "{name}");
        for key in ["confidence", "incident", "generation", "fd"] {
            assert_eq!(ctl[key], used[key], "{name}: {key}");
        }
    }
}

/// A number that was closed long ago; meanwhile a function has opened and closed a file of its own by it.
const BYSTANDER: &str = "\
import os
stale = os.open('/dev/zero', os.O_RDONLY)
os.close(stale)
def load():
    fd = os.open('/dev/zero', os.O_RDONLY)
    os.read(fd, 1)
    os.close(fd)
def log(fd):
    try: os.write(fd, b'x')
    except OSError: pass
load()
log(stale)
";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn who_closes_what_it_opened_is_no_culprit() {
    for (name, report) in scripted(&[], "load.py", BYSTANDER, known_pythons()) {
        let hit = report.the("use-after-close");
        assert_eq!(
            (&hit["confidence"], &hit["culprit"]),
            (&"proven".into(), &serde_json::Value::Null),
            "{name}: {hit:#}"
        );
    }
}
