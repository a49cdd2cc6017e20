//! System calls by number: their name, how the kernel side treats them, and which arguments are descriptors.
//!
//! Data only. What a call does to a table is said by `decode`.

mod errno;
mod table;

use std::sync::LazyLock;

use fdtrace_common::{
    class::{self, hook, witness},
    globals::SYSCALLS,
};

pub use errno::errno_name;

/// Machine whose system call numbers are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
    /// 32-bit calls on x86-64.
    I386,
}

impl Arch {
    /// The numbers that 32-bit programs use on this machine.
    pub const fn compat(self) -> Option<Self> {
        match self {
            Self::X86_64 => Some(Self::I386),
            Self::Aarch64 | Self::I386 => None,
        }
    }

    /// The machine this program was compiled for.
    pub const fn native() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }
}

/// An argument that is a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdArg {
    /// Argument `.0` is a descriptor.
    Fd(usize),
    /// Argument `.0` is a directory descriptor or `AT_FDCWD`.
    Dir(usize),
}

#[derive(Debug)]
pub struct Syscall {
    pub name: &'static str,
    x86_64: u16,
    aarch64: u16,
    i386: u16,
    /// One of [`fdtrace_common::class`].
    pub class: u8,
    pub fds: &'static [FdArg],
}

/// Number of a call that an architecture does not have.
const NONE: u16 = u16::MAX;

const fn sys(name: &'static str, x86_64: u16, aarch64: u16, i386: u16, class: u8, fds: &'static [FdArg]) -> Syscall {
    Syscall { name, x86_64, aarch64, i386, class, fds }
}

impl Syscall {
    /// Is this the call's number, on any architecture?
    pub fn is_number(&self, nr: u32) -> bool {
        [self.x86_64, self.aarch64].into_iter().any(|known| known != NONE && u32::from(known) == nr)
    }

    /// Its number; `None`: the machine does not have it.
    pub fn number(&self, arch: Arch) -> Option<usize> {
        let nr = match arch {
            Arch::X86_64 => self.x86_64,
            Arch::Aarch64 => self.aarch64,
            Arch::I386 => self.i386,
        };
        (nr != NONE).then_some(usize::from(nr))
    }

    /// The descriptors among the arguments of a call, in order.
    pub fn fd_args(&self, args: &[u64; 6]) -> impl Iterator<Item = i32> {
        self.fds.iter().filter_map(move |arg| match *arg {
            FdArg::Fd(i) => Some(fd(args[i])),
            FdArg::Dir(i) => (fd(args[i]) != AT_FDCWD).then_some(fd(args[i])),
        })
    }

    /// A probe asks whether a number is open; that it is not is an answer, not a mistake.
    pub fn is_probe(&self, args: &[u64; 6]) -> bool {
        match self.name {
            "fstat" | "newfstatat" | "statx" | "fstatfs" | "oldfstat" => true,
            "fcntl" | "fcntl32" => matches!(args[1] as u32, F_GETFD | F_SETFD | F_GETFL),
            _ => false,
        }
    }
}

pub const AT_FDCWD: i32 = -100;
pub const F_DUPFD: u32 = 0;
pub const F_GETFD: u32 = 1;
pub const F_SETFD: u32 = 2;
pub const F_GETFL: u32 = 3;
pub const F_SETFL: u32 = 4;
pub const F_SETLK: u32 = 6;
pub const F_SETLKW: u32 = 7;
pub const F_DUPFD_CLOEXEC: u32 = 1030;

/// A descriptor argument as the kernel takes it: the low 32 bits, signed.
#[expect(clippy::cast_possible_truncation, reason = "the kernel takes the low 32 bits of a descriptor argument")]
pub fn fd(arg: u64) -> i32 {
    arg as i32
}

type ByNumber = [Option<&'static Syscall>; SYSCALLS];

fn by_number(arch: Arch) -> ByNumber {
    let mut calls: ByNumber = [None; SYSCALLS];
    for call in table::TABLE {
        if let Some(nr) = call.number(arch) {
            calls[nr] = Some(call);
        }
    }
    calls
}

static X86_64: LazyLock<ByNumber> = LazyLock::new(|| by_number(Arch::X86_64));
static AARCH64: LazyLock<ByNumber> = LazyLock::new(|| by_number(Arch::Aarch64));
static I386: LazyLock<ByNumber> = LazyLock::new(|| by_number(Arch::I386));

/// A call by number, if it has to do with descriptors.
pub fn lookup(arch: Arch, nr: u32) -> Option<&'static Syscall> {
    let calls = match arch {
        Arch::X86_64 => &X86_64,
        Arch::Aarch64 => &AARCH64,
        Arch::I386 => &I386,
    };
    calls.get(usize::try_from(nr).ok()?).copied().flatten()
}

/// All that have to do with descriptors.
pub fn all() -> &'static [Syscall] {
    table::TABLE
}

/// What the kernel side is told.
pub fn classes(arch: Arch) -> [u8; SYSCALLS] {
    let mut classes = [class::NONE; SYSCALLS];
    for call in table::TABLE {
        if let Some(nr) = call.number(arch) {
            classes[nr] = call.class;
        }
    }
    classes
}

/// What its hooks have to do with each number: bits of [`hook`], given the classes of native and of 32-bit calls and the
/// witnesses that are to be called.
pub fn hooked(native: &[u8; SYSCALLS], compat: &[u8; SYSCALLS], witnesses: &[u8; SYSCALLS]) -> [u8; SYSCALLS] {
    const ELSEWHERE: u8 = witness::BIND_ONCE | witness::BIND_EMPTY_PATH | witness::MAPS | witness::ON_FAILURE;
    let of = |nr: usize| {
        let only_uses = native[nr] == class::USE && witnesses[nr] & witness::AT_EXIT == 0;
        let wants = |bits: u8| witnesses[nr] & bits != 0;
        [
            (hook::OURS, native[nr] != class::NONE || compat[nr] != class::NONE),
            (hook::USES, only_uses),
            (hook::LIGHT, only_uses && !wants(!ELSEWHERE)),
            (hook::SEARCHED, wants(witness::BIND_ONCE)),
            (hook::EMPTY_PATH, wants(witness::BIND_EMPTY_PATH)),
            (hook::MAPS, wants(witness::MAPS)),
        ]
        .into_iter()
        .fold(0, |hooks, (bit, holds)| if holds { hooks | bit } else { hooks })
    };
    std::array::from_fn(of)
}

/// Which witnesses the kernel side is to call.
pub fn witnesses(arch: Arch) -> [u8; SYSCALLS] {
    let mut witnesses = [0; SYSCALLS];
    for call in table::TABLE {
        if let Some(nr) = call.number(arch) {
            witnesses[nr] = call.witnesses();
        }
    }
    witnesses
}

impl Syscall {
    /// Bits of [`witness`].
    fn witnesses(&self) -> u8 {
        let by_class = match self.class {
            class::CLOSE | class::DUP2 | class::CLOSE_RANGE => witness::AT_ENTER,
            class::EPOLL_CTL => witness::AT_ENTER,
            class::RETURNS_FD | class::OPEN_PATH0 | class::OPEN_PATH1 | class::PAIR_AT0 | class::PAIR_AT3 => {
                witness::AT_EXIT
            }
            class::IOCTL | class::EPOLL_WAIT => witness::BIND_ONCE,
            class::FCNTL => witness::BIND_ONCE | witness::AT_EXIT,
            class::NONE | class::CLONE | class::UNSHARE => 0,
            // For what they say when they fail.
            _ => witness::ON_FAILURE,
        };
        by_class
            | match self.name {
                // An object asks for this when it is given a number.
                "fstat" => witness::BIND,
                "newfstatat" => witness::BIND_EMPTY_PATH,
                "getdents64" => witness::DIRECTORY,
                "mmap" => witness::MAPS,
                "lseek" | "getsockname" | "getpeername" | "getsockopt" | "setsockopt" | "bind" | "listen"
                | "connect" | "accept" | "accept4" | "sendto" | "recvfrom" | "read" | "write" | "readv" | "writev" => {
                    witness::BIND_ONCE
                }
                _ => 0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_in_range() {
        for arch in [Arch::X86_64, Arch::Aarch64, Arch::I386] {
            let mut seen = std::collections::HashMap::new();
            for call in table::TABLE {
                if let Some(nr) = call.number(arch) {
                    assert!(nr < SYSCALLS, "{}", call.name);
                    assert_eq!(seen.insert(nr, call.name), None, "{}", call.name);
                }
            }
        }
    }

    #[test]
    fn what_the_hooks_do() {
        let native = classes(Arch::X86_64);
        let hooks = hooked(&native, &classes(Arch::I386), &witnesses(Arch::X86_64));
        let of = |name: &str| {
            let call = table::TABLE.iter().find(|call| call.name == name);
            hooks[call.and_then(|call| call.number(Arch::X86_64)).expect(name)]
        };
        let light = hook::OURS | hook::USES | hook::LIGHT;
        for (name, expected) in [
            ("read", light | hook::SEARCHED),
            ("pread64", light),
            ("mmap", light | hook::MAPS),
            ("newfstatat", light | hook::EMPTY_PATH),
            // They have an object to look for, or something to tell, whatever else is known.
            ("fstat", hook::OURS | hook::USES),
            ("getdents64", hook::OURS | hook::USES),
            ("recvmsg", hook::OURS),
            ("close", hook::OURS),
            ("epoll_wait", hook::OURS | hook::SEARCHED),
            ("openat", hook::OURS),
        ] {
            assert_eq!(of(name), expected, "{name}");
        }
        assert_eq!(hooks[110], 0, "getppid");
    }

    #[test]
    fn known_numbers() {
        for (nr, name) in [(3, "close"), (257, "openat"), (435, "clone3"), (436, "close_range"), (441, "epoll_pwait2")]
        {
            assert_eq!(lookup(Arch::X86_64, nr).map(|call| call.name), Some(name));
        }
        for (nr, name) in [(57, "close"), (56, "openat"), (436, "close_range")] {
            assert_eq!(lookup(Arch::Aarch64, nr).map(|call| call.name), Some(name));
        }
        for (nr, name) in [(5, "open"), (6, "close"), (41, "dup"), (295, "openat"), (102, "socketcall")] {
            assert_eq!(lookup(Arch::I386, nr).map(|call| call.name), Some(name));
        }
        assert!(lookup(Arch::X86_64, 39).is_none());
        assert!(lookup(Arch::X86_64, u32::MAX).is_none());
    }

    #[test]
    fn descriptor_arguments() {
        let call = lookup(Arch::X86_64, 257).expect("openat");
        let cwd = [u64::from(AT_FDCWD as u32), 0, 0, 0, 0, 0];
        assert_eq!(call.fd_args(&cwd).count(), 0);
        assert_eq!(call.fd_args(&[7, 0, 0, 0, 0, 0]).collect::<Vec<_>>(), [7]);
    }
}
