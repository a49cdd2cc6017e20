//! Interpreters known before they run, so that a program that is started is explained from its first call on.
//!
//! The kernel side recognises a file by its inode; here it is told what to recognise. Guessing wrong is harmless: a file
//! that nobody runs is never met, and what is not guessed is found when the process is looked at.

use std::{
    ffi::{OsStr, OsString},
    io::Read,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use fdtrace_common::witness::{ImageKey, PyImage, image};

use super::{
    elf::{self, Image},
    interpreter,
};
use crate::who::open::on_host;

/// `#!` lines that are followed: the kernel follows five.
const SCRIPTS_MAX: usize = 5;
/// Files looked at in all.
const FILES_MAX: usize = 96;

/// The interpreters that a command may lead to: its own file, those its `#!` lines name, and those of its search path.
pub fn of_command(program: &OsStr, args: &[OsString], search: &OsStr) -> Vec<(ImageKey, PyImage)> {
    let mut found = Vec::new();
    let mut files = Vec::new();
    let mut next = resolve(program, search);
    // `env`, `nice` and the like are given the program's name.
    files.extend(args.iter().take(8).filter_map(|arg| resolve(arg, search)));
    for _ in 0..SCRIPTS_MAX {
        let Some(file) = next.take() else { break };
        if let Some((interpreter, argument)) = shebang(&file) {
            files.extend(argument.and_then(|argument| resolve(&argument, search)));
            next = Some(interpreter);
        }
        files.push(file);
    }
    for directory in std::env::split_paths(search) {
        files.extend(pythons_in(&directory));
        files.extend(behind_shims(&directory));
    }
    let mut seen = Vec::new();
    for file in files.iter().filter_map(|file| std::fs::canonicalize(file).ok()) {
        if !seen.contains(&file) && seen.len() < FILES_MAX {
            libraries(&file, &mut seen);
            seen.push(file);
        }
    }
    found.extend(seen.iter().filter_map(|file| read(file)));
    found
}

/// What the kernel side is to be told of a file.
pub fn describe(image: &Image, name: &Path) -> Option<PyImage> {
    let (_, process) = interpreter::describe(image, name).ok().flatten()?;
    let code = image.loads.iter().find(|load| load.executable)?;
    let form = match (image.position_independent, image.program) {
        (false, _) => image::FIXED,
        (true, true) => image::PROGRAM,
        (true, false) => image::LIBRARY,
    };
    Some(PyImage { process, code_address: code.vaddr, code_offset: code.offset, form })
}

/// A file as the kernel names it.
pub fn key(metadata: &std::fs::Metadata) -> ImageKey {
    let dev = metadata.dev();
    // As `makedev` and its inverse have it since glibc 2.
    let major = (dev >> 8 & 0xfff) | (dev >> 32 & !0xfff);
    let minor = (dev & 0xff) | (dev >> 12 & !0xff);
    ImageKey { inode: metadata.ino(), dev: ((major << 20) | minor) as u32, reserved: 0 }
}

fn read(path: &Path) -> Option<(ImageKey, PyImage)> {
    let file = on_host(path).ok()?;
    let key = key(&file.metadata().ok()?);
    let image = elf::read_file(file)?;
    Some((key, describe(&image, path)?))
}

/// The interpreters of one directory.
fn pythons_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().as_bytes().starts_with(b"python3")).map(|entry| entry.path()).collect()
}

/// The interpreters that version managers keep beside a directory of small programs that choose among them: pyenv's in
/// `versions/NAME/bin`, those of asdf and mise in `installs/python/NAME/bin`.
fn behind_shims(directory: &Path) -> Vec<PathBuf> {
    let Some(root) = directory.parent().filter(|_| directory.ends_with("shims")) else { return Vec::new() };
    let installed = ["versions", "installs/python"].map(|name| std::fs::read_dir(root.join(name)));
    let versions = installed.into_iter().flatten().flatten().flatten();
    versions.flat_map(|version| pythons_in(&version.path().join("bin"))).collect()
}

/// Shared interpreters that a program asks for, and that the dynamic linker would find.
fn libraries(program: &Path, seen: &mut Vec<PathBuf>) {
    let needed = on_host(program).map(elf::needed).unwrap_or_default();
    let origin = program.parent().unwrap_or(Path::new("/"));
    let own = needed.directories.iter().map(|directory| {
        let rest = [&b"$ORIGIN"[..], b"${ORIGIN}"].iter().find_map(|name| directory.strip_prefix(*name));
        match rest {
            Some(rest) => origin.join(OsStr::from_bytes(rest.strip_prefix(b"/").unwrap_or(rest))),
            None => PathBuf::from(OsStr::from_bytes(directory)),
        }
    });
    let system =
        ["/usr/local/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    let directories: Vec<PathBuf> = own.chain(system.map(PathBuf::from)).collect();
    for name in needed.libraries.iter().filter(|name| name.starts_with(b"libpython3")) {
        let name = OsStr::from_bytes(name);
        let found = directories.iter().find_map(|directory| std::fs::canonicalize(directory.join(name)).ok());
        seen.extend(found.filter(|file| !seen.contains(file) && seen.len() < FILES_MAX));
    }
}

/// The file that a name on a command line means.
fn resolve(name: &OsStr, search: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name));
    }
    if name.is_empty() || name.as_bytes().starts_with(b"-") {
        return None;
    }
    std::env::split_paths(search).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// What a script names in its first line: a program, and its one argument.
fn shebang(script: &Path) -> Option<(PathBuf, Option<OsString>)> {
    let mut head = [0; 256];
    let len = on_host(script).ok()?.read(&mut head).ok()?;
    let line = head[..len].strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?.trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (program, argument) = line.split_at(end);
    let argument = argument.trim_ascii();
    let argument = (!argument.is_empty()).then(|| OsStr::from_bytes(argument).to_owned());
    Some((PathBuf::from(OsStr::from_bytes(program)), argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_name_their_interpreter() {
        let path = std::env::temp_dir().join(format!("fdtrace-known-{}", std::process::id()));
        std::fs::write(&path, "#! /usr/bin/env  python3 \nprint()\n").unwrap();
        assert_eq!(shebang(&path), Some(("/usr/bin/env".into(), Some("python3".into()))));
        std::fs::write(&path, "\x7fELF").unwrap();
        assert_eq!(shebang(&path), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(shebang(&path), None);
    }

    #[test]
    fn devices_are_packed_as_the_kernel_does() {
        let metadata = std::fs::metadata("/").unwrap();
        let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
        assert_eq!(key(&metadata).dev, major << 20 | minor);
    }

    #[test]
    fn what_is_no_interpreter_is_passed_over() {
        assert!(read(Path::new("/proc/self/exe")).is_none());
        assert!(read(Path::new("/dev/null")).is_none());
        assert_eq!(resolve(OsStr::new("-x"), OsStr::new("/bin")), None);
    }
}
