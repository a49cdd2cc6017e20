use serde_json::Value;

use super::*;
use crate::{
    detect::finding::{Confidence, Frame, Name, Role, Verb},
    sink::{
        FindingCounts,
        fixture::{self, START, Say, act, finding, matches_file},
    },
};

fn example() -> Finding {
    finding(
        "stale-close",
        Confidence::Proven,
        "fd 3 was closed by an object that owned generation 1",
        vec![
            act(0, 3, 1, Verb::Opened, "openat")
                .of("/dev/zero")
                .own("_io.FileIO", 0x7f12_3456_7180)
                .py("a.py", &[(2, "<module>")]),
            act(310, 3, 1, Verb::Closed, "close")
                .of("/dev/zero")
                .py("a.py", &[(4, "<module>")])
                .is(Role::RootCause, ""),
            act(420, 3, 2, Verb::Closed, "close")
                .of("/dev/zero")
                .own("_io.FileIO", 0x7f12_3456_7180)
                .py("a.py", &[(6, "<module>")])
                .is(Role::Culprit, "owned generation 1"),
        ],
    )
}

fn written(findings: &[Finding]) -> String {
    let mut sink = JsonSink::new(Vec::new());
    sink.meta(&fixture::meta("python3 a.py")).unwrap();
    let mut counts = FindingCounts::default();
    for finding in findings {
        counts.add(finding);
        sink.finding(finding).unwrap();
    }
    let by_class = vec![("open", 2), ("close", 5)];
    sink.loss(&Loss { time: START + 9_000, since: START, by_class: by_class.clone() }).unwrap();
    let summary = Summary {
        events: 12_345,
        produced: 12_352,
        lost: 7,
        lost_by_class: by_class,
        uncertain_ns: 9_000,
        findings: counts,
        duration_ns: 1_000_000_000,
    };
    sink.end(&summary).unwrap();
    String::from_utf8(sink.into_inner()).unwrap()
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn lines_are_as_they_were_promised() {
    let text = written(&[example()]);
    matches_file("src/sink/json/snapshots/run.jsonl", &text);
    for (seq, line) in parsed(&text).iter().enumerate() {
        assert_eq!(line["schema"], "fdtrace/1");
        assert_eq!(line["seq"], seq);
    }
    let finding = &parsed(&text)[1];
    let keys = "type rule confidence severity pid process fd generation message culprit victim root_cause timeline \
        incident complete advice time time_iso";
    for key in keys.split_whitespace() {
        assert!(finding.get(key).is_some(), "{key}");
    }
    assert_eq!(finding["culprit"]["owner"]["address"], "0x7f1234567180");
    assert_eq!(
        (&finding["culprit"]["python"][0]["file"], &finding["culprit"]["python"][0]["line"]),
        (&"a.py".into(), &6.into())
    );
    assert_eq!(finding["time_iso"], "2025-11-23T11:00:00.000420000Z");
}

#[test]
fn names_are_lossless_and_harmless() {
    let hostile: [&[u8]; 6] = [
        b"\x1b[2J\nforged\x07\x00\x7f",
        "\u{9b}31m \u{202e}gpj.exe\u{2028}\u{200b}\u{feff} \u{e0041}".as_bytes(),
        b"not \xff\xfe UTF-8 \x1b[0m",
        "Gr\u{fc}\u{df}e \u{4e16}\u{754c} \u{1f980} \" \\ / \\x1b".as_bytes(),
        b"",
        &[b'x'; 5000],
    ];
    for bytes in hostile {
        let name = Name::new(bytes);
        let mut found = example();
        found.process = name.clone();
        found.timeline[0].object = name.clone();
        found.timeline[0].who.task = Some(name.clone());
        let frame = Frame { function: name.clone(), file: Some(name.clone()), line: None, module: None, source: None };
        found.timeline[0].who.native = [frame].into();
        let text = written(&[found]);
        assert!(
            !text.chars().any(
                |c| (c.is_control() && c != '\n') || matches!(c, '\u{200b}' | '\u{2028}' | '\u{202e}' | '\u{feff}')
            )
        );
        let lines = parsed(&text);
        assert_eq!(lines.len(), 4, "a record is a line");

        let first = &lines[1]["timeline"][0];
        for (holder, key) in [(&lines[1], "process"), (first, "object"), (first, "task"), (&first["native"][0], "file")]
        {
            let exact = holder.get(format!("{key}_b64"));
            match str::from_utf8(bytes) {
                Ok(text) => assert_eq!((holder[key].as_str(), exact), (Some(text), None), "{key}"),
                Err(_) => {
                    assert_eq!(holder[key], r"not \xff\xfe UTF-8 \x1b[0m");
                    assert_eq!(exact.unwrap(), "bm90IP/+IFVURi04IBtbMG0=");
                }
            }
        }
    }
}

#[test]
fn marks_are_lines() {
    let mut sink = JsonSink::new(Vec::new());
    sink.meta(&fixture::meta("pytest")).unwrap();
    sink.mark(&Mark { time: START, pid: 7, tid: 8, number: 9 }).unwrap();
    let line = parsed(str::from_utf8(&sink.into_inner()).unwrap()).remove(1);
    let numbers = ["time", "pid", "tid", "number"].map(|key| line[key].as_u64().unwrap());
    assert_eq!((line["type"].as_str(), numbers), (Some("mark"), [START, 7, 8, 9]));
}

#[test]
fn a_line_that_was_refused_leaves_no_gap() {
    /// Refuses every other write, as a disk that fills up and is cleared.
    struct Moody(Vec<u8>, bool);

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { self.0.write(bytes) } else { Err(io::ErrorKind::StorageFull.into()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut sink = JsonSink::new(Moody(Vec::new(), false));
    let results: Vec<bool> = (0..6).map(|_| sink.finding(&example()).is_ok()).collect();
    assert_eq!(results, [true, false, true, false, true, false]);
    let lines = parsed(str::from_utf8(&sink.into_inner().0).unwrap());
    assert_eq!(lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
}
