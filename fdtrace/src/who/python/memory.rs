//! Reading another process's memory.
//!
//! A read that fails is an ordinary answer here: the process may exit, unmap or lie at any time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Memory that can be read by address.
pub trait ReadMem {
    /// Fills `buf` from `addr`; false if any byte could not be read.
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool;

    fn read_u8(&self, addr: u64) -> Option<u8> {
        let mut buf = [0; 1];
        self.read(addr, &mut buf).then_some(buf[0])
    }

    fn read_u32(&self, addr: u64) -> Option<u32> {
        let mut buf = [0; 4];
        self.read(addr, &mut buf).then(|| u32::from_ne_bytes(buf))
    }

    fn read_u64(&self, addr: u64) -> Option<u64> {
        let mut buf = [0; 8];
        self.read(addr, &mut buf).then(|| u64::from_ne_bytes(buf))
    }

    /// A pointer that is not null.
    fn read_ptr(&self, addr: u64) -> Option<u64> {
        self.read_u64(addr).filter(|&pointer| pointer != 0)
    }

    /// `len` bytes; the caller bounds `len`.
    fn read_vec(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        let mut buf = vec![0; len];
        self.read(addr, &mut buf).then_some(buf)
    }

    /// A NUL-terminated string of at most `limit` bytes, without its NUL; cut at `limit`.
    fn read_c_string(&self, addr: u64, limit: usize) -> Option<Vec<u8>> {
        const STEP: usize = 32;
        let mut string = Vec::new();
        while string.len() < limit {
            // Reads do not cross a 32-byte boundary, hence no page: what follows the string may be unmapped.
            let at = addr.checked_add(string.len() as u64)?;
            let step = STEP - (at % STEP as u64) as usize;
            let mut buf = [0; STEP];
            let buf = buf.get_mut(..step.min(limit - string.len()))?;
            if !self.read(at, buf) {
                return None;
            }
            match buf.iter().position(|&byte| byte == 0) {
                Some(end) => {
                    string.extend_from_slice(&buf[..end]);
                    return Some(string);
                }
                None => string.extend_from_slice(buf),
            }
        }
        Some(string)
    }
}

impl<M: ReadMem + ?Sized> ReadMem for &M {
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        (**self).read(addr, buf)
    }
}

/// The memory of a live process.
///
/// The open file names the address space, not the id: after an exec or exit reads fail, they never reach a successor.
#[derive(Debug)]
pub struct ProcessMemory {
    mem: File,
}

impl ProcessMemory {
    pub fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { mem: File::open(format!("/proc/{pid}/mem"))? })
    }
}

impl ReadMem for ProcessMemory {
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        self.mem.read_exact_at(buf, addr).is_ok()
    }
}
