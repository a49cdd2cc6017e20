//! What one function does with static variables: which calls are given the value of one, and which leave their result
//! there.
//!
//! Only what holds whichever way the function is run is said: values are followed from one instruction to the next, and
//! forgotten where another path comes in and at each call.

use std::{collections::HashSet, ops::Range};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

/// A piece of code, and what is known of the file that it is from.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub start: u64,
    pub code: &'a [u8],
    /// Where variables are.
    pub data: &'a [Range<u64>],
    /// The file is loaded where it says, so its code may have addresses as numbers.
    pub fixed: bool,
}

/// Whom a call calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Function(u64),
    /// Whatever the pointer at this address points to.
    Pointer(u64),
}

/// A call that has to do with a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Address behind it.
    pub back: u64,
    pub target: Target,
    /// The variable whose value is its first argument.
    pub given: Option<u64>,
    /// The variable that has its result.
    pub kept: Option<u64>,
}

/// What was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The result of the call that returns to this address.
    Result(u64),
    Constant(i32),
    Unknown,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Flow {
    pub calls: Vec<Call>,
    pub stores: Vec<(Range<u64>, Stored)>,
    /// Addresses that the code has as numbers: who has one may write there.
    pub taken: Vec<u64>,
    /// Variables whose value is compared with something that is not in the code.
    pub compared: Vec<u64>,
}

/// What a register or a word of the stack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Result(u64),
    Of(u64),
}

/// Addresses that are jumped to, and whether there are jumps to who knows where.
pub fn targets(piece: Piece<'_>, found: &mut HashSet<u64>) -> bool {
    let mut is_open = false;
    for instruction in decoder(piece) {
        match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                found.insert(instruction.near_branch_target());
            }
            FlowControl::IndirectBranch => is_open = true,
            _ => {}
        }
    }
    is_open
}

/// `targets`: what is jumped to from anywhere. `is_open`: there are jumps to who knows where in this piece.
pub fn follow(piece: Piece<'_>, targets: &HashSet<u64>, is_open: bool) -> Flow {
    let mut walk = Walk { piece, flow: Flow::default(), registers: [None; 16], slots: Vec::new(), last: None };
    let mut about = InstructionInfoFactory::new();
    for instruction in decoder(piece) {
        if is_open || targets.contains(&instruction.ip()) {
            walk.forget();
        }
        walk.step(&instruction, &mut about);
    }
    walk.flow
}

fn decoder(piece: Piece<'_>) -> Decoder<'_> {
    Decoder::with_ip(64, piece.code, piece.start, DecoderOptions::NONE)
}

struct Walk<'a> {
    piece: Piece<'a>,
    flow: Flow,
    registers: [Option<Value>; 16],
    /// Words of the stack, by register and displacement.
    slots: Vec<((Register, u64), Value)>,
    /// The call that the flow comes from, with its place in `flow.calls` if it is there.
    last: Option<(u64, Target)>,
}

impl Walk<'_> {
    fn forget(&mut self) {
        self.registers = [None; 16];
        self.slots.clear();
        self.last = None;
    }

    fn step(&mut self, instruction: &Instruction, about: &mut InstructionInfoFactory) {
        self.addresses(instruction);
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => return self.call(instruction),
            FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Return
            | FlowControl::Interrupt
            | FlowControl::XbeginXabortXend
            | FlowControl::Exception => return self.forget(),
            FlowControl::ConditionalBranch | FlowControl::Next => {}
        }
        match instruction.code() {
            Code::Mov_r32_rm32 | Code::Mov_rm32_r32 | Code::Mov_rm32_imm32 => self.moved(instruction),
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if instruction.op1_kind() == OpKind::Register => {
                self.moved(instruction);
            }
            _ => self.other(instruction, about),
        }
    }

    /// Addresses as numbers.
    fn addresses(&mut self, instruction: &Instruction) {
        let mut taken = |address| {
            if self.piece.data.iter().any(|range| range.contains(&address)) {
                self.flow.taken.push(address);
            }
        };
        if has_memory(instruction) {
            match static_address(instruction) {
                Some(address) if instruction.mnemonic() == Mnemonic::Lea => taken(address),
                Some(_) => {}
                // Of an array, or of a number in the code.
                None if self.piece.fixed => taken(instruction.memory_displacement64()),
                None => {}
            }
        }
        if self.piece.fixed {
            let numbers = (0..instruction.op_count()).filter_map(|operand| instruction.try_immediate(operand).ok());
            numbers.for_each(taken);
        }
    }

    fn call(&mut self, instruction: &Instruction) {
        let target = match instruction.op0_kind() {
            OpKind::NearBranch64 => Some(Target::Function(instruction.near_branch_target())),
            OpKind::Memory => static_address(instruction).map(Target::Pointer),
            _ => None,
        };
        let given = match self.registers[place(Register::RDI)] {
            Some(Value::Of(variable)) => Some(variable),
            _ => None,
        };
        self.forget();
        let Some(target) = target else { return };
        let back = instruction.next_ip();
        if given.is_some() {
            self.flow.calls.push(Call { back, target, given, kept: None });
        }
        self.last = Some((back, target));
        self.registers[place(Register::RAX)] = Some(Value::Result(back));
    }

    fn moved(&mut self, instruction: &Instruction) {
        let value = match instruction.op1_kind() {
            OpKind::Register => self.registers[place(instruction.op1_register())],
            OpKind::Memory => self.loaded(instruction),
            _ => None,
        };
        if instruction.op0_kind() == OpKind::Register {
            self.set(instruction.op0_register(), value);
            return;
        }
        let constant = (instruction.op1_kind() == OpKind::Immediate32).then(|| instruction.immediate32().cast_signed());
        match static_address(instruction) {
            Some(address) => {
                let stored = match (value, constant) {
                    (Some(Value::Result(back)), _) => Stored::Result(back),
                    (_, Some(constant)) => Stored::Constant(constant),
                    _ => Stored::Unknown,
                };
                self.store(address, 4, stored);
            }
            None => match slot(instruction) {
                Some(slot) => {
                    self.overwritten(slot, 4);
                    self.slots.extend(value.map(|value| (slot, value)));
                }
                // It may be one of them.
                None => self.slots.clear(),
            },
        }
    }

    fn loaded(&self, instruction: &Instruction) -> Option<Value> {
        if let Some(address) = static_address(instruction) {
            return self.piece.data.iter().any(|range| range.contains(&address)).then_some(Value::Of(address));
        }
        let slot = slot(instruction)?;
        self.slots.iter().find(|(known, _)| *known == slot).map(|(_, value)| *value)
    }

    fn store(&mut self, address: u64, size: u64, stored: Stored) {
        if !self.piece.data.iter().any(|range| range.contains(&address)) {
            return;
        }
        self.flow.stores.push((address..address.saturating_add(size), stored));
        if let Stored::Result(back) = stored
            && let Some((_, target)) = self.last.filter(|(last, _)| *last == back)
        {
            match self.flow.calls.last_mut().filter(|call| call.back == back && call.kept.is_none()) {
                Some(call) => call.kept = Some(address),
                None => self.flow.calls.push(Call { back, target, given: None, kept: Some(address) }),
            }
        }
    }

    /// Whatever it is, what it writes is unknown from now on.
    fn other(&mut self, instruction: &Instruction, about: &mut InstructionInfoFactory) {
        self.compare(instruction);
        let info = about.info(instruction);
        for used in info.used_memory().iter().filter(|used| writes(used.access())) {
            let size = used.memory_size().size() as u64;
            if has_memory(instruction)
                && let Some(address) = static_address(instruction)
            {
                self.store(address, size.max(1), Stored::Unknown);
                continue;
            }
            match slot(instruction).filter(|_| has_memory(instruction)) {
                Some(slot) => self.overwritten(slot, size.max(1)),
                None => self.slots.clear(),
            }
        }
        for used in info.used_registers().iter().filter(|used| writes(used.access())) {
            self.set(used.register(), None);
        }
    }

    /// A variable's value decides about something, and not only by what it is itself.
    fn compare(&mut self, instruction: &Instruction) {
        let compares = matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Sub | Mnemonic::Xor | Mnemonic::Test);
        let [first, second] = [0, 1].map(|operand| match instruction.op_kind(operand) {
            OpKind::Register => self.register(instruction.op_register(operand)),
            OpKind::Memory => self.loaded(instruction),
            _ => None,
        });
        let is_constant = !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory);
        if !compares || is_constant || instruction.op0_register() == instruction.op1_register() {
            return;
        }
        for value in [first, second] {
            if let Some(Value::Of(variable)) = value {
                self.flow.compared.push(variable);
            }
        }
    }

    fn register(&self, register: Register) -> Option<Value> {
        if register.is_gpr() { self.registers[place(register)] } else { None }
    }

    fn set(&mut self, register: Register, value: Option<Value>) {
        if !register.is_gpr() {
            return;
        }
        let full = register.full_register();
        self.registers[place(register)] = value;
        // Its words are others now.
        self.slots.retain(|((base, _), _)| *base != full);
    }

    fn overwritten(&mut self, (base, displacement): (Register, u64), size: u64) {
        self.slots.retain(|((known, at), _)| {
            // Of the other register it is not known where it points to.
            *known == base && (at.wrapping_sub(displacement) >= size && displacement.wrapping_sub(*at) >= 4)
        });
    }
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

/// The address of a memory operand that is always the same.
fn static_address(instruction: &Instruction) -> Option<u64> {
    if instruction.is_ip_rel_memory_operand() {
        return Some(instruction.ip_rel_memory_address());
    }
    let is_fixed = instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
    let of_thread = matches!(instruction.memory_segment(), Register::FS | Register::GS);
    (is_fixed && !of_thread).then(|| instruction.memory_displacement64())
}

/// A word of the function's own stack.
fn slot(instruction: &Instruction) -> Option<(Register, u64)> {
    let base = instruction.memory_base();
    (matches!(base, Register::RBP | Register::RSP) && instruction.memory_index() == Register::None)
        .then(|| (base, instruction.memory_displacement64()))
}

fn place(register: Register) -> usize {
    register.full_register().number()
}
