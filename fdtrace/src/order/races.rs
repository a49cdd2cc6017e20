//! Races made by a machine that knows the truth: threads open, copy, replace and close a few numbers of one table, are
//! held up between any two steps of a call, and leave records as the kernel side writes them. Whatever the interleaving,
//! every transition must be explained, the table must be the true one, and an end that is not marked ambiguous must have
//! been made by the call that is named.

use std::collections::{BTreeMap, BTreeSet};

use super::{tests::at, *};

const THREADS: usize = 4;
const NUMBERS: usize = 3;

/// xorshift64*: the same sequence everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % limit
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Which call is made, and of which number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// Looks at its number before it has room for its record, as a call with a path does.
    OpenPath,
    Open,
    Copy(usize),
    Replace {
        from: usize,
        to: usize,
    },
    Close(usize),
}

/// A call on its way.
#[derive(Clone, Debug)]
struct Flight {
    id: u32,
    act: Act,
    step: usize,
    enter: u64,
    exit: u64,
    looked: u64,
    before: u64,
    seen: u64,
    fd: Option<usize>,
}

/// A life as it was: who began it, and who ended it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Truth {
    born: u32,
    ended: Option<u32>,
}

#[derive(Default)]
struct Machine {
    /// Bytes reserved in the ring.
    reserved: u64,
    calls: u32,
    slots: [u64; NUMBERS],
    lives: [Vec<Truth>; NUMBERS],
    holders: BTreeMap<u64, u32>,
    /// Freed files, by thread: the one freed last is handed out first.
    free: [Vec<u64>; THREADS],
    files: u64,
    ring: BTreeMap<u64, Flight>,
}

impl Machine {
    fn lowest(&self) -> Option<usize> {
        self.slots.iter().position(|file| *file == 0)
    }

    fn hold(&mut self, thread: usize, fd: usize, file: u64, call: u32) {
        self.release(thread, fd, call);
        self.slots[fd] = file;
        self.lives[fd].push(Truth { born: call, ended: None });
        *self.holders.entry(file).or_default() += 1;
    }

    fn release(&mut self, thread: usize, fd: usize, call: u32) -> bool {
        let file = std::mem::take(&mut self.slots[fd]);
        if file == 0 {
            return false;
        }
        self.lives[fd].last_mut().expect("it lives").ended = Some(call);
        let holders = self.holders.get_mut(&file).expect("it is held");
        *holders -= 1;
        if *holders == 0 {
            self.holders.remove(&file);
            self.free[thread].push(file);
        }
        true
    }

    /// Takes a call one step on. `false`: it is over.
    fn step(&mut self, thread: usize, flight: &mut Flight) -> bool {
        flight.step += 1;
        match (flight.step, flight.act) {
            (1, _) => flight.enter = self.reserved,
            (2, Act::Close(fd) | Act::Replace { to: fd, .. }) => flight.before = self.slots[fd],
            (2, _) => {}
            (3, act) => flight.fd = self.effect(thread, flight.id, act),
            (4, Act::OpenPath) => flight.looked = self.reserved,
            (5, Act::OpenPath) => flight.seen = flight.fd.map_or(0, |fd| self.slots[fd]),
            (6, Act::OpenPath) => self.reserve(flight),
            (4, _) => {
                self.reserve(flight);
                flight.looked = flight.exit;
            }
            (5, _) => flight.seen = flight.fd.map_or(0, |fd| self.slots[fd]),
            _ => {
                self.ring.insert(flight.exit, flight.clone());
                return false;
            }
        }
        true
    }

    fn reserve(&mut self, flight: &mut Flight) {
        flight.exit = self.reserved;
        self.reserved += 1;
    }

    fn effect(&mut self, thread: usize, call: u32, act: Act) -> Option<usize> {
        match act {
            Act::OpenPath | Act::Open => {
                let fd = self.lowest()?;
                let file = self.free[thread].pop().unwrap_or_else(|| {
                    self.files += 1;
                    self.files
                });
                self.hold(thread, fd, file, call);
                Some(fd)
            }
            Act::Copy(from) => {
                let (file, fd) = (self.slots[from], self.lowest()?);
                (file != 0).then(|| self.hold(thread, fd, file, call))?;
                Some(fd)
            }
            Act::Replace { from, to } => {
                let file = self.slots[from];
                (file != 0 && from != to).then(|| self.hold(thread, to, file, call))?;
                Some(to)
            }
            Act::Close(fd) => self.release(thread, fd, call).then_some(fd),
        }
    }
}

/// What runs of the machine came to.
#[derive(Debug, Default)]
struct Outcome {
    unexplained: u64,
    forced: u64,
    /// Ends that were said to be certain, and how many of them were somebody else's.
    certain: u64,
    wrong: u64,
    ambiguous: u64,
    /// Slots that seem open and are not, or the other way round.
    mistaken: u64,
    /// Of the run that was asked for.
    trace: Vec<String>,
}

/// Adds one run to the outcome.
fn run(seed: u64, calls: u32, replaces: bool, outcome: &mut Outcome) {
    let trace = std::env::var("FDTRACE_SEED").is_ok_and(|wanted| wanted == seed.to_string());
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut machine = Machine::default();
    let mut flights: [Option<Flight>; THREADS] = [const { None }; THREADS];
    let mut current = 0;
    let held_up = 5 + random.below(60);
    loop {
        if random.chance(held_up) {
            current = random.below(THREADS);
        }
        let mut flight = match flights[current].take() {
            Some(flight) => flight,
            None if machine.calls == calls => {
                if flights.iter().all(Option::is_none) {
                    break;
                }
                current = random.below(THREADS);
                continue;
            }
            None => {
                machine.calls += 1;
                let act = match random.below(if replaces { 12 } else { 10 }) {
                    0..=2 => Act::OpenPath,
                    3 => Act::Open,
                    4 => Act::Copy(random.below(NUMBERS)),
                    10.. => Act::Replace { from: random.below(NUMBERS), to: random.below(NUMBERS) },
                    _ => Act::Close(random.below(NUMBERS)),
                };
                let id = machine.calls;
                Flight { id, act, step: 0, enter: 0, exit: 0, looked: 0, before: 0, seen: 0, fd: None }
            }
        };
        if machine.step(current, &mut flight) {
            flights[current] = Some(flight);
        }
    }
    let mut slots: [Slot<u32>; NUMBERS] = Default::default();
    let mut told = BTreeSet::new();
    for (_, flight) in std::mem::take(&mut machine.ring) {
        let Some(fd) = flight.fd else { continue };
        let slot = &mut slots[fd];
        let by = super::tests::by(flight.id, flight.enter, flight.exit);
        let what = match flight.act {
            Act::Close(_) => format!("{:?}", slot.remove(&by, How::Closed, Some(flight.before), flight.seen)),
            Act::Replace { .. } => format!("{:?}", slot.replace(&by, flight.before, flight.seen, |_| flight.id)),
            _ => format!(
                "{:?}",
                slot.install_seen(at(flight.enter, flight.exit), flight.looked, flight.seen, |_| flight.id)
            ),
        };
        if trace {
            outcome.trace.push(format!("{fd}: {flight:?} = {what}"));
        }
        for life in slot.past() {
            let Some(end) = life.end() else { continue };
            if !told.insert((fd, life.data)) {
                continue;
            }
            if life.ambiguous {
                outcome.ambiguous += 1;
                continue;
            }
            outcome.certain += 1;
            let truth = machine.lives[fd].iter().find(|truth| truth.born == life.data);
            if truth.is_none_or(|truth| truth.ended != Some(end.by.tid)) {
                outcome.wrong += 1;
                if trace {
                    outcome.trace.push(format!("   WRONG: {} ended by {}, truth {truth:?}", life.data, end.by.tid));
                }
            }
        }
    }
    for (slot, (file, lives)) in slots.iter().zip(machine.slots.iter().zip(&machine.lives)) {
        let tally = slot.tally();
        outcome.unexplained += tally.unexplained;
        outcome.forced += tally.forced;
        let truth = (*file != 0).then(|| lives.last().expect("it lives").born);
        outcome.mistaken += u64::from(slot.live().is_some() != truth.is_some());
    }
}

/// Many short runs. `FDTRACE_RUNS` for more of them, `FDTRACE_SEED` to see what one of them did.
fn outcome(replaces: bool) -> Outcome {
    let runs = std::env::var("FDTRACE_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let mut outcome = Outcome::default();
    (0..runs).for_each(|seed| run(seed, 60, replaces, &mut outcome));
    outcome.trace.iter().for_each(|line| println!("{line}"));
    outcome.trace.clear();
    println!("{outcome:?}");
    assert!(outcome.forced > runs, "nothing raced");
    outcome
}

#[test]
fn opens_and_closes_are_all_explained() {
    let Outcome { unexplained, certain, wrong, mistaken, .. } = outcome(false);
    assert_eq!((unexplained, mistaken), (0, 0));
    // Two removals of one life of which the second takes an install with it, and neither of these two has returned yet:
    // nothing that is known then tells whose is whose.
    assert!(wrong * 500 < certain, "{wrong} of {certain} ends were somebody else's");
}

#[test]
fn calls_that_replace_are_explained_or_in_doubt() {
    let Outcome { forced, unexplained, certain, wrong, mistaken, .. } = outcome(true);
    // A replacing call that races both the install and the removal of whom it replaces leaves more than one open end: the
    // model reads the table again then.
    assert!(unexplained * 10 < forced && mistaken * 100 < forced, "{unexplained} and {mistaken} of {forced}");
    assert!(wrong * 100 < certain, "{wrong} of {certain} ends were somebody else's");
}
