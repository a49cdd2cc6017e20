//! When the ring is too small: everything lost is counted, and nothing is called proven over the gap.

use super::harness::{Scratch, trace};

/// Ten thousand opens and closes as fast as they go, and in between the blog's mistake; five times, with as many
/// seconds between as it is told.
const STORM: &str = "\
import os, sys, time
for i in range(5):
    time.sleep(float(sys.argv[1]))
    for j in range(5000):
        os.close(os.open('/dev/null', os.O_RDONLY))
    f = open('/dev/zero')
    os.close(f.fileno())
    try:
        f.read(1)
    except OSError:
        pass
    f = None
    for j in range(5000):
        os.close(os.open('/dev/null', os.O_RDONLY))
";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn everything_is_counted_and_nothing_proven() {
    let scratch = Scratch::new();
    let script = scratch.write("storm.py", STORM);
    let mut lossy = 0;
    for _ in 0..5 {
        let report = trace(&["--ring-size", "4"], &["python3".as_ref(), script.as_os_str(), "0".as_ref()]);
        let end = report.end();
        let count = |key: &str| end[key].as_u64().expect("a count");
        assert_eq!(count("produced"), count("events") + count("lost"), "{end}");
        if count("lost") == 0 {
            continue;
        }
        lossy += 1;
        // The first loss comes within the first of the storms: no finding has a complete window.
        for finding in report.lines.iter().filter(|line| line["type"] == "finding") {
            let proven = finding["confidence"] == "proven";
            assert!(!(proven && finding["complete"] == false), "{finding:#}");
        }
        let losses = report.lines.iter().filter(|line| line["type"] == "loss").count();
        assert!(losses > 0, "a loss is told where it happened");
    }
    assert!(lossy > 0, "a ring of one page did not overflow: the test tests nothing");
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn nothing_is_lost_with_the_default_ring() {
    let scratch = Scratch::new();
    let script = scratch.write("storm.py", STORM);
    // Time to catch up between storms: how fast a debug build empties the ring on a busy machine is not the question.
    let report = trace(&["--require-complete"], &["python3".as_ref(), script.as_os_str(), "1".as_ref()]);
    assert_eq!((report.status, report.end()["lost"].as_u64()), (Some(0), Some(0)));
    assert_eq!(report.count("use-after-close"), 5);
}
