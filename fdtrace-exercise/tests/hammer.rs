//! Four threads open and close on one table at full speed: every transition that looks impossible in the order of the
//! returns (an open of a live slot, a close of a dead one that succeeds) must be explained by a call in flight, and at
//! the end the table must be the kernel's. Needs root: `cargo test -p fdtrace-exercise --test hammer -- --ignored`.
//!
//! `FDTRACE_SECONDS=60` for the whole minute, in which what is taken in between does not count; 5 s otherwise.

mod common;

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fdtrace::{
    pipeline::Stages,
    source::live::{Live, Settings},
    syscalls::Arch,
};
use fdtrace_exercise::truth;

/// Bursts are taken in while the next one is not running: with room for a whole one nothing is lost.
const RING: u32 = 64 << 20;

fn drain(live: &mut Live, stages: &mut Stages) {
    let mut news = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        live.drain(usize::MAX, |pos, record| {
            stages.feed(pos, record, &mut news);
            news.clear();
        });
        let totals = live.totals();
        if totals.produced == totals.captured + totals.lost() {
            return;
        }
        assert!(Instant::now() < deadline, "records that never come: {totals:?}");
    }
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn every_transition_is_explained() {
    let seconds = std::env::var("FDTRACE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut live =
            Live::start(&Settings { ring_size: RING, ..Settings::default() }).expect("fdtrace starts (as root)");
        let mut stages = Stages::new(Arch::native());
        let mut child = Command::new(common::exerciser())
            .args(["hammer", "--threads", "4"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the exerciser starts");
        let (mut input, mut output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let mut burst = || {
            input.write_all(b".").expect("it listens");
            output.read_exact(&mut [0]).expect("it answers");
        };
        // Its threads exist once it has answered.
        burst();
        live.adopt(child.id(), false).expect("the process can be traced");
        live.snapshot(None).expect("a snapshot can be taken");
        while !live.snapshots_done().expect("the snapshot works") || stages.world.snapshots_completed() == 0 {
            drain(&mut live, &mut stages);
        }
        let (mut bursts, mut busy) = (0, Duration::ZERO);
        while busy < Duration::from_secs(seconds) {
            let began = Instant::now();
            burst();
            busy += began.elapsed();
            bursts += 1;
            drain(&mut live, &mut stages);
        }
        let totals = live.totals();
        let order = stages.world.order();
        println!(
            "{bursts} bursts, {} records in {busy:.1?} of full speed; {order:?}; {totals:?}; {}",
            totals.produced,
            common::misses()
        );
        assert_eq!(totals.lost(), 0, "events were lost: the count is worth nothing");
        assert!(order.forced > 0, "nothing raced: the test tests nothing");
        assert_eq!(order.unexplained, 0, "transitions that no call explains");
        let kernel: Vec<i32> = truth::table_of(child.id()).expect("its table").iter().map(|held| held.fd).collect();
        let table = stages.world.table_of_process(child.id()).expect("it is known");
        let model: Vec<i32> = table.open().map(|(fd, _)| fd).collect();
        assert_eq!(model, kernel);
        drop(input);
        let _ = child.wait();
    });
}
