//! Descriptors that the kernel, or another task, puts into a table unasked: fanotify's events and seccomp's answers.

use core::sync::atomic::Ordering::SeqCst;

use super::{Op, serial};
use crate::agent::{Agent, SKIP};
use crate::birth::{Errand, Making, THREAD};
use crate::kind::Kind;
use crate::nr;
use crate::profile::Group::Rare;
use crate::sys::Arg;

pub const OPS: &[Op] = &[
    serial("fanotify events", Rare, 2, fanotify),
    serial("seccomp ADDFD", Rare, 2, |a| addfd(a, false)),
    serial("seccomp ADDFD elsewhere", Rare, 2, |a| addfd(a, true)),
];

fn fanotify(a: &mut Agent) -> i64 {
    const CLOEXEC: i32 = 1;
    const NONBLOCK: i32 = 2;
    const MARK_ADD: i32 = 1;
    const OPEN: u64 = 0x20;
    let cloexec = a.rng.chance(50);
    let events_cloexec = a.rng.chance(50);
    let flags = NONBLOCK | if cloexec { CLOEXEC } else { 0 };
    let event_flags = libc::O_RDONLY | if events_cloexec { libc::O_CLOEXEC } else { 0 };
    let fd = a.call(nr::FANOTIFY_INIT, &[flags.into(), event_flags.into()]);
    if a.made(fd, Kind::Fanotify, cloexec) < 0 {
        return fd;
    }
    a.call(nr::FANOTIFY_MARK, &[fd.into(), MARK_ADD.into(), OPEN.into(), libc::AT_FDCWD.into(), c"f4".into()]);
    let opened = super::open::open(a, nr::OPENAT, c"f4", libc::O_RDONLY, Kind::File);
    let mut events = [0_u32; 6 * 8];
    let ret = a.call(nr::READ, &[fd.into(), Arg::write(&mut events), (4 * events.len()).into()]);
    if ret > 0 {
        // Length, version, mask, descriptor, process.
        for event in events.chunks(6).take(ret as usize / 24) {
            a.made(event[4].cast_signed().into(), Kind::File, events_cloexec);
        }
    }
    if opened >= 0 {
        a.close(opened as i32);
    }
    if a.rng.chance(70) {
        a.close(fd as i32);
    }
    ret.min(0)
}

const NOTIFY_RECEIVE: u32 = 0xc050_2100;
const NOTIFY_SEND: u32 = 0xc018_2101;
const NOTIFY_ADDFD: u32 = 0x4018_2103;

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// A new thread asks for one syscall to be answered by this task, which puts a descriptor into the thread's table: the
/// one they share, or one that the thread has taken for itself. The thread exercises on afterwards.
fn addfd(a: &mut Agent, elsewhere: bool) -> i64 {
    let Some(source) = a.live_fd() else { return SKIP };
    let held = a.table().get(source);
    let errand = if elsewhere { Errand::NotifiedElsewhere } else { Errand::Notified };
    let slot = match a.spawn_for(Making { number: nr::CLONE, flags: THREAD }, errand) {
        Ok(slot) => slot,
        Err(error) => return error,
    };
    let slot = &a.region.slots[slot];
    a.await_that("a notified thread does not ask", || slot.word.load(SeqCst) != 0);
    let listener = slot.word.load(SeqCst) as i32 - 2;
    if listener < 0 {
        slot.word.store(0, SeqCst);
        return -i64::from(libc::EBUSY);
    }
    let mut notification = [0_u64; 10];
    let ret = a.call(nr::IOCTL, &[listener.into(), NOTIFY_RECEIVE.into(), Arg::write(&mut notification)]);
    let id = notification[0];
    let cloexec = a.rng.chance(50);
    let onto = a.rng.chance(30).then(|| a.target_fd());
    let add = AddFd {
        id,
        flags: u32::from(onto.is_some()),
        source: source as u32,
        target: onto.unwrap_or(0) as u32,
        target_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    let added = if ret < 0 { ret } else { a.call(nr::IOCTL, &[listener.into(), NOTIFY_ADDFD.into(), Arg::read(&add)]) };
    if added >= 0
        && let Some(held) = held
    {
        let table = &a.region.tables[slot.table.load(SeqCst) as usize];
        table.set(added as i32, held.with_cloexec(cloexec));
    }
    // The number may have been put over the listener itself; then the thread is let go by its end.
    let answer = Answer { id, value: 7, error: 0, flags: 0 };
    a.call(nr::IOCTL, &[listener.into(), NOTIFY_SEND.into(), Arg::read(&answer)]);
    slot.word.store(1, SeqCst);
    a.await_that("a notified thread does not go on", || slot.word.load(SeqCst) == 0);
    if a.table().get(listener).is_some_and(|held| held.kind() == Kind::Seccomp) && a.rng.chance(70) {
        a.close(listener);
    }
    added
}

/// The thread's part: installs a filter with a listener, says its number, and makes the filtered call.
pub fn be_notified(a: &mut Agent) {
    let elsewhere = a.errand == Errand::NotifiedElsewhere;
    a.errand = Errand::Exercise;
    const SET_MODE_FILTER: i32 = 1;
    const NEW_LISTENER: i32 = 8;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    const ALLOW: u32 = 0x7fff_0000;
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    #[repr(C)]
    struct Instruction(u16, u8, u8, u32);
    #[repr(C)]
    struct Program {
        len: u16,
        code: u64,
    }
    let slot = a.own_slot();
    let code = [
        Instruction(LOAD, 0, 0, 0),
        Instruction(JUMP_IF_EQUAL, 0, 1, nr::GETPPID as u32),
        Instruction(RETURN, 0, 0, USER_NOTIF),
        Instruction(RETURN, 0, 0, ALLOW),
    ];
    let program = Program { len: 4, code: Arg::read(&code).0 };
    a.call(nr::PRCTL, &[libc::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()]);
    // Refused to a thread whose ancestors have a listener.
    let listener = a.call(nr::SECCOMP, &[SET_MODE_FILTER.into(), NEW_LISTENER.into(), Arg::read(&program)]);
    a.made(listener, Kind::Seccomp, true);
    if listener >= 0 && elsewhere && super::unshare::split_account(a) {
        a.call(nr::UNSHARE, &[libc::CLONE_FILES.into()]);
    }
    slot.word.store((listener.max(-1) + 2) as u32, SeqCst);
    if listener >= 0 {
        a.call(nr::GETPPID, &[]);
        a.await_that("a notifying task does not finish", || slot.word.load(SeqCst) == 1);
        slot.word.store(0, SeqCst);
    }
}
