//! An exercising task's own account of its descriptors, from which it picks what to work on.
//!
//! In serial rounds the account is exact, and is itself compared with the kernel by the self-test. In parallel rounds it
//! is a good guess: other threads change the table between a call and the entry.

use core::sync::atomic::Ordering::SeqCst;

use crate::agent::Agent;
use crate::kind::Kind;
use crate::shared::{FDS, Table};

/// An open descriptor: kind in bits 0 to 7, close-on-exec in bit 8, serial of the description in the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held(pub u64);

impl Held {
    pub fn new(kind: Kind, cloexec: bool, description: u32) -> Self {
        Self(kind as u64 | u64::from(cloexec) << 8 | u64::from(description) << 32)
    }

    pub fn kind(self) -> Kind {
        Kind::from_raw(self.0 as u8)
    }

    pub fn cloexec(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    /// Serial of the description.
    pub fn description(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn with_cloexec(self, cloexec: bool) -> Self {
        Self(self.0 & !0x100 | u64::from(cloexec) << 8)
    }
}

impl Table {
    pub fn get(&self, fd: i32) -> Option<Held> {
        let word = self.fds.get(usize::try_from(fd).ok()?)?.load(SeqCst);
        (word != 0).then_some(Held(word))
    }

    pub fn set(&self, fd: i32, held: Held) {
        if let Ok(index) = usize::try_from(fd)
            && let Some(cell) = self.fds.get(index)
        {
            cell.store(held.0, SeqCst);
            self.high.fetch_max(index as u32 + 1, SeqCst);
        }
    }

    pub fn clear(&self, fd: i32) {
        if let Ok(index) = usize::try_from(fd)
            && let Some(cell) = self.fds.get(index)
        {
            cell.store(0, SeqCst);
        }
    }

    /// What is open, lowest number first.
    pub fn live(&self) -> impl Iterator<Item = (i32, Held)> {
        let high = (self.high.load(SeqCst) as usize).min(FDS);
        self.fds[..high].iter().enumerate().filter_map(|(fd, cell)| {
            let word = cell.load(SeqCst);
            (word != 0).then_some((fd as i32, Held(word)))
        })
    }

    /// What exec does to a table.
    pub fn purge_cloexec(&self) {
        for (fd, held) in self.live() {
            if held.cloexec() {
                self.clear(fd);
            }
        }
    }
}

impl Agent {
    /// A new serial for a description.
    pub fn new_description(&self) -> u32 {
        self.region.descriptions.fetch_add(1, SeqCst) as u32 + 1
    }

    /// Enters a new descriptor of a new description, if the call made one; hands the result through.
    pub fn made(&self, ret: i64, kind: Kind, cloexec: bool) -> i64 {
        if ret >= 0 {
            self.table().set(ret as i32, Held::new(kind, cloexec, self.new_description()));
        }
        ret
    }

    /// Enters a new descriptor of a known description, if the call made one; hands the result through.
    pub fn copied(&self, ret: i64, from: Option<Held>, cloexec: bool) -> i64 {
        if ret >= 0 {
            match from {
                Some(held) => self.table().set(ret as i32, held.with_cloexec(cloexec)),
                // A parallel round: somebody else's descriptor was duplicated before it was entered.
                None => return self.made(ret, Kind::File, cloexec),
            }
        }
        ret
    }

    /// Closes a number. Every result but EBADF means that it is free now.
    pub fn close(&self, fd: i32) -> i64 {
        let ret = self.call(crate::nr::CLOSE, &[fd.into()]);
        self.table().clear(fd);
        ret
    }

    /// A live number above the standard three, of a kind that `wanted` accepts.
    pub fn live_where(&mut self, wanted: impl Fn(Kind) -> bool) -> Option<i32> {
        let table = self.table();
        let fits = |(fd, held): &(i32, Held)| *fd > 2 && wanted(held.kind());
        let chosen = self.rng.below(table.live().filter(fits).count());
        table.live().filter(fits).nth(chosen).map(|(fd, _)| fd)
    }

    /// A live number above the standard three; now and then one of those.
    pub fn live_fd(&mut self) -> Option<i32> {
        if self.rng.chance(3) {
            let standard = self.rng.below(3) as i32;
            return self.table().get(standard).map(|_| standard);
        }
        self.live_where(|_| true)
    }

    pub fn live_of(&mut self, kind: Kind) -> Option<i32> {
        self.live_where(|other| other == kind)
    }

    /// A number that is closed: a hole, one just above, or one far out.
    pub fn closed_fd(&mut self) -> i32 {
        let table = self.table();
        for _ in 0..8 {
            let high = table.high.load(SeqCst) as usize;
            let fd = 3 + self.rng.below(high + 6) as i32;
            if table.get(fd).is_none() {
                return fd;
            }
        }
        FDS as i32 - 1
    }

    /// A number to put something on: live ones, holes, and now and then one beyond what a table begins with.
    pub fn target_fd(&mut self) -> i32 {
        match self.rng.below(20) {
            0..9 => self.live_fd().unwrap_or(7),
            9..18 => 3 + self.rng.below(40) as i32,
            18 => 64 + self.rng.below(400) as i32,
            _ => 1000 + self.rng.below(60) as i32,
        }
    }
}
