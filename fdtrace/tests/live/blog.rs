//! The program that fdtrace began with: closed behind the object's back, and the old object closes the new file.

use super::harness::{Scratch, pythons, scripted, trace};

const BLOG: &str = "\
import os
f = open('/dev/zero')
f.read(1)
os.close(f.fileno())

f = open('/dev/zero')
f.read(1)
";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn told_on_every_python() {
    for (name, report) in scripted(&[], "a.py", BLOG, pythons()) {
        assert_eq!(report.status, Some(1), "{name}: the program's own status\n{}", report.stderr);
        let hit = report.the("use-after-close");
        assert_eq!((hit["fd"].as_i64(), hit["confidence"].as_str()), (Some(3), Some("proven")), "{name}");
        assert_eq!((hit["victim"]["call"].as_str(), hit["victim"]["error"].as_str()), (Some("read"), Some("EBADF")));
        assert_eq!(hit["culprit"]["call"], "close", "{name}: what ended the generation that was read");
        let generation = hit["generation"].as_u64().expect("a generation");
        assert_eq!(hit["culprit"]["generation"], generation, "{name}");
        let timeline = hit["timeline"].as_array().expect("a timeline");
        let of = |number: u64, verb: &str| {
            timeline.iter().any(|act| act["generation"] == number && act["verb"] == verb && act["fd"] == 3)
        };
        for number in [generation - 1, generation] {
            assert!(of(number, "opened") && of(number, "closed"), "{name}: generation {number} in {timeline:#?}");
        }
        // One root cause, told once.
        let incident = &hit["incident"];
        assert_eq!(&report.the("stale-close")["incident"], incident, "{name}");
        let headings = report.stdout.lines().filter(|line| line.starts_with("error[") || line.starts_with("warning["));
        assert_eq!(headings.count(), 1, "{name}: one incident\n{}", report.stdout);
        assert_eq!(report.end()["lost"], 0, "{name}");
    }
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn its_clean_twin_is_left_alone() {
    for (name, report) in scripted(&[], "clean.py", &BLOG.replace("os.close(f.fileno())", "f.close()"), pythons()) {
        assert_eq!((report.status, report.all()), (Some(0), vec![]), "{name}\n{}", report.stdout);
    }
}

/// The number had many lives since its owner lost it: who closed those is not to blame for anything.
const LONG_AGO: &str = "\
import os
f = open('/dev/zero', 'rb', 0)
f.read(1)
os.close(f.fileno())
for _ in range(40):
    os.close(os.open('/dev/full', os.O_RDONLY))
try: f.read(1)
except OSError: pass
try: f.close()
except OSError: pass
";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn a_bystander_of_later_is_not_to_blame() {
    for (name, report) in scripted(&["--notes"], "ago.py", LONG_AGO, pythons()) {
        let ended = report.the("foreign-close")["generation"].as_u64().expect("a generation");
        for rule in ["use-after-close", "double-close"] {
            let found = report.the(rule);
            assert_eq!(found["generation"], ended, "{name}: {rule}: {}", report.stdout);
            for part in ["culprit", "root_cause", "victim"] {
                let line = found[part]["python"][0]["line"].as_u64();
                assert!(line != Some(6), "{name}: {rule}: line 6 is the {part}\n{}", report.stdout);
            }
        }
    }
}

/// The dynamic linker says what it is about to do, into a full pipe: the interpreter is looked at before it is all there.
const SLOWLY: &str = "{ head -c 65536 /dev/zero; LD_DEBUG=reloc \"$0\" \"$1\" 2>&1; } | { sleep 1; cat > /dev/null; }";

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn told_of_an_interpreter_that_starts_slowly() {
    let scratch = Scratch::new();
    let script = scratch.write("ago.py", LONG_AGO);
    for python in pythons() {
        let name = python.display().to_string();
        let report = trace(
            &["--notes"],
            &["sh".as_ref(), "-c".as_ref(), SLOWLY.as_ref(), python.as_os_str(), script.as_os_str()],
        );
        let found = report.the("foreign-close");
        assert_eq!(found["culprit"]["python"][0]["line"], 4, "{name}\n{}", report.stdout);
    }
}
