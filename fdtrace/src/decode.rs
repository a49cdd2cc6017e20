//! Bytes from the ring or a recording to events. Pure: no state, no clock, no panic; what cannot be read is an error
//! that names the record.
//!
//! What a system call did to its table is decided here, from its number, arguments and result alone.

mod witnesses;

use std::rc::Rc;

use fdtrace_common::{
    class,
    wire::{self, FileInfo, Header, flag, kind},
    witness::kind as witness,
};

use crate::{
    event::{
        Call, Effect, EpollCtl, EpollListed, EpollOp, Event, Install, Interval, Moment, Path, Source, TableRow, What,
    },
    syscalls::{self, Arch, F_DUPFD, F_DUPFD_CLOEXEC, F_SETFD, F_SETFL, F_SETLK, F_SETLKW, Syscall, fd},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("record at ring position {pos} is cut short: kind {kind}, {len} bytes")]
    Short { pos: u64, kind: u16, len: usize },
    #[error("record at ring position {pos} has unknown kind {kind}")]
    UnknownKind { pos: u64, kind: u16 },
    #[error("record at ring position {pos} is about system call {nr}, which has nothing to do with descriptors")]
    UnknownCall { pos: u64, nr: u32 },
}

const FIOCLEX: u32 = 0x5451;
const FIONCLEX: u32 = 0x5450;
const FIONBIO: u32 = 0x5421;
const O_NONBLOCK: u32 = 0o4000;
const F_UNLCK: u64 = 2;
const CLOSE_RANGE_CLOEXEC: u64 = 4;
const EBADF: i64 = -9;
/// The end of `rt_sigreturn`, as the kernel tells it: no number, and for a result that of the call before the signal
/// (`restore_sigcontext`). <https://github.com/torvalds/linux/blob/v6.12/arch/x86/kernel/signal_64.c>
const NO_CALL: u32 = u32::MAX;
const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;

/// Decodes one record. `None`: a call that says nothing about descriptors after all.
pub fn decode(pos: u64, bytes: &[u8], arch: Arch) -> Result<Option<Event>, DecodeError> {
    let Some((header, _)) = wire::read::<Header>(bytes) else {
        return Err(DecodeError::Short { pos, kind: 0, len: bytes.len() });
    };
    let short = DecodeError::Short { pos, kind: header.kind, len: bytes.len() };
    let what = match header.kind {
        kind::CALL..=kind::CALL_RECEIVED => return call(pos, header.kind, bytes, arch, short),
        kind::FORK => {
            let (record, _) = wire::read::<wire::Fork>(bytes).ok_or(short)?;
            let what = What::Fork {
                tgid: record.child_tgid,
                tid: record.child_tid,
                table: record.child_table,
                start: record.child_start,
                comm: record.comm,
            };
            return Ok(Some(event(pos, &header, enter(record.enter_time, record.enter_pos), what)));
        }
        kind::EXEC => {
            let (record, tail) = wire::read::<wire::Exec>(bytes).ok_or(short)?;
            let (path, argv) = split(tail, record.path_len, record.argv_len).ok_or(short)?;
            let what = What::Exec { old_tid: record.old_tid, path, argv, comm: record.comm };
            return Ok(Some(event(pos, &header, enter(record.enter_time, record.enter_pos), what)));
        }
        kind::EXIT => {
            let (record, _) = wire::read::<wire::Exit>(bytes).ok_or(short)?;
            What::Exit {
                code: record.code,
                group_dead: header.flags & flag::GROUP_DEAD != 0,
                table_users: record.table_users,
            }
        }
        kind::NAMESPACED => {
            let (record, _) = wire::read::<wire::Namespaced>(bytes).ok_or(short)?;
            What::Namespaced { inside: record.inside }
        }
        kind::TABLE => {
            let (record, _) = wire::read::<wire::Table>(bytes).ok_or(short)?;
            What::Table {
                rows: rows(&record),
                more: header.flags & flag::MORE != 0,
                beyond_walk: header.flags & flag::BEYOND_WALK != 0,
            }
        }
        kind::SNAP_ROW => {
            let (record, tail) = wire::read::<wire::SnapRow>(bytes).ok_or(short)?;
            let cloexec = header.flags & flag::CLOEXEC != 0;
            let path = usize::try_from(record.path_len).ok().and_then(|len| tail.get(..len)).ok_or(short)?;
            let truncated = header.flags & flag::TRUNCATED != 0;
            let path = (!path.is_empty()).then(|| Path { bytes: path.into(), truncated });
            What::Row { fd: record.fd, file: record.file, cloexec, since: record.pos, path }
        }
        kind::SNAP_BEGIN => {
            let reading = wire::read::<wire::SnapBegin>(bytes).map(|(record, _)| record.reading);
            What::SnapshotBegin { reading, threads: header.flags & flag::THREADS != 0 }
        }
        kind::SNAP_END => {
            let (record, _) = wire::read::<wire::SnapEnd>(bytes).ok_or(short)?;
            What::SnapshotEnd { reading: record.reading }
        }
        kind::LOST => {
            let (record, _) = wire::read::<wire::Lost>(bytes).ok_or(short)?;
            What::Lost { since: record.since, by_class: record.by_class }
        }
        kind::FOP_KIND => {
            let (record, _) = wire::read::<wire::FopKind>(bytes).ok_or(short)?;
            What::FopKind { fop: record.fop, name: record.name }
        }
        kind::PROCESS => {
            let (record, tail) = wire::read::<wire::ProcessInfo>(bytes).ok_or(short)?;
            let (exe, argv) = split(tail, record.exe_len, record.argv_len).ok_or(short)?;
            What::Process { start: record.start, comm: record.comm, exe, argv }
        }
        kind::THREAD => What::Thread,
        kind::EPOLL_LIST => {
            let (record, mut tail) = wire::read::<wire::EpollList>(bytes).ok_or(short)?;
            let mut rows = Vec::new();
            for _ in 0..record.rows {
                let wire::EpollRow { data, inode, open_inode, fd, events } = take(&mut tail).ok_or(short)?;
                rows.push(EpollListed { fd, events, data, inode, open_inode });
            }
            What::EpollList { fd: record.fd, rows }
        }
        kind::EPOLL_ENTRY => {
            let (record, tail) = wire::read::<wire::EpollEntry>(bytes).ok_or(short)?;
            let held = tail.first_chunk().map(|held| i32::from_ne_bytes(*held)).filter(|held| *held >= 0);
            let holder = tail.get(4..).and_then(|rest| rest.first_chunk()).map(|holder| u32::from_ne_bytes(*holder));
            What::EpollEntry {
                epoll: record.epoll,
                fd: record.fd,
                events: record.events,
                data: record.data,
                inode: record.inode,
                dev: record.dev,
                current: match header.flags & (flag::SAME_FILE | flag::UNREADABLE) {
                    flag::SAME_FILE => Some(true),
                    0 => Some(false),
                    _ => None,
                },
                held: held.map(|fd| (holder.unwrap_or(header.tid), fd)),
            }
        }
        kind::TICK => What::Tick,
        // About memory; of no concern to the model.
        witness::MAPPED => return Ok(None),
        witness::STACK..=witness::TYPE => return witnesses::decode(pos, &header, bytes, short).map(Some),
        kind => return Err(DecodeError::UnknownKind { pos, kind }),
    };
    Ok(Some(event(pos, &header, None, what)))
}

fn event(pos: u64, header: &Header, enter: Option<Moment>, what: What) -> Event {
    let at = Interval { enter, exit: Moment { time: header.time, pos } };
    Event { at, tgid: header.tgid, tid: header.tid, table: header.table, what }
}

fn enter(time: u64, pos: u64) -> Option<Moment> {
    (pos != wire::NOT_SEEN).then_some(Moment { time, pos })
}

fn take<T: wire::Plain>(tail: &mut &[u8]) -> Option<T> {
    let (value, rest) = wire::read::<T>(tail)?;
    *tail = rest;
    Some(value)
}

/// The open slots of a listing. A number that is reserved but not installed has no file.
fn rows(table: &wire::Table) -> Vec<TableRow> {
    let slots = table.files.iter().zip(0u32..);
    let open = slots.filter(|(file, bit)| table.open >> bit & 1 != 0 && **file != 0);
    open.filter_map(|(file, bit)| {
        let fd = i32::try_from(table.first.checked_add(bit)?).ok()?;
        Some(TableRow { fd, file: *file, cloexec: table.cloexec >> bit & 1 != 0 })
    })
    .collect()
}

type Bytes = Rc<[u8]>;

/// Two byte strings that follow each other.
fn split(tail: &[u8], first: u32, second: u32) -> Option<(Bytes, Bytes)> {
    let (first, second) = (usize::try_from(first).ok()?, usize::try_from(second).ok()?);
    let end = first.checked_add(second)?;
    Some((tail.get(..first)?.into(), tail.get(first..end)?.into()))
}

fn call(pos: u64, kind: u16, bytes: &[u8], arch: Arch, short: DecodeError) -> Result<Option<Event>, DecodeError> {
    let (call, _) = wire::read::<wire::Call>(bytes).ok_or(short)?;
    let arch = match (call.header.flags & flag::COMPAT != 0, arch.compat()) {
        (true, Some(compat)) => compat,
        _ => arch,
    };
    if call.nr == NO_CALL {
        return Ok(None);
    }
    let Some(sys) = syscalls::lookup(arch, call.nr) else {
        return Err(DecodeError::UnknownCall { pos, nr: call.nr });
    };
    // The records of all kinds of call begin alike; what differs follows.
    let effect = match kind {
        kind::CALL => plain(sys, &call),
        kind::CALL_FD => {
            let (record, _) = wire::read::<wire::CallFd>(bytes).ok_or(short)?;
            with_file(sys, &call, record.fd, record.file, None, pos)
        }
        kind::CALL_PAIR => {
            let (record, _) = wire::read::<wire::CallPair>(bytes).ok_or(short)?;
            let [a, b] = record.fds;
            let [file_a, file_b] = record.files;
            Effect::Pair(Box::new([
                install(a, file_a, Source::New, None, pos),
                install(b, file_b, Source::New, None, pos),
            ]))
        }
        kind::CALL_PATH => {
            let (record, tail) = wire::read::<wire::CallPath>(bytes).ok_or(short)?;
            let len = usize::try_from(record.path_len).map_err(|_| short)?;
            let bytes = tail.get(..len).ok_or(short)?;
            let path = (call.header.flags & flag::UNREADABLE == 0)
                .then(|| Path { bytes: bytes.into(), truncated: call.header.flags & flag::TRUNCATED != 0 });
            with_file(sys, &call, fd(call.ret.cast_unsigned()), record.file, path, looked(pos, &call))
        }
        kind::CALL_RECEIVED => {
            let (record, tail) = wire::read::<wire::CallReceived>(bytes).ok_or(short)?;
            let count = usize::try_from(record.count).unwrap_or(usize::MAX);
            let numbers =
                tail.chunks_exact(4).take(count).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap_or_default()));
            let files: Vec<(i32, u64)> = numbers.zip(record.files.into_iter().chain(std::iter::repeat(0))).collect();
            if files.len() != count {
                return Err(short);
            }
            let flags = if sys.class == class::RECVMMSG { call.args[3] } else { call.args[2] };
            let cloexec = flags & MSG_CMSG_CLOEXEC != 0;
            Effect::Receive { files, cloexec, looked: looked(pos, &call) }
        }
        kind::CALL_EPOLL_CTL => {
            let (record, _) = wire::read::<wire::CallEpollCtl>(bytes).ok_or(short)?;
            Effect::EpollCtl(EpollCtl {
                epoll: fd(call.args[0]),
                epoll_file: record.epoll,
                op: match call.args[1] as u32 {
                    1 => EpollOp::Add,
                    2 => EpollOp::Del,
                    3 => EpollOp::Mod,
                    other => EpollOp::Unknown(other),
                },
                fd: fd(call.args[2]),
                target: [call.before, record.target],
                events: record.events,
                data: record.data,
            })
        }
        _ => {
            let (record, _) = wire::read::<wire::CallEpollWait>(bytes).ok_or(short)?;
            // A failed wait has an error for a count.
            let count = usize::try_from(call.ret).unwrap_or(0);
            let shown = count.min(wire::EPOLL_EVENTS_MAX);
            let data = record.events[..shown].iter().map(|event| (event.events, event.data)).collect();
            Effect::EpollWait { epoll: fd(call.args[0]), file: record.epoll, count: record.count, data }
        }
    };
    let enter_table = (call.enter_table != 0).then_some(call.enter_table);
    let table_changed = enter_table.is_some_and(|table| table != call.header.table);
    if matches!(effect, Effect::None) && call.ret >= 0 && !table_changed && sys.class != class::URING {
        return Ok(None);
    }
    let what = What::Call(Call { sys, args: call.args, ret: call.ret, enter_table, effect });
    Ok(Some(event(pos, &call.header, enter(call.enter_time, call.enter_pos), what)))
}

fn install(fd: i32, file: FileInfo, source: Source, path: Option<Path>, looked: u64) -> Install {
    let cloexec = file.slot_flags & u32::from(flag::CLOEXEC) != 0;
    Install { fd, file, cloexec, source, path, looked }
}

/// Status flags that the file had when the call began.
#[expect(clippy::cast_possible_truncation, reason = "the mark is above them")]
fn flags_before(call: &wire::Call) -> Option<u32> {
    (call.before & wire::FLAGS_KNOWN != 0).then_some(call.before as u32)
}

/// When the kernel side looked at the slots of a record that it made before it had a place in the ring.
fn looked(pos: u64, call: &wire::Call) -> u64 {
    // Old recordings do not tell.
    if call.after == 0 { pos } else { call.after }
}

/// The effect of a call whose record carries no file.
#[expect(clippy::cast_possible_truncation, reason = "the kernel takes these arguments as 32-bit numbers")]
fn plain(sys: &Syscall, call: &wire::Call) -> Effect {
    let [a0, a1, a2, ..] = call.args;
    match sys.class {
        // The number is freed first: every result but EBADF means closed, EINTR and EIO too.
        // <https://github.com/torvalds/linux/blob/v6.12/fs/open.c#L1561>
        class::CLOSE if call.ret != EBADF => Effect::Remove { fd: fd(a0), before: call.before, after: call.after },
        // The kernel refuses a range that ends before it begins; a recording may say what it likes.
        class::CLOSE_RANGE if call.ret == 0 && a0 as u32 <= a1 as u32 => {
            let (first, last) = (a0 as u32, a1 as u32);
            if a2 & CLOSE_RANGE_CLOEXEC != 0 {
                Effect::CloexecRange { first, last }
            } else {
                Effect::RemoveRange { first, last }
            }
        }
        class::FCNTL if call.ret >= 0 => match a1 as u32 {
            F_SETFD => Effect::SetCloexec { fd: fd(a0), on: a2 & 1 != 0 },
            F_SETFL => Effect::SetFlags { fd: fd(a0), flags: a2 as u32, before: flags_before(call) },
            F_SETLK | F_SETLKW => Effect::Lock { fd: fd(a0), unlock: call.after == F_UNLCK },
            _ => Effect::None,
        },
        class::USE | class::REPORT | class::RECVMSG | class::RECVMMSG | class::GETSOCKOPT
            if call.ret != EBADF && !sys.fds.is_empty() =>
        {
            Effect::Used { fd: fd(a0) }
        }
        // An accept that waited and failed.
        class::RETURNS_FD if call.ret < 0 && call.ret != EBADF && !sys.fds.is_empty() => Effect::Used { fd: fd(a0) },
        class::IOCTL if call.ret >= 0 => match a1 as u32 {
            FIOCLEX => Effect::SetCloexec { fd: fd(a0), on: true },
            FIONCLEX => Effect::SetCloexec { fd: fd(a0), on: false },
            FIONBIO => {
                let before = flags_before(call);
                let others = before.unwrap_or(0) & !O_NONBLOCK;
                let flags = if call.after == 0 { others } else { others | O_NONBLOCK };
                Effect::SetFlags { fd: fd(a0), flags, before }
            }
            _ => Effect::None,
        },
        _ => Effect::None,
    }
}

/// The effect of a call that returned a descriptor.
#[expect(clippy::cast_possible_truncation, reason = "the kernel takes these arguments as 32-bit numbers")]
fn with_file(sys: &Syscall, call: &wire::Call, number: i32, file: FileInfo, path: Option<Path>, looked: u64) -> Effect {
    let [a0, a1, a2, ..] = call.args;
    let new = |source| Effect::Install(install(number, file, source, path, looked));
    match sys.class {
        class::DUP2 => {
            if fd(a0) == fd(a1) {
                // dup2(x, x) is a no-op; dup3 refuses.
                return Effect::Itself { fd: fd(a0) };
            }
            let install = install(number, file, Source::Duplicated(fd(a0)), None, looked);
            Effect::Replace { install, before: call.before }
        }
        class::FCNTL => match a1 as u32 {
            F_DUPFD | F_DUPFD_CLOEXEC => new(Source::Duplicated(fd(a0))),
            _ => Effect::None,
        },
        _ => match sys.name {
            "dup" => new(Source::Duplicated(fd(a0))),
            // With a number, the call changes an existing signalfd and returns the same number.
            "signalfd" | "signalfd4" if fd(a0) != -1 => Effect::None,
            // These return a descriptor for some of their commands only.
            "bpf" if !matches!(a0, 0 | 5 | 7 | 13 | 14 | 17 | 18 | 19 | 28 | 30 | 32 | 33 | 36) => Effect::None,
            "seccomp" if !(a0 == 1 && a1 & 8 != 0) => Effect::None,
            "landlock_create_ruleset" if a2 as u32 != 0 => Effect::None,
            "pidfd_getfd" => new(Source::Received),
            _ => new(Source::New),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdtrace_common::wire::{Plain, bytes_of};

    fn header(kind: u16) -> Header {
        Header { kind, tgid: 10, tid: 11, time: 5, table: 0x1000, ..Header::default() }
    }

    fn call(nr: u32, args: [u64; 6], ret: i64, kind: u16) -> wire::Call {
        wire::Call { header: header(kind), enter_pos: 1, nr, args, ret, ..wire::Call::default() }
    }

    fn effect(record: &[u8]) -> Option<Effect> {
        match decode(0, record, Arch::X86_64).expect("a whole record")?.what {
            What::Call(call) => Some(call.effect),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_close_but_ebadf_frees_the_number() {
        for (ret, closed) in [(0, true), (-4, true), (-5, true), (-9, false)] {
            let record = call(3, [7, 0, 0, 0, 0, 0], ret, kind::CALL);
            let effect = effect(bytes_of(&record)).expect("an event");
            assert_eq!(matches!(effect, Effect::Remove { fd: 7, .. }), closed, "{ret}");
        }
    }

    #[test]
    fn the_return_from_a_signal_is_no_call() {
        let record = call(NO_CALL, [0; 6], EBADF, kind::CALL);
        assert!(effect(bytes_of(&record)).is_none());
        let unknown = call(NO_CALL - 1, [0; 6], EBADF, kind::CALL);
        let refused = decode(0, bytes_of(&unknown), Arch::X86_64);
        assert!(matches!(refused, Err(DecodeError::UnknownCall { .. })));
    }

    #[test]
    fn dup2_onto_itself_changes_nothing() {
        let record = wire::CallFd { call: call(33, [4, 4, 0, 0, 0, 0], 4, kind::CALL_FD), ..Default::default() };
        assert!(matches!(effect(bytes_of(&record)), Some(Effect::Itself { fd: 4 })));
    }

    #[test]
    fn path_is_taken_from_the_tail() {
        let mut head =
            wire::CallPath { call: call(257, [0; 6], 3, kind::CALL_PATH), path_len: 4, ..Default::default() };
        let mut record = [bytes_of(&head), b"/tmp"].concat();
        let Some(Effect::Install(install)) = effect(&record) else { panic!("no install") };
        assert_eq!(&*install.path.expect("a path").bytes, b"/tmp");
        head.path_len = 5;
        record.splice(..size_of::<wire::CallPath>(), bytes_of(&head).iter().copied());
        assert!(decode(0, &record, Arch::X86_64).is_err());
    }

    #[test]
    fn no_prefix_of_a_record_panics() {
        fn prefixes<T: Plain>(kind: u16) {
            for fill in [0u8, 0xff] {
                let mut bytes = vec![fill; size_of::<T>()];
                bytes[..2].copy_from_slice(&kind.to_ne_bytes());
                for len in 0..=bytes.len() {
                    // Any answer will do, as long as there is one.
                    let _ = decode(0, &bytes[..len], Arch::X86_64);
                }
            }
        }
        prefixes::<wire::Call>(kind::CALL);
        prefixes::<wire::CallFd>(kind::CALL_FD);
        prefixes::<wire::CallPair>(kind::CALL_PAIR);
        prefixes::<wire::CallPath>(kind::CALL_PATH);
        prefixes::<wire::CallEpollCtl>(kind::CALL_EPOLL_CTL);
        prefixes::<wire::CallEpollWait>(kind::CALL_EPOLL_WAIT);
        prefixes::<wire::Fork>(kind::FORK);
        prefixes::<wire::Exec>(kind::EXEC);
        prefixes::<wire::Exit>(kind::EXIT);
        prefixes::<wire::Namespaced>(kind::NAMESPACED);
        prefixes::<wire::Table>(kind::TABLE);
        prefixes::<wire::SnapRow>(kind::SNAP_ROW);
        prefixes::<wire::Lost>(kind::LOST);
        prefixes::<wire::ProcessInfo>(kind::PROCESS);
        prefixes::<wire::Tick>(99);
    }
}
