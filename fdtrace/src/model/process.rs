//! Processes: their names, their descent, their program.

use std::rc::Rc;

use crate::event::Moment;

#[derive(Clone, Debug)]
pub struct Process {
    pub tgid: u32,
    /// `CLOCK_BOOTTIME` nanoseconds; with the number it is an identity.
    pub start: u64,
    pub comm: Rc<[u8]>,
    pub exe: Rc<[u8]>,
    /// NUL-separated.
    pub argv: Rc<[u8]>,
    pub parent: Option<u32>,
    /// Its number in its own pid namespace, if that is not the initial one.
    pub inside: Option<u32>,
    /// When it was forked, if that was seen.
    pub forked: Option<Moment>,
    /// When it last began a new program, if that was seen.
    pub execed: Option<Moment>,
    pub exited: Option<Moment>,
}

impl Process {
    pub fn new(tgid: u32, start: u64, comm: Rc<[u8]>) -> Self {
        Self {
            tgid,
            start,
            comm,
            exe: [].into(),
            argv: [].into(),
            parent: None,
            inside: None,
            forked: None,
            execed: None,
            exited: None,
        }
    }

    pub fn alive(&self) -> bool {
        self.exited.is_none()
    }
}

/// A NUL-padded command name.
pub fn comm(bytes: &[u8; 16]) -> Rc<[u8]> {
    let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes[..len].into()
}
