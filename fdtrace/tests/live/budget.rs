//! What fdtrace may take: over it, it leaves out what it can do without, and says so.

use super::harness::{Scratch, trace};

/// A correct program that does nothing but open and close for so many seconds.
const BUSY: &str = "\
import os, sys, time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for _ in range(500):
        with open('/dev/null') as f: pass
        os.close(os.dup(1))
";

/// Many descriptors, and time to be told so.
const MANY: &str = "\
import os, resource, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
left = 60000
while left > 0:
    here = min(left, most - 20)
    left -= here
    if os.fork() == 0:
        for _ in range(here): os.open('/dev/null', os.O_RDONLY)
        time.sleep(20)
        os._exit(0)
time.sleep(20)
";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_busy_program_is_followed_for_one_hundredth_of_a_processor() {
    let scratch = Scratch::new();
    let script = scratch.write("busy.py", BUSY);
    let report = trace(&["--max-cpu", "1"], &["python3".as_ref(), script.as_os_str(), "4".as_ref()]);
    let end = report.end();
    let count = |key: &str| end[key].as_u64().expect("a count");
    assert_eq!(report.status, Some(0));
    assert_eq!(count("produced"), count("events") + count("lost"), "{end}");
    assert!(end["lost_by_class"]["stack"].as_u64() > Some(0), "nothing was left out: {end}");
    assert!(report.stderr.contains("stacks, owners and paths are left out"), "{}", report.stderr);
    // Whatever is missing, nobody is accused.
    assert_eq!(report.all(), Vec::<&str>::new());
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn what_needs_more_memory_than_allowed_is_not_followed() {
    let scratch = Scratch::new();
    let script = scratch.write("many.py", MANY);
    let report = trace(&["--max-memory", "16"], &["python3".as_ref(), script.as_os_str()]);
    assert!(report.stderr.contains("tracing ends") && report.stderr.contains("--max-memory"), "{}", report.stderr);
    assert!(report.end()["duration_ns"].as_u64() < Some(20_000_000_000), "{}", report.end());
}
