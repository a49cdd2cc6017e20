//! What `/proc` says of a process, as a record. All of it may be missing: the process may be gone.

use std::{os::unix::ffi::OsStrExt, path::Path};

use fdtrace_common::wire::{ARGV_MAX, Header, Namespaced, PATH_MAX, ProcessInfo, Thread, bytes_of, kind};

use super::{clock, procfs};

/// A [`Thread`] record for each thread that has not ended.
pub fn threads(tgid: u32) -> Vec<Vec<u8>> {
    let root = Path::new(procfs::ROOT);
    let header = |tid| Header { kind: kind::THREAD, tgid, tid, time: clock::boot_ns(), ..Header::default() };
    // Only the first one is kept after its end, until all are gone.
    let has_ended = |tid| tid == tgid && procfs::stat(root, tid).is_ok_and(|stat| stat.has_ended());
    let tids = procfs::tids(root, tgid).into_iter().filter(|tid| !has_ended(*tid));
    tids.map(|tid| bytes_of(&Thread { header: header(tid) }).to_vec()).collect()
}

/// A [`Namespaced`] record, if the process is in a pid namespace below ours.
pub fn namespaced(tgid: u32) -> Option<Vec<u8>> {
    let status = procfs::status(Path::new(procfs::ROOT), tgid).ok()?;
    let [_, .., inside] = status.ns_pids.as_slice() else { return None };
    let header = Header { kind: kind::NAMESPACED, tgid, tid: tgid, time: clock::boot_ns(), ..Header::default() };
    let level = u32::try_from(status.ns_pids.len() - 1).unwrap_or(u32::MAX);
    Some(bytes_of(&Namespaced { header, inside: *inside, level }).to_vec())
}

/// A [`ProcessInfo`] record.
pub fn record(tgid: u32) -> Vec<u8> {
    let root = Path::new(procfs::ROOT);
    let mut comm = [0; 16];
    let name = procfs::comm(root, tgid).unwrap_or_default();
    let len = name.len().min(15);
    comm[..len].copy_from_slice(&name[..len]);
    let exe = procfs::exe(root, tgid).unwrap_or_default();
    let exe = exe.as_os_str().as_bytes();
    let exe = &exe[..exe.len().min(PATH_MAX)];
    let argv = procfs::argv(root, tgid).unwrap_or_default().join(&0);
    let argv = &argv[..argv.len().min(ARGV_MAX)];
    let start = procfs::stat(root, tgid).map_or(0, |stat| procfs::ticks_to_ns(stat.start_ticks));
    let header = Header { kind: kind::PROCESS, tgid, tid: tgid, time: clock::boot_ns(), ..Header::default() };
    let lens = (u32::try_from(exe.len()).unwrap_or(0), u32::try_from(argv.len()).unwrap_or(0));
    let record = ProcessInfo { header, start, comm, exe_len: lens.0, argv_len: lens.1 };
    [bytes_of(&record), exe, argv].concat()
}
