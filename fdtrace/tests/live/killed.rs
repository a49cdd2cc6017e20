//! A recorder that is killed leaves a good file, in which next to nothing is missing.
//!
//! `FDTRACE_KILLS=200` kills it as often as was promised; without, a few times.

use std::{
    fs::File,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use fdtrace::source::{
    clock,
    recording::{frame::block, reader::Reader, unpack::unpack},
};

use super::{
    harness::{FDTRACE, Scratch, plain, wait_for},
    recording::PROGRAM,
};

/// What is not written yet when a recorder is killed: the last 200 ms. On a machine with more to do than cores it has to wait
/// for its turn besides, or for the disk, now and then for long: so it is the round in the middle that counts.
const LATE: Duration = Duration::from_millis(200);
const VERY_LATE: Duration = Duration::from_millis(200 + 1800);

/// A file is so long when the program runs and not only its interpreter starts.
const AT_WORK: u64 = 64 << 10;

/// The last record of a file, and how many there are.
fn last_record(path: &Path) -> (u64, u64) {
    let mut reader = Reader::new(File::open(path).expect("a file")).expect("a reader");
    let (mut last, mut records) = (0, 0);
    while let Some(found) = reader.next_block().expect("it can be read") {
        if found.head.block == block::DATA {
            records += u64::from(unpack(&found.content, |_, _| {}).expect("a block whose checksum is right"));
            last = found.head.last_time;
        }
    }
    (last, records)
}

#[test]
#[ignore = "needs root and a kernel with BTF"]
fn killed_at_any_moment_it_leaves_a_good_file() {
    let scratch = Scratch::new();
    let script = scratch.write("program.py", PROGRAM);
    let rounds: u64 = std::env::var("FDTRACE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut missing = Vec::new();
    let (mut cuts, mut most) = (0, 0);
    let mut dice = clock::boot_ns();
    for round in 0..rounds {
        let file = scratch.path("x.fdt");
        let mut fdtrace = Command::new(FDTRACE);
        fdtrace.arg("-o").arg(&file).args(["--json", "/dev/null", "--", "python3"]).arg(&script).arg("10000000");
        let mut child = fdtrace
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        // Every fourth is killed at any moment of its start, the others when they are at work.
        if round % 4 != 3 {
            let at_work = || std::fs::metadata(&file).is_ok_and(|about| about.len() > AT_WORK);
            wait_for("the program is at work", at_work);
        }
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = Duration::from_millis((dice >> 33) % 1500);
        std::thread::sleep(moment);
        let killed = clock::boot_ns();
        child.kill().expect("killed");
        child.wait().expect("gone");
        // The program goes on without it, as it should, and is of no use to the next round.
        // SAFETY: plain numbers. The group is ours: it has the number of its first process.
        unsafe { libc::kill(-child.id().cast_signed(), libc::SIGKILL) };
        if std::fs::metadata(&file).map_or(0, |about| about.len()) == 0 {
            let _ = std::fs::remove_file(&file);
            continue;
        }
        let name = file.to_str().expect("a plain path");
        let round = format!("round {round}, killed after {moment:?}");
        let [report, told] = [plain(&["verify", name]), plain(&["report", name])];
        // Only the block that was being written may be cut.
        let cut = report.stdout.contains("bytes of the file are damaged");
        assert!(report.status == Some(0) || cut, "{round}: {}{}", report.stdout, report.stderr);
        for said in [&report.stdout, &told.stderr] {
            assert!(said.contains("has no end") && said.contains("200 ms or 256 KiB"), "{round}: {said}");
        }
        assert_eq!(told.status, Some(0), "{round}: {}", told.stderr);
        let (last, records) = last_record(&file);
        if records > 1000 {
            missing.push(Duration::from_nanos(killed.saturating_sub(last)));
        }
        (cuts, most) = (cuts + u32::from(cut), most.max(records));
        std::fs::remove_file(&file).expect("it goes away");
    }
    missing.sort_unstable();
    let (Some(longest), Some(median)) = (missing.last(), missing.get(missing.len() / 2)) else {
        panic!("no recording of {rounds} got to the work of the program");
    };
    let begun = missing.len() as u64;
    eprintln!(
        "{rounds} kills, {begun} at work, the largest with {most} records, {cuts} in the midst of a block; missing before \
         the kill: {median:?} in the median, {longest:?} at most, more than 200 ms {} times",
        missing.iter().filter(|missing| **missing > LATE).count()
    );
    assert!(begun > rounds / 2, "only {begun} of {rounds} got to the work of the program");
    assert!(*median <= LATE && *longest <= VERY_LATE, "{missing:?}");
}
