//! What each process does with a stream that it shares: who asks, who takes answers, and whose questions crossed.
//!
//! Sharing a stream is no mistake by itself. One process writes and another reads; workers take jobs in turn; many write
//! lines of a log. What harms are two clients of one conversation: each asks and takes an answer, and gets the other's.
//! Between two that agree on whose turn it is, questions do not cross: A asked, B asked before A had its answer, and both
//! took one then; or A waits on, and two others who asked after it took one each.
//!
//! It takes every use to see that, because who has had his answer in between is not waiting for one. They are told behind a
//! fork, and not many.

use std::collections::BTreeSet;

use fdtrace_common::wire::Watch;

use crate::model::{World, table::TableId};

use super::{finding::Confidence, share::Turn};

/// Processes and pairs of them remembered for one stream.
const SIDES: usize = 16;
const PAIRS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// Uses since the last fork, up to [`Watch::OPENING`]: beyond, not each is told.
    seen: u32,
    sides: Vec<Side>,
    /// Who asked, and waits.
    waiting: Vec<Turn>,
    pairs: Vec<Pair>,
    /// Tables whose questions crossed.
    crossed: Vec<[TableId; 2]>,
}

/// What one process did with the stream, as far as it was told.
#[derive(Clone, Copy, Debug)]
struct Side {
    table: TableId,
    /// It did so before it took anything: whoever waits for jobs begins with taking one.
    asks_first: bool,
    asked: bool,
    took: bool,
}

/// Two that asked, and what they took since.
#[derive(Debug)]
struct Pair {
    asked: [Turn; 2],
    took: [Option<Turn>; 2],
}

impl Conversation {
    /// A fork gave the stream to one more; from here on each use is told, for a while.
    pub(super) fn begin(&mut self) {
        if self.seen >= Watch::OPENING {
            // What happened meanwhile is not known.
            self.waiting.clear();
        }
        self.seen = 0;
    }

    /// Somebody adds to the stream (`asks`) or takes from it. Gives four uses that cross, in the order in which they were made.
    pub(super) fn on(&mut self, turn: &Turn, asks: bool, world: &World) -> Option<[Turn; 4]> {
        if let Some(side) = self.sides.iter_mut().find(|side| side.table == turn.table) {
            side.asked |= asks;
            side.took |= !asks;
        } else if self.sides.len() < SIDES {
            self.sides.push(Side { table: turn.table, asks_first: asks, asked: asks, took: !asks });
        }
        if self.seen >= Watch::OPENING {
            return None;
        }
        self.seen += 1;
        if asks {
            self.asked(turn, world);
            return None;
        }
        self.waiting.retain(|waiting| waiting.table != turn.table);
        for pair in &mut self.pairs {
            for (asked, took) in pair.asked.iter().zip(&mut pair.took) {
                if asked.table == turn.table && took.is_none() {
                    *took = Some(turn.clone());
                }
            }
        }
        let Some(place) = self.pairs.iter().position(|pair| pair.took.iter().all(Option::is_some)) else {
            return self.starved();
        };
        let Pair { asked: [first, second], took: [Some(a), Some(b)] } = self.pairs.swap_remove(place) else {
            return None;
        };
        if self.crossed.len() < PAIRS {
            self.crossed.push([first.table, second.table]);
        }
        let (third, fourth) = if a.by.at.exit.pos < b.by.at.exit.pos { (a, b) } else { (b, a) };
        Some([first, second, third, fourth])
    }

    /// One that asked first waits still, and two others, who asked after it, have taken answers.
    fn starved(&self) -> Option<[Turn; 4]> {
        let halves = self.pairs.iter().filter_map(|pair| match (&pair.asked, &pair.took) {
            ([waiting, other], [None, Some(took)]) => Some((waiting, other, took)),
            _ => None,
        });
        let halves: Vec<_> = halves.collect();
        let (waiting, other, took) = *halves.last()?;
        let earlier =
            halves.iter().find(|(first, second, _)| first.table == waiting.table && second.table != other.table);
        let mut turns = [waiting, other, earlier?.2, took].map(Turn::clone);
        turns.sort_by_key(|turn| turn.by.at.exit.pos);
        Some(turns)
    }

    fn asked(&mut self, turn: &Turn, world: &World) {
        let forked = world.processes.get(&turn.by.tgid).and_then(|process| process.forked);
        for waiting in self.waiting.iter().filter(|waiting| waiting.table != turn.table) {
            // Who was born after the question may have been born to see to the answer.
            let handed_over = forked.is_some_and(|forked| forked.pos > waiting.by.at.start());
            let alive = world.tables.get(&waiting.table).is_some_and(|table| table.alive());
            let known = |pair: &Pair| [0, 1].map(|side| pair.asked[side].table) == [waiting.table, turn.table];
            if alive
                && !handed_over
                && self.is_client(waiting.table)
                && self.is_client(turn.table)
                && self.pairs.len() < PAIRS
                && !self.pairs.iter().any(known)
            {
                self.pairs.push(Pair { asked: [waiting.clone(), turn.clone()], took: [None, None] });
            }
        }
        self.waiting.retain(|waiting| waiting.table != turn.table);
        self.waiting.push(turn.clone());
    }

    /// It asked before it took anything.
    pub(super) fn is_client(&self, table: TableId) -> bool {
        self.sides.iter().any(|side| side.table == table && side.asks_first)
    }

    /// Questions have crossed, and what is taken next may show it.
    pub(super) fn is_open(&self) -> bool {
        self.seen < Watch::OPENING && !self.pairs.is_empty()
    }

    /// How sure it is that `one` and `others`, who use the stream in turns, do harm to each other. `None`: they do not.
    pub(super) fn harm(&self, one: TableId, others: &BTreeSet<TableId>) -> Option<Confidence> {
        let one = self.sides.iter().find(|side| side.table == one)?;
        let others = self.sides.iter().filter(|side| others.contains(&side.table));
        let pairs = others.map(|other| {
            let both = |what: fn(&Side) -> bool| what(one) && what(other);
            let tables = [one.table, other.table];
            let crossed = self.crossed.iter().any(|pair| pair.iter().all(|table| tables.contains(table)));
            match (both(|side| side.asked), both(|side| side.took)) {
                (true, true) if crossed => Some(Confidence::Proven),
                (true, true) if both(|side| side.asks_first) => Some(Confidence::Likely),
                // Workers: they take jobs, and tell what came of them.
                (true, true) if !one.asks_first && !other.asks_first => None,
                (true, _) => Some(Confidence::Possible),
                (false, _) => None,
            }
        });
        pairs.flatten().max()
    }
}
