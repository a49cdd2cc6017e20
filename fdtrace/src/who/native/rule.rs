//! From unwind tables to rules: how to get from one frame to its caller.
//!
//! A rule depends on the code address alone, never on memory, so it can be kept. Rules that need an expression to be
//! computed are marked and computed at each use, with a bound on steps. Tables are hostile input: what is too long, or
//! makes no sense, gives no rule.

use gimli::{
    CfaRule, EhFrame, EndianSlice, EvaluationResult, FrameDescriptionEntry, LittleEndian, Location, Register,
    RegisterRule, UnwindContext, UnwindExpression, UnwindSection as _, UnwindTableRow, Value,
};

use super::object::{Index, Object, UnwindTables};

/// Longest entry that is executed. `_PyEval_EvalFrameDefault` has 3 KiB.
const ENTRY_MAX: usize = 256 << 10;
/// Most steps of one expression.
const STEPS_MAX: u32 = 64;

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Fde<'a> = FrameDescriptionEntry<Slice<'a>>;

#[cfg(target_arch = "x86_64")]
mod arch {
    use gimli::{Register, Vendor, X86_64};
    pub const SP: Register = X86_64::RSP;
    pub const BP: Register = X86_64::RBP;
    pub const RA: Register = X86_64::RA;
    pub const VENDOR: Vendor = Vendor::Default;
}
#[cfg(target_arch = "aarch64")]
mod arch {
    use gimli::{AArch64, Register, Vendor};
    pub const SP: Register = AArch64::SP;
    pub const BP: Register = AArch64::X29;
    pub const RA: Register = AArch64::X30;
    pub const VENDOR: Vendor = Vendor::AArch64;
}

/// The registers that are followed from frame to frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    pub ip: u64,
    pub sp: u64,
    /// The frame pointer: rbp, x29.
    pub bp: u64,
    /// aarch64: x30. Unused on x86-64.
    pub lr: u64,
}

/// How to get from a frame to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Caller's sp = (bp or sp) + `cfa`; return address at that + `ra`; bp at that + `bp`, unless unchanged.
    Offsets { from_bp: bool, cfa: i32, ra: Saved, bp: Saved },
    /// The tables say that there is no caller.
    Outermost,
    /// The tables say more than fits here: look again. Frames of signal handlers are of this kind.
    Computed { signal: bool },
    /// No table covers the address.
    Uncovered,
    /// A table covers the address and makes no sense.
    Broken,
}

/// Where the caller's value of a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    InRegister,
    At(i32),
}

/// Scratch memory for executing unwind programs.
pub type Context = UnwindContext<usize>;

/// The rule for an address of an object, in the file's own terms.
pub fn rule_at(object: &Object, address: u64, context: &mut Context) -> Rule {
    let Some(tables) = &object.unwind else {
        return Rule::Uncovered;
    };
    match tables.row(address, context) {
        Found::Nothing => Rule::Uncovered,
        Found::Nonsense => Rule::Broken,
        Found::Row(row, signal) => compile(row, signal),
    }
}

/// The range of addresses of the table entry that covers an address: a function, or a part of one.
pub fn entry_range(object: &Object, address: u64) -> Option<std::ops::Range<u64>> {
    let fde = object.unwind.as_ref()?.entry(address).ok()??;
    Some(fde.initial_address()..fde.end_address())
}

/// Whether the entry that covers an address begins in the middle of a function: with a frame already built.
pub fn is_continuation(object: &Object, address: u64, context: &mut Context) -> bool {
    let Some(range) = entry_range(object, address) else {
        return false;
    };
    let Some(tables) = &object.unwind else {
        return false;
    };
    let Found::Row(row, _) = tables.row(range.start, context) else {
        return false;
    };
    !matches!(row.cfa(), CfaRule::RegisterAndOffset { register, offset } if *register == arch::SP && *offset <= 8)
}

/// Applies a [`Rule::Computed`]. `None` when it cannot be computed; `Some(None)` when there is no caller.
pub fn compute(
    object: &Object,
    address: u64,
    registers: &Registers,
    context: &mut Context,
    read: &mut dyn FnMut(u64) -> Option<u64>,
) -> Option<Option<Registers>> {
    let tables = object.unwind.as_ref()?;
    let section = tables.section();
    let Found::Row(row, _) = tables.row(address, context) else {
        return None;
    };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            register_value(*register, registers)?.wrapping_add_signed(*offset)
        }
        CfaRule::Expression(expression) => evaluate(&section, expression, registers, None, read)?,
    };
    let mut value = |register: Register, unchanged: Option<u64>| match row.register(register) {
        None | Some(RegisterRule::SameValue) => unchanged,
        Some(RegisterRule::Offset(offset)) => read(cfa.wrapping_add_signed(offset)),
        Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(offset)),
        Some(RegisterRule::Register(other)) => register_value(other, registers),
        Some(RegisterRule::Expression(expression)) => {
            let at = evaluate(&section, &expression, registers, Some(cfa), read)?;
            read(at)
        }
        Some(RegisterRule::ValExpression(expression)) => evaluate(&section, &expression, registers, Some(cfa), read),
        _ => None,
    };
    if matches!(row.register(arch::RA), Some(RegisterRule::Undefined)) {
        return Some(None);
    }
    let lr = cfg!(target_arch = "aarch64").then_some(registers.lr);
    let ip = value(arch::RA, lr)?;
    let sp = value(arch::SP, Some(cfa))?;
    // A caller without a usable bp can still be unwound, if it does not need one.
    let bp = value(arch::BP, Some(registers.bp)).unwrap_or(0);
    Some(Some(Registers { ip, sp, bp, lr: ip }))
}

enum Found<'a> {
    Row(&'a UnwindTableRow<usize>, bool),
    Nothing,
    Nonsense,
}

impl UnwindTables {
    fn section(&self) -> EhFrame<Slice<'_>> {
        let mut section = EhFrame::from(EndianSlice::new(&self.eh_frame, LittleEndian));
        section.set_address_size(8);
        section.set_vendor(arch::VENDOR);
        section
    }

    fn row<'c>(&self, address: u64, context: &'c mut Context) -> Found<'c> {
        let fde = match self.entry(address) {
            Ok(Some(fde)) => fde,
            Ok(None) => return Found::Nothing,
            Err(_) => return Found::Nonsense,
        };
        match fde.unwind_info_for_address(&self.section(), &self.bases, context, address) {
            Ok(row) => Found::Row(row, fde.is_signal_trampoline()),
            Err(_) => Found::Nonsense,
        }
    }

    /// The entry that covers an address.
    fn entry(&self, address: u64) -> gimli::Result<Option<Fde<'_>>> {
        let Some(offset) = self.find(address) else {
            return Ok(None);
        };
        let fde = self.section().fde_from_offset(&self.bases, offset.into(), EhFrame::cie_from_offset)?;
        // An entry's program and its parent's are executed together.
        if fde.entry_len() > ENTRY_MAX || fde.cie().entry_len() > ENTRY_MAX {
            return Err(gimli::Error::UnsupportedOffset);
        }
        Ok(fde.contains(address).then_some(fde))
    }

    /// Offset of the last entry that begins at or before an address.
    fn find(&self, address: u64) -> Option<usize> {
        match &self.index {
            Index::Header(header) => usize::try_from(header.find(address)?.checked_sub(self.eh_frame_address)?).ok(),
            Index::Built(rows) => Some(rows[rows.partition_point(|(start, _)| *start <= address).checked_sub(1)?].1),
        }
    }
}

fn compile(row: &UnwindTableRow<usize>, signal: bool) -> Rule {
    let computed = Rule::Computed { signal };
    let ra = match row.register(arch::RA) {
        Some(RegisterRule::Undefined) => return Rule::Outermost,
        Some(RegisterRule::Offset(offset)) => Saved::at(offset),
        None | Some(RegisterRule::SameValue) if cfg!(target_arch = "aarch64") => Some(Saved::InRegister),
        None => return Rule::Broken,
        _ => None,
    };
    let bp = match row.register(arch::BP) {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Some(Saved::InRegister),
        Some(RegisterRule::Offset(offset)) => Saved::at(offset),
        _ => None,
    };
    let sp_is_cfa = matches!(row.register(arch::SP), None | Some(RegisterRule::SameValue | RegisterRule::ValOffset(0)));
    let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else {
        return computed;
    };
    let from_bp = match *register {
        arch::SP => false,
        arch::BP => true,
        _ => return Rule::Broken,
    };
    match (i32::try_from(*offset), ra, bp) {
        (Ok(cfa), Some(ra), Some(bp)) if sp_is_cfa && !signal => Rule::Offsets { from_bp, cfa, ra, bp },
        _ => computed,
    }
}

impl Saved {
    fn at(offset: i64) -> Option<Self> {
        i32::try_from(offset).ok().map(Self::At)
    }
}

fn register_value(register: Register, registers: &Registers) -> Option<u64> {
    match register {
        arch::SP => Some(registers.sp),
        arch::BP => Some(registers.bp),
        arch::RA if cfg!(target_arch = "aarch64") => Some(registers.lr),
        arch::RA => Some(registers.ip),
        _ => None,
    }
}

/// Evaluates an expression, with `initial` on its stack.
fn evaluate(
    section: &EhFrame<Slice<'_>>,
    expression: &UnwindExpression<usize>,
    registers: &Registers,
    initial: Option<u64>,
    read: &mut dyn FnMut(u64) -> Option<u64>,
) -> Option<u64> {
    let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
    let mut evaluation = expression.get(section).ok()?.evaluation(encoding);
    evaluation.set_max_iterations(STEPS_MAX);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    let mut state = evaluation.evaluate().ok()?;
    for _ in 0..STEPS_MAX {
        state = match state {
            EvaluationResult::Complete => {
                let [piece] = evaluation.as_result() else {
                    return None;
                };
                let Location::Address { address } = piece.location else {
                    return None;
                };
                return Some(address);
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                evaluation.resume_with_register(Value::Generic(register_value(register, registers)?)).ok()?
            }
            EvaluationResult::RequiresMemory { address, size: 8, space: None, .. } => {
                evaluation.resume_with_memory(Value::Generic(read(address)?)).ok()?
            }
            _ => return None,
        };
    }
    None
}
