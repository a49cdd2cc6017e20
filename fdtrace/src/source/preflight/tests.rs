use std::time::Instant;

use super::*;

fn surroundings(capabilities: &[u32]) -> Surroundings {
    Surroundings {
        capabilities: capabilities.iter().map(|bit| 1 << bit).sum(),
        initial_user_namespace: true,
        initial_pid_namespace: true,
        seccomp_filter: false,
        lockdown: Lockdown::None,
    }
}

#[test]
fn kernel_releases() {
    let cases: [(&[u8], Status); 9] = [
        (b"5.10.0-30-amd64", Status::Warn),
        (b"5.17.0", Status::Ok),
        (b"6.18.44", Status::Ok),
        (b"10.0-rc1", Status::Ok),
        (b"5.9.16", Status::Fail),
        (b"4.19.0", Status::Fail),
        (b"", Status::Warn),
        (b"\xff\x1b", Status::Warn),
        (b"99999999999.1", Status::Warn),
    ];
    for (release, expected) in cases {
        assert_eq!(kernel_release(release).status, expected, "{release:?}");
    }
}

#[test]
fn privileges_name_what_is_missing() {
    use capability::{BPF, DAC_READ_SEARCH, PERFMON, SYS_PTRACE};
    let all = privileges(&surroundings(&[BPF, PERFMON, SYS_PTRACE, DAC_READ_SEARCH]));
    assert_eq!(all.status, Status::Ok);
    let few = privileges(&surroundings(&[BPF, PERFMON, SYS_PTRACE]));
    assert_eq!(few.status, Status::Warn);
    assert!(few.found.contains("CAP_DAC_READ_SEARCH") && !few.found.contains("PTRACE"));
    let none = privileges(&surroundings(&[BPF]));
    assert_eq!((none.status, none.found.as_str()), (Status::Fail, "missing: CAP_PERFMON"));
    assert!(none.fix.unwrap().contains("setcap"));
}

#[test]
fn hidepid_is_read_from_the_mount_that_counts() {
    let line = |options: &str| format!("22 27 0:21 / /proc rw,relatime shared:12 - proc proc rw{options}\n");
    let other = "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:9 / /proc/sys/fs rw - x x rw,hidepid=9\n";
    assert_eq!(hidepid(other), None);
    assert_eq!(hidepid(&format!("{other}{}", line(""))), Some(None));
    assert_eq!(hidepid(&line(",hidepid=invisible,gid=5")), Some(Some("invisible")));
    let stacked = line("") + &line(",hidepid=2");
    assert_eq!(hidepid(&stacked), Some(Some("2")));

    let check = |capabilities: &[u32]| proc_mount(stacked.as_bytes(), &surroundings(capabilities)).status;
    assert_eq!(check(&[]), Status::Warn);
    assert_eq!(check(&[capability::SYS_PTRACE]), Status::Ok);
    assert_eq!(proc_mount(b"\xff\n", &surroundings(&[])).status, Status::Fail);
}

#[test]
fn settings_that_cost() {
    assert_eq!(statistics(Some("1")).status, Status::Warn);
    assert_eq!(statistics(Some("0")).status, Status::Ok);
    assert_eq!(statistics(None).status, Status::Ok);
    assert_eq!(compiler(Some("0")).status, Status::Warn);
    assert_eq!(compiler(Some("1")).status, Status::Ok);
}

#[test]
fn missing_type_information_is_one_problem() {
    let checks = [
        type_information(Err("no such thing")),
        typed_tracepoints(None, &surroundings(&[])),
        iterators(None, &surroundings(&[])),
        trampolines(None),
    ];
    let failed = checks.iter().filter(|check| check.status == Status::Fail);
    assert_eq!(failed.count(), 1);
}

#[test]
fn missing_privileges_are_one_problem() {
    let nobody = surroundings(&[]);
    let mut checks = programs(None, &nobody);
    checks.push(privileges(&nobody));
    let failed = checks.iter().filter(|check| check.status == Status::Fail);
    assert_eq!((checks.len(), failed.count()), (2, 1));
}

/// Whoever runs the tests, every check must come to a result and every failure to a reason.
#[test]
fn runs_for_everybody() {
    let start = Instant::now();
    let checks = run();
    eprintln!("{:?}\n{}", start.elapsed(), super::super::doctor::text(&checks));
    assert!(checks.iter().all(|check| !check.found.is_empty()));
    let names: std::collections::HashSet<&str> = checks.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), checks.len());
}

#[test]
#[ignore = "needs root and a kernel that can run fdtrace"]
fn is_ready_for_root() {
    let failed: Vec<Check> = run().into_iter().filter(|check| check.status == Status::Fail).collect();
    assert_eq!(failed, []);
}
