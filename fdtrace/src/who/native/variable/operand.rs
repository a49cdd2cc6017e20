//! What instructions do and what they are about.

use iced_x86::{FlowControl, Instruction, OpAccess, OpKind, Register, UsedMemory};

/// Jumps to who knows where: a table of the compiler's.
pub fn jumps_anywhere(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::IndirectBranch && static_address(instruction).is_none()
}

/// What stands behind it is not what comes next.
pub fn ends(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return | FlowControl::Exception
    )
}

pub fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Both operands are one register.
pub fn is_same_register(instruction: &Instruction) -> bool {
    let [first, second] = [instruction.op0_kind(), instruction.op1_kind()];
    first == OpKind::Register && second == first && instruction.op0_register() == instruction.op1_register()
}

/// Bytes that are written.
pub fn size(used: &UsedMemory) -> u64 {
    (used.memory_size().size() as u64).max(1)
}

pub fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

/// The address of a memory operand that is always the same.
pub fn static_address(instruction: &Instruction) -> Option<u64> {
    if !has_memory(instruction) {
        return None;
    }
    if instruction.is_ip_rel_memory_operand() {
        return Some(instruction.ip_rel_memory_address());
    }
    let is_fixed = instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
    let of_thread = matches!(instruction.memory_segment(), Register::FS | Register::GS);
    (is_fixed && !of_thread).then(|| instruction.memory_displacement64())
}
