//! The instrument measures itself: without a tracer, the exercising tasks' own account is the model.

use fdtrace_exercise::compare::{self, Aspect, ModelTable};
use fdtrace_exercise::driver::{Config, Driver, Order};
use fdtrace_exercise::profile::Profile;
use fdtrace_exercise::truth;

fn config(seed: u64, profile: Profile) -> Config {
    Config { steps: 25, rounds: 3, ..Config::new(env!("CARGO_BIN_EXE_fdtrace-exercise"), seed, profile) }
}

#[test]
fn the_account_of_serial_rounds_is_what_the_kernel_has() {
    for profile in Profile::ALL {
        for seed in 1..4 {
            let mut driver = Driver::create(&Config { order: Order::Serial, ..config(seed, profile) }).unwrap();
            driver.spawn().unwrap();
            while let Some(quiet) = driver.next_quiet().unwrap() {
                let differences = compare::compare(&driver.accounts());
                assert!(differences.is_empty(), "{}\n{}", differences[0], driver.explain(&quiet.pids(), 60));
                driver.go().unwrap();
            }
        }
    }
}

#[test]
fn tables_stand_still_at_quiet_points_of_parallel_rounds() {
    for profile in Profile::ALL {
        let mut driver = Driver::create(&Config { order: Order::Both, ..config(5, profile) }).unwrap();
        driver.spawn().unwrap();
        // Rings and messages let go of descriptions late, and registrations end with them: numbers, not interest.
        let read_one = |tid| truth::table_of(tid).unwrap().into_iter().map(|held| (held.fd, held.ino, held.cloexec));
        while let Some(quiet) = driver.next_quiet().unwrap() {
            let read = || quiet.tasks.iter().flat_map(|task| read_one(task.tid)).collect::<Vec<_>>();
            assert_eq!(read(), read());
            driver.go().unwrap();
        }
    }
}

#[test]
fn a_serial_run_is_the_same_every_time() {
    let run = || {
        let mut driver = Driver::create(&config(11, Profile::Mixed)).unwrap();
        driver.spawn().unwrap();
        while driver.next_quiet().unwrap().is_some() {
            driver.go().unwrap();
        }
        (driver.digest(), driver.counts().iter().map(|count| count.ok + count.failed).collect::<Vec<_>>())
    };
    assert_eq!(run(), run());
}

#[test]
fn every_kind_of_difference_is_seen() {
    let mut driver = Driver::create(&config(3, Profile::Fork)).unwrap();
    driver.spawn().unwrap();
    let model = loop {
        driver.next_quiet().unwrap().unwrap();
        let model = driver.accounts();
        if model.len() > 1 && model[1].fds.len() > 6 {
            break model;
        }
        driver.go().unwrap();
    };
    assert!(compare::compare(&model).is_empty());
    let aspects = |change: &dyn Fn(&mut Vec<ModelTable>)| {
        let mut changed = model.clone();
        change(&mut changed);
        let differences = compare::compare(&changed);
        differences.iter().map(|difference| difference.aspect).collect::<Vec<_>>()
    };
    assert_eq!(aspects(&|model| _ = model[0].fds.pop()), [Aspect::Open]);
    assert_eq!(aspects(&|model| model[0].fds[2].fd = 1999), [Aspect::Open, Aspect::Open]);
    assert_eq!(aspects(&|model| model[1].fds[3].cloexec = model[1].fds[3].cloexec.map(|on| !on)), [Aspect::Cloexec]);
    assert_eq!(aspects(&|model| model[1].fds[3].kind = Some("mailbag".into())), [Aspect::Kind]);
    assert_eq!(aspects(&|model| model[1].fds[3].ino = Some(1)), [Aspect::Inode]);
    assert_eq!(aspects(&|model| model[1].fds[3].dev = Some(1)), [Aspect::Device]);
    assert!(aspects(&|model| model[1].table = model[0].table).contains(&Aspect::Table));
    // The child has its parent's descriptions: one that is claimed to be its own is one difference or more.
    assert!(aspects(&|model| model[1].fds[0].description = Some(1 << 40)).contains(&Aspect::Description));
    assert!(aspects(&|model| model[0].fds[5].description = model[0].fds[0].description).contains(&Aspect::Description));
    assert!(aspects(&|model| model[0].pid = 0x3fff_fff0).contains(&Aspect::Unreadable));
}
