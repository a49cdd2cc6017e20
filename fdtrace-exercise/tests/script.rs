//! The same calls are the same changes on every kernel: a fixed list of calls, traced for real, is compared with what is
//! written down in `script.changes`. Needs root: `cargo test -p fdtrace-exercise --test script -- --ignored`.
//!
//! `FDTRACE_BLESS=1` writes the file anew; `FDTRACE_EXERCISER` names the program to trace, where it was moved.

mod common;

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fdtrace::{
    decode::decode,
    model::{Change, World, table::SlotId},
    order::{How, Stamp},
    pipeline::Stages,
    source::live::{Live, Settings},
    syscalls::Arch,
};

const EXPECTED: &str = include_str!("script.changes");

/// Puts changes into words that are the same in every run: no time, no address, no number of a process.
struct Scribe {
    world: World,
    text: String,
    tasks: HashMap<u32, usize>,
}

impl Scribe {
    fn task(&mut self, tid: u32) -> usize {
        let next = self.tasks.len();
        *self.tasks.entry(tid).or_insert(next)
    }

    fn by(&mut self, stamp: &Stamp) -> String {
        let task = self.task(stamp.tid);
        stamp.sys.map_or_else(|| format!("task {task}"), |sys| format!("task {task}: {} = {}", sys.name, stamp.ret))
    }

    fn slot(slot: SlotId, number: u32) -> String {
        format!("table {} fd {} generation {number}", slot.table.0, slot.fd)
    }

    fn take(&mut self, pos: u64, record: &[u8]) {
        let Some(event) = decode(pos, record, Arch::native()).expect("a record that can be read") else { return };
        let mut changes = Vec::new();
        self.world.apply(&event, &mut changes);
        for change in changes {
            if let Some(line) = self.line(&change) {
                let _ = writeln!(self.text, "{line}");
            }
        }
    }

    /// What the tables are; other changes are details for rules.
    fn line(&mut self, change: &Change) -> Option<String> {
        Some(match change {
            Change::Installed { slot, number, by } => {
                let life = self.world.slot(*slot).and_then(|state| state.life(*number)).expect("the new generation");
                let kind = life.data.description.details().map(|details| details.kind);
                let (origin, cloexec) = (life.data.origin, life.data.cloexec);
                let path = life.data.description.details().and_then(|details| details.path.clone());
                let path = path.map(|path| String::from_utf8_lossy(&path.bytes).into_owned());
                // The one path that has a number of a process in it.
                let path = path.map(|path| if path.contains("fdtrace-script-") { "PROGRAM".to_owned() } else { path });
                let what = format!("{kind:?} {path:?} {origin:?} cloexec {cloexec}");
                format!("installed {}: {what} by {}", Self::slot(*slot, *number), self.by(by))
            }
            Change::Removed { slot, number, how, by, late } => {
                let how = match how {
                    How::Closed => "closed",
                    How::Replaced => "replaced",
                    How::Exec => "closed by exec",
                    How::Exit => "closed by exit",
                };
                format!("{how} {} late {late} by {}", Self::slot(*slot, *number), self.by(by))
            }
            Change::BadFd { table, by, met } => {
                let met: Vec<String> = met
                    .iter()
                    .map(|met| format!("{} certain {}", Self::slot(met.slot, met.number), met.certain))
                    .collect();
                format!("bad number in table {}: {met:?} by {}", table.0, self.by(by))
            }
            Change::EpollCtl { slot, op, fd, entry, by, .. } => {
                let entry = entry.as_ref().map_or("no entry", |_| "entry");
                format!(
                    "epoll {op:?} fd {fd} through table {} fd {}: {entry} by {}",
                    slot.table.0,
                    slot.fd,
                    self.by(by)
                )
            }
            Change::Forked { parent, child, table } => {
                let (parent, child) = (self.task(*parent), self.task(*child));
                format!("task {parent} forked task {child}, table {}", table.0)
            }
            Change::Execed { process } => format!("task {} execed", self.task(*process)),
            Change::Exited { process, .. } => format!("task {} exited", self.task(*process)),
            Change::TableDied { table } => format!("table {} died", table.0),
            Change::Lost { .. } => "events are missing".to_owned(),
            Change::Healed { table, .. } => format!("table {} healed", table.0),
            _ => return None,
        })
    }
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn the_same_changes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let text = runtime.block_on(async { trace() });
    if std::env::var_os("FDTRACE_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/script.changes");
        std::fs::write(path, &text).expect("the file can be written");
        return;
    }
    let differ = EXPECTED.lines().zip(text.lines()).find(|(expected, seen)| expected != seen);
    assert_eq!(differ, None, "expected on the left; all that was seen:\n{text}");
    assert_eq!(EXPECTED.lines().count(), text.lines().count(), "all that was seen:\n{text}");
}

fn trace() -> String {
    let mut live = Live::start(&Settings::default()).expect("fdtrace starts (as root)");
    let mut stages = Stages::new(Arch::native());
    let mut scribe = Scribe { world: World::new(), text: String::new(), tasks: HashMap::new() };
    // Findings are another test's business.
    let mut news = Vec::new();
    let mut child = Command::new(common::exerciser())
        .arg("script")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the exerciser starts");
    // It is past its start when it waits for its input.
    let deadline = Instant::now() + Duration::from_secs(30);
    let waits = || std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap_or_default();
    while !waits().starts_with(&format!("{} 0x0 ", fdtrace_exercise::nr::READ)) {
        assert!(Instant::now() < deadline, "the exerciser does not wait for its input: {}", waits());
        std::thread::sleep(Duration::from_millis(5));
    }
    live.adopt(child.id(), false).expect("the exerciser can be traced");
    live.snapshot(Some(child.id())).expect("a snapshot can be taken");
    let mut take = |live: &mut Live, stages: &mut Stages| {
        live.drain(usize::MAX, |pos, record| {
            stages.feed(pos, record, &mut news);
            scribe.take(pos, record);
        })
    };
    while !live.snapshots_done().expect("the snapshot works") || stages.world.snapshots_completed() < 1 {
        take(&mut live, &mut stages);
        assert!(Instant::now() < deadline, "the snapshot does not end");
    }
    child.stdin.take().expect("a pipe").write_all(b"x").expect("the exerciser reads");
    let status = child.wait().expect("the exerciser ends");
    let totals = loop {
        take(&mut live, &mut stages);
        let totals = live.totals();
        if totals.produced == totals.captured + totals.lost() {
            break totals;
        }
        assert!(Instant::now() < deadline, "records that never come: {totals:?}");
    };
    println!("{totals:?}; {}", common::misses());
    let mut complaint = String::new();
    let _ = child.stderr.take().expect("a pipe").read_to_string(&mut complaint);
    assert!(status.success(), "the exerciser failed: {status}: {complaint}");
    assert_eq!(totals.lost(), 0, "events were lost: the comparison is worth nothing");
    scribe.text
}
