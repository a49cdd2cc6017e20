//! Threads that open and close on one table as fast as they can: bursts, each after a byte on standard input, so that
//! whoever watches can take in what a burst made before the next one begins.
//!
//! Some closes are stale: a thread closes its number twice, and the second one hits whatever another thread has just
//! been given there. These are the transitions that look impossible when calls are taken in the order of their returns.

use std::{
    io::{self, Read as _, Write as _},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    nr,
    rng::Rng,
    sys::{self, Arg},
};

const PERCENT_COPIED: usize = 20;
const PERCENT_STALE: usize = 5;

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub threads: usize,
    /// Descriptors that a thread opens in one burst.
    pub opens: u32,
    pub seed: u64,
}

/// Runs one burst for each byte on standard input, and answers it with one on standard output; ends with the input.
pub fn run(plan: Plan) -> Result<()> {
    // One more: whoever takes the bytes.
    let (start, done) = (Barrier::new(plan.threads + 1), Barrier::new(plan.threads + 1));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for index in 0..plan.threads {
            let (start, done, over) = (&start, &done, &over);
            let mut rng = Rng::derived(plan.seed, index as u64);
            scope.spawn(move || {
                loop {
                    start.wait();
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    burst(plan.opens, &mut rng);
                    done.wait();
                }
            });
        }
        let mut byte = [0];
        let (mut input, mut output) = (io::stdin(), io::stdout());
        let outcome = loop {
            match input.read(&mut byte).context("cannot read the standard input") {
                Ok(0) => break Ok(()),
                Err(error) => break Err(error),
                Ok(_) => {}
            }
            start.wait();
            done.wait();
            if let Err(error) = output.write_all(b".").and_then(|()| output.flush()) {
                break Err(error).context("cannot answer");
            }
        };
        over.store(true, Ordering::SeqCst);
        start.wait();
        outcome
    })
}

fn burst(opens: u32, rng: &mut Rng) {
    for _ in 0..opens {
        let fd = open();
        let copy = rng.chance(PERCENT_COPIED).then(|| call(nr::DUP, [fd as u64, 0]));
        // Never the standard streams; nor errors.
        for fd in [Some(fd), copy].into_iter().flatten().filter(|fd| *fd > 2) {
            close(fd);
            if rng.chance(PERCENT_STALE) {
                close(fd);
            }
        }
    }
}

fn open() -> i64 {
    let path = Arg::from(c"/dev/null");
    let arguments = [libc::AT_FDCWD as u64, path.0, libc::O_RDONLY as u64, 0, 0, 0];
    // SAFETY: the path is static and ends with a zero.
    unsafe { sys::syscall(nr::OPENAT, arguments) }
}

fn close(fd: i64) {
    call(nr::CLOSE, [fd as u64, 0]);
}

fn call(number: i64, [first, second]: [u64; 2]) -> i64 {
    // SAFETY: the calls made here take numbers only. The descriptors are this module's: nobody else opens any while a
    // burst runs.
    unsafe { sys::syscall(number, [first, second, 0, 0, 0, 0]) }
}
