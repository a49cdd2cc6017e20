//! An io_uring, set up by hand: just enough to submit one entry and see its completion.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::agent::Agent;
use crate::kind::Kind;
use crate::nr;
use crate::sys::{self, Arg};

pub const SETUP_SQPOLL: u32 = 1 << 1;

/// Submission, as the kernel has it; fields that several operations use in their own ways keep their first name.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Submission {
    pub opcode: u8,
    pub flags: u8,
    pub priority: u16,
    pub fd: i32,
    pub offset: u64,
    pub address: u64,
    pub len: u32,
    pub op_flags: u32,
    pub data: u64,
    pub buffer: u16,
    pub personality: u16,
    pub file_index: u32,
    pub more: [u64; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    /// Submission: flags. Completion: overflow.
    five: u32,
    /// Submission: dropped. Completion: the entries.
    six: u32,
    /// Submission: the array.
    seven: u32,
    reserved: u32,
    user: u64,
}

#[repr(C)]
#[derive(Default)]
struct Parameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_cpu: u32,
    sq_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: Offsets,
    cq: Offsets,
}

const SETUP_NO_MMAP: u32 = 1 << 14;
const PAGE: u64 = 4096;
const ENTRIES: u32 = 4;
const OFFSET_CQ: u64 = 0x800_0000;
const OFFSET_SQES: u64 = 0x1000_0000;
const ENTER_WAKEUP: u32 = 1 << 1;
const NEED_WAKEUP: u32 = 1;

/// A ring that lives for one operation.
pub struct Ring {
    pub fd: i32,
    flags: u32,
    sq: Block,
    cq: Block,
    sqes: Block,
    parameters: Parameters,
}

#[derive(Clone, Copy)]
struct Block {
    at: u64,
    size: u64,
}

impl Block {
    fn map(a: &Agent, fd: i32, size: u64, offset: u64) -> Result<Self, i64> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        let at = a.call(nr::MMAP, &[0.into(), size.into(), prot.into(), flags.into(), fd.into(), offset.into()]);
        if at < 0 { Err(at) } else { Ok(Self { at: at as u64, size }) }
    }

    /// A page of this process.
    fn own(a: &Agent) -> Result<Self, i64> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let at = a.call(nr::MMAP, &[0.into(), PAGE.into(), prot.into(), flags.into(), (-1).into(), 0.into()]);
        if at < 0 { Err(at) } else { Ok(Self { at: at as u64, size: PAGE }) }
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel gave the offset of a word inside this mapping.
        unsafe { &*((self.at + u64::from(offset)) as *const AtomicU32) }
    }

    fn unmap(&self, a: &Agent) {
        if self.size > 0 {
            a.call(nr::MUNMAP, &[self.at.into(), self.size.into()]);
        }
    }
}

/// Makes a ring and enters its descriptor; nothing is mapped.
pub fn setup(a: &Agent) -> i64 {
    let mut parameters = Parameters::default();
    let fd = a.call(nr::IO_URING_SETUP, &[ENTRIES.into(), Arg::write(&mut parameters)]);
    a.made(fd, Kind::Uring, true)
}

impl Ring {
    pub fn new(a: &Agent, flags: u32) -> Result<Self, i64> {
        let mut parameters = Parameters { flags, sq_idle: 10, ..Parameters::default() };
        // In a parallel round another thread may put a file in the place of the ring before it is mapped: the memory is
        // ours then (6.5), and the descriptor only a number that may lead nowhere.
        let own = if a.is_serial() { None } else { Some((Block::own(a)?, Block::own(a)?)) };
        if let Some((rings, sqes)) = &own {
            parameters.flags |= SETUP_NO_MMAP;
            parameters.cq.user = rings.at;
            parameters.sq.user = sqes.at;
        }
        let fd = a.call(nr::IO_URING_SETUP, &[ENTRIES.into(), Arg::write(&mut parameters)]);
        if a.made(fd, Kind::Uring, true) < 0 {
            if let Some((rings, sqes)) = own {
                rings.unmap(a);
                sqes.unmap(a);
            }
            return Err(fd);
        }
        let fd = fd as i32;
        if let Some((rings, sqes)) = own {
            // One block for both, unmapped once.
            let cq = Block { size: 0, ..rings };
            return Ok(Self { fd, flags, cq, sq: rings, sqes, parameters });
        }
        let sq_size = u64::from(parameters.sq.seven) + u64::from(parameters.sq_entries) * 4;
        let cq_size = u64::from(parameters.cq.six) + u64::from(parameters.cq_entries) * 16;
        let sqes_size = u64::from(parameters.sq_entries) * size_of::<Submission>() as u64;
        let sq = Block::map(a, fd, sq_size, 0)?;
        let cq = Block::map(a, fd, cq_size, OFFSET_CQ)?;
        let sqes = Block::map(a, fd, sqes_size, OFFSET_SQES)?;
        Ok(Self { fd, flags, sq, cq, sqes, parameters })
    }

    /// Submits one entry and waits, not in the kernel, for its result. `-ETIME` when there is none.
    pub fn submit(&self, a: &Agent, submission: Submission) -> i64 {
        let Parameters { sq, cq, .. } = &self.parameters;
        let tail = self.sq.word(sq.tail).load(SeqCst);
        let index = tail & self.sq.word(sq.mask).load(SeqCst);
        let place = (self.sqes.at + u64::from(index) * size_of::<Submission>() as u64) as *mut Submission;
        // SAFETY: the index is below the number of entries; the kernel reads it after the tail moves.
        unsafe { place.write(submission) };
        self.sq.word(sq.seven + 4 * index).store(index, SeqCst);
        self.sq.word(sq.tail).store(tail + 1, SeqCst);
        if self.flags & SETUP_SQPOLL == 0 {
            let ret = a.call(nr::IO_URING_ENTER, &[self.fd.into(), 1.into(), 0.into(), 0.into(), 0.into(), 0.into()]);
            if ret < 0 {
                return ret;
            }
        }
        let head = self.cq.word(cq.head).load(SeqCst);
        for _ in 0..20_000 {
            if self.cq.word(cq.tail).load(SeqCst) != head {
                let index = head & self.cq.word(cq.mask).load(SeqCst);
                // The result is the third word of an entry.
                let result = self.cq.word(cq.six + 16 * index + 8).load(SeqCst) as i32;
                self.cq.word(cq.head).store(head + 1, SeqCst);
                return result.into();
            }
            if self.flags & SETUP_SQPOLL != 0 && self.sq.word(sq.five).load(SeqCst) & NEED_WAKEUP != 0 {
                a.call(nr::IO_URING_ENTER, &[self.fd.into(), 1.into(), 0.into(), ENTER_WAKEUP.into()]);
            }
            sys::sleep_micros(50);
        }
        -i64::from(libc::ETIME)
    }

    /// Unmaps the ring, and closes it unless it is to stay.
    pub fn end(self, a: &mut Agent) {
        for block in [&self.sq, &self.cq, &self.sqes] {
            block.unmap(a);
        }
        if a.rng.chance(80) {
            a.close(self.fd);
        }
    }
}
