//! The operations: one table of all, and the choice of the next one.
//!
//! An operation is a few syscalls around one point. It picks its descriptors by the task's account, issues the calls,
//! enters what they did, and returns the result of the call it is about. None may block: what could is asked for with
//! non-blocking flags, or is done in serial rounds only, in which nobody changes the table meanwhile.

mod close;
mod compat;
mod dup;
mod epoll;
mod limit;
mod make;
mod misuse;
mod mount;
mod notify;
mod open;
mod pass;
mod pidfd;
mod rare;
mod socket;
mod storm;
mod tasks;
mod unshare;
mod uring;

pub use notify::be_notified;

use crate::agent::Agent;
use crate::profile::Group;

/// One operation.
pub struct Op {
    pub name: &'static str,
    pub group: Group,
    /// How often, against the others of its group.
    pub weight: u32,
    /// Done in serial rounds only.
    pub serial: bool,
    pub run: fn(&mut Agent) -> i64,
}

/// An operation that may be done in any round.
const fn op(name: &'static str, group: Group, weight: u32, run: fn(&mut Agent) -> i64) -> Op {
    Op { name, group, weight, serial: false, run }
}

/// An operation that could block, or that would harm others, if another thread changed the table meanwhile.
const fn serial(name: &'static str, group: Group, weight: u32, run: fn(&mut Agent) -> i64) -> Op {
    Op { name, group, weight, serial: true, run }
}

const FAMILIES: &[&[Op]] = &[
    open::OPS,
    close::OPS,
    dup::OPS,
    make::OPS,
    socket::OPS,
    epoll::OPS,
    misuse::OPS,
    limit::OPS,
    tasks::OPS,
    storm::OPS,
    pass::OPS,
    pidfd::OPS,
    unshare::OPS,
    uring::OPS,
    rare::OPS,
    mount::OPS,
    notify::OPS,
    compat::OPS,
];

/// All operations. An operation's index is its place here.
pub fn all() -> impl Iterator<Item = &'static Op> + Clone {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// The index of an operation that is known to exist.
pub fn index_of(name: &str) -> usize {
    all().position(|op| op.name == name).unwrap_or(crate::shared::OPS - 1)
}

/// Descriptors above which closing comes first.
const CROWDED: usize = 70;

/// Chooses the next operation for an agent by its generator.
pub fn choose(agent: &mut Agent) -> Option<(usize, &'static Op)> {
    let crowded = agent.table().live().count() > CROWDED && agent.rng.chance(60);
    let (profile, ephemeral, is_serial) = (agent.profile, agent.ephemeral, agent.is_serial());
    let weight = |op: &Op| {
        let allowed = is_serial || !op.serial;
        let fits = if crowded {
            matches!(op.group, Group::Close | Group::Range)
        } else if ephemeral {
            matches!(op.group, Group::Open | Group::Close | Group::Dup | Group::Make | Group::Epoll | Group::Use)
        } else {
            true
        };
        if allowed && fits { op.weight * profile.factor(op.group) } else { 0 }
    };
    let total: u32 = all().map(weight).sum();
    let mut at = agent.rng.below(total as usize) as u32;
    for (index, op) in all().enumerate() {
        let weight = weight(op);
        if at < weight {
            return Some((index, op));
        }
        at -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_names_of_their_own_and_fit_the_counters() {
        let names: std::collections::BTreeSet<_> = all().map(|op| op.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.len() < crate::shared::OPS);
        assert_eq!(all().nth(index_of("exec")).unwrap().name, "exec");
    }
}
