//! The exercising process's first steps, and the way back in after exec.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context as _, Result, ensure};

use crate::account::Held;
use crate::agent::Agent;
use crate::birth;
use crate::kind::{Kind, class_of};
use crate::mapping;
use crate::nr;
use crate::profile::Profile;
use crate::rng::Rng;
use crate::shared::{FDS, Phase, Region, SLOTS, state};
use crate::sys;

/// Bit of [`Region::capabilities`]: the kernel takes 32-bit calls.
pub const COMPAT: u32 = 1;

/// Becomes an exercising process if the command line asks for it: `PROGRAM resume CONTROL SLOT` after an exec, or
/// `PROGRAM run --control CONTROL` at the start. Any program that calls this first thing in `main` can be the exerciser.
pub fn become_one_if_asked() -> Result<()> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.as_slice() {
        [verb, control, slot] if verb == "resume" => {
            let slot = slot.to_str().and_then(|text| text.parse().ok()).unwrap_or(SLOTS);
            let region = mapping::of_worker(Path::new(control))?;
            settle(region);
            birth::resume(region, slot)
        }
        [verb, flag, control] if verb == "run" && flag == "--control" => start(Path::new(control)),
        _ => Ok(()),
    }
}

/// The first exercising process: prepares itself, parks as round 0, and exercises.
pub fn start(control: &Path) -> Result<()> {
    let region = mapping::of_worker(control)?;
    settle(region);
    let scratch = OsString::from_vec(Region::text(&region.scratch));
    std::env::set_current_dir(&scratch).with_context(|| format!("cannot enter {}", scratch.display()))?;
    let profile = Profile::from_raw(region.profile.load(SeqCst));
    if probe() {
        region.capabilities.fetch_or(COMPAT, SeqCst);
    }
    // SAFETY: plain calls; ignored children need no wait, and orphans of orphans come to this process.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    ensure!(limit.rlim_max >= FDS as u64, "the hard limit of open files is below {FDS}");
    limit.rlim_cur = FDS as u64;
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };

    let (pid, tid) = (sys::getpid(), sys::gettid());
    let stacks = birth::map_stacks().context("cannot map stacks")?;
    region.root_pid.store(pid, SeqCst);
    let slot = &region.slots[0];
    slot.pid.store(pid, SeqCst);
    slot.tid.store(tid, SeqCst);
    region.tables[0].used.store(1, SeqCst);
    let seed = region.seed.load(SeqCst);
    region.scheduler.store(Rng::derived(seed, u64::MAX).0, SeqCst);
    let rng = Rng::derived(seed, 0);
    let mut agent = Agent {
        region,
        slot: 0,
        pid,
        tid,
        round: 0,
        rng,
        profile,
        ephemeral: false,
        thread: false,
        errand: birth::Errand::Exercise,
        stacks,
        low: birth::map_low(),
        has_workers: false,
        stale_workers: false,
        recent: [(-1, -1); 4],
        op: 0,
    };
    // What was inherited beyond the standard three is somebody else's.
    agent.call(nr::CLOSE_RANGE, &[3.into(), u32::MAX.into(), 0.into()]);
    enter_standard(&agent)?;
    slot.state.store(state(Phase::Running, 0), SeqCst);
    agent.park();
    agent.live()
}

/// What every image does first: a fault ends it, and a panic is told to the harness without printing.
fn settle(region: &'static Region) {
    // SAFETY: plain calls, before there is any other task.
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    std::panic::set_hook(Box::new(move |info| {
        if region.failed.fetch_add(1, SeqCst) == 0 {
            Region::put_text(&region.failure, info.to_string().as_bytes());
        }
        sys::exit_process(101)
    }));
}

/// Enters 0, 1 and 2 as they were inherited.
fn enter_standard(agent: &Agent) -> Result<()> {
    for fd in 0..3 {
        // SAFETY: an all-zero `stat` is valid, and the call fills it.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` is valid for the call.
        if unsafe { libc::fstat(fd, &mut stat) } != 0 {
            continue;
        }
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        let kind = match class_of(stat.st_mode, &link.to_string_lossy()).as_str() {
            "file" => Kind::File,
            "dir" => Kind::Dir,
            "char" => Kind::Char,
            "pipe" => Kind::Pipe,
            "socket" => Kind::Socket,
            "eventfd" => Kind::Eventfd,
            _ => Kind::Path,
        };
        let same = (0..fd).find(|other| crate::truth::same_file((agent.pid, fd), (agent.pid, *other)).unwrap_or(false));
        match same.and_then(|other| agent.table().get(other)) {
            Some(held) => agent.table().set(fd, Held::new(kind, false, held.description())),
            None => {
                agent.made(i64::from(fd), kind, false);
            }
        }
    }
    Ok(())
}

/// Whether the kernel takes 32-bit calls from this program. One that does not would kill the caller: a child asks.
pub fn probe() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        const I386_GETPID: i64 = 20;
        // SAFETY: the program has one thread yet; the child makes two calls and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: a call without arguments.
            let pid = unsafe { sys::compat(I386_GETPID, [0; 3]) };
            sys::exit_process(u64::from(pid != i64::from(sys::getpid())));
        }
        let mut status = -1;
        // SAFETY: `status` is valid for the call.
        child > 0 && unsafe { libc::waitpid(child, &mut status, 0) } == child && status == 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}
