//! Static variables that keep descriptors: owners without an object.
//!
//! A C program keeps the number of its log in `static int log_fd`. Which generation that is can be told where the program
//! itself says so: the variable is written to by nothing but calls that return a new descriptor (and constants), so what it
//! holds is what the last of those calls returned, and those calls are all seen. Who then takes the number from there means
//! that generation, whatever the number has become.
//!
//! That nothing else writes to a variable is read from the code of the file that it is in: all of it is gone through once,
//! and only when a call was seen to leave its result in a variable. A variable is left out where anybody could write to it
//! unseen: an address in the structure that it is part of is in the code or in the data, other files can name it, or it is
//! written to by halves. So it is where its value is compared with another number, for then the program may know what it has.
//!
//! x86-64, in files with a symbol table.

mod flow;
mod imports;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    rc::Rc,
};

use self::{
    flow::{Flow, Piece, Stored},
    imports::{Imports, Meaning, Names, Symbol},
};
use super::{
    elf::{self, PF_W, PF_X, u32_at, u64_at},
    object::Object,
    rule,
};

/// Largest function that is looked at, code of a file, and data.
const FUNCTION_MAX: u64 = 256 << 10;
const CODE_MAX: u64 = 8 << 20;
const DATA_MAX: u64 = 16 << 20;
/// Most functions and candidates of one file.
const FUNCTIONS_MAX: usize = 1 << 18;
const CANDIDATES_MAX: usize = 256;
/// Code that is gone through in all: who makes new files all the time does not keep us busy.
const CODE_IN_ALL: u64 = 1 << 30;
/// Call sites of one file that are remembered, and files.
const SITES_MAX: usize = 1 << 16;
const FILES_MAX: usize = 1024;
/// Numbers are given out above these, and a constant that is one of them is no number that was given out.
const LARGEST_CONSTANT: i32 = 2;

/// What a call has to do with variables. Addresses are the file's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallSite {
    /// Its first argument, a number, is this variable's value.
    pub given: Option<u64>,
    /// Its result, a new number, is kept in this variable.
    pub kept: Option<u64>,
}

/// All files that were asked about.
#[derive(Debug, Default)]
pub struct Variables {
    files: HashMap<u64, File>,
    gone_through: u64,
}

#[derive(Debug, Default)]
struct File {
    /// Call sites that are known to leave their result in no variable.
    others: HashSet<u64>,
    /// `Some(None)`: it was gone through in vain.
    known: Option<Option<Known>>,
}

/// What is known of a file.
#[derive(Debug, Default)]
struct Known {
    names: HashMap<u64, Rc<str>>,
    sites: HashMap<u64, CallSite>,
}

impl Variables {
    /// The call of a file that returns to an address. `makes`: it has returned a new number.
    pub fn of_call(&mut self, object: &Object, back: u64, makes: bool) -> Option<CallSite> {
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&object.id) {
            self.files.clear();
        }
        let file = self.files.entry(object.id).or_default();
        if file.known.is_none() {
            if !makes || file.others.contains(&back) {
                return None;
            }
            if !keeps_result(object, back) {
                if file.others.len() < SITES_MAX {
                    file.others.insert(back);
                }
                return None;
            }
            self.gone_through = self.gone_through.saturating_add(code_len(object));
            let known = match self.gone_through {
                0..CODE_IN_ALL => Known::load(object),
                _ => Err(elf::invalid("too much code was gone through")),
            };
            if let Err(error) = &known {
                log::debug!("the variables of `{}` are not known: {error}", object.path.escape_ascii());
            }
            file.known = Some(known.ok());
        }
        file.known.as_ref()?.as_ref()?.sites.get(&back).copied()
    }

    pub fn name(&self, object: &Object, variable: u64) -> Option<Rc<str>> {
        self.files.get(&object.id)?.known.as_ref()?.as_ref()?.names.get(&variable).cloned()
    }
}

/// A look at one function: does it leave the result of the call in a variable?
fn keeps_result(object: &Object, back: u64) -> bool {
    if !cfg!(target_arch = "x86_64") || object.elf.section(b".symtab").is_none() {
        return false;
    }
    let Some(function) = rule::entry_range(object, back.wrapping_sub(1)) else { return false };
    let Ok(code) = code_of(object, &function, FUNCTION_MAX) else { return false };
    let data = data_of(object);
    let piece = Piece { start: function.start, code: &code, data: &data, fixed: is_fixed(object) };
    let mut targets = HashSet::new();
    let is_open = flow::targets(piece, &mut targets);
    let flow = flow::follow(piece, &targets, is_open);
    flow.calls.iter().any(|call| call.back == back && call.kept.is_some())
}

fn code_of(object: &Object, range: &Range<u64>, limit: u64) -> io::Result<Vec<u8>> {
    let offset = object.elf.offset_of_address(range.start).ok_or_else(|| elf::invalid("code outside of the file"))?;
    object.source.read(offset, range.end.saturating_sub(range.start), limit)
}

fn code_len(object: &Object) -> u64 {
    let code = object.elf.loads().filter(|segment| segment.flags & PF_X != 0).map(|segment| segment.filesz);
    code.fold(0, u64::saturating_add).min(CODE_MAX)
}

fn data_of(object: &Object) -> Vec<Range<u64>> {
    let writable = object.elf.loads().filter(|segment| segment.flags & PF_W != 0);
    writable.map(|segment| segment.vaddr..segment.vaddr.saturating_add(segment.memsz)).collect()
}

fn is_fixed(object: &Object) -> bool {
    object.elf.loads().map(|segment| segment.vaddr).min() != Some(0)
}

/// A variable that numbers are kept in, while it is looked for others that write to it.
#[derive(Debug)]
struct Candidate {
    name: String,
    /// The object that it is part of.
    whole: Range<u64>,
    fine: bool,
}

impl Known {
    fn load(object: &Object) -> io::Result<Self> {
        let imports = Imports::load(object)?;
        let flows = flows(object)?;
        let mut candidates = candidates(object, &flows)?;
        let mut spoil = |range: &Range<u64>| {
            for candidate in candidates.values_mut() {
                candidate.fine &= range.end <= candidate.whole.start || range.start >= candidate.whole.end;
            }
        };
        let at = |address: u64| address..address.saturating_add(1);
        let addresses = flows.iter().flat_map(|flow| flow.taken.iter().chain(&flow.compared)).chain(&imports.relative);
        addresses.for_each(|address| spoil(&at(*address)));
        words(object)?.for_each(|word| spoil(&at(word)));
        // Whoever can name it can write to it.
        for symbol in Names::load(object, b".dynsym")?.variables() {
            spoil(&(symbol.start..symbol.start.saturating_add(symbol.size.max(1))));
        }
        let calls = || flows.iter().flat_map(|flow| &flow.calls);
        let meanings: HashMap<u64, Meaning> =
            calls().filter_map(|call| Some((call.back, imports.meaning(object, call.target)?))).collect();
        let meaning = |back: u64| meanings.get(&back).copied().unwrap_or_default();
        for (range, stored) in flows.iter().flat_map(|flow| &flow.stores) {
            let known = match stored {
                Stored::Result(back) => meaning(*back).creates,
                Stored::Constant(constant) => *constant <= LARGEST_CONSTANT,
                Stored::Unknown => false,
            };
            let whole = candidates.contains_key(&range.start) && range.end - range.start == NUMBER;
            if !(known && whole) {
                // The number itself, and not its neighbours.
                for (address, candidate) in &mut candidates {
                    candidate.fine &= range.end <= *address || range.start >= address.saturating_add(NUMBER);
                }
            }
        }
        // Of what two of them hold it is not followed which is which.
        let mut first = HashMap::new();
        for (back, kept) in calls().filter_map(|call| Some((call.back, call.kept?))) {
            let other = *first.entry(back).or_insert(kept);
            if other != kept {
                [other, kept]
                    .iter()
                    .filter_map(|one| candidates.get_mut(one).map(|one| one.fine = false))
                    .for_each(drop);
            }
        }
        candidates.retain(|address, candidate| {
            candidate.fine && initial(object, *address).is_some_and(|value| value <= LARGEST_CONSTANT)
        });
        let mut known = Self::default();
        for call in calls() {
            let is_known = |variable: &u64| candidates.contains_key(variable);
            let given = call.given.filter(is_known).filter(|_| meaning(call.back).uses);
            let kept = call.kept.filter(is_known);
            if given.is_some() || kept.is_some() {
                let site = known.sites.entry(call.back).or_default();
                *site = CallSite { given: site.given.or(given), kept: site.kept.or(kept) };
            }
        }
        known.names = candidates.into_iter().map(|(address, one)| (address, one.name.into())).collect();
        Ok(known)
    }
}

/// Bytes of a descriptor's number.
const NUMBER: u64 = 4;
/// Names of one variable, or of parts of it, among which the one that covers a number is looked for.
const NESTED: usize = 4;

/// All code of a file, function by function as far as the unwind table tells them apart.
fn flows(object: &Object) -> io::Result<Vec<Flow>> {
    let starts = object.unwind.as_ref().ok_or_else(|| elf::invalid("no unwind table"))?.starts();
    if starts.len() > FUNCTIONS_MAX {
        return Err(elf::invalid("too many functions"));
    }
    let (data, fixed) = (data_of(object), is_fixed(object));
    let mut left = CODE_MAX;
    let mut pieces = Vec::new();
    for segment in object.elf.loads().filter(|segment| segment.flags & PF_X != 0) {
        let end = segment.vaddr.saturating_add(segment.filesz);
        let code = code_of(object, &(segment.vaddr..end), left)?;
        left -= code.len() as u64;
        pieces.push((segment.vaddr, code));
    }
    let mut cut = Vec::new();
    for (start, code) in &pieces {
        let end = start + code.len() as u64;
        let first = starts.partition_point(|at| at <= start);
        let bounds = starts[first..].iter().copied().take_while(|at| *at < end);
        let mut from = *start;
        for to in bounds.chain([end]) {
            let bytes = &code[(from - start) as usize..(to - start) as usize];
            cut.push(Piece { start: from, code: bytes, data: &data, fixed });
            from = to;
        }
    }
    let mut targets = HashSet::new();
    let open: Vec<bool> = cut.iter().map(|piece| flow::targets(*piece, &mut targets)).collect();
    Ok(cut.iter().zip(open).map(|(piece, is_open)| flow::follow(*piece, &targets, is_open)).collect())
}

/// Variables with a name in which a call leaves its result.
fn candidates(object: &Object, flows: &[Flow]) -> io::Result<HashMap<u64, Candidate>> {
    let names = Names::load(object, b".symtab")?;
    let mut named: Vec<Symbol> = names.variables().collect();
    named.sort_unstable();
    let mut candidates = HashMap::new();
    for address in flows.iter().flat_map(|flow| &flow.calls).filter_map(|call| call.kept) {
        let after = named.partition_point(|symbol| symbol.start <= address);
        let end = |symbol: &Symbol| symbol.start.saturating_add(symbol.size);
        let covers = |symbol: &&Symbol| address.saturating_add(NUMBER) <= end(symbol);
        let Some(symbol) = named[..after].iter().rev().take(NESTED).find(covers) else { continue };
        let name = match (names.name(*symbol), address - symbol.start) {
            (name, 0) => name,
            (name, within) => format!("{name}+{within}"),
        };
        candidates.insert(address, Candidate { name, whole: symbol.start..end(symbol), fine: true });
        if candidates.len() > CANDIDATES_MAX {
            return Err(elf::invalid("numbers are kept in too many variables"));
        }
    }
    Ok(candidates)
}

/// What the data of the file has, word by word: some of them may be addresses.
fn words(object: &Object) -> io::Result<impl Iterator<Item = u64>> {
    let mut left = DATA_MAX;
    let mut read = Vec::new();
    for segment in object.elf.loads().filter(|segment| segment.flags & PF_X == 0) {
        let bytes = object.source.read(segment.offset, segment.filesz, left)?;
        left -= segment.filesz;
        read.push((segment.vaddr, bytes));
    }
    Ok(read.into_iter().flat_map(|(start, bytes)| {
        let skip = (start.wrapping_neg() & 7) as usize;
        let words: Vec<u64> =
            bytes.get(skip..).unwrap_or_default().chunks_exact(8).map(|word| u64_at(word, 0)).collect();
        words
    }))
}

/// The number that a variable begins with.
fn initial(object: &Object, address: u64) -> Option<i32> {
    match object.elf.offset_of_address(address) {
        Some(offset) => Some(u32_at(&object.source.read(offset, NUMBER, NUMBER).ok()?, 0).cast_signed()),
        // Beyond what is in the file there are zeros.
        None => Some(0),
    }
}
