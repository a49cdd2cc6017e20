//! Finds out whether fdtrace can observe here, and if not, what would mend it.
//!
//! Where it can, it tries instead of guessing: it creates a ring buffer, loads tiny programs of each kind that fdtrace
//! uses, and drops them again. Nothing is changed, nothing stays loaded, and no check stops the others. How the result
//! looks is the business of [`super::doctor`].

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use super::bpf::{self, Program};
use super::btf::{self, Btf, Kind};
use super::offsets::{self, Arch};
use super::surroundings::{Lockdown, Surroundings, capability, raise_privileges};
use crate::escape::escape_terminal;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub status: Status,
    /// The evidence.
    pub found: String,
    /// What to do, where something is wrong and can be mended.
    pub fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// fdtrace works, but costs more or sees less.
    Warn,
    /// fdtrace cannot work.
    Fail,
}

/// The oldest kernel that has everything: 5.8 brought the ring buffer, 5.10 is the oldest one tested.
const OLDEST: (u32, u32) = (5, 10);

/// The oldest that can walk stacks: 5.17 brought loops.
const STACKS: (u32, u32) = (5, 17);

/// Runs all checks. Takes some tens of milliseconds.
pub fn run() -> Vec<Check> {
    let surroundings = Surroundings::read();
    let bytes = btf::read_kernel();
    let parsed = match &bytes {
        Ok(bytes) => Btf::parse(bytes).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let mut checks = vec![
        privileges(&surroundings),
        kernel(),
        pid_namespace(&surroundings),
        lockdown(&surroundings),
        type_information(parsed.as_ref().map_err(String::as_str)),
    ];
    checks.extend(programs(parsed.as_ref().ok(), &surroundings));
    checks.extend([
        compiler(read_sysctl("net/core/bpf_jit_enable").as_deref()),
        statistics(read_sysctl("kernel/bpf_stats_enabled").as_deref()),
        proc_mount(&std::fs::read("/proc/self/mountinfo").unwrap_or_default(), &surroundings),
    ]);
    checks
}

/// Tries what fdtrace will do. Without privileges all of it would fail for that one reason, which is told already.
fn programs(btf: Option<&Btf<'_>>, surroundings: &Surroundings) -> Vec<Check> {
    if !surroundings.may_load() {
        return vec![not_tried("programs", "privileges")];
    }
    vec![
        ring_buffer(surroundings),
        raw_tracepoints(surroundings),
        kernel_memory(surroundings),
        typed_tracepoints(btf, surroundings),
        iterators(btf, surroundings),
        trampolines(btf),
    ]
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), fix: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: Option<String>) -> Self {
        Self { name, status: Status::Warn, found: found.into(), fix }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: Option<String>) -> Self {
        Self { status: Status::Fail, ..Self::warn(name, found, fix) }
    }

    /// The result of trying something.
    fn tried(name: &'static str, success: &str, result: io::Result<()>, surroundings: &Surroundings) -> Self {
        match result {
            Ok(()) => Self::ok(name, success),
            Err(error) => {
                let (found, fix) = surroundings.explain(&error);
                Self::fail(name, found, fix)
            }
        }
    }
}

fn privileges(surroundings: &Surroundings) -> Check {
    const NAME: &str = "privileges";
    if !surroundings.initial_user_namespace {
        return Check::fail(
            NAME,
            "this is a user namespace, whose root is nobody to BPF",
            Some("run fdtrace outside of the container or namespace".to_owned()),
        );
    }
    if !surroundings.may_load() {
        let needed = [(capability::BPF, "CAP_BPF"), (capability::PERFMON, "CAP_PERFMON")];
        let missing = missing(surroundings, &needed);
        return Check::fail(NAME, format!("missing: {missing}"), Some(raise_privileges()));
    }
    let useful = [(capability::SYS_PTRACE, "CAP_SYS_PTRACE"), (capability::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH")];
    let missing = missing(surroundings, &useful);
    if missing.is_empty() {
        return Check::ok(NAME, "all capabilities that fdtrace uses");
    }
    Check::warn(
        NAME,
        format!("missing: {missing}: paths and symbols of other users' processes cannot be read"),
        Some(raise_privileges()),
    )
}

fn missing(surroundings: &Surroundings, wanted: &[(u32, &str)]) -> String {
    let names: Vec<&str> =
        wanted.iter().filter(|(capability, _)| !surroundings.has(*capability)).map(|(_, name)| *name).collect();
    names.join(", ")
}

fn kernel() -> Check {
    let release = std::fs::read("/proc/sys/kernel/osrelease").unwrap_or_default();
    kernel_release(release.trim_ascii())
}

fn kernel_release(release: &[u8]) -> Check {
    const NAME: &str = "kernel";
    let text = escape_terminal(release);
    let (major, minor) = OLDEST;
    match parse_release(&text) {
        Some(version) if version >= STACKS => Check::ok(NAME, text),
        Some(version) if version >= OLDEST => {
            let (major, minor) = STACKS;
            let fix = format!("needs Linux {major}.{minor} or later");
            Check::warn(NAME, format!("{text}: no stacks and no owners, only calls"), Some(fix))
        }
        Some(_) => {
            Check::fail(NAME, format!("{text} is too old"), Some(format!("needs Linux {major}.{minor} or later")))
        }
        None => Check::warn(NAME, format!("`{text}` is not a version that fdtrace can read"), None),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn pid_namespace(surroundings: &Surroundings) -> Check {
    const NAME: &str = "pid namespace";
    if surroundings.initial_pid_namespace {
        return Check::ok(NAME, "the initial one");
    }
    Check::fail(
        NAME,
        "not the initial one: the kernel's process ids are not those seen in here",
        Some("run fdtrace on the host, or the container with `--pid=host`".to_owned()),
    )
}

fn lockdown(surroundings: &Surroundings) -> Check {
    const NAME: &str = "lockdown";
    match surroundings.lockdown {
        Lockdown::Unknown => Check::ok(NAME, "none, or not shown"),
        Lockdown::None => Check::ok(NAME, "none"),
        Lockdown::Integrity => Check::ok(NAME, "integrity, which leaves reading to us"),
        Lockdown::Confidentiality => Check::fail(
            NAME,
            "confidentiality: BPF programs may not read kernel memory",
            Some("boot with `lockdown=integrity` or without lockdown".to_owned()),
        ),
    }
}

fn type_information(btf: Result<&Btf<'_>, &str>) -> Check {
    const NAME: &str = "type information";
    let btf = match btf {
        Ok(btf) => btf,
        Err(error) => {
            return Check::fail(
                NAME,
                error,
                Some("use a kernel built with CONFIG_DEBUG_INFO_BTF=y (most distributions' are)".to_owned()),
            );
        }
    };
    let Some(arch) = Arch::native() else {
        return Check::fail(NAME, "fdtrace knows only x86_64 and aarch64", None);
    };
    match offsets::resolve(btf, arch) {
        Ok(_) => Check::ok(NAME, format!("{} types, every member that fdtrace reads", btf.len())),
        Err(error) => Check::fail(
            NAME,
            error.to_string(),
            Some(
                "this kernel is newer than this fdtrace, or patched: please report it with the output of `uname -r`"
                    .to_owned(),
            ),
        ),
    }
}

fn ring_buffer(surroundings: &Surroundings) -> Check {
    // SAFETY: asks for a constant.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let result = bpf::create_ring_buffer(u32::try_from(page).unwrap_or(4096));
    Check::tried("ring buffer", "can be created", result.map(drop), surroundings)
}

fn raw_tracepoints(surroundings: &Surroundings) -> Check {
    let result = load_and_attach(Program::RawTracepoint, Some(c"sched_process_exec"));
    Check::tried("raw tracepoints", "load and attach", result, surroundings)
}

fn kernel_memory(surroundings: &Surroundings) -> Check {
    let result = bpf::load(Program::RawTracepoint, &bpf::READ_KERNEL);
    Check::tried("kernel memory", "programs may read it", result.map(drop), surroundings)
}

fn typed_tracepoints(btf: Option<&Btf<'_>>, surroundings: &Surroundings) -> Check {
    const NAME: &str = "typed tracepoints";
    let Some(btf) = btf else {
        return not_tried(NAME, "type information");
    };
    match btf.find(Kind::Typedef, "btf_trace_sched_process_exec") {
        Some(id) => {
            let result = load_and_attach(Program::BtfTracepoint(id), None);
            Check::tried(NAME, "load and attach", result, surroundings)
        }
        None => Check::fail(NAME, "kernel BTF has no `btf_trace_sched_process_exec`", None),
    }
}

fn iterators(btf: Option<&Btf<'_>>, surroundings: &Surroundings) -> Check {
    const NAME: &str = "iterators";
    let Some(btf) = btf else {
        return not_tried(NAME, "type information");
    };
    match btf.find(Kind::Func, "bpf_iter_task_file") {
        Some(id) => {
            let result = bpf::load(Program::Iterator(id), &bpf::RETURN_ZERO);
            Check::tried(NAME, "task_file loads", result.map(drop), surroundings)
        }
        None => Check::fail(NAME, "kernel BTF has no `bpf_iter_task_file`", None),
    }
}

fn not_tried(name: &'static str, needs: &str) -> Check {
    Check::warn(name, format!("not tried: needs {needs}"), None)
}

/// Only told, never a problem: fdtrace uses trampolines where they are, and needs none.
fn trampolines(btf: Option<&Btf<'_>>) -> Check {
    const NAME: &str = "trampolines";
    // A function that exists for such tests and does nothing else; not every kernel is built with it.
    let id =
        btf.and_then(|btf| btf.find(Kind::Func, "bpf_fentry_test1").or_else(|| btf.find(Kind::Func, "fd_install")));
    let refused = "this kernel refuses BPF trampolines: not needed";
    match id.map(|id| load_and_attach(Program::Fentry(id), None)) {
        Some(Ok(())) => Check::ok(NAME, "load and attach"),
        Some(Err(error)) => Check::ok(NAME, format!("{refused} ({error})")),
        None => Check::ok(NAME, "not tried: not needed"),
    }
}

fn load_and_attach(program: Program, tracepoint: Option<&CStr>) -> io::Result<()> {
    let program = bpf::load(program, &bpf::RETURN_ZERO)?;
    bpf::attach(program.as_fd(), tracepoint).map(drop)
}

fn compiler(enabled: Option<&str>) -> Check {
    const NAME: &str = "compiler";
    match enabled {
        Some("0") => Check::warn(
            NAME,
            "net.core.bpf_jit_enable=0: programs are interpreted, several times slower",
            Some("sudo sysctl net.core.bpf_jit_enable=1".to_owned()),
        ),
        Some(_) => Check::ok(NAME, "programs are compiled"),
        None => Check::ok(NAME, "unknown"),
    }
}

fn statistics(enabled: Option<&str>) -> Check {
    const NAME: &str = "statistics";
    match enabled {
        Some("1") => Check::warn(
            NAME,
            "kernel.bpf_stats_enabled=1 adds about 35 ns to every run of a program",
            Some("sudo sysctl kernel.bpf_stats_enabled=0".to_owned()),
        ),
        _ => Check::ok(NAME, "off"),
    }
}

fn proc_mount(mountinfo: &[u8], surroundings: &Surroundings) -> Check {
    const NAME: &str = "/proc";
    match hidepid(&String::from_utf8_lossy(mountinfo)) {
        None => Check::fail(NAME, "not mounted", Some("sudo mount -t proc proc /proc".to_owned())),
        Some(None | Some("0" | "off")) => Check::ok(NAME, "shows all processes"),
        Some(Some(mode)) => {
            let found = format!("hidepid={}", escape_terminal(mode.as_bytes()));
            if surroundings.has(capability::SYS_PTRACE) {
                return Check::ok(NAME, format!("{found}, which does not concern us"));
            }
            Check::warn(NAME, format!("{found} hides the processes of other users"), Some(raise_privileges()))
        }
    }
}

/// The `hidepid` option of `/proc`: outer `None` when it is not mounted, inner when it has no such option.
fn hidepid(mountinfo: &str) -> Option<Option<&str>> {
    // A later line covers an earlier one of the same place.
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc"))?;
    let (_, file_system) = line.split_once(" - ")?;
    let options = file_system.split(' ').nth(2).unwrap_or("");
    Some(options.split(',').find_map(|option| option.strip_prefix("hidepid=")))
}

fn read_sysctl(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests;
