//! What `/proc` says of a process, as a record. All of it may be missing: the process may be gone.

use std::{os::unix::ffi::OsStrExt, path::Path};

use fdtrace_common::wire::{ARGV_MAX, Header, PATH_MAX, ProcessInfo, Thread, bytes_of, kind};

use super::{clock, procfs};

/// A [`Thread`] record for each thread.
pub fn threads(tgid: u32) -> Vec<Vec<u8>> {
    let header = |tid| Header { kind: kind::THREAD, tgid, tid, time: clock::boot_ns(), ..Header::default() };
    let tids = procfs::tids(Path::new(procfs::ROOT), tgid);
    tids.into_iter().map(|tid| bytes_of(&Thread { header: header(tid) }).to_vec()).collect()
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
