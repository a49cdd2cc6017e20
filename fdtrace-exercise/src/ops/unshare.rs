//! Tables split from others, also between the threads of one process.

use core::sync::atomic::Ordering::SeqCst;

use super::{Op, op};
use crate::agent::{Agent, SKIP};
use crate::birth::{Making, THREAD};
use crate::nr;
use crate::profile::Group::Unshare;

const FILES: u64 = libc::CLONE_FILES as u64;

pub const OPS: &[Op] = &[
    op("unshare", Unshare, 4, unshare),
    op("thread with a table", Unshare, 2, |a| a.spawn(Making { number: nr::CLONE, flags: THREAD & !FILES })),
];

fn unshare(a: &mut Agent) -> i64 {
    let before = a.table_index();
    if !split_account(a) {
        return SKIP;
    }
    let ret = a.call(nr::UNSHARE, &[libc::CLONE_FILES.into()]);
    if ret < 0 {
        a.own_slot().table.store(before as u32, SeqCst);
    }
    ret
}

/// Gives this task an account of its own if it shares one: done before the table is split, as a failure must leave the
/// kernel's table alone. False when there is no room.
pub fn split_account(a: &mut Agent) -> bool {
    // Workers hold the table too, so it is split even if no other task does.
    a.stale_workers |= a.has_workers;
    if a.region.sharers(a.table_index()) > 1 {
        let Some(table) = a.region.claim_table() else { return false };
        a.region.tables[table].copy_from(a.table());
        a.own_slot().table.store(table as u32, SeqCst);
    }
    true
}
