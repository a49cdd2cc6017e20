//! What surrounds this process as far as it decides what the kernel lets it do: capabilities, namespaces, seccomp,
//! lockdown.
//!
//! It only reads. Preflight turns it into advice, and an error of the loader is explained with it; a kernel that answers
//! "operation not permitted" gives no reason of its own.

use std::io;
use std::path::Path;

/// Capability numbers, from `include/uapi/linux/capability.h`.
pub mod capability {
    pub const DAC_READ_SEARCH: u32 = 2;
    pub const SYS_PTRACE: u32 = 19;
    pub const SYS_ADMIN: u32 = 21;
    pub const PERFMON: u32 = 38;
    pub const BPF: u32 = 39;
}

/// The kernel's lockdown mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// The kernel has none, or does not show it.
    Unknown,
    None,
    Integrity,
    Confidentiality,
}

#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Effective capabilities, as bits.
    pub capabilities: u64,
    pub initial_user_namespace: bool,
    pub initial_pid_namespace: bool,
    /// A filter decides which system calls we may make.
    pub seccomp_filter: bool,
    pub lockdown: Lockdown,
}

// Inode numbers that the kernel reserves for the namespaces of the first process: include/uapi/linux/nsfs.h, and
// constants in include/linux/proc_ns.h long before that.
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

impl Surroundings {
    pub fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field =
            |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()));
        Self {
            capabilities: field("CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0),
            initial_user_namespace: is_namespace("user", INITIAL_USER_NAMESPACE),
            initial_pid_namespace: is_namespace("pid", INITIAL_PID_NAMESPACE),
            seccomp_filter: field("Seccomp") == Some("2"),
            lockdown: std::fs::read_to_string("/sys/kernel/security/lockdown")
                .map_or(Lockdown::Unknown, |text| parse_lockdown(&text)),
        }
    }

    pub fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }

    /// Everything that loading BPF programs which look into the kernel takes.
    pub fn may_load(&self) -> bool {
        self.initial_user_namespace
            && (self.has(capability::SYS_ADMIN) || self.has(capability::BPF) && self.has(capability::PERFMON))
    }

    /// Why `bpf(2)` failed with `error`, as far as can be told, and what to do about it.
    pub fn explain(&self, error: &io::Error) -> (String, Option<String>) {
        let plain = |why: &str| (format!("{why} ({error})"), None);
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) if !self.initial_user_namespace => (
                "refused: root inside a user namespace is nobody to BPF".to_owned(),
                Some("run fdtrace outside of the container or namespace".to_owned()),
            ),
            Some(libc::EPERM | libc::EACCES) if !self.may_load() => {
                ("refused: CAP_BPF and CAP_PERFMON are missing".to_owned(), Some(raise_privileges()))
            }
            Some(libc::EPERM | libc::ENOSYS) if self.seccomp_filter => (
                format!("refused, probably by the seccomp filter of this container or service ({error})"),
                Some(
                    "run fdtrace on the host, or let the filter pass bpf(2): `docker run --privileged --pid=host`"
                        .to_owned(),
                ),
            ),
            Some(libc::EPERM) if self.lockdown == Lockdown::Confidentiality => (
                "refused by lockdown=confidentiality".to_owned(),
                Some("boot with `lockdown=integrity` or without lockdown".to_owned()),
            ),
            Some(libc::EPERM) => plain("refused by the kernel, which gives no reason"),
            Some(libc::ENOSYS) => plain("this kernel was built without CONFIG_BPF_SYSCALL"),
            Some(libc::EINVAL | libc::ENOENT) => plain("this kernel does not know it"),
            Some(ENOTSUPP) => ("this kernel does not support it on this architecture".to_owned(), None),
            _ => plain("failed"),
        }
    }
}

/// The kernel's own number for "not supported", which is not meant to reach user space and has no name there.
const ENOTSUPP: i32 = 524;

/// How to get the capabilities.
pub fn raise_privileges() -> String {
    let exe = std::env::current_exe().map_or_else(|_| "fdtrace".to_owned(), crate::escape::escape_os);
    format!("run it with sudo, or once: `sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep {exe}`")
}

fn is_namespace(kind: &str, initial: u64) -> bool {
    use std::os::unix::fs::MetadataExt;
    // Kernels without this kind of namespace have no such file, and only the initial one.
    std::fs::metadata(Path::new("/proc/self/ns").join(kind)).map_or(true, |namespace| namespace.ino() == initial)
}

/// The mode in force is in brackets: `none [integrity] confidentiality`.
fn parse_lockdown(text: &str) -> Lockdown {
    match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
        Some(("none", _)) => Lockdown::None,
        Some(("integrity", _)) => Lockdown::Integrity,
        Some(("confidentiality", _)) => Lockdown::Confidentiality,
        _ => Lockdown::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Surroundings {
        Surroundings {
            capabilities: u64::MAX,
            initial_user_namespace: true,
            initial_pid_namespace: true,
            seccomp_filter: false,
            lockdown: Lockdown::None,
        }
    }

    #[test]
    fn reads_lockdown() {
        let cases = [
            ("[none] integrity confidentiality\n", Lockdown::None),
            ("none [integrity] confidentiality\n", Lockdown::Integrity),
            ("none integrity [confidentiality]\n", Lockdown::Confidentiality),
            ("", Lockdown::Unknown),
            ("[", Lockdown::Unknown),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_lockdown(text), expected);
        }
    }

    #[test]
    fn two_capabilities_suffice() {
        let with = |capabilities: &[u32]| Surroundings {
            capabilities: capabilities.iter().map(|bit| 1 << bit).sum(),
            ..plain()
        };
        assert!(with(&[capability::BPF, capability::PERFMON]).may_load());
        assert!(with(&[capability::SYS_ADMIN]).may_load());
        assert!(!with(&[capability::BPF]).may_load());
        assert!(!with(&[]).may_load());
        let inside = Surroundings { initial_user_namespace: false, ..plain() };
        assert!(!inside.may_load());
    }

    #[test]
    fn the_nearest_reason_is_given() {
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let why = |surroundings: Surroundings| surroundings.explain(&denied).0;
        assert!(why(Surroundings { capabilities: 0, ..plain() }).contains("CAP_BPF"));
        assert!(why(Surroundings { initial_user_namespace: false, ..plain() }).contains("namespace"));
        assert!(why(Surroundings { seccomp_filter: true, ..plain() }).contains("seccomp"));
        let locked = Surroundings { lockdown: Lockdown::Confidentiality, ..plain() };
        assert!(why(locked).contains("lockdown"));
        assert!(why(plain()).contains("no reason"));
        let unsupported = io::Error::from_raw_os_error(ENOTSUPP);
        assert!(plain().explain(&unsupported).0.contains("architecture"));
    }
}
