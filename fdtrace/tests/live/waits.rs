//! Waits for events: few of them are told, and those that matter are.

use super::harness::{pythons, scripted};

/// Thousands of waits that bring what was asked for, and one that does not.
const GHOST: &str = "
import os, select
events = select.epoll()
r, w = os.pipe()
os.write(w, b'x')
events.register(r, select.EPOLLIN)
for _ in range(20000):
    assert events.poll(1)
copy = os.dup(r)
os.close(r)
assert events.poll(1)
";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn the_one_wait_that_brings_a_ghost_is_told_among_thousands() {
    for (name, report) in scripted(&[], "ghost.py", GHOST, pythons().into_iter().take(2)) {
        assert_eq!(report.status, Some(0), "{name}: {}", report.stderr);
        assert_eq!(report.all(), ["ghost-event"], "{name}: {}", report.stderr);
        let events = report.end()["events"].as_u64().expect("a number");
        assert!(events < 10_000, "{name}: each wait was told: {events} events");
    }
}
