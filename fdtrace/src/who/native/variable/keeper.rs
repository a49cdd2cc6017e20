//! Which variables of a file keep numbers and nothing else: all that writes to them is known.

use std::{collections::HashMap, io, ops::Range, rc::Rc};

use super::{
    flow::{Call, Flow, Returned, Target},
    imports::{Imports, Meaning},
    index::Index,
    names::{Names, Symbol},
    state::Value,
};
use crate::who::native::{
    elf::{self, PF_X, u32_at, u64_at},
    object::Object,
};

const DATA_MAX: u64 = 16 << 20;
/// Variables of one file that are judged, and functions that are remembered.
const JUDGED_MAX: usize = 256;
const FLOWS_MAX: usize = 4096;
/// Instructions of one file that are gone through: ten times as many as Python's library needs for all its functions.
const STEPS_MAX: u64 = 1 << 25;
/// Numbers are given out above these, and a constant that is one of them is no number that was given out.
const LARGEST_CONSTANT: i32 = 2;
/// Bytes of a descriptor's number.
const NUMBER: u64 = 4;
/// Functions in a row through which a new number comes.
const FARTHEST: u32 = 6;
/// Functions that end with jumps which are looked at for one that leads somewhere.
const JUMPS_MAX: u32 = 32;
/// Names of one variable, or of parts of it, among which the one that covers a number is looked for.
const NESTED: usize = 4;

/// The code of a file and what was found out about it.
#[derive(Debug)]
pub struct Keeper {
    index: Index,
    imports: Imports,
    flows: HashMap<u64, Rc<(u64, Flow)>>,
    /// How many calls functions are away from the one that makes the number, which return new numbers and nothing else.
    /// `None`: they do not, or that is being found out.
    creators: HashMap<u64, Option<u32>>,
    judged: HashMap<u64, Option<Rc<str>>>,
    /// Instructions that may still be gone through.
    left: u64,
}

impl Keeper {
    pub fn load(object: &Object) -> io::Result<Self> {
        Ok(Self {
            index: Index::load(object)?,
            imports: Imports::load(object)?,
            flows: HashMap::new(),
            creators: HashMap::new(),
            judged: HashMap::new(),
            left: STEPS_MAX,
        })
    }

    /// What happens in the function around an address.
    pub fn flow(&mut self, object: &Object, address: u64) -> io::Result<Rc<(u64, Flow)>> {
        if let Some(known) = self.flows.get(&address) {
            return Ok(Rc::clone(known));
        }
        if self.flows.len() >= FLOWS_MAX {
            self.flows.clear();
        }
        if self.left == 0 {
            return Err(refused());
        }
        let flow = Rc::new(self.index.flow(object, address)?);
        self.left = self.left.saturating_sub(flow.1.steps);
        self.flows.insert(address, Rc::clone(&flow));
        Ok(flow)
    }

    pub fn meaning(&self, object: &Object, target: Target) -> Meaning {
        self.imports.meaning(object, target).unwrap_or_default()
    }

    /// The name of a variable that keeps what calls return and nothing else; `None`: it may have other numbers as well.
    pub fn name(&mut self, object: &Object, variable: u64) -> Option<Rc<str>> {
        if let Some(known) = self.judged.get(&variable) {
            return known.clone();
        }
        if self.judged.len() >= JUDGED_MAX {
            return None;
        }
        let judged = self.judge(object, variable).unwrap_or_else(|error| {
            log::debug!("a variable of `{}` is not known: {error}", object.path.escape_ascii());
            None
        });
        let judged: Option<Rc<str>> = judged.map(Into::into);
        self.judged.insert(variable, judged.clone());
        judged
    }

    fn judge(&mut self, object: &Object, variable: u64) -> io::Result<Option<String>> {
        let Some((name, whole)) = whole(object, variable)? else { return Ok(None) };
        let begins = initial(object, variable);
        let is_known_elsewhere = || -> io::Result<bool> {
            let code = self.index.taken.iter().chain(&self.imports.relative).any(|address| whole.contains(address));
            // Whoever can name it can write to it.
            let names = Names::load(object, b".dynsym")?;
            let named = names.variables().any(|symbol| symbol.start < whole.end && whole.start < symbol.end());
            Ok(code || named || has_word(object, &whole)?)
        };
        if begins.is_none_or(|number| number > LARGEST_CONSTANT) || is_known_elsewhere()? {
            return Ok(None);
        }
        let number = variable..variable.saturating_add(NUMBER);
        for piece in self.index.who_touches(&number) {
            let flow = self.flow(object, piece)?;
            let (_, flow) = &*flow;
            if flow.opaque || flow.compared.contains(&variable) {
                return Ok(None);
            }
            for (range, value) in
                flow.stores.iter().filter(|(range, _)| range.start < number.end && number.start < range.end)
            {
                let fine = match value {
                    _ if *range != number => false,
                    Value::Constant(constant) => *constant <= LARGEST_CONSTANT,
                    Value::Result(back) => {
                        // Of what two of them hold it is not followed which is which.
                        keeps(flow, *back).all(|other| other == variable) && self.creates_at(object, flow, *back)?
                    }
                    _ => false,
                };
                if !fine {
                    return Ok(None);
                }
            }
        }
        Ok(Some(name))
    }

    /// The call that returns to an address returns new numbers and nothing else.
    fn creates_at(&mut self, object: &Object, flow: &Flow, back: u64) -> io::Result<bool> {
        Ok(self.distance_at(object, flow, back)?.is_some())
    }

    fn distance_at(&mut self, object: &Object, flow: &Flow, back: u64) -> io::Result<Option<u32>> {
        match flow.calls.get(&back) {
            Some(call) => self.distance(object, call.target),
            None => Ok(None),
        }
    }

    /// A function returns new numbers and nothing else, and keeps none of them.
    fn distance(&mut self, object: &Object, target: Target) -> io::Result<Option<u32>> {
        if self.meaning(object, target).creates {
            return Ok(Some(0));
        }
        let Target::Function(start) = target else { return Ok(None) };
        if let Some(known) = self.creators.get(&start) {
            return Ok(*known);
        }
        if self.creators.len() >= FLOWS_MAX {
            return Ok(None);
        }
        self.creators.insert(start, None);
        let distance = self.distance_within(object, start)?;
        self.creators.insert(start, distance);
        Ok(distance)
    }

    fn distance_within(&mut self, object: &Object, start: u64) -> io::Result<Option<u32>> {
        if !self.index.is_function(start) {
            return Ok(None);
        }
        let flow = self.flow(object, start)?;
        let (begin, flow) = &*flow;
        let mut farthest = None;
        for returned in &flow.returned {
            let distance = match returned {
                Returned::Value(Value::Constant(constant)) if *constant <= LARGEST_CONSTANT => continue,
                Returned::Value(Value::Result(back)) if keeps(flow, *back).next().is_none() => {
                    self.distance_at(object, flow, *back)?
                }
                Returned::By(call) => self.distance(object, call.target)?,
                Returned::Value(_) => None,
            };
            // What is further away than stacks are followed would be missed.
            let Some(distance) = distance.filter(|distance| *distance < FARTHEST) else { return Ok(None) };
            farthest = farthest.max(Some(distance + 1));
        }
        Ok(farthest.filter(|_| *begin == start))
    }

    /// What the function that a call led to was given as an argument: `callee`, or whoever made the call where that is the
    /// library. `None`: the call did not lead there.
    pub fn given(&mut self, object: &Object, call: &Call, callee: Option<u64>, argument: usize) -> Option<Value> {
        match (callee, call.target) {
            (None, _) => Some(call.argument(argument)),
            (Some(callee), target) if target.is(callee) => Some(call.argument(argument)),
            // The one that was called has jumped to the one that is there.
            (Some(callee), Target::Function(other)) => match self.hands_on(object, other, callee, argument)? {
                Value::Argument(of_it) => Some(call.argument(of_it)),
                value => Some(value),
            },
            (Some(_), _) => None,
        }
    }

    /// A function ends with a jump to another one, or by way of others. `None`: it does not. Else what it hands on as an
    /// argument there.
    fn hands_on(&mut self, object: &Object, from: u64, to: u64, argument: usize) -> Option<Value> {
        let mut left = JUMPS_MAX;
        let handed = self.hands_on_within(object, from, to, argument, &mut left);
        // There may be another way, by which it hands on something else.
        handed.filter(|_| left > 0)
    }

    fn hands_on_within(
        &mut self,
        object: &Object,
        from: u64,
        to: u64,
        argument: usize,
        left: &mut u32,
    ) -> Option<Value> {
        *left = left.checked_sub(1)?;
        if !self.index.is_function(from) {
            return None;
        }
        let flow = self.flow(object, from).ok()?;
        let jumps = flow.1.returned.iter().filter_map(|returned| match returned {
            Returned::By(call) => Some(call),
            Returned::Value(_) => None,
        });
        let mut handed = None;
        for call in jumps {
            let value = match call.target {
                Target::Function(next) if next == to => call.argument(argument),
                Target::Function(next) => match self.hands_on_within(object, next, to, argument, left) {
                    Some(Value::Argument(of_next)) => call.argument(of_next),
                    Some(value) => value,
                    None => continue,
                },
                _ => continue,
            };
            if handed.is_some_and(|known| known != value) {
                return Some(Value::Unknown);
            }
            handed = Some(value);
        }
        handed
    }
}

/// Variables in which the result of a call is left.
pub fn keeps(flow: &Flow, back: u64) -> impl Iterator<Item = u64> {
    let of_it = flow.stores.iter().filter(move |(_, value)| *value == Value::Result(back));
    of_it.map(|(range, _)| range.start)
}

/// The result is what the function returns.
pub fn is_returned(flow: &Flow, back: u64) -> bool {
    flow.returned.contains(&Returned::Value(Value::Result(back)))
}

/// Name and extent of what a number is part of; `None`: it is not known.
fn whole(object: &Object, address: u64) -> io::Result<Option<(String, Range<u64>)>> {
    let names = Names::load(object, b".symtab")?;
    let mut named: Vec<Symbol> = names.variables().filter(|symbol| symbol.start <= address).collect();
    named.sort_unstable();
    let end = address.saturating_add(NUMBER);
    let around = named.into_iter().rev().take(NESTED).find(|symbol| end <= symbol.end());
    Ok(around.map(|symbol| {
        let name = match (names.name(symbol), address - symbol.start) {
            (name, 0) => name,
            (name, within) => format!("{name}+{within}"),
        };
        (name, symbol.start..symbol.end())
    }))
}

/// Is there a word in the data of the file that may be an address in this range?
fn has_word(object: &Object, range: &Range<u64>) -> io::Result<bool> {
    let mut left = DATA_MAX;
    for segment in object.elf.loads().filter(|segment| segment.flags & PF_X == 0) {
        let bytes = object.source.read(segment.offset, segment.filesz, left)?;
        left -= bytes.len() as u64;
        let skip = (segment.vaddr.wrapping_neg() & 7) as usize;
        let mut words = bytes.get(skip..).unwrap_or_default().chunks_exact(8).map(|word| u64_at(word, 0));
        if words.any(|word| range.contains(&word)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The number that a variable begins with.
fn initial(object: &Object, address: u64) -> Option<i32> {
    match object.elf.offset_of_address(address) {
        Some(offset) => Some(u32_at(&object.source.read(offset, NUMBER, NUMBER).ok()?, 0).cast_signed()),
        // Beyond what is in the file there are zeros.
        None => Some(0),
    }
}

/// A file that is not looked into.
pub fn refused() -> io::Error {
    elf::invalid("too much code was gone through")
}
