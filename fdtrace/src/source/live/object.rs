//! The BPF object: loaded, its constants set, its programs put where they belong.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    os::fd::AsFd as _,
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{BtfTracePoint, Iter, Program, ProgramError, tp_btf::BtfTracePointLinkId},
    util::KernelVersion,
};
use fdtrace_common::{class, globals, next};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    source::{clock, misses, offsets},
    syscalls::{self, Arch},
};

use super::Settings;

/// The BPF object, built by the build script or handed in by a packager.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fdtrace"));

/// The iterator of the snapshot.
pub const SNAPSHOT: &str = "snapshot";

/// Hooks: program, tracepoint.
const HOOKS: [(&str, &str); 5] = [
    ("sched_process_fork", "sched_process_fork"),
    ("sched_process_exec", "sched_process_exec"),
    ("sched_process_exit", "sched_process_exit"),
    ("sys_exit", "sys_exit"),
    ("sys_enter", "sys_enter"),
];

/// Second copies of hooks, where the kernel preempts programs: it skips one that is running on the same processor.
const AGAIN: [(&str, &str); 2] = [("sys_exit_again", "sys_exit"), ("sys_enter_again", "sys_enter")];

/// Hooks that have a second copy: what it makes up for is no loss, and what both miss is counted by the programs.
const HAVE_AGAIN: [&str; 2] = ["sys_exit", "sys_enter"];

/// The release from which on the kernel preempts programs at tracepoints.
const PREEMPTS: KernelVersion = KernelVersion::new(6, 19, 0);

/// A program that a hook reaches by tail call: its name, its tracepoint, where it stands.
type Next = (&'static str, &'static str, u32);

/// Those that tell of a call.
const TELLERS: [Next; 3] = [
    ("call_at_exit", "sys_exit", next::EXIT_CALL),
    ("memory_at_exit", "sys_exit", next::EXIT_MEMORY),
    ("table_at_exit", "sys_exit", next::EXIT_TABLE),
];

/// Those that capture stacks. Kernels before 5.17 have no loops and refuse them; then there are none.
const STACKS: [Next; 2] = [("stack_at_exit", "sys_exit", next::EXIT_STACK), ("stack_at_enter", "sys_enter", 0)];

/// Hooks that loop, as those do, and that the rest does without: program, tracepoint.
const LOOPING: [(&str, &str); 2] = [("forked_files", "sched_process_fork"), ("laid_out", "sched_process_exec")];

/// The loaded object.
pub struct Object {
    pub ebpf: Ebpf,
    /// The programs in them are in place as long as these are.
    arrays: [ProgramArray<MapData>; 2],
    pub has_stacks: bool,
    /// Hooks have second copies.
    pub twice: bool,
    /// Those of [`LOOPING`] are there.
    pub sees_forked_files: bool,
    /// Those that are loaded: program, tracepoint. In this order they are attached, and run at one tracepoint.
    hooks: Vec<(&'static str, &'static str)>,
    /// What holds the hooks in their places.
    links: Vec<(&'static str, BtfTracePointLinkId)>,
}

/// Loads everything. Nothing is attached yet. Must be called inside a tokio runtime.
pub fn load(settings: &Settings) -> Result<Object> {
    raise_memlock();
    let offsets = offsets::of_running_kernel()?;
    let btf = Btf::from_sys_fs().context("cannot read the kernel's type information (BTF)")?;
    let classes = syscalls::classes(Arch::native());
    let compat = Arch::native().compat().map_or([class::NONE; globals::SYSCALLS], syscalls::classes);
    // Before 5.11 there is no helper that returns a typed task.
    let have_task_btf = u32::from(KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(5, 11, 0)));
    let twice = settings.twice.unwrap_or_else(|| KernelVersion::current().is_ok_and(|v| v >= PREEMPTS));
    let preemptible = u32::from(twice);
    let returns_by_stack = u32::from(Arch::native() == Arch::X86_64);
    let debug = u32::from(settings.debug);
    let witnesses = if settings.stacks { syscalls::witnesses(Arch::native()) } else { [0; globals::SYSCALLS] };
    let hooked = syscalls::hooked(&classes, &compat, &witnesses);
    let tick = clock::tick();
    // The standard library takes it from the kernel's generator.
    let layout_key = RandomState::new().hash_one(std::process::id());
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .override_global(globals::OFFSETS, offsets.words(), true)
        .override_global(globals::CLASSES, &classes, true)
        .override_global(globals::CLASSES_COMPAT, &compat, true)
        .override_global(globals::HOOKED, &hooked, true)
        .override_global(globals::HAVE_TASK_BTF, &have_task_btf, true)
        .override_global(globals::PREEMPTIBLE, &preemptible, true)
        .override_global(globals::DEBUG, &debug, true)
        .override_global(globals::WITNESSES, &witnesses, true)
        .override_global(globals::STACK_BYTES, &settings.stack_bytes, true)
        .override_global(globals::ARM_AT, &settings.arm_at, true)
        .override_global(globals::RETURNS_BY_STACK, &returns_by_stack, true)
        .override_global(globals::LAYOUT_KEY, &layout_key, true)
        .override_global(globals::TICK, &tick, true)
        .override_global(globals::RING_BYTES, &settings.ring_size, true)
        .map_max_entries("EVENTS", settings.ring_size);
    let mut ebpf = loader.load(OBJECT).map_err(|error| explain(&error, "the kernel refused fdtrace's BPF object"))?;
    if settings.debug {
        start_logger(&mut ebpf)?;
    }
    // They loop with `bpf_loop`. Older verifiers complain of something else, which would help nobody.
    let can_loop = KernelVersion::current().is_ok_and(|running| running >= KernelVersion::new(5, 17, 0));
    if settings.stacks && !can_loop {
        log::warn!("no stacks and no owners, only calls: they need Linux 5.17 or later");
    }
    let stacks: &[Next] = if settings.stacks && can_loop { &STACKS } else { &[] };
    let again: &[(&str, &str)] = if twice { &AGAIN } else { &[] };
    let looping: &[(&str, &str)] = if can_loop { &LOOPING } else { &[] };
    let hooks: Vec<(&'static str, &'static str)> = [&HOOKS, again, looping].concat();
    let mut wanted: BTreeMap<&str, &str> = hooks.iter().copied().collect();
    wanted.extend(TELLERS.iter().chain(stacks).map(|&(name, tracepoint, _)| (name, tracepoint)));
    let mut refused = verify(&mut ebpf, &btf, &wanted)?;
    // All of them: one that is left in there would be an error of those that must be.
    let why: Vec<anyhow::Error> = stacks.iter().filter_map(|(name, ..)| refused.remove(name)).collect();
    if let Some(error) = refused.into_values().next() {
        return Err(error);
    }
    let arrays =
        [ProgramArray::try_from(map(&mut ebpf, "ENTER_NEXT")?)?, ProgramArray::try_from(map(&mut ebpf, "EXIT_NEXT")?)?];
    let mut object =
        Object { ebpf, arrays, has_stacks: false, twice, sees_forked_files: can_loop, hooks, links: Vec::new() };
    object.chain(&TELLERS)?;
    match why.first() {
        Some(error) => log::warn!("no stacks and no owners, only calls: {error:#}"),
        None => {
            object.chain(stacks)?;
            object.has_stacks = !stacks.is_empty();
        }
    }
    Ok(object)
}

/// Loads the iterator and the programs in `wanted` (program, tracepoint), all at the same time: nearly all of the time that
/// it takes is the kernel's verifier's, for each program on a thread of its own. Returns what was refused.
fn verify<'a>(
    ebpf: &mut Ebpf,
    btf: &Btf,
    wanted: &BTreeMap<&'a str, &str>,
) -> Result<BTreeMap<&'a str, anyhow::Error>> {
    let missing = wanted.keys().find(|name| ebpf.program(name).is_none());
    if let Some(name) = missing {
        return Err(anyhow!("the BPF object has no program `{name}`"));
    }
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (name, program) in ebpf.programs_mut() {
            if name == SNAPSHOT {
                running.push((SNAPSHOT, scope.spawn(|| load_one(program, |it: &mut Iter| it.load("task_file", btf)))));
            } else if let Some((&name, &tracepoint)) = wanted.get_key_value(name) {
                let load = move |it: &mut BtfTracePoint| it.load(tracepoint, btf);
                running.push((name, scope.spawn(move || load_one(program, load))));
            }
        }
        let mut refused = BTreeMap::new();
        for (name, thread) in running {
            let loaded = thread.join().map_err(|_| anyhow!("the thread that loads program `{name}` died"))?;
            if let Err(error) = loaded {
                refused.insert(name, explain(&error, &format!("the kernel refused program `{name}`")));
            }
        }
        Ok(refused)
    })
}

fn load_one<'a, T: 'a>(
    program: &'a mut Program,
    load: impl FnOnce(&mut T) -> Result<(), ProgramError>,
) -> Result<(), ProgramError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    load(program.try_into()?)
}

impl Object {
    /// Attaches the hooks.
    pub fn attach(&mut self) -> Result<()> {
        for &(hook, _) in &self.hooks {
            let program: &mut BtfTracePoint = program(&mut self.ebpf, hook)?;
            let link = program
                .attach()
                .map_err(|error| explain(&error, &format!("the kernel refused to attach hook `{hook}`")))?;
            self.links.push((hook, link));
        }
        Ok(())
    }

    /// Takes the hooks away: nothing new is told.
    pub fn detach(&mut self) -> Result<()> {
        for (hook, link) in std::mem::take(&mut self.links) {
            let program: &mut BtfTracePoint = program(&mut self.ebpf, hook)?;
            program.detach(link).with_context(|| format!("cannot take hook `{hook}` away"))?;
        }
        Ok(())
    }

    /// Puts loaded programs where the hooks look.
    fn chain(&mut self, chain: &[Next]) -> Result<()> {
        for &(name, tracepoint, index) in chain {
            let program: &mut BtfTracePoint = program(&mut self.ebpf, name)?;
            let fd = program.fd().with_context(|| format!("program `{name}` is not loaded"))?;
            let array = &mut self.arrays[usize::from(tracepoint == "sys_exit")];
            array.set(index, fd, 0).with_context(|| format!("cannot put program `{name}` in its place"))?;
        }
        Ok(())
    }

    /// How often the kernel skipped a hook that has no second copy.
    pub fn skipped(&self) -> u64 {
        let alone = HOOKS.iter().filter(|(hook, _)| !(self.twice && HAVE_AGAIN.contains(hook)));
        alone.filter_map(|(hook, _)| self.misses(hook)).sum()
    }

    /// How often the kernel skipped each hook.
    pub fn skips(&self) -> Vec<(&'static str, u64)> {
        self.hooks.iter().filter_map(|&(hook, _)| Some((hook, self.misses(hook)?))).collect()
    }

    fn misses(&self, hook: &str) -> Option<u64> {
        Some(misses::of(self.ebpf.program(hook)?.fd().ok()?.as_fd()))
    }
}

pub fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).with_context(|| format!("the BPF object has no program `{name}`"))?;
    program.try_into().with_context(|| format!("program `{name}` of the BPF object has another type"))
}

pub fn map(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("the BPF object has no map `{name}`"))
}

/// Passes the kernel side's own diagnostics on to our log.
fn start_logger(ebpf: &mut Ebpf) -> Result<()> {
    let logger = aya_log::EbpfLogger::init(ebpf).context("cannot start the kernel-side log")?;
    // SAFETY: the logger owns its descriptor and keeps it open for as long as it lives.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = logger.map_err(|error| anyhow!("cannot watch the kernel-side log: {error}"))?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}

/// Before 5.11 maps count against a limit that is small by default; later it does not matter that this fails.
fn raise_memlock() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid pointer to a plain structure.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
        log::debug!("cannot raise RLIMIT_MEMLOCK: {}", std::io::Error::last_os_error());
    }
}

/// An error of the loader, with the last lines of the verifier's log instead of all of them.
fn explain(error: &dyn std::error::Error, what: &str) -> anyhow::Error {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let line = error.to_string();
        log::debug!("{line}");
        let lines: Vec<&str> = line.lines().collect();
        let tail = lines.len().saturating_sub(20);
        let line = lines[tail..].join("\n");
        if !text.contains(&line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&line);
        }
        cause = error.source();
    }
    anyhow!("{text}").context(what.to_owned())
}
