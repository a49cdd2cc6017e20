//! What there is to be said of a difference between the model's tables and the kernel's.

use std::{fmt::Write as _, os::unix::fs::MetadataExt as _};

use fdtrace::{
    event::{Effect, Event, What},
    model::{World, table::Table},
};
use fdtrace_exercise::{compare::Difference, driver::Task};

/// What happened to the numbers that differ, and what else may have been taken for them. Everything that happened is written
/// where `FDTRACE_LOG` says.
pub fn of(world: &World, log: &[Event], tasks: &[Task], differences: &[Difference]) -> String {
    if let Some(path) = std::env::var_os("FDTRACE_LOG") {
        std::fs::write(path, as_text(log.iter(), usize::MAX)).expect("the log is written");
    }
    let inodes: Vec<u64> = differences.iter().filter_map(|difference| inode_in(&difference.to_string())).collect();
    numbers(world, log, differences) + &alike(world, tasks, &inodes)
}

/// What happened to these numbers in these tables, as the tracer saw it.
fn numbers(world: &World, log: &[Event], differences: &[Difference]) -> String {
    let mut text = String::new();
    let mut told = Vec::new();
    for difference in differences {
        let Some(table) = world.table_of_task(difference.pid) else { continue };
        let Some(fd) = difference.fd else { continue };
        if told.contains(&(table.id, fd)) {
            continue;
        }
        told.push((table.id, fd));
        let about = |event: &&Event| event.table == table.addr && mentions(event, fd);
        let _ = writeln!(text, "  table {:?} at {:#x}, fd {fd}:", table.id, table.addr);
        text += &as_text(log.iter().filter(about), 12);
        if let Some(registered) = difference.registered {
            text += &watched_by(world, table, fd);
            let _ = writeln!(text, "  fd {registered} in all tables:");
            text += &as_text(log.iter().filter(|event| mentions(event, registered)), 40);
        }
    }
    text
}

/// Every slot with one of these inodes, as the model has it and as the kernel does: descriptions of one inode are easily
/// taken for one another.
fn alike(world: &World, tasks: &[Task], inodes: &[u64]) -> String {
    let mut text = String::new();
    for table in world.tables.values() {
        for (fd, life) in table.open() {
            let description = &life.data.description;
            let inode = description.details().map(|details| details.info.inode);
            if inode.is_some_and(|inode| inodes.contains(&inode)) {
                let flags = description.details().map(|details| details.info.flags);
                let _ = writeln!(
                    text,
                    "    model: {:?} of {:?}, fd {fd}: {:?} flags {flags:x?} inode {inode:?}",
                    table.id,
                    table.tasks(),
                    description.serial
                );
            }
        }
    }
    for task in tasks {
        let directory = format!("/proc/{}/task/{}", task.pid, task.tid);
        let Ok(entries) = std::fs::read_dir(format!("{directory}/fd")) else { continue };
        for entry in entries.flatten() {
            let inode = std::fs::metadata(entry.path()).map(|metadata| metadata.ino()).unwrap_or_default();
            if inodes.contains(&inode) {
                let fd = entry.file_name().to_string_lossy().into_owned();
                let info = std::fs::read_to_string(format!("{directory}/fdinfo/{fd}")).unwrap_or_default();
                let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default().to_owned();
                let _ = writeln!(text, "    kernel: task {}, fd {fd}: {flags} inode {inode}", task.tid);
            }
        }
    }
    text
}

/// What the model has in an epoll's interest list, and which slots it says to hold each target.
fn watched_by(world: &World, table: &Table, epoll: i32) -> String {
    let live = table.slots.get(&epoll).and_then(|slot| slot.live());
    let known = live.and_then(|live| world.epolls.get(&live.data.description.serial));
    let Some(known) = known else { return String::new() };
    let mut text = String::new();
    for entry in known.entries.values() {
        let slots = world.tables.values().flat_map(|table| table.open().map(move |(fd, life)| (table, fd, life)));
        let holders: Vec<_> = slots
            .filter(|(_, _, life)| life.data.description.serial == entry.target.serial)
            .map(|(table, fd, _)| (table.id, fd, table.tasks()))
            .collect();
        let count = entry.target.holders.get();
        let _ = writeln!(text, "    entry {} {:?}: {count} holders, {holders:?}", entry.fd, entry.target.serial);
    }
    text
}

/// The inode of a registration that is shown, by the kernel or by the model: `ino: 5` or `ino: Some(5)`.
fn inode_in(line: &str) -> Option<u64> {
    let number = line.split_once("ino: ")?.1.trim_start_matches("Some(");
    number.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// Does an event have to do with this number?
fn mentions(event: &Event, fd: i32) -> bool {
    let in_range = |first: u32, last: u32| u32::try_from(fd).is_ok_and(|fd| (first..=last).contains(&fd));
    match &event.what {
        What::Call(call) => match &call.effect {
            Effect::None => false,
            Effect::Install(install) | Effect::Replace { install, .. } => install.fd == fd,
            Effect::Receive { files, .. } => files.iter().any(|(received, _)| *received == fd),
            Effect::Pair(pair) => pair.iter().any(|install| install.fd == fd),
            Effect::Remove { fd: removed, .. } | Effect::SetCloexec { fd: removed, .. } => *removed == fd,
            Effect::RemoveRange { first, last } | Effect::CloexecRange { first, last } => in_range(*first, *last),
            Effect::EpollCtl(ctl) => ctl.fd == fd || ctl.epoll == fd,
            Effect::SetFlags { fd: used, .. }
            | Effect::Lock { fd: used, .. }
            | Effect::Used { fd: used }
            | Effect::Itself { fd: used } => *used == fd,
            Effect::EpollWait { .. } => false,
        },
        What::Table { rows, .. } => rows.iter().any(|row| row.fd == fd),
        What::Row { fd: row, .. } => *row == fd,
        What::EpollEntry { fd: listed, .. } => *listed == fd,
        What::Exec { .. } | What::Exit { .. } | What::Fork { .. } => true,
        _ => false,
    }
}

/// The last of some events.
fn as_text<'a>(events: impl Iterator<Item = &'a Event>, last: usize) -> String {
    let events: Vec<&Event> = events.collect();
    let mut text = String::new();
    for event in &events[events.len().saturating_sub(last)..] {
        let enter = event.at.enter.map(|enter| enter.pos);
        let (exit, tid, table) = (event.at.exit.pos, event.tid, event.table);
        let _ = match &event.what {
            What::Call(call) => {
                let (name, ret) = (call.sys.name, call.ret);
                writeln!(text, "    {enter:?}..{exit} tid {tid} {table:x} {name} = {ret} {:x?}", call.effect)
            }
            What::Table { rows, .. } => {
                let rows: Vec<_> = rows.iter().map(|row| (row.fd, row.file)).collect();
                writeln!(text, "    {enter:?}..{exit} tid {tid} {table:x} listed, {} rows: {rows:x?}", rows.len())
            }
            what => writeln!(text, "    {enter:?}..{exit} tid {tid} {table:x} {what:x?}"),
        };
    }
    text
}
