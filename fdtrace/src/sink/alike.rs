//! Lives that are alike become one, with their number: a loop that opens and closes a million times has some hundred rows
//! and not a million.
//!
//! The first lives of a number are told one by one. From then on a life that differs from the one before it in nothing but
//! its times and its addresses is held for a while and then counted; a finding about the number unfolds those that are
//! held, so what led to it is there in full, and the lives after it are told one by one again.

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
};

use crate::detect::finding::{Act, Finding, Who};

use super::{
    Sink,
    fold::Repeat,
    lifetime::{Alike, Lifetime},
    run::{Loss, Mark, RunMeta, Summary},
};

/// So many alike are told before they are counted.
const FIRST: u64 = 64;
/// So many of the last ones are held, in case that there is something to say about them.
const HELD: usize = 4;
/// Numbers that are followed at once; with more of them all begin anew.
const NUMBERS: usize = 4_096;

/// A sink that is told of lives that are alike as one.
pub struct FoldLives {
    inner: Box<dyn Sink>,
    /// By process and descriptor number.
    runs: HashMap<(u32, i32), Run>,
}

/// Lives of one number, each like the one before.
struct Run {
    last: Lifetime,
    length: u64,
    folded: Option<Lifetime>,
    held: VecDeque<Lifetime>,
}

impl FoldLives {
    pub fn new(inner: Box<dyn Sink>) -> Self {
        Self { inner, runs: HashMap::new() }
    }

    /// Everything that is held, in an order that does not depend on chance.
    fn unfold_all(&mut self) -> io::Result<()> {
        let mut runs: Vec<_> = mem::take(&mut self.runs).into_iter().collect();
        runs.sort_by_key(|(slot, _)| *slot);
        let all = runs.into_iter().map(|(_, mut run)| run.unfold(self.inner.as_mut()));
        all.fold(Ok(()), io::Result::and)
    }

    /// What was held back about a number that is in question.
    fn unfold(&mut self, pid: u32, fd: i32) -> io::Result<()> {
        match self.runs.get_mut(&(pid, fd)) {
            Some(run) => run.unfold(self.inner.as_mut()),
            None => Ok(()),
        }
    }
}

impl Run {
    fn new(first: &Lifetime) -> Self {
        Self { last: first.clone(), length: 1, folded: None, held: VecDeque::new() }
    }

    /// Tells what was held back, and begins to count anew.
    fn unfold(&mut self, out: &mut dyn Sink) -> io::Result<()> {
        self.length = 0;
        let all = self.folded.take().into_iter().chain(self.held.drain(..));
        all.map(|lifetime| out.lifetime(&lifetime)).fold(Ok(()), io::Result::and)
    }

    fn hold(&mut self, lifetime: &Lifetime) {
        self.held.push_back(lifetime.clone());
        if self.held.len() <= HELD {
            return;
        }
        let Some(over) = self.held.pop_front() else { return };
        match &mut self.folded {
            None => self.folded = Some(over),
            Some(folded) => {
                let (so_far, more) = (folded.alike(), over.alike());
                folded.folded = Some(Alike {
                    count: so_far.count + more.count,
                    open_ns: so_far.open_ns.saturating_add(more.open_ns),
                    longest_ns: so_far.longest_ns.max(more.longest_ns),
                });
                (folded.closed, folded.successor) = (over.closed, over.successor);
            }
        }
    }
}

/// Do they differ in nothing but times and addresses?
fn are_alike(a: &Lifetime, b: &Lifetime) -> bool {
    let (Some(a_closed), Some(b_closed)) = (&a.closed, &b.closed) else { return false };
    (a.table, a.kind, a.cloexec, a.generation + 1) == (b.table, b.kind, b.cloexec, b.generation)
        && a.object == b.object
        && a.process == b.process
        && did_the_same(&a.opened, &b.opened)
        && did_the_same(a_closed, b_closed)
}

fn did_the_same(a: &Act, b: &Act) -> bool {
    let Who { owner, task, python, native, unwound: _ } = &a.who;
    let kinds = [owner, &b.who.owner].map(|owner| owner.as_ref().map(|owner| owner.kind.as_str()));
    (a.pid, a.tid, a.verb, a.call, a.error) == (b.pid, b.tid, b.verb, b.call, b.error)
        && a.object == b.object
        && !(a.ambiguous || b.ambiguous)
        && a.remark == b.remark
        && kinds[0] == kinds[1]
        && *task == b.who.task
        && *python == b.who.python
        && *native == b.who.native
}

impl Sink for FoldLives {
    fn meta(&mut self, meta: &RunMeta) -> io::Result<()> {
        self.inner.meta(meta)
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let mut told = self.unfold(finding.pid, finding.fd);
        let acts = [&finding.root_cause, &finding.culprit, &finding.victim].into_iter().flatten();
        for act in acts.chain(&finding.timeline) {
            told = told.and(self.unfold(act.pid, act.fd));
        }
        told.and(self.inner.finding(finding))
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.inner.loss(loss)
    }

    fn mark(&mut self, mark: &Mark) -> io::Result<()> {
        self.inner.mark(mark)
    }

    fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
        let slot = (lifetime.pid, lifetime.fd);
        let mut told = Ok(());
        if let Some(run) = self.runs.get_mut(&slot) {
            if are_alike(&run.last, lifetime) {
                run.length += 1;
                run.last.generation = lifetime.generation;
                if run.length > FIRST {
                    run.hold(lifetime);
                    return Ok(());
                }
            } else {
                told = run.unfold(self.inner.as_mut());
                *run = Run::new(lifetime);
            }
        } else {
            if self.runs.len() >= NUMBERS {
                told = self.unfold_all();
            }
            self.runs.insert(slot, Run::new(lifetime));
        }
        told.and(self.inner.lifetime(lifetime))
    }

    fn repeated(&mut self, repeat: &Repeat) -> io::Result<()> {
        self.inner.repeated(repeat)
    }

    fn flush_incidents(&mut self, now: u64) -> io::Result<()> {
        self.inner.flush_incidents(now)
    }

    fn process_ended(&mut self, pid: u32) -> io::Result<()> {
        self.inner.process_ended(pid)
    }

    fn end(&mut self, summary: &Summary) -> io::Result<()> {
        let told = self.unfold_all();
        told.and(self.inner.end(summary))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;
    use crate::{
        detect::finding::{Confidence, Verb},
        sink::fixture,
    };

    type Told = Rc<RefCell<Vec<(u32, u64)>>>;

    /// Generation and number of each life that is told; a finding is (0, 0).
    struct Tell(Told);

    impl Sink for Tell {
        fn meta(&mut self, _: &RunMeta) -> io::Result<()> {
            Ok(())
        }

        fn finding(&mut self, _: &Finding) -> io::Result<()> {
            self.0.borrow_mut().push((0, 0));
            Ok(())
        }

        fn loss(&mut self, _: &Loss) -> io::Result<()> {
            Ok(())
        }

        fn lifetime(&mut self, lifetime: &Lifetime) -> io::Result<()> {
            self.0.borrow_mut().push((lifetime.generation, lifetime.alike().count));
            Ok(())
        }

        fn end(&mut self, _: &Summary) -> io::Result<()> {
            Ok(())
        }
    }

    fn bench() -> (FoldLives, Told) {
        let told = Told::default();
        (FoldLives::new(Box::new(Tell(Rc::clone(&told)))), told)
    }

    #[test]
    fn a_loop_is_told_at_its_start_and_its_end_and_counted_between() {
        let (mut fold, told) = bench();
        for generation in 1..=1000 {
            fold.lifetime(&fixture::lifetime(3, generation, b"/dev/null")).unwrap();
        }
        fold.lifetime(&fixture::lifetime(3, 1001, b"/etc/passwd")).unwrap();
        let told = told.borrow();
        assert_eq!(told.len(), 64 + 1 + 4 + 1, "{told:?}");
        assert_eq!(told[63..66], [(64, 1), (65, 932), (997, 1)], "counted by the first of them");
        assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), 1001, "none is missing");
    }

    #[test]
    fn what_led_to_a_finding_is_told_in_full() {
        let (mut fold, told) = bench();
        for generation in 1..=100 {
            fold.lifetime(&fixture::lifetime(3, generation, b"/dev/null")).unwrap();
        }
        let message = "fd 3 was closed by somebody else";
        let acts = vec![fixture::act(1, 3, 100, Verb::Closed, "close")];
        let mut finding = fixture::finding("stale-close", Confidence::Proven, message, acts);
        (finding.pid, finding.fd) = (fixture::PID, 3);
        fold.finding(&finding).unwrap();
        fold.lifetime(&fixture::lifetime(3, 101, b"/dev/null")).unwrap();
        let told = told.borrow();
        assert_eq!(told[64..], [(65, 32), (97, 1), (98, 1), (99, 1), (100, 1), (0, 0), (101, 1)]);
    }

    #[test]
    fn times_are_added_up() {
        let mut run = Run::new(&fixture::lifetime(3, 1, b"x"));
        for generation in 2..=8 {
            run.hold(&fixture::lifetime(3, generation, b"x"));
        }
        let folded = run.folded.expect("some are folded");
        assert_eq!((folded.generation, folded.alike().count), (2, 3));
        assert_eq!((folded.alike().open_ns, folded.alike().longest_ns), (2_700_000_000, 900_000_000));
        let last = fixture::lifetime(3, 4, b"x");
        let ended = |lifetime: Lifetime| lifetime.closed.map(|act| act.time);
        assert_eq!(ended(folded), ended(last), "it ends with the last of them");
    }

    #[test]
    fn what_differs_is_no_loop() {
        let one = fixture::lifetime(3, 1, b"x");
        let next = fixture::lifetime(3, 2, b"x");
        assert!(are_alike(&one, &next));
        let mut other = next.clone();
        other.opened.tid += 1;
        assert!(!are_alike(&one, &other), "another thread");
        other = Lifetime { cloexec: !next.cloexec, ..next.clone() };
        assert!(!are_alike(&one, &other));
        other = Lifetime { closed: None, ..next.clone() };
        assert!(!are_alike(&one, &other), "it is open");
        other = Lifetime { generation: 3, ..next };
        assert!(!are_alike(&one, &other), "one between them is missing");
    }
}
