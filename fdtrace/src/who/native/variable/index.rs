//! All code of a file, gone through once: where functions are, who enters them, and who touches which variable.

use std::{collections::HashSet, io, ops::Range};

use iced_x86::Mnemonic;

use super::{
    flow::{self, Flow, Piece, decoder},
    names::Names,
    operand::{has_memory, static_address},
};
use crate::who::native::{
    elf::{self, PF_W, PF_X},
    object::Object,
    rule,
};

/// Largest function that is looked at, and code of a file.
const FUNCTION_MAX: u64 = 64 << 10;
pub const CODE_MAX: u64 = 16 << 20;
/// Most functions of one file.
const FUNCTIONS_MAX: usize = 1 << 18;

#[derive(Debug)]
pub struct Index {
    /// Where pieces begin; sorted. The last entry is an end.
    starts: Vec<u64>,
    /// Where functions begin.
    functions: HashSet<u64>,
    /// What is jumped to from other pieces.
    entered: HashSet<u64>,
    /// Bytes that the code touches, from where and how many, with the piece in which it does; sorted.
    touched: Vec<(u64, u64, u64)>,
    /// Addresses that the code has as numbers: who has one may write there.
    pub taken: Vec<u64>,
    data: Vec<Range<u64>>,
}

impl Index {
    pub fn load(object: &Object) -> io::Result<Self> {
        let tables = object.unwind.as_ref().ok_or_else(|| elf::invalid("no unwind table"))?;
        let bounds = tables.starts();
        if bounds.len() > FUNCTIONS_MAX {
            return Err(elf::invalid("too many functions"));
        }
        let mut index = Self {
            starts: Vec::new(),
            functions: functions(object)?,
            entered: HashSet::new(),
            touched: Vec::new(),
            taken: Vec::new(),
            data: data_of(object),
        };
        let mut left = CODE_MAX;
        for segment in object.elf.loads().filter(|segment| segment.flags & PF_X != 0) {
            let end = segment.vaddr.saturating_add(segment.filesz);
            let code = code_of(object, &(segment.vaddr..end), left)?;
            left -= code.len() as u64;
            index.segment(segment.vaddr, &code, &bounds, is_fixed(object));
        }
        index.starts.sort_unstable();
        index.touched.sort_unstable();
        index.touched.dedup();
        Ok(index)
    }

    fn segment(&mut self, start: u64, code: &[u8], bounds: &[u64], fixed: bool) {
        let end = start.saturating_add(code.len() as u64);
        let inner = bounds[bounds.partition_point(|at| *at <= start)..].iter().copied();
        let mut from = start;
        for to in inner.take_while(|at| *at < end).chain([end]) {
            if to == from {
                continue;
            }
            self.starts.push(from);
            self.piece(from, &code[(from - start) as usize..(to - start) as usize], fixed);
            from = to;
        }
        self.starts.push(end);
    }

    fn piece(&mut self, start: u64, code: &[u8], fixed: bool) {
        let end = start.saturating_add(code.len() as u64);
        let piece = Piece { start, code, is_function: false, data: &[] };
        for instruction in decoder(piece) {
            let near = instruction.near_branch_target();
            if instruction.is_jmp_short_or_near() || instruction.is_jcc_short_or_near() {
                if !(start..end).contains(&near) {
                    self.entered.insert(near);
                }
                continue;
            }
            let is_data = |address: &u64| self.data.iter().any(|range| range.contains(address));
            if has_memory(&instruction) {
                match static_address(&instruction).filter(is_data) {
                    Some(address) if instruction.mnemonic() == Mnemonic::Lea => self.taken.push(address),
                    Some(address) => {
                        let size = instruction.memory_size().size() as u64;
                        self.touched.push((address, size.max(1), start));
                    }
                    // Of an array, or of a number in the code.
                    None if fixed => self.taken.extend(Some(instruction.memory_displacement64()).filter(is_data)),
                    None => {}
                }
            }
            if fixed {
                let numbers = (0..instruction.op_count()).filter_map(|operand| instruction.try_immediate(operand).ok());
                self.taken.extend(numbers.filter(is_data));
            }
        }
    }

    /// The piece that covers an address.
    fn around(&self, address: u64) -> Option<Range<u64>> {
        let after = self.starts.partition_point(|start| *start <= address);
        Some(*self.starts[..after].last()?..*self.starts.get(after)?)
    }

    pub fn is_function(&self, start: u64) -> bool {
        self.functions.contains(&start)
    }

    /// Pieces that touch any of these bytes.
    pub fn who_touches(&self, range: &Range<u64>) -> HashSet<u64> {
        // No register has more bytes.
        const WIDEST: u64 = 64;
        let from = self.touched.partition_point(|(address, ..)| address.saturating_add(WIDEST) <= range.start);
        let near = self.touched[from..].iter().take_while(|(address, ..)| *address < range.end);
        let touch = near.filter(|(address, size, _)| address.saturating_add(*size) > range.start);
        touch.map(|(.., piece)| *piece).collect()
    }

    /// What happens in the piece around an address, with its beginning.
    pub fn flow(&self, object: &Object, address: u64) -> io::Result<(u64, Flow)> {
        let range = self.around(address).ok_or_else(|| elf::invalid("no code there"))?;
        let code = code_of(object, &range, FUNCTION_MAX)?;
        let is_function = self.is_function(range.start);
        let piece = Piece { start: range.start, code: &code, is_function, data: &self.data };
        Ok((range.start, flow::follow(piece, &self.entered)))
    }
}

/// A look at one function, without the rest of the file.
pub fn glance(object: &Object, address: u64) -> Option<(u64, Flow)> {
    let range = rule::entry_range(object, address)?;
    let code = code_of(object, &range, FUNCTION_MAX).ok()?;
    let piece = Piece { start: range.start, code: &code, is_function: true, data: &data_of(object) };
    Some((range.start, flow::follow(piece, &HashSet::new())))
}

/// Where functions begin, by the symbols. Parts that the compiler placed elsewhere are none.
fn functions(object: &Object) -> io::Result<HashSet<u64>> {
    let names = Names::load(object, b".symtab")?;
    let whole = names.functions().filter(|(_, name)| !name.windows(5).any(|part| part == b".cold"));
    Ok(whole.map(|(start, _)| start).collect())
}

/// How much code a file has, as far as that matters.
pub fn code_len(object: &Object) -> u64 {
    let code = object.elf.loads().filter(|segment| segment.flags & PF_X != 0).map(|segment| segment.filesz);
    code.fold(0, u64::saturating_add).min(CODE_MAX)
}

fn code_of(object: &Object, range: &Range<u64>, limit: u64) -> io::Result<Vec<u8>> {
    let offset = object.elf.offset_of_address(range.start).ok_or_else(|| elf::invalid("code outside of the file"))?;
    object.source.read(offset, range.end.saturating_sub(range.start), limit)
}

fn data_of(object: &Object) -> Vec<Range<u64>> {
    let writable = object.elf.loads().filter(|segment| segment.flags & PF_W != 0);
    writable.map(|segment| segment.vaddr..segment.vaddr.saturating_add(segment.memsz)).collect()
}

fn is_fixed(object: &Object) -> bool {
    object.elf.loads().map(|segment| segment.vaddr).min() != Some(0)
}
