//! What a run is made of: which groups of operations, how often, and whether its rounds are serial.

use std::fmt;
use std::str::FromStr;

/// Operations that are switched together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Open,
    Close,
    Range,
    Dup,
    /// Pipes, sockets, counters, timers and other descriptors without a path.
    Make,
    Epoll,
    /// Use of descriptors, mostly of closed ones.
    Use,
    /// Exhausted limits.
    Limit,
    /// Tasks with a table of their own.
    Fork,
    Vfork,
    /// Processes that share their parent's table.
    SharedTable,
    Thread,
    Exec,
    Exit,
    /// A few numbers of one table, opened and closed by everybody.
    Storm,

    // Beyond the first list.
    /// Descriptors in messages.
    Pass,
    Pidfd,
    Unshare,
    Uring,
    /// Mounts, terminals, namespaces, fanotify, bpf and the like.
    Rare,
    /// 32-bit calls.
    Compat,
}

/// A mix of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Profile {
    /// Everything that a tracer's first version has to cover.
    Mixed,
    Fork,
    /// Processes that share a table.
    Clone,
    Threads,
    Exec,
    Epoll,
    /// Threads on few numbers of one table.
    Storm,
    /// Descriptors passed between processes.
    Passing,
    Uring,
    Rare,
    /// All there is.
    All,
}

impl Profile {
    pub const ALL: [Self; 11] = [
        Self::Mixed,
        Self::Fork,
        Self::Clone,
        Self::Threads,
        Self::Exec,
        Self::Epoll,
        Self::Storm,
        Self::Passing,
        Self::Uring,
        Self::Rare,
        Self::All,
    ];

    pub fn from_raw(raw: u32) -> Self {
        Self::ALL.get(raw as usize).copied().unwrap_or(Self::Mixed)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Fork => "fork",
            Self::Clone => "clone",
            Self::Threads => "threads",
            Self::Exec => "exec",
            Self::Epoll => "epoll",
            Self::Storm => "storm",
            Self::Passing => "passing",
            Self::Uring => "uring",
            Self::Rare => "rare",
            Self::All => "all",
        }
    }

    /// Whether its rounds are serial when nothing is said. Profiles about threads are about races.
    pub fn is_serial(self) -> bool {
        !matches!(self, Self::Threads | Self::Storm)
    }

    /// Whether tasks may run a new program.
    pub fn execs(self) -> bool {
        self.factor(Group::Exec) > 0
    }

    /// How often operations of a group come, against their own weights; 0: never.
    pub fn factor(self, group: Group) -> u32 {
        use Group as G;
        let beyond = matches!(group, G::Pass | G::Pidfd | G::Unshare | G::Uring | G::Rare | G::Compat);
        let makes_tasks = matches!(group, G::Fork | G::Vfork | G::SharedTable | G::Thread | G::Exec | G::Exit);
        match (self, group) {
            (Self::Storm, G::Storm) => 100,
            (Self::Storm, G::Thread) => 4,
            (Self::Storm, G::Close | G::Range) => 1,
            (_, G::Storm) | (Self::Storm, _) => 0,
            (Self::All, _) => 2,
            (Self::Mixed, _) => u32::from(!beyond) * 2,
            (Self::Fork, G::Fork | G::Vfork | G::Exit) => 4,
            (Self::Clone, G::SharedTable | G::Exit) => 4,
            (Self::Threads, G::Thread) => 6,
            (Self::Threads, G::Exit) => 2,
            (Self::Exec, G::Exec) => 5,
            (Self::Exec, G::Fork | G::Vfork | G::Thread | G::Exit) => 2,
            (Self::Epoll, G::Epoll) => 16,
            (Self::Epoll, G::Fork | G::Exit | G::Exec) => 1,
            (Self::Passing, G::Pass | G::Pidfd) => 12,
            (Self::Passing, G::Fork | G::Exit) => 2,
            (Self::Uring, G::Uring) => 12,
            (Self::Uring, G::Thread | G::Fork | G::Exit) => 1,
            (Self::Rare, G::Rare | G::Compat | G::Unshare) => 12,
            (Self::Rare, G::Fork | G::Thread | G::Exit) => 1,
            _ => u32::from(!beyond && !makes_tasks) * 2,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|profile| profile.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|profile| profile.name()).collect();
            format!("no such profile; there are {}", names.join(", "))
        })
    }
}
