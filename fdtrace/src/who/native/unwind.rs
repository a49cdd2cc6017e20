//! Walks a captured stack from frame to frame.
//!
//! The walk sees registers and the captured bytes of the stack, nothing else of the process: it gives the same result
//! when the process has died. Every address must lie in executable memory, and the walk says how it ended. Where no
//! unwind table covers the code (JIT, hand-written assembly) the frame pointer is followed, and such frames are marked.

use super::elf;
pub use super::rule::Registers;
use super::rule::{self, Rule, Saved};
use super::space::{AddressSpace, Code};

/// Most frames of one stack.
pub const FRAMES_MAX: usize = 256;
/// What is further away than this is not the same stack. The default limit of a main thread's.
const STACK_SIZE: u64 = 8 << 20;

/// What the kernel side captured at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    pub registers: Registers,
    /// The bytes from `registers.sp` upwards.
    pub stack: &'a [u8],
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    pub end: End,
    pub basis: Basis,
}

/// What a walk has looked at: another stack with the same `ip` and `sp` that agrees in this has the same frames and the
/// same end, whatever else is in it, as long as the code in memory and the length of the copy are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    /// Offset from `sp`, and value, in the order of the walk; a word may be there twice.
    pub words: Vec<(u32, u64)>,
    /// The first `bp`, if it was of use: often it holds something that is no frame pointer and differs each time.
    pub bp: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub address: u64,
    /// Index for [`AddressSpace::module`]; `None` in memory without a file.
    pub module: Option<u32>,
    /// The address is behind the instruction in question: names and lines are those of the byte before it. Also true of
    /// the innermost frame at a system call, whose address is behind the `syscall` instruction.
    pub is_return_address: bool,
    /// Found by frame pointer, where no unwind table covers its callee: a frame between them may be missing.
    pub by_frame_pointer: bool,
}

impl Frame {
    /// An address inside the instruction in question.
    pub fn lookup_address(&self) -> u64 {
        self.address.wrapping_sub(u64::from(self.is_return_address))
    }
}

/// How far the walk came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// To the outermost frame of the thread.
    Complete,
    /// To the end of what was captured.
    #[default]
    Truncated,
    Lost(Lost),
}

/// Why a walk stopped before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The next address is not in executable memory.
    NotCode,
    /// No unwind table and no usable frame pointer.
    NoFramePointer,
    /// The unwind table makes no sense or asks for what is unknown.
    BadTable,
    /// The next frame lies outside the stack that was captured: the thread had switched stacks (signal, coroutine), or
    /// a register is broken.
    OtherStack,
    /// The stack pointer did not move towards the caller.
    Stuck,
}

impl AddressSpace {
    /// Walks the stack of a snapshot.
    pub fn unwind(&mut self, snapshot: &Snapshot<'_>) -> Stack {
        let mut stack = Stack::default();
        self.unwind_into(snapshot, &mut stack);
        stack
    }

    /// As [`AddressSpace::unwind`], into memory that the caller keeps.
    pub fn unwind_into(&mut self, snapshot: &Snapshot<'_>, stack: &mut Stack) {
        stack.basis.words.clear();
        stack.basis.bp = None;
        let basis = std::mem::take(&mut stack.basis);
        let mut memory = Memory { start: snapshot.registers.sp, bytes: snapshot.stack, basis, bp: Origin::Register };
        stack.end = self.walk(snapshot.registers, &mut memory, &mut stack.frames);
        stack.basis = memory.basis;
    }

    fn walk(&mut self, mut registers: Registers, memory: &mut Memory<'_>, frames: &mut Vec<Frame>) -> End {
        frames.clear();
        let mut is_return_address = true;
        let mut by_frame_pointer = false;
        loop {
            let frame = Frame { address: registers.ip, module: None, is_return_address, by_frame_pointer };
            let Some(code) = self.code_at(frame.lookup_address()) else {
                // The innermost address is a fact even when nobody knows what is there.
                if frames.is_empty() {
                    frames.push(frame);
                }
                return End::Lost(Lost::NotCode);
            };
            frames.push(Frame { module: code.module, ..frame });
            if frames.len() == FRAMES_MAX {
                return End::Truncated;
            }
            let innermost = frames.len() == 1;
            let caller = match self.step(&code, frame.lookup_address(), &registers, innermost, memory) {
                Ok(Some(caller)) => caller,
                Ok(None) => return End::Complete,
                Err(end) => return end,
            };
            // Signal handlers may run on a stack of their own, anywhere. The innermost frame of a leaf function may
            // keep sp (aarch64).
            let signal = matches!(code.rule, Rule::Computed { signal: true });
            if caller.sp <= registers.sp && !signal && !(innermost && caller.sp == registers.sp) {
                return End::Lost(Lost::Stuck);
            }
            is_return_address = !signal;
            by_frame_pointer = code.rule == Rule::Uncovered;
            registers = caller;
            if registers.ip == 0 {
                return End::Complete;
            }
        }
    }

    /// From one frame to its caller. `Ok(None)`: there is none.
    fn step(
        &mut self,
        code: &Code,
        address: u64,
        registers: &Registers,
        innermost: bool,
        memory: &mut Memory<'_>,
    ) -> Result<Option<Registers>, End> {
        match code.rule {
            Rule::Offsets { from_bp, cfa, ra, bp } => {
                let base = if from_bp { memory.bp_of(registers) } else { registers.sp };
                let cfa = base.wrapping_add_signed(i64::from(cfa));
                let ip = match ra {
                    Saved::InRegister => registers.lr,
                    Saved::At(offset) => memory.read(cfa.wrapping_add_signed(i64::from(offset)))?,
                };
                let bp = match bp {
                    Saved::InRegister => registers.bp,
                    Saved::At(offset) => memory.read_bp(cfa.wrapping_add_signed(i64::from(offset)))?,
                };
                Ok(Some(Registers { ip: strip_authentication(ip), sp: cfa, bp, lr: ip }))
            }
            Rule::Outermost => Ok(None),
            Rule::Computed { .. } => self.compute(code, address, registers, memory),
            Rule::Uncovered => self.by_frame_pointer(registers, innermost, memory),
            Rule::Broken => Err(End::Lost(Lost::BadTable)),
        }
    }

    fn compute(
        &mut self,
        code: &Code,
        address: u64,
        registers: &Registers,
        memory: &mut Memory<'_>,
    ) -> Result<Option<Registers>, End> {
        // The rules may ask for it, and what they give as the caller's comes of what was looked at.
        memory.bp_of(registers);
        let mut missing = None;
        let mut read = |address| match memory.read(address) {
            Ok(word) => Some(word),
            Err(end) => {
                missing = Some(end);
                None
            }
        };
        let bad = End::Lost(Lost::BadTable);
        let (object, address, context) = self.object_and_context(code, address).ok_or(bad)?;
        match rule::compute(object, address, registers, context, &mut read) {
            Some(caller) => Ok(caller.map(|caller| Registers { ip: strip_authentication(caller.ip), ..caller })),
            None => Err(missing.unwrap_or(bad)),
        }
    }

    fn by_frame_pointer(
        &mut self,
        registers: &Registers,
        innermost: bool,
        memory: &mut Memory<'_>,
    ) -> Result<Option<Registers>, End> {
        // A system call instruction without a table stands in a stub without a frame, as in Go's runtime.
        if innermost && cfg!(target_arch = "x86_64") {
            let ip = memory.read(registers.sp)?;
            if self.code_at(ip.wrapping_sub(1)).is_some() {
                return Ok(Some(Registers { ip, sp: registers.sp.wrapping_add(8), ..*registers }));
            }
        }
        let frame = memory.bp_of(registers);
        // By convention the outermost frame has none.
        if frame == 0 {
            return Ok(None);
        }
        let above = frame.checked_sub(registers.sp).filter(|&above| above < STACK_SIZE && frame.is_multiple_of(8));
        if above.is_none() {
            return Err(End::Lost(Lost::NoFramePointer));
        }
        let (bp, ip) = (memory.read_bp(frame)?, memory.read(frame.wrapping_add(8))?);
        Ok(Some(Registers { ip: strip_authentication(ip), sp: frame.wrapping_add(16), bp, lr: ip }))
    }
}

/// Return addresses of aarch64 may carry a signature in their upper bits.
fn strip_authentication(address: u64) -> u64 {
    if cfg!(target_arch = "aarch64") { address & 0x0000_ffff_ffff_ffff } else { address }
}

/// The captured part of the stack, and what was looked at.
struct Memory<'a> {
    start: u64,
    bytes: &'a [u8],
    basis: Basis,
    bp: Origin,
}

/// Where the current `bp` comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// It is the first one.
    Register,
    /// It was saved here.
    Word(u64),
    /// It has been of use, or comes of what has.
    Looked,
}

impl Memory<'_> {
    fn read(&mut self, address: u64) -> Result<u64, End> {
        let value = self.peek(address)?;
        self.basis.words.push(((address - self.start) as u32, value));
        Ok(value)
    }

    /// The `bp` that a frame has saved for its caller: looked at if something comes of it.
    fn read_bp(&mut self, address: u64) -> Result<u64, End> {
        let value = self.peek(address)?;
        self.bp = Origin::Word(address);
        Ok(value)
    }

    /// The current `bp`, of which something comes.
    fn bp_of(&mut self, registers: &Registers) -> u64 {
        match std::mem::replace(&mut self.bp, Origin::Looked) {
            Origin::Register => self.basis.bp = Some(registers.bp),
            Origin::Word(address) => self.basis.words.push(((address - self.start) as u32, registers.bp)),
            Origin::Looked => {}
        }
        registers.bp
    }

    fn peek(&self, address: u64) -> Result<u64, End> {
        let Some(at) = address.checked_sub(self.start) else {
            return Err(End::Lost(Lost::OtherStack));
        };
        let bytes = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..at.checked_add(8)?));
        match bytes {
            Some(bytes) => Ok(elf::u64_at(bytes, 0)),
            None if at < STACK_SIZE => Err(End::Truncated),
            None => Err(End::Lost(Lost::OtherStack)),
        }
    }
}
