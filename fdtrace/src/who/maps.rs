//! The mappings of a process, from `/proc/PID/maps`.
//!
//! The text comes from the kernel, but the paths in it belong to whoever named the files: a line that does not parse is
//! skipped, a path is bytes and is never trusted to be UTF-8. This module opens nothing but `maps` itself.

use std::fs::File;
use std::io::{self, Read};

/// Most mappings kept of one process; the kernel's own default limit is 65 530.
pub const MAPPINGS_MAX: usize = 1 << 18;
/// Most text read of one process.
const TEXT_MAX: u64 = 64 << 20;

/// What the kernel adds to a name that is gone.
const DELETED: &[u8] = b" (deleted)";

/// Which file, on this machine, until it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Major and minor number. Not what `stat` says of a file on a file system with many devices (btrfs, overlay).
    pub dev: (u32, u32),
    pub inode: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// Where in the file the mapping starts.
    pub offset: u64,
    /// The inode is 0 for memory without a file.
    pub file: FileId,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    /// What the kernel prints: a path, perhaps with ` (deleted)`; `[stack]` and the like; empty when anonymous.
    pub path: Vec<u8>,
}

impl Mapping {
    /// Whether a file stands behind it. Shared anonymous memory and memfds count: the kernel gives them an inode as
    /// well.
    pub fn is_file(&self) -> bool {
        self.file.inode != 0 && self.path.first() == Some(&b'/')
    }

    /// The path without the kernel's note that the name is gone.
    pub fn file_path(&self) -> &[u8] {
        self.path.strip_suffix(DELETED).unwrap_or(&self.path)
    }

    /// The name is gone, or stands for another file by now.
    pub fn is_deleted(&self) -> bool {
        self.path.ends_with(DELETED)
    }
}

/// The mappings of a process, in order of address.
pub fn read(pid: u32) -> io::Result<Vec<Mapping>> {
    let mut text = Vec::new();
    File::open(format!("/proc/{pid}/maps"))?.take(TEXT_MAX).read_to_end(&mut text)?;
    Ok(parse(&text))
}

/// Parses the text of `/proc/PID/maps`. Lines that do not parse are left out.
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).take(MAPPINGS_MAX).collect()
}

/// `start-end perms offset major:minor inode   path`
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let (start, end) = split_pair(next_field(&mut rest)?, b'-')?;
    let &[readable, writable, executable, _shared] = next_field(&mut rest)? else {
        return None;
    };
    let offset = hex(next_field(&mut rest)?)?;
    let (major, minor) = split_pair(next_field(&mut rest)?, b':')?;
    let inode = std::str::from_utf8(next_field(&mut rest)?).ok()?.parse().ok()?;
    if start >= end {
        return None;
    }
    Some(Mapping {
        start,
        end,
        offset,
        file: FileId { dev: (u32::try_from(major).ok()?, u32::try_from(minor).ok()?), inode },
        readable: readable == b'r',
        writable: writable == b'w',
        executable: executable == b'x',
        path: unescape(rest.trim_ascii_start()),
    })
}

/// Takes what stands before the next space. The path, which may hold spaces, is what remains after the fifth.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let text = rest.trim_ascii_start();
    let len = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    let (field, tail) = text.split_at(len);
    *rest = tail;
    (!field.is_empty()).then_some(field)
}

fn split_pair(field: &[u8], separator: u8) -> Option<(u64, u64)> {
    let at = field.iter().position(|&byte| byte == separator)?;
    Some((hex(&field[..at])?, hex(&field[at + 1..])?))
}

fn hex(digits: &[u8]) -> Option<u64> {
    // `from_str_radix` alone would take a sign.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
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
        let newline = rest.strip_prefix(b"\\012");
        plain.push(if newline.is_some() { b'\n' } else { byte });
        rest = newline.unwrap_or(tail);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind() {
        let text = b"55d0c0a00000-55d0c0a28000 r-xp 00002000 fe:00 1835 /usr/bin/a file (deleted)\n\
            7f0000000000-7f0000021000 rw-p 00000000 00:00 0 \n\
            7ffd0a3c0000-7ffd0a3e1000 rw-p 00000000 00:00 0                          [stack]\n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n\
            7f0000030000-7f0000031000 r--s 00000000 00:01 4294967296 /memfd:\xff\xfe\n\
            7f0000042000-7f0000043000 r-xp 0001f000 103:0a 99 /tmp/a b\\012c.so (deleted)\n";
        let maps = parse(text);
        assert_eq!(maps.len(), 6);
        assert_eq!(maps[0].path, b"/usr/bin/a file (deleted)");
        assert_eq!(maps[0].file_path(), b"/usr/bin/a file");
        assert_eq!((maps[0].offset, maps[0].file), (0x2000, FileId { dev: (0xfe, 0), inode: 1835 }));
        assert!(maps[0].readable && !maps[0].writable && maps[0].executable && maps[0].is_file());
        assert!(maps[1].path.is_empty() && !maps[1].is_file());
        assert_eq!(maps[2].path, b"[stack]");
        assert_eq!(maps[3].end, 0xffff_ffff_ff60_1000);
        assert_eq!(maps[4].path, b"/memfd:\xff\xfe");
        assert!(maps[5].is_deleted() && maps[5].executable && !maps[4].is_deleted());
        assert_eq!(maps[5].file_path(), b"/tmp/a b\nc.so");
        assert_eq!(maps[5].file, FileId { dev: (0x103, 10), inode: 99 });
    }

    #[test]
    fn nonsense_is_left_out() {
        for line in [
            &b""[..],
            b" ",
            b"\n\n",
            b"1000",
            b"1000-2000",
            b"1000-2000 r-",
            b"1000-2000 r--p",
            b"zz-1 r--p 0 0:0 0",
            b"2000-1000 r-xp 0 0:0 0",
            b"+100-2000 r-xp 0 0:0 0",
            b"-1-2000 r--p 0 0:0 0 x",
            b"1000-2000 r-x 0 0:0 0",
            b"1000-2000 r-xp 0 0:0",
            b"1000-2000 r--p 0 00 0",
            b"1000-2000 r-xp g 0:0 0",
            b"1000-2000 r--p 0 fffffffff:0 0 x",
            b"1000-2000 r--p 0 0:0 99999999999999999999999 x",
            b"10000000000000000-20000000000000000 r-xp 0 0:0 0",
            b"\xff\xfe-\x00 \xff\xff\xff\xff \xff \xff:\xff \xff",
        ] {
            assert_eq!(parse(line), [], "{}", line.escape_ascii());
        }
    }

    #[test]
    fn own_mappings() {
        let maps = read(std::process::id()).unwrap();
        assert!(maps.windows(2).all(|pair| pair[0].end <= pair[1].start));
        let here = own_mappings as *const () as u64;
        assert!(maps.iter().any(|map| map.executable && (map.start..map.end).contains(&here)));
    }
}
