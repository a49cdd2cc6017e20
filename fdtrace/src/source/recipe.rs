//! Prepares what a child needs between fork and exec, where nothing may be allocated any more.

use std::ffi::{CString, NulError, OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::inherited::open_fds;
use super::users::Identity;

/// Everything the child needs, allocated before the fork.
pub struct Recipe {
    /// Paths to try, in this order: the child does the search, with the rights of the command's user.
    pub candidates: Vec<CString>,
    /// The command's arguments, with its name.
    pub argv: Argv,
    /// The same for a script without `#!`: `/bin/sh`, a free place for the candidate, the arguments.
    pub shell_argv: Argv,
    pub identity: Option<Identity>,
    /// Ranges of descriptors to close, both ends included. Neither the control socket nor what we inherited is in one.
    pub close: Vec<(u32, u32)>,
    /// No descriptor above this one is open.
    pub highest_fd: u32,
}

/// An argument vector in the form exec wants, with the strings it points to.
pub struct Argv {
    pub(super) pointers: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl Argv {
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, _strings: strings }
    }
}

impl Recipe {
    /// `keep` lists the descriptors from 3 upwards that the command gets; `control` is kept open until the exec.
    pub fn new(
        program: &OsStr,
        args: &[OsString],
        identity: Option<Identity>,
        keep: &[RawFd],
        control: RawFd,
    ) -> Result<Self, NulError> {
        let c_string = |text: &OsStr| CString::new(text.as_bytes());
        let arguments: Vec<CString> = args.iter().map(|arg| c_string(arg)).collect::<Result<_, _>>()?;
        let argv = [c_string(program)?].into_iter().chain(arguments.iter().cloned());
        let shell = [c"/bin/sh".to_owned(), CString::default()];
        Ok(Self {
            candidates: candidates(program, std::env::var_os("PATH").as_deref())
                .into_iter()
                .map(|path| c_string(&path))
                .collect::<Result<_, _>>()?,
            argv: Argv::new(argv.collect()),
            shell_argv: Argv::new(shell.into_iter().chain(arguments).collect()),
            identity,
            close: gaps(keep, control),
            highest_fd: open_fds().last().map_or(0, |fd| fd.cast_unsigned()),
        })
    }
}

/// The paths that execvp would try.
pub fn candidates(program: &OsStr, path: Option<&OsStr>) -> Vec<OsString> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.as_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = path.map_or(b"/bin:/usr/bin".as_slice(), OsStr::as_bytes);
    path.split(|&byte| byte == b':')
        .map(|directory| {
            // An empty entry is the current directory.
            let separator: &[u8] = if directory.is_empty() { b"" } else { b"/" };
            OsString::from_vec([directory, separator, program.as_bytes()].concat())
        })
        .collect()
}

/// Everything from 3 upwards that is neither in `keep` nor `control`.
fn gaps(keep: &[RawFd], control: RawFd) -> Vec<(u32, u32)> {
    let mut keep: Vec<u32> =
        keep.iter().chain([&control]).filter_map(|&fd| u32::try_from(fd).ok()).filter(|&fd| fd > 2).collect();
    keep.sort_unstable();
    keep.dedup();
    let starts = [3].into_iter().chain(keep.iter().map(|fd| fd + 1));
    let ends = keep.iter().map(|fd| fd - 1).chain([u32::MAX]);
    starts.zip(ends).filter(|(first, last)| first <= last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_where_execvp_would() {
        let find = |program: &str, path: Option<&str>| candidates(OsStr::new(program), path.map(OsStr::new));
        assert_eq!(find("a", Some("/x:/y/")), ["/x/a", "/y//a"]);
        assert_eq!(find("a", Some(":/x:")), ["a", "/x/a", "a"]);
        assert_eq!(find("a", None), ["/bin/a", "/usr/bin/a"]);
        assert_eq!(find("./a", Some("/x")), ["./a"]);
        assert!(find("", Some("/x")).is_empty());
    }

    #[test]
    fn gaps_leave_out_what_is_kept() {
        assert_eq!(gaps(&[], 3), [(4, u32::MAX)]);
        assert_eq!(gaps(&[3, 4, 9], 7), [(5, 6), (8, 8), (10, u32::MAX)]);
        assert_eq!(gaps(&[5], 5), [(3, 4), (6, u32::MAX)]);
    }
}
