//! Where the numbers of one function come from and where they go: by way of its registers and its part of the stack, from
//! its arguments, from static variables and from the results of calls.
//!
//! Only what holds whichever way the function is run is said: where two ways meet, what they agree on is kept.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};

use super::{
    operand::{ends, has_memory, is_same_register, jumps_anywhere, size, static_address, writes},
    state::{ARGUMENT_REGISTERS, ARGUMENTS, State, Value},
};

/// Those that a call leaves alone.
const PRESERVED: [Register; 7] =
    [Register::RBX, Register::RBP, Register::RSP, Register::R12, Register::R13, Register::R14, Register::R15];
/// How often a part of a function is gone through at most, on average, and the whole of it; and parts in all.
const ROUNDS: usize = 16;
const ATTEMPTS: usize = 4;
const VISITS_MAX: usize = 1 << 16;

/// A piece of code: a function, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub start: u64,
    pub code: &'a [u8],
    /// It begins as a function does, with its arguments in place.
    pub is_function: bool,
    /// Where variables are.
    pub data: &'a [Range<u64>],
}

/// Whom a call calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Function(u64),
    /// Whatever the pointer at this address points to.
    Pointer(u64),
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub target: Target,
    pub given: [Value; ARGUMENTS],
}

impl Target {
    pub fn is(self, function: u64) -> bool {
        self == Self::Function(function)
    }

    fn of(instruction: &Instruction) -> Self {
        match instruction.op0_kind() {
            OpKind::NearBranch64 => Self::Function(instruction.near_branch_target()),
            OpKind::Memory => static_address(instruction).map_or(Self::Unknown, Self::Pointer),
            _ => Self::Unknown,
        }
    }
}

impl Call {
    fn at(instruction: &Instruction, state: &State) -> Self {
        let given = ARGUMENT_REGISTERS.map(|register| state.get(register));
        Self { target: Target::of(instruction), given }
    }

    pub fn argument(&self, at: usize) -> Value {
        self.given.get(at).copied().unwrap_or_default()
    }
}

/// What a function returns, at one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    Value(Value),
    /// What another one returns, which is jumped to.
    By(Call),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Flow {
    /// By the address to which they return.
    pub calls: HashMap<u64, Call>,
    /// What was stored to variables; if it is not a number as a whole, it is unknown.
    pub stores: Vec<(Range<u64>, Value)>,
    pub returned: Vec<Returned>,
    /// Variables whose value is compared with something that is not in the code.
    pub compared: Vec<u64>,
    /// The piece jumps to who knows where, so that of what it does with registers nothing is known.
    pub opaque: bool,
    /// Instructions that were gone through to find that.
    pub steps: u64,
}

pub fn decoder<'a>(piece: Piece<'a>) -> Decoder<'a> {
    Decoder::with_ip(64, piece.code, piece.start, DecoderOptions::NONE)
}

/// Follows a piece. `entered`: addresses that other pieces jump to.
pub fn follow(piece: Piece<'_>, entered: &HashSet<u64>) -> Flow {
    let instructions: Vec<Instruction> = decoder(piece).into_iter().collect();
    let end = piece.start.saturating_add(piece.code.len() as u64);
    let about = InstructionInfoFactory::new();
    let walk = Walk { piece, end, exposed: i64::MAX, about, flow: Flow::default(), steps: 0 };
    let opaque = instructions.iter().any(jumps_anywhere);
    walk.run(&instructions, entered, opaque)
}

struct Walk<'a> {
    piece: Piece<'a>,
    end: u64,
    /// Others may know addresses on the stack from here on.
    exposed: i64,
    about: InstructionInfoFactory,
    flow: Flow,
    steps: u64,
}

impl Walk<'_> {
    fn run(mut self, instructions: &[Instruction], entered: &HashSet<u64>, opaque: bool) -> Flow {
        let blocks = blocks(instructions, entered);
        let mut states = vec![None; blocks.len()];
        for attempt in 0..=ATTEMPTS {
            let exposed = self.exposed;
            if attempt == ATTEMPTS {
                self.exposed = i64::MIN;
            }
            states = match opaque {
                true => vec![None; blocks.len()],
                false => self.settle(instructions, &blocks, entered),
            };
            if self.exposed == exposed || self.exposed == i64::MIN {
                break;
            }
        }
        self.flow = Flow { opaque, ..Flow::default() };
        for (block, state) in blocks.iter().zip(states) {
            // Nobody is known to come there; somebody will.
            let mut state = state.unwrap_or_default();
            for instruction in &instructions[block.clone()] {
                if opaque {
                    state = State::default();
                }
                self.step(instruction, &mut state);
            }
        }
        Flow { steps: self.steps, ..self.flow }
    }

    /// The state at the beginning of each block, once it changes no more.
    fn settle(
        &mut self,
        instructions: &[Instruction],
        blocks: &[Range<usize>],
        entered: &HashSet<u64>,
    ) -> Vec<Option<State>> {
        let by_address: HashMap<u64, usize> =
            blocks.iter().enumerate().map(|(at, block)| (instructions[block.start].ip(), at)).collect();
        let mut states: Vec<Option<State>> =
            blocks.iter().map(|block| entered.contains(&instructions[block.start].ip()).then(State::default)).collect();
        if let Some(first) = states.first_mut() {
            *first = Some(if self.piece.is_function { State::of_function() } else { State::unknown() });
        }
        let mut waits: Vec<bool> = states.iter().map(Option::is_some).collect();
        let mut waiting: Vec<usize> = (0..blocks.len()).filter(|block| waits[*block]).collect();
        for _ in 0..(blocks.len() * ROUNDS).min(VISITS_MAX) {
            let Some(block) = waiting.pop() else { return states };
            waits[block] = false;
            let mut state = states[block].clone().unwrap_or_default();
            for instruction in &instructions[blocks[block].clone()] {
                self.step(instruction, &mut state);
            }
            let Some(last) = instructions[blocks[block].clone()].last() else { continue };
            let jump = match last.flow_control() {
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    by_address.get(&last.near_branch_target()).copied()
                }
                _ => None,
            };
            let next = (!ends(last)).then_some(block + 1).filter(|next| *next < blocks.len());
            for to in jump.into_iter().chain(next) {
                let is_news = match &mut states[to] {
                    Some(known) => known.meet(&state),
                    unknown => {
                        *unknown = Some(state.clone());
                        true
                    }
                };
                if is_news && !waits[to] {
                    waits[to] = true;
                    waiting.push(to);
                }
            }
        }
        // It takes too long.
        vec![Some(State::default()); blocks.len()]
    }

    fn step(&mut self, instruction: &Instruction, state: &mut State) {
        self.steps += 1;
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => return self.call(instruction, state),
            FlowControl::Return => {
                self.flow.returned.push(Returned::Value(state.get(Register::EAX)));
                return;
            }
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => {
                let leaves = !matches!(Target::of(instruction), Target::Function(to) if (self.piece.start..self.end).contains(&to));
                if leaves {
                    self.flow.returned.push(Returned::By(Call::at(instruction, state)));
                }
                return;
            }
            FlowControl::Interrupt | FlowControl::Exception | FlowControl::XbeginXabortXend => {
                *state = State::default();
                return;
            }
            FlowControl::ConditionalBranch | FlowControl::Next => {}
        }
        match instruction.code() {
            Code::Mov_r32_rm32 | Code::Mov_rm32_r32 | Code::Mov_r32_imm32 | Code::Mov_rm32_imm32 => {
                self.moved(instruction, state);
            }
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64
                if [0, 1].into_iter().all(|operand| instruction.op_kind(operand) == OpKind::Register) =>
            {
                let value = state.get(instruction.op1_register());
                self.may_expose(instruction.op0_register(), value);
                state.set(instruction.op0_register(), value);
            }
            Code::Lea_r64_m => {
                let value = state.slot(instruction).map_or(Value::Unknown, Value::Stack);
                self.may_expose(instruction.op0_register(), value);
                state.set(instruction.op0_register(), value);
            }
            _ => self.other(instruction, state),
        }
    }

    /// Who else has an address on the stack may write there.
    fn may_expose(&mut self, register: Register, value: Value) {
        if let Value::Stack(at) = value
            && !matches!(register, Register::RSP | Register::RBP)
        {
            self.exposed = self.exposed.min(at);
        }
    }

    fn call(&mut self, instruction: &Instruction, state: &mut State) {
        let back = instruction.next_ip();
        self.flow.calls.insert(back, Call::at(instruction, state));
        let mut after = State::default();
        // What it returned the last time is no longer what it returned last.
        let is_old = |value: Value| value == Value::Result(back);
        for register in PRESERVED {
            let value = state.get(register);
            after.set(register, if is_old(value) { Value::Unknown } else { value });
        }
        after.set(Register::RAX, Value::Result(back));
        if let Value::Stack(top) = state.get(Register::RSP) {
            // Below is the part of whoever is called.
            let kept = |(at, value): &&(i64, Value)| *at >= top && *at < self.exposed && !is_old(*value);
            after.slots.extend(state.slots.iter().filter(kept));
        }
        *state = after;
    }

    fn moved(&mut self, instruction: &Instruction, state: &mut State) {
        let value = match instruction.op1_kind() {
            OpKind::Register => state.get(instruction.op1_register()),
            OpKind::Memory => self.loaded(instruction, state),
            OpKind::Immediate32 => Value::Constant(instruction.immediate32().cast_signed()),
            _ => Value::Unknown,
        };
        // Half an address is none.
        let value = if matches!(value, Value::Stack(_)) { Value::Unknown } else { value };
        if instruction.op0_kind() == OpKind::Register {
            state.set(instruction.op0_register(), value);
        } else if let Some(address) = static_address(instruction) {
            self.store(address, 4, value);
        } else if let Some(slot) = state.slot(instruction) {
            state.put(slot, value);
        } else {
            self.stored_anywhere(instruction, state);
        }
    }

    fn loaded(&self, instruction: &Instruction, state: &State) -> Value {
        if let Some(address) = static_address(instruction) {
            let is_variable = self.piece.data.iter().any(|range| range.contains(&address));
            return if is_variable { Value::Of(address) } else { Value::Unknown };
        }
        state.slot(instruction).map_or(Value::Unknown, |slot| state.at(slot))
    }

    fn store(&mut self, address: u64, size: u64, value: Value) {
        if self.piece.data.iter().any(|range| range.contains(&address)) {
            self.flow.stores.push((address..address.saturating_add(size), value));
        }
    }

    /// By an address that is computed.
    fn stored_anywhere(&self, instruction: &Instruction, state: &mut State) {
        let on_stack = matches!(state.get(instruction.memory_base()), Value::Stack(_));
        if on_stack {
            state.slots.clear();
        } else {
            state.slots.retain(|(at, _)| *at < self.exposed);
        }
    }

    fn other(&mut self, instruction: &Instruction, state: &mut State) {
        self.compare(instruction, state);
        let Self { about, .. } = self;
        let info = about.info(instruction);
        let stores: Vec<u64> = info.used_memory().iter().filter(|used| writes(used.access())).map(size).collect();
        let written: Vec<Register> =
            info.used_registers().iter().filter(|used| writes(used.access())).map(|used| used.register()).collect();
        let explicit = has_memory(instruction);
        for size in stores {
            match (static_address(instruction), state.slot(instruction)) {
                (Some(address), _) if explicit => self.store(address, size, Value::Unknown),
                (_, Some(slot)) if explicit => state.overwrite(slot, size as i64),
                _ if explicit => self.stored_anywhere(instruction, state),
                // What is pushed goes where nothing was.
                _ if instruction.is_stack_instruction() => {
                    if let Value::Stack(top) = state.get(Register::RSP) {
                        state.overwrite(top.wrapping_sub(8), 8);
                    } else {
                        state.slots.clear();
                    }
                }
                _ => state.slots.clear(),
            }
        }
        let top = state.top_after(instruction);
        for register in written {
            state.set(register, Value::Unknown);
        }
        state.set(Register::RSP, top);
        let clears = matches!(instruction.code(), Code::Xor_r32_rm32 | Code::Xor_rm32_r32);
        if clears && is_same_register(instruction) {
            state.set(instruction.op0_register(), Value::Constant(0));
        }
    }

    /// A variable's value decides about something, and not only by what it is itself.
    fn compare(&mut self, instruction: &Instruction, state: &State) {
        let compares = matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Sub | Mnemonic::Xor | Mnemonic::Test);
        let is_constant = !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory);
        if !compares || is_constant || is_same_register(instruction) {
            return;
        }
        for operand in [0, 1] {
            let value = match instruction.op_kind(operand) {
                OpKind::Register => state.get(instruction.op_register(operand)),
                OpKind::Memory => self.loaded(instruction, state),
                _ => Value::Unknown,
            };
            if let Value::Of(variable) = value {
                self.flow.compared.push(variable);
            }
        }
    }
}

/// Runs of instructions that are entered at their beginning alone.
fn blocks(instructions: &[Instruction], entered: &HashSet<u64>) -> Vec<Range<usize>> {
    let jumps = instructions.iter().filter(|instruction| {
        matches!(instruction.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch)
    });
    let targets: HashSet<u64> = jumps.map(Instruction::near_branch_target).collect();
    let mut blocks = Vec::new();
    let mut start = 0;
    for (at, instruction) in instructions.iter().enumerate() {
        let ip = instruction.ip();
        let begins = targets.contains(&ip) || entered.contains(&ip);
        let follows = at.checked_sub(1).is_some_and(|before| {
            let before = &instructions[before];
            ends(before) || before.flow_control() == FlowControl::ConditionalBranch
        });
        if at > start && (begins || follows) {
            blocks.push(start..at);
            start = at;
        }
    }
    if start < instructions.len() {
        blocks.push(start..instructions.len());
    }
    blocks
}
