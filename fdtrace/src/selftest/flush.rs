//! `close` fails only where a file system has something to say when a descriptor goes. So there is one here, whose single
//! file answers `EINTR`: FUSE, in a mount namespace of the program's own, served by a thread of it.
//!
//! Protocol: `include/uapi/linux/fuse.h`, version 7.31.

use std::ffi::CString;

use super::sys;

pub(super) fn close_again() {
    let fd = interrupted();
    sys::close(fd);
    sys::close(fd);
}

pub(super) fn close_once() {
    let fd = interrupted();
    sys::close(fd);
}

/// A descriptor whose close will fail with `EINTR`.
fn interrupted() -> i32 {
    own_namespace();
    let name = std::env::temp_dir().join(format!("fdtrace-self-test-mount-{}", std::process::id()));
    let Ok(path) = CString::new(name.into_os_string().into_encoded_bytes()) else { sys::skip("a path with a zero") };
    sys::close(sys::open_new(&path));
    let device = sys::try_open(c"/dev/fuse", libc::O_RDWR | libc::O_CLOEXEC);
    if device < 0 {
        sys::unlink(&path);
        sys::skip("cannot open /dev/fuse");
    }
    // The root of the file system is the file.
    let options = format!("fd={device},rootmode=100000,user_id=0,group_id=0");
    let Ok(options) = CString::new(options) else { sys::skip("options with a zero") };
    // SAFETY: strings that end with zero.
    let mounted = unsafe {
        libc::mount(
            c"fdtrace".as_ptr(),
            path.as_ptr(),
            c"fuse".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV,
            options.as_ptr().cast(),
        )
    };
    if mounted < 0 {
        sys::unlink(&path);
        sys::skip("cannot mount FUSE");
    }
    std::thread::spawn(move || serve(device));
    let fd = sys::open(&path, libc::O_RDONLY | libc::O_CLOEXEC);
    // SAFETY: as above. The name can go while the file is open; the mount goes with the last of both.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    sys::unlink(&path);
    fd
}

/// What is mounted in it is seen by nobody else, and goes with the process.
fn own_namespace() {
    // SAFETY: no other thread is there yet.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 {
        // SAFETY: the same; and the calls ask for nothing but numbers.
        let (uid, gid, made) =
            unsafe { (libc::geteuid(), libc::getegid(), libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)) };
        let mapped = made == 0
            && std::fs::write("/proc/self/setgroups", "deny").is_ok()
            && std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).is_ok()
            && std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).is_ok();
        if !mapped {
            sys::skip("cannot have a mount namespace");
        }
    }
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: a string that ends with zero; the other pointers are not looked at.
    unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()) };
}

mod opcode {
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const OPEN: u32 = 14;
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const INTERRUPT: u32 = 36;
}

/// Less than this the kernel refuses to write into (`FUSE_MIN_READ_BUFFER`), and more is not needed for one file.
const BUFFER: usize = 16384;
const MAX_WRITE: u32 = 4096;

fn serve(device: i32) {
    let mut request = [0_u8; BUFFER];
    loop {
        // SAFETY: so many bytes are there to be written.
        let length = unsafe { libc::read(device, request.as_mut_ptr().cast(), BUFFER) };
        let Ok(length) = usize::try_from(length) else { return };
        let Some((opcode, unique)) = head(&request[..length]) else { return };
        let Some((error, body)) = answer(opcode) else { continue };
        let mut reply = Vec::with_capacity(16 + body.len());
        reply.extend((16 + body.len() as u32).to_ne_bytes());
        reply.extend((-error).to_ne_bytes());
        reply.extend(unique.to_ne_bytes());
        reply.extend(body);
        // SAFETY: so many bytes are there to be read.
        unsafe { libc::write(device, reply.as_ptr().cast(), reply.len()) };
    }
}

/// The opcode and the number of a request (`struct fuse_in_header`).
fn head(request: &[u8]) -> Option<(u32, u64)> {
    let opcode = request.get(4..8)?.try_into().ok()?;
    let unique = request.get(8..16)?.try_into().ok()?;
    Some((u32::from_ne_bytes(opcode), u64::from_ne_bytes(unique)))
}

/// The error and the rest of the answer; `None`: there is to be none.
fn answer(opcode: u32) -> Option<(i32, Vec<u8>)> {
    Some(match opcode {
        opcode::FORGET | opcode::INTERRUPT => return None,
        // struct fuse_init_out
        opcode::INIT => {
            let words = [7_u32, 31, 0, 0, 0, MAX_WRITE, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            (0, words.into_iter().flat_map(u32::to_ne_bytes).collect())
        }
        // struct fuse_attr_out: an empty file that everybody may read
        opcode::GETATTR => {
            let mut words = [0_u32; 26];
            words[4] = 1; // inode
            words[19] = libc::S_IFREG | 0o444; // mode
            words[20] = 1; // links
            (0, words.into_iter().flat_map(u32::to_ne_bytes).collect())
        }
        // struct fuse_open_out
        opcode::OPEN => (0, vec![0; 16]),
        opcode::RELEASE => (0, Vec::new()),
        opcode::FLUSH => (libc::EINTR, Vec::new()),
        _ => (libc::ENOSYS, Vec::new()),
    })
}
