use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::*;

/// A folder of its own for each test, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fdtrace-output-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const NOBODY: u32 = 65534;

fn root() -> bool {
    geteuid().is_root()
}

fn own(path: &Path, uid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
}

#[test]
fn creates_a_private_file() {
    let scratch = Scratch::new("new");
    let mut file = create_for(None, &scratch.path("a"), false).unwrap();
    file.write_all(b"x").unwrap();
    let found = fs::metadata(scratch.path("a")).unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.len()), (0o600, 1));
}

#[test]
fn leaves_an_existing_file_alone() {
    let scratch = Scratch::new("exists");
    fs::write(scratch.path("a"), "old").unwrap();
    assert_eq!(create_for(None, &scratch.path("a"), false).unwrap_err(), Refusal::Exists);
    assert_eq!(fs::read(scratch.path("a")).unwrap(), b"old");

    let error = create(&scratch.path("a"), false).unwrap_err().to_string();
    assert!(error.contains("exists already; choose another name, or replace it with --force"), "{error}");
}

#[test]
fn replaces_by_force_without_touching_hard_links() {
    let scratch = Scratch::new("force");
    fs::write(scratch.path("a"), "old").unwrap();
    fs::hard_link(scratch.path("a"), scratch.path("other")).unwrap();
    let mut file = create_for(None, &scratch.path("a"), true).unwrap();
    file.write_all(b"new").unwrap();
    assert_eq!(fs::read(scratch.path("a")).unwrap(), b"new");
    assert_eq!(fs::read(scratch.path("other")).unwrap(), b"old");
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn writes_through_no_link() {
    let scratch = Scratch::new("link");
    fs::write(scratch.path("precious"), "old").unwrap();
    symlink(scratch.path("precious"), scratch.path("a")).unwrap();
    symlink(scratch.path("absent"), scratch.path("dangling")).unwrap();
    for force in [false, true] {
        assert_eq!(create_for(None, &scratch.path("a"), force).unwrap_err(), Refusal::Symlink);
        assert_eq!(create_for(None, &scratch.path("dangling"), force).unwrap_err(), Refusal::Symlink);
    }
    assert_eq!(fs::read(scratch.path("precious")).unwrap(), b"old");
    assert!(!scratch.path("absent").exists());
}

#[test]
fn follows_own_links_on_the_way_and_no_others() {
    let scratch = Scratch::new("way");
    fs::create_dir(scratch.path("real")).unwrap();
    symlink("real", scratch.path("relative")).unwrap();
    symlink(scratch.path("relative"), scratch.path("absolute")).unwrap();
    symlink("loop", scratch.path("loop")).unwrap();
    create_for(None, &scratch.path("absolute/a"), false).unwrap();
    create_for(None, &scratch.path("absolute/../relative/./b"), false).unwrap();
    assert!(scratch.path("real/a").exists() && scratch.path("real/b").exists());
    assert_eq!(create_for(None, &scratch.path("loop/a"), false).unwrap_err(), Refusal::Errno(Errno::LOOP));

    if root() {
        symlink("real", scratch.path("planted")).unwrap();
        own(&scratch.path("planted"), NOBODY);
        let refusal = create_for(None, &scratch.path("planted/c"), false).unwrap_err();
        assert_eq!(refusal, Refusal::ForeignLink { name: "planted".into(), owner: NOBODY });
        assert!(!scratch.path("real/c").exists());
    }
}

#[test]
fn refuses_what_is_no_file() {
    let scratch = Scratch::new("kinds");
    fs::create_dir(scratch.path("folder")).unwrap();
    fs::write(scratch.path("file"), "").unwrap();
    rustix::fs::mknodat(CWD, scratch.path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let refusal = |path: PathBuf| create_for(None, &path, true).unwrap_err();
    assert_eq!(refusal(scratch.path("folder")), Refusal::Folder);
    assert_eq!(refusal(scratch.path("fifo")), Refusal::NotRegular);
    assert_eq!(refusal(scratch.path("absent/a")), Refusal::Errno(Errno::NOENT));
    assert_eq!(refusal(scratch.path("file/a")), Refusal::Errno(Errno::NOTDIR));
    assert_eq!(refusal(scratch.path("new/")), Refusal::NoFileName);
    assert_eq!(refusal("".into()), Refusal::NoFileName);
    assert_eq!(refusal("/".into()), Refusal::NoFileName);
    create_for(None, Path::new("/dev/null"), false).unwrap();
    create_for(None, Path::new("-"), false).unwrap();
    create_for(None, Path::new("/dev/stdout"), false).unwrap();
}

#[test]
fn gives_the_file_to_who_called_sudo() {
    if !root() {
        return;
    }
    let scratch = Scratch::new("sudo");
    let caller = Some(Caller { uid: NOBODY, gid: NOBODY });
    fs::create_dir(scratch.path("theirs")).unwrap();
    own(&scratch.path("theirs"), NOBODY);
    fs::create_dir(scratch.path("roots")).unwrap();
    fs::set_permissions(scratch.path("roots"), fs::Permissions::from_mode(0o700)).unwrap();
    for path in ["theirs/a", "roots/a"] {
        create_for(caller, &scratch.path(path), false).unwrap();
        let found = fs::metadata(scratch.path(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (NOBODY, NOBODY), "{path}");
    }
    // The rights of the caller were handed back.
    fs::write(scratch.path("roots/b"), "").unwrap();
    assert_eq!(fs::metadata(scratch.path("roots/b")).unwrap().uid(), 0);
}
