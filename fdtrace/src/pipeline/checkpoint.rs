//! The state of the model as records, so that a reader of a recording need not begin at its beginning. What has ended is
//! left out, and so is who opened what: to a reader that begins here it was open already.

use std::rc::Rc;

use fdtrace_common::wire::{self, FileInfo, Header, bytes_of, flag, kind};

use crate::model::{
    World,
    process::Process,
    table::{Generation, Table},
};
use crate::order::Life;

/// Hands over the records, in the order in which a reader needs them.
pub fn checkpoint(world: &World, out: &mut dyn FnMut(&[u8])) {
    let now = world.now();
    let header = |kind| Header { kind, time: now.time, ..Header::default() };
    let mut processes: Vec<&Process> = world.processes.values().filter(|process| process.alive()).collect();
    processes.sort_by_key(|process| process.tgid);
    for process in processes {
        let mut comm = [0; 16];
        let len = process.comm.len().min(15);
        comm[..len].copy_from_slice(&process.comm[..len]);
        let header = Header { tgid: process.tgid, tid: process.tgid, ..header(kind::PROCESS) };
        let (exe_len, argv_len) = (process.exe.len() as u32, process.argv.len() as u32);
        let record = wire::ProcessInfo { header, start: process.start, comm, exe_len, argv_len };
        out(&[bytes_of(&record), &process.exe, &process.argv].concat());
        if let Some(inside) = process.inside {
            let header = Header { kind: kind::NAMESPACED, ..header };
            out(bytes_of(&wire::Namespaced { header, inside, level: 1 }));
        }
    }
    out(bytes_of(&wire::SnapBegin { header: header(kind::SNAP_BEGIN), reading: 0 }));
    for table in world.tables.values().filter(|table| table.alive()) {
        for (nth, (tgid, tid)) in world.users_of(table).enumerate() {
            // One row is enough to say that another task uses the same table.
            let rows = if nth == 0 { usize::MAX } else { 1 };
            for (fd, life) in table.open().take(rows) {
                row(Header { tgid, tid, ..header(kind::SNAP_ROW) }, now.pos, table, fd, life, out);
            }
        }
    }
    out(bytes_of(&wire::SnapEnd { header: header(kind::SNAP_END), reading: 0 }));
}

fn row(mut header: Header, pos: u64, table: &Table, fd: i32, life: &Life<Generation>, out: &mut dyn FnMut(&[u8])) {
    let details = life.data.description.details();
    let mut file = details.map_or_else(FileInfo::default, |details| details.info);
    file.file = life.file;
    header.table = table.addr;
    if life.data.cloexec {
        header.flags |= flag::CLOEXEC;
    }
    let path = details.and_then(|details| details.path.as_ref());
    if path.is_some_and(|path| path.truncated) {
        header.flags |= flag::TRUNCATED;
    }
    let path = path.map_or_else(|| Rc::from([]), |path| Rc::clone(&path.bytes));
    let record = wire::SnapRow { header, pos, file, fd, path_len: path.len() as u32 };
    out(&[bytes_of(&record), &path].concat());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decode::decode,
        event::{Event, Interval, Moment, What},
        syscalls::Arch,
    };

    /// A process whose second thread has a table of its own, and shares it with a third.
    fn world() -> World {
        let mut world = World::new();
        let once = Interval { enter: None, exit: Moment { time: 1, pos: 1 } };
        let mut tell = |tid, table, what| world.apply(&Event { at: once, tgid: 1, tid, table, what }, &mut Vec::new());
        tell(
            1,
            0,
            What::Process { start: 1, comm: *b"x\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", exe: [].into(), argv: [].into() },
        );
        for (tid, table, fd) in [(1, 0x100, 3), (1, 0x100, 4), (2, 0x200, 3), (3, 0x200, 3)] {
            let file = FileInfo { file: table + fd, inode: 7, mode: 0o100_644, ..FileInfo::default() };
            tell(tid, table, What::Row { fd: fd as i32, file, cloexec: false, since: 1, path: None });
        }
        world
    }

    #[test]
    fn a_reader_has_the_tables_of_all_threads() {
        let told = world();
        let mut read = World::new();
        checkpoint(&told, &mut |record| {
            let event = decode(1, record, Arch::native()).expect("a record").expect("an event");
            read.apply(&event, &mut Vec::new());
        });
        let shape = |world: &World| {
            let of = |table: &Table| {
                let numbers: Vec<i32> = table.open().map(|(fd, _)| fd).collect();
                (numbers, world.users_of(table).collect::<Vec<_>>())
            };
            let mut shape: Vec<_> = world.tables.values().map(of).collect();
            shape.sort();
            shape
        };
        assert_eq!(shape(&read), shape(&told));
        assert_eq!(shape(&read), [(vec![3], vec![(1, 2), (1, 3)]), (vec![3, 4], vec![(1, 1)])]);
    }
}
