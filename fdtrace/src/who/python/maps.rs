//! What is mapped where: `/proc/PID/maps`.
//!
//! Lines that do not have the kernel's form are skipped. Names are bytes, and only a hint: files are opened through the
//! mapping itself, because the name may lie in another mount namespace, be deleted, or be replaced.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which file, on this machine, until it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    pub major: u32,
    pub minor: u32,
    pub inode: u64,
}

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub offset: u64,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    /// The inode is 0 for memory without a file.
    pub file: FileId,
    /// As the process sees it, ` (deleted)` removed; empty for anonymous memory, `[heap]` and the like stay.
    pub path: PathBuf,
    pub deleted: bool,
}

impl Mapping {
    pub fn is_file(&self) -> bool {
        self.file.inode != 0
    }

    pub fn contains(&self, addr: u64) -> bool {
        (self.start..self.end).contains(&addr)
    }
}

/// The mappings of a process, in order of address.
pub fn read(pid: u32) -> io::Result<Vec<Mapping>> {
    Ok(parse(&std::fs::read(format!("/proc/{pid}/maps"))?))
}

pub fn parse(text: &[u8]) -> Vec<Mapping> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let range = field(&mut rest)?;
    let perms = field(&mut rest)?;
    let offset = field(&mut rest)?;
    let device = field(&mut rest)?;
    let inode = field(&mut rest)?;
    let (start, end) = split_once(range, b'-')?;
    let (major, minor) = split_once(device, b':')?;
    let (start, end) = (hex(start)?, hex(end)?);
    if start >= end || perms.len() < 4 {
        return None;
    }
    let name = rest.trim_ascii_start();
    let (name, deleted) = match name.strip_suffix(b" (deleted)") {
        Some(name) => (name, true),
        None => (name, false),
    };
    Some(Mapping {
        start,
        end,
        offset: hex(offset)?,
        readable: perms[0] == b'r',
        writable: perms[1] == b'w',
        executable: perms[2] == b'x',
        file: FileId {
            major: u32::try_from(hex(major)?).ok()?,
            minor: u32::try_from(hex(minor)?).ok()?,
            inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
        },
        path: PathBuf::from(OsString::from_vec(unescape(name))),
        deleted,
    })
}

/// Takes the next word off `rest`; columns are separated by one or more spaces.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let line = rest.trim_ascii_start();
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (word, tail) = line.split_at(end);
    *rest = tail;
    (!word.is_empty()).then_some(word)
}

fn split_once(word: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = word.iter().position(|&byte| byte == separator)?;
    Some((&word[..at], &word[at + 1..]))
}

fn hex(digits: &[u8]) -> Option<u64> {
    // `from_str_radix` alone would accept a sign.
    if !digits.first()?.is_ascii_hexdigit() {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The kernel writes a newline in a name as `\012`, and escapes nothing else: a name that contains these four
/// characters itself cannot be told apart.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = tail;
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    plain
}

/// Opens the file behind a mapping: through the mapping itself, or, where that needs a privilege we lack, by its name
/// below the root of the process.
pub fn open(pid: u32, mapping: &Mapping) -> Option<File> {
    let direct = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    if let Ok(file) = File::open(direct) {
        return Some(file);
    }
    if mapping.deleted {
        return None;
    }
    let name = mapping.path.strip_prefix("/").ok()?;
    // `..` could only come from a name that is not the kernel's.
    if name.as_os_str().as_bytes().split(|&byte| byte == b'/').any(|part| part == b"..") {
        return None;
    }
    let path = Path::new("/proc").join(pid.to_string()).join("root").join(name);
    // Opening a device or a pipe could block. Links on the way are followed on our side of the root, hence the inodes.
    let metadata = std::fs::symlink_metadata(&path).ok()?;
    if !metadata.is_file() || metadata.ino() != mapping.file.inode {
        return None;
    }
    let file = File::open(path).ok()?;
    // The device is not compared: file systems with several roots report another one here than in the maps.
    (file.metadata().ok()?.ino() == mapping.file.inode).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_the_kernel_writes() {
        let maps = parse(
            b"00400000-00420000 r--p 00000000 08:01 1234                               /usr/bin/python3.11\n\
              7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
              7f0000002000-7f0000003000 r-xp 0001f000 103:0a 99 /tmp/a b\\012c.so (deleted)\n\
              7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]\n",
        );
        assert_eq!(maps.len(), 4);
        assert_eq!(maps[0].path, Path::new("/usr/bin/python3.11"));
        assert!(
            maps[0].is_file() && !maps[0].executable && maps[0].contains(0x41_ffff) && !maps[0].contains(0x42_0000)
        );
        assert!(!maps[1].is_file() && maps[1].path.as_os_str().is_empty());
        assert_eq!(maps[2].path, Path::new("/tmp/a b\nc.so"));
        assert!(maps[2].deleted && maps[2].executable);
        assert_eq!(maps[2].file, FileId { major: 0x103, minor: 10, inode: 99 });
        assert_eq!(maps[3].path, Path::new("[stack]"));
    }

    #[test]
    fn skips_what_is_not_a_line() {
        for line in [
            &b""[..],
            b"\n\n",
            b"zz-1 r--p 0 0:0 0",
            b"1000-2000",
            b"1000-2000 r-",
            b"1000-2000 r--p",
            b"1000-2000 r--p 0 00 0",
            b"2000-1000 r--p 0 0:0 0 x",
            b"-1-2000 r--p 0 0:0 0 x",
            b"+1-2000 r--p 0 0:0 0 x",
            b"1000-2000 r--p 0 fffffffff:0 0 x",
            b"1000-2000 r--p 0 0:0 99999999999999999999999 x",
            b"\xff\xfe-\x00 \xff\xff\xff\xff \xff \xff:\xff \xff",
        ] {
            assert_eq!(parse(line), [], "{}", line.escape_ascii());
        }
    }

    #[test]
    fn reads_its_own() {
        let maps = read(std::process::id()).expect("own mappings");
        let here = reads_its_own as *const () as u64;
        let mapping = maps.iter().find(|mapping| mapping.contains(here)).expect("own code");
        assert!(mapping.executable && mapping.is_file());
        assert!(open(std::process::id(), mapping).is_some());
    }
}
