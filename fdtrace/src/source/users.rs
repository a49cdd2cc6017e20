//! Says who a command runs as, and looks up users and groups the way the system is set up to (files, LDAP, …).
//!
//! Not for use between fork and exec: these calls allocate, read files and may load libraries.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;

use crate::escape::escape_os;

/// Whom a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// Under sudo the user who called it, with all groups; otherwise as fdtrace itself.
    Sudo,
    /// As fdtrace itself, even under sudo.
    Root,
    /// A user by name or number, with all groups.
    User(OsString),
}

/// The ids of [`RunAs`], looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// A user that a command cannot run as.
#[derive(Debug, thiserror::Error)]
#[error("cannot run the command as `{user}`: {why}")]
pub struct BadUser {
    user: String,
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: CString,
    pub uid: u32,
    pub gid: u32,
}

pub fn by_uid(uid: u32) -> Option<User> {
    // SAFETY: `lookup` passes valid buffers of the given length.
    lookup(|entry, buffer, length, found| unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) })
}

pub fn by_name(name: &CStr) -> Option<User> {
    // SAFETY: `lookup` passes valid buffers of the given length, `name` is a C string.
    lookup(|entry, buffer, length, found| unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found) })
}

/// Whom to become; `None`: nobody else.
pub fn identity(user: &RunAs) -> Result<Option<Identity>, BadUser> {
    match user {
        RunAs::Root => Ok(None),
        RunAs::Sudo => {
            // SAFETY: takes no arguments and cannot fail.
            if unsafe { libc::geteuid() } != 0 {
                return Ok(None);
            }
            sudo_identity(std::env::var_os("SUDO_UID").as_deref(), std::env::var_os("SUDO_GID").as_deref())
        }
        RunAs::User(name) => named_identity(name).map(Some),
    }
}

fn sudo_identity(uid: Option<&OsStr>, gid: Option<&OsStr>) -> Result<Option<Identity>, BadUser> {
    let Some(uid_text) = uid else { return Ok(None) };
    let error = |why| BadUser { user: format!("SUDO_UID={}", escape_os(uid_text)), why };
    let uid = number(uid_text).ok_or_else(|| error("that is not a user id"))?;
    if uid == 0 {
        return Ok(None);
    }
    let user = by_uid(uid);
    let gid = gid
        .and_then(number)
        .or(user.as_ref().map(|user| user.gid))
        .ok_or_else(|| error("SUDO_GID is no group id, and the user is not known"))?;
    let groups = user.map_or_else(|| vec![gid], |user| groups(&user.name, gid));
    Ok(Some(Identity { uid, gid, groups }))
}

fn named_identity(name: &OsStr) -> Result<Identity, BadUser> {
    let user = CString::new(name.as_bytes())
        .ok()
        .and_then(|name| by_name(&name))
        .or_else(|| by_uid(number(name)?))
        .ok_or_else(|| BadUser { user: escape_os(name), why: "there is no such user" })?;
    Ok(Identity { uid: user.uid, gid: user.gid, groups: groups(&user.name, user.gid) })
}

/// A user or group id. The highest value means "no change" to the kernel and is none.
fn number(text: &OsStr) -> Option<u32> {
    text.to_str()?.parse().ok().filter(|&id| id != u32::MAX)
}

/// All groups of a user, `gid` among them.
pub fn groups(name: &CStr, gid: u32) -> Vec<u32> {
    let mut groups = vec![0; 64];
    // The kernel takes at most 65,536 groups.
    while groups.len() <= 1 << 16 {
        let mut count = i32::try_from(groups.len()).unwrap_or(i32::MAX);
        // SAFETY: `groups` has room for `count` entries, and the call tells how many it used or needs.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        if result >= 0 {
            groups.truncate(count);
            return groups;
        }
        groups.resize(count.max(groups.len() * 2), 0);
    }
    vec![gid]
}

fn lookup(
    call: impl Fn(*mut libc::passwd, *mut libc::c_char, libc::size_t, *mut *mut libc::passwd) -> libc::c_int,
) -> Option<User> {
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        let result = call(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found);
        if result == libc::ERANGE && buffer.len() < 1 << 20 {
            buffer.resize(buffer.len() * 2, 0);
            continue;
        }
        if result != 0 || found.is_null() {
            return None;
        }
        // SAFETY: success means that `entry` was filled and that its strings lie in `buffer`, which still lives.
        return Some(unsafe {
            let entry = entry.assume_init();
            User { name: CStr::from_ptr(entry.pw_name).to_owned(), uid: entry.pw_uid, gid: entry.pw_gid }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_by_both() {
        let root = by_uid(0).unwrap();
        assert_eq!(by_name(&root.name), Some(root.clone()));
        assert!(groups(&root.name, root.gid).contains(&root.gid));
        assert_eq!(by_name(c"no such user, surely"), None);
        assert_eq!(by_uid(4_123_456_789), None);
    }

    #[test]
    fn reads_what_sudo_says() {
        let os = OsStr::new;
        assert_eq!(sudo_identity(None, None).unwrap(), None);
        assert_eq!(sudo_identity(Some(os("0")), Some(os("0"))).unwrap(), None);
        let stranger = sudo_identity(Some(os("4000000000")), Some(os("4000000001"))).unwrap();
        let expected = Identity { uid: 4_000_000_000, gid: 4_000_000_001, groups: vec![4_000_000_001] };
        assert_eq!(stranger, Some(expected));
        for bad in ["", "-1", "x", "4294967295", "99999999999"] {
            assert!(sudo_identity(Some(os(bad)), None).is_err(), "{bad}");
        }
    }
}
