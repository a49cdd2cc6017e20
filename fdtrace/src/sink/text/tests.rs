mod examples;

use super::*;
use crate::{
    detect::finding::{Act, Confidence, Finding, Frame, Name, Role, Severity, Verb},
    sink::{
        FindingCounts,
        fixture::{self, PID, START, Say, act, finding, matches_file, with_source},
    },
};
use examples::{epoll_shared_across_fork, foreign_close, stale_close, use_after_stale_close};

/// What the sink says on both writers when the findings come and the run ends.
fn told(options: TextOptions, findings: &[Finding]) -> (String, String) {
    let mut sink = sink(options);
    for finding in findings {
        sink.finding(finding).unwrap();
    }
    ended(sink, findings)
}

fn sink(options: TextOptions) -> TextSink<Vec<u8>, Vec<u8>> {
    let mut sink = TextSink::new(Vec::new(), Vec::new(), options);
    sink.meta(&fixture::meta("python3 a.py")).unwrap();
    sink
}

fn ended(mut sink: TextSink<Vec<u8>, Vec<u8>>, findings: &[Finding]) -> (String, String) {
    let mut counts = FindingCounts::default();
    findings.iter().for_each(|finding| counts.add(finding));
    sink.end(&Summary { events: 12_345, produced: 12_345, findings: counts, ..Summary::default() }).unwrap();
    (taken(&mut sink.reports), taken(&mut sink.remarks))
}

fn taken(bytes: &mut Vec<u8>) -> String {
    String::from_utf8(std::mem::take(bytes)).unwrap()
}

fn wide(width: usize) -> TextOptions {
    TextOptions { width, ..TextOptions::default() }
}

const SOURCE: &str = r#"import os
file = open("/dev/zero")
file.read(5)
os.close(file.fileno())

file = open("/dev/zero")
file.read(5)
os.close(file.fileno())
"#;

/// The seed program: the root cause, the damage, the visible error, the noise at exit.
fn blog() -> Vec<Finding> {
    let again = act(9_470, 3, 2, Verb::Closed, "close").fails("EBADF").own("_io.FileIO", 0x7f12_3456_7200);
    let mut last = use_after_stale_close().timeline;
    last.push(again.is(Role::Culprit, "at exit"));
    let mut last = finding("double-close", Confidence::Proven, "fd 3 was closed twice", last);
    last.severity = Severity::Note;
    [foreign_close(), stale_close(), use_after_stale_close(), last]
        .map(|found| with_source(found, "a.py", SOURCE))
        .into()
}

#[test]
fn tells_an_incident_once_root_cause_first() {
    for width in [80, 140] {
        let (report, remarks) = told(wide(width), &blog());
        matches_file(&format!("src/sink/text/snapshots/blog-{width}.txt"), &report);
        assert_eq!(remarks, "fdtrace: 4 findings in 1 incident (4 proven); events 12,345, lost 0, uncertain 0 s\n");
        assert_eq!(report.matches("error[").count(), 1);
        assert!(report.starts_with("error[foreign-close]"));
        assert!(report.lines().all(|line| columns(line) <= width), "{report}");
    }
}

#[test]
fn colour_changes_no_word() {
    let (plain, _) = told(wide(80), &blog());
    let (colourful, _) = told(TextOptions { colour: true, ..wide(80) }, &blog());
    assert_ne!(plain, colourful);
    let mut bare = String::new();
    for (at, piece) in colourful.split('\x1b').enumerate() {
        bare.push_str(if at == 0 { piece } else { piece.split_once('m').unwrap().1 });
    }
    assert_eq!(bare, plain);
}

#[test]
fn tells_of_two_processes() {
    for width in [80, 140] {
        let (report, _) = told(wide(width), &epoll_shared_across_fork());
        matches_file(&format!("src/sink/text/snapshots/epoll-{width}.txt"), &report);
    }
}

#[test]
fn hostile_names_stay_in_their_place() {
    let name = |bytes: &[u8]| Name::new(bytes);
    let evil = b"/tmp/\x1b[2J\x1b]0;owned\x07\nerror[stale-close] forged\r\xff\xfe\xe2\x80\xaegpj.exe\xe2\x80\xa8";
    let mut acts: Vec<Act> = stale_close().timeline;
    for act in &mut acts {
        act.object = name(evil);
        act.process = name(b"\x1b[31mred\x9b");
        act.remark = act.remark.take().map(|_| "a \u{9b}31m remark\nof two lines".to_owned());
        act.who.task = Some(name(b"Task\x1b\x00\xff"));
        if let Some(owner) = &mut act.who.owner {
            owner.kind = "evil.\x1b[1mKind\u{202e}".to_owned();
        }
        act.who.python = [Frame {
            function: name(b"f\n\x1b[0m"),
            file: Some(name(&[b"/srv/".as_slice(), &[b'x'; 4000], b"/\x1b[0m\xff.py"].concat())),
            line: Some(u32::MAX),
            module: None,
            source: Some("\tos.close(\x1b[31m\"\\n\")\u{2028}\u{202e}".into()),
        }]
        .into();
    }
    let mut found = finding("stale-close", Confidence::Proven, "a \x1b[31mmessage\nof two lines", acts);
    found.process = name(b"\x1b]0;x\x07");
    for width in [40, 80, 140] {
        let (report, _) = told(wide(width), std::slice::from_ref(&found));
        matches_file(&format!("src/sink/text/snapshots/hostile-{width}.txt"), &report);
        for character in report.chars().filter(|character| *character != '\n') {
            assert!(!character.is_control(), "{character:?}");
            assert!(!matches!(character, '\u{2028}'..='\u{202e}'), "{character:?}");
        }
        assert!(!report.lines().skip(1).any(|line| line.starts_with("error[")), "a forged line:\n{report}");
    }
}

#[test]
fn a_quiet_run_is_one_line() {
    let (report, remarks) = told(wide(80), &[]);
    assert_eq!(report, "");
    assert_eq!(remarks, "fdtrace: no findings; events 12,345, lost 0, uncertain 0 s\n");
}

#[test]
fn lost_events_are_never_called_clean() {
    let mut sink = sink(wide(80));
    let lost_by_class = vec![("open", 3), ("close", 12), ("stack", 4321)];
    let summary =
        Summary { events: 90, produced: 105, lost: 15, lost_by_class, uncertain_ns: 240_000_000, ..Summary::default() };
    sink.end(&summary).unwrap();
    let expected = "fdtrace: no findings, but events are missing; events 90, lost 15 (open 3, close 12), left out 4,321 (stacks, paths), \
         uncertain 0.24 s\n";
    assert_eq!(taken(&mut sink.remarks), expected);
}

#[test]
fn says_what_is_missing_from_the_window() {
    let mut found = stale_close();
    (found.complete, found.confidence) = (false, Confidence::Possible);
    let mut sink = sink(wide(80));
    let loss = |since, time, by_class| Loss { since: START + since, time: START + time, by_class };
    sink.loss(&loss(0, 100_000, vec![("close", 7), ("open", 2)])).unwrap();
    sink.loss(&loss(200_000, 300_000, vec![("close", 1)])).unwrap();
    sink.loss(&loss(900_000_000, 990_000_000, vec![("open", 99)])).unwrap();
    sink.finding(&found).unwrap();
    let (report, _) = ended(sink, &[found]);
    assert!(report.starts_with("warning[stale-close]"), "a heuristic is no error:\n{report}");
    let note = "  note events are missing from this window: close 8, open 2; it may have been\n       somebody else\n";
    assert!(report.contains(note), "{report}");
}

#[test]
fn already_open_descriptors_are_announced() {
    let mut sink = TextSink::new(Vec::new(), Vec::new(), wide(80));
    sink.meta(&RunMeta { already_open: 17, ..fixture::meta("python3 a.py") }).unwrap();
    assert_eq!(taken(&mut sink.remarks), "fdtrace: 17 descriptors were open already; who opened them is not known\n");
}

#[test]
fn holds_an_incident_until_it_is_quiet() {
    let [root, damage, error, _] = blog().try_into().unwrap();
    let mut sink = sink(wide(80));
    sink.finding(&root).unwrap();
    sink.flush_incidents(root.time + 499_000_000).unwrap();
    assert_eq!(taken(&mut sink.reports), "");
    sink.finding(&damage).unwrap();
    sink.flush_incidents(damage.time + 499_000_000).unwrap();
    assert_eq!(taken(&mut sink.reports), "", "what is new makes it wait anew");
    sink.flush_incidents(damage.time + 500_000_000).unwrap();
    assert!(taken(&mut sink.reports).contains("also stale-close"));

    // What comes after is a sequel, not a second incident.
    sink.finding(&error).unwrap();
    let (report, _) = ended(sink, &[error]);
    assert!(report.starts_with("error[use-after-close]"), "{report}");
    assert!(report.contains("follows foreign-close, told above"), "{report}");
}

#[test]
fn patience_and_room_are_limited() {
    let numbered = |at: u64| {
        let mut found = stale_close();
        found.time += at * 400_000_000;
        let line = u32::try_from(at).unwrap();
        found.culprit.as_mut().unwrap().who.change_frames(|frame| frame.line = Some(line));
        found
    };
    let mut sink = sink(wide(80));
    let before_told = (0..40).take_while(|at| {
        sink.finding(&numbered(*at)).unwrap();
        taken(&mut sink.reports).is_empty()
    });
    assert_eq!(before_told.count(), 13, "5 s, although never quiet for 0.5 s");

    let mut sink = TextSink::new(Vec::new(), Vec::new(), TextOptions { findings: 4, ..wide(80) });
    let mut many: Vec<Finding> = (0..4).map(numbered).collect();
    many.iter_mut().for_each(|found| found.time = START);
    many.iter().for_each(|found| sink.finding(found).unwrap());
    assert!(!taken(&mut sink.reports).is_empty());
}

#[test]
fn the_end_of_a_process_ends_the_wait() {
    let mut sink = sink(wide(80));
    sink.finding(&stale_close()).unwrap();
    sink.process_ended(PID + 1).unwrap();
    assert_eq!(taken(&mut sink.reports), "");
    sink.process_ended(PID).unwrap();
    assert!(taken(&mut sink.reports).starts_with("error[stale-close]"));
}

#[test]
fn a_storm_is_told_once_with_its_count() {
    // The same mistake in forked workers: an incident of its own each time, at other numbers and addresses.
    let storm: Vec<Finding> = (0..10_000)
        .map(|at: u64| {
            let mut found = stale_close();
            let later = at * 1_000_000;
            found.timeline.iter_mut().for_each(|act| act.time += later);
            (found.incident, found.time, found.pid) = (at + 1, found.time + later, PID + (at % 7) as u32);
            found.message = found.message.replace("fd 3", &format!("fd {}", at % 50));
            found
        })
        .collect();
    let (report, remarks) = told(wide(120), &storm);
    assert_eq!(report.matches("error[").count(), 1);
    let again = "seen again  stale-close  incident 1  9,999 times  first 0.001 s, last 9.999 s into the trace\n";
    assert!(report.contains(again), "{report}");
    assert!(remarks.starts_with("fdtrace: 10,000 findings in 10,000 incidents (10,000 proven); "));
}

#[test]
fn equal_findings_of_one_incident_are_counted() {
    let mut storm = vec![stale_close()];
    storm.extend((0..5_000).map(|at| {
        let mut found = use_after_stale_close();
        found.time += at * 10_000;
        found
    }));
    let (report, _) = told(wide(120), &storm);
    assert_eq!(report.matches("error[").count(), 1);
    assert!(report.contains("(seen 5,000\n                                  times within 0.049 s)\n"), "{report}");
}

#[test]
fn notes_are_told_only_with_what_they_explain() {
    let mut note = stale_close();
    (note.rule, note.severity, note.incident) = ("double-close", Severity::Note, 2);
    let findings = [note.clone()];
    let (report, remarks) = told(wide(80), &findings);
    assert_eq!(report, "");
    assert_eq!(remarks, "fdtrace: no findings, 1 note not shown; events 12,345, lost 0, uncertain 0 s\n");

    let (_, remarks) = told(wide(80), &[note.clone(), stale_close()]);
    assert!(remarks.starts_with("fdtrace: 1 finding in 1 incident (1 proven), 1 note not shown;"), "{remarks}");

    let (report, _) = told(TextOptions { notes: true, ..wide(80) }, &findings);
    assert!(report.starts_with("note[double-close]"));

    note.incident = 1;
    let (report, remarks) = told(wide(80), &[note, stale_close()]);
    assert!(report.starts_with("error[stale-close]") && report.contains("also double-close"), "{report}");
    assert!(remarks.starts_with("fdtrace: 2 findings in 1 incident"));
}

#[test]
fn long_timelines_are_cut_in_the_middle() {
    let mut acts = vec![act(0, 3, 1, Verb::Opened, "openat").of("/data/big").py("a.py", &[(1, "f")])];
    acts.extend((1..500).map(|at| act(at * 10, 3, 1, Verb::Used, "read").py("a.py", &[(2, "f")])));
    acts[250] = act(2_500, 3, 1, Verb::Closed, "close").py("a.py", &[(3, "g")]).is(Role::Culprit, "");
    acts.push(act(6_000, 3, 1, Verb::Used, "read").fails("EBADF").py("a.py", &[(2, "f")]).is(Role::Victim, ""));
    let (report, _) = told(wide(80), &[finding("use-after-close", Confidence::Proven, "read failed", acts)]);
    matches_file("src/sink/text/snapshots/cut-80.txt", &report);
    assert_eq!(report.matches(" more …").count(), 2);
}

#[test]
fn addresses_stay_apart() {
    let own = |micros, address| act(micros, 3, 1, Verb::Used, "read").own("_io.FileIO", address);
    let acts = vec![own(0, 0x7f00_0000_1180), own(1, 0x7f00_0000_2180)];
    let (report, _) = told(wide(80), &[finding("two-owners", Confidence::Proven, "two", acts)]);
    assert!(report.contains("0x7f…1180") && report.contains("0x7f…2180"), "{report}");
}

#[test]
fn native_frames_name_the_caller_of_the_c_library() {
    let module = |function: &str, module: &str| Frame {
        function: function.into(),
        file: None,
        line: None,
        module: Some(module.into()),
        source: None,
    };
    let mut close = act(5, 3, 1, Verb::Closed, "close").is(Role::Culprit, "");
    close.who.native = [
        module("__close", "/lib/x86_64-linux-gnu/libc.so.6"),
        module("xcb_disconnect", "/usr/lib/libxcb.so.1"),
        module("main", "/opt/app"),
    ]
    .into();
    let (report, _) = told(wide(100), &[finding("use-after-close", Confidence::Likely, "it failed", vec![close])]);
    assert!(report.contains("closed  close()  /usr/lib/libxcb.so.1  xcb_disconnect  ← culprit"), "{report}");
    assert!(report.contains("  culprit     xcb_disconnect (/usr/lib/libxcb.so.1) ‹ main (/opt/app)"), "{report}");
}

#[test]
fn no_width_and_no_act_is_too_odd() {
    let odd = Act {
        time: 0,
        tid: u32::MAX,
        generation: None,
        object: Name::new(&[b'/'; 4096]),
        remark: Some(String::new()),
        ambiguous: true,
        ..act(0, -1, 0, Verb::UnseenEnd, "").own("", u64::MAX).py("", &[(0, "")])
    };
    let late = Act { time: u64::MAX, ..odd.clone() }.is(Role::Victim, "");
    let empty = Finding { timeline: Vec::new(), ..finding("unheard-of", Confidence::Likely, "", vec![odd.clone()]) };
    let strange = finding("unheard-of", Confidence::Likely, &"x".repeat(500), vec![late, odd]);
    for width in 0..200 {
        for mut found in [empty.clone(), strange.clone()].into_iter().chain(blog()).chain(epoll_shared_across_fork()) {
            found.severity = Severity::High;
            let (report, _) = told(wide(width), &[found]);
            assert!(!report.is_empty());
        }
    }
}

#[test]
fn each_rule_has_a_rank() {
    for rule in crate::detect::rules::all() {
        assert!(incident::CAUSES_FIRST.contains(&rule.name), "{}", rule.name);
    }
}

fn columns(line: &str) -> usize {
    crate::escape::columns(line)
}
