//! What is known of a function's registers and of its part of the stack, at one place in its code.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Arguments that are passed in registers.
pub const ARGUMENTS: usize = 6;
pub const ARGUMENT_REGISTERS: [Register; ARGUMENTS] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];
/// Words of the stack that are followed at a time.
const SLOTS_MAX: usize = 64;

/// What a register or a word of the stack holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Value {
    #[default]
    Unknown,
    /// What the call that returns to this address returned when it was made last.
    Result(u64),
    /// What the variable at this address holds.
    Of(u64),
    /// Argument of the function.
    Argument(usize),
    Constant(i32),
    /// An address in the function's part of the stack, from where its caller's begins.
    Stack(i64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    registers: [Value; 16],
    /// Numbers on the stack, by where they are; sorted.
    pub slots: Vec<(i64, Value)>,
}

impl State {
    pub fn unknown() -> Self {
        let mut state = Self::default();
        state.registers[place(Register::RSP)] = Value::Stack(0);
        state
    }

    pub fn of_function() -> Self {
        let mut state = Self::unknown();
        for (argument, register) in ARGUMENT_REGISTERS.into_iter().enumerate() {
            state.registers[place(register)] = Value::Argument(argument);
        }
        state
    }

    pub fn get(&self, register: Register) -> Value {
        if register.is_gpr() { self.registers[place(register)] } else { Value::Unknown }
    }

    pub fn set(&mut self, register: Register, value: Value) {
        if register.is_gpr() {
            self.registers[place(register)] = value;
        }
    }

    /// Where on the stack a memory operand is.
    pub fn slot(&self, instruction: &Instruction) -> Option<i64> {
        match self.get(instruction.memory_base()) {
            Value::Stack(base) if instruction.memory_index() == Register::None => {
                Some(base.wrapping_add(instruction.memory_displacement64().cast_signed()))
            }
            _ => None,
        }
    }

    pub fn at(&self, slot: i64) -> Value {
        self.slots.binary_search_by_key(&slot, |(at, _)| *at).map_or(Value::Unknown, |found| self.slots[found].1)
    }

    pub fn overwrite(&mut self, slot: i64, size: i64) {
        self.slots.retain(|(at, _)| *at >= slot.saturating_add(size) || slot >= at.saturating_add(4));
    }

    pub fn put(&mut self, slot: i64, value: Value) {
        self.overwrite(slot, 4);
        if value != Value::Unknown && self.slots.len() < SLOTS_MAX {
            let at = self.slots.partition_point(|(at, _)| *at < slot);
            self.slots.insert(at, (slot, value));
        }
    }

    /// Keeps what another way agrees on. `true`: something had to go.
    pub fn meet(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (mine, its) in self.registers.iter_mut().zip(&other.registers) {
            if *mine != *its {
                *mine = Value::Unknown;
            }
        }
        self.slots.retain(|slot| other.slots.contains(slot));
        *self != before
    }

    /// Where the stack ends after an instruction.
    pub fn top_after(&self, instruction: &Instruction) -> Value {
        let by = |register, change: i64| match self.get(register) {
            Value::Stack(at) => Value::Stack(at.wrapping_add(change)),
            _ => Value::Unknown,
        };
        let constant = |sign: i64| match instruction.try_immediate(1) {
            Ok(number) => by(Register::RSP, sign.wrapping_mul(number.cast_signed())),
            Err(_) => Value::Unknown,
        };
        let about = instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RSP;
        match instruction.mnemonic() {
            Mnemonic::Push | Mnemonic::Pop if !about => {
                by(Register::RSP, i64::from(instruction.stack_pointer_increment()))
            }
            Mnemonic::Leave => by(Register::RBP, 8),
            Mnemonic::Sub if about => constant(-1),
            Mnemonic::Add if about => constant(1),
            _ if about && writes_first(instruction) => Value::Unknown,
            _ => self.get(Register::RSP),
        }
    }
}

/// All but comparisons do, of those that have the stack pointer as their first operand.
fn writes_first(instruction: &Instruction) -> bool {
    !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push)
}

fn place(register: Register) -> usize {
    register.full_register().number()
}
