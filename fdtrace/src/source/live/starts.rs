//! Where the starts of system calls are looked at: in a hook on all of them, or, while no traced process shares its table
//! with anybody, at their ends. See `syscalls::late` of the kernel side.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{HashMap, MapData, RingBuf},
    programs::ProgramFd,
};
use fdtrace_common::wire::{orders, shared, starts};

use super::{
    object::{self, EARLY, Object},
    word::{Orders, Word},
};
use crate::{
    source::{bpf, early::Hooks},
    syscalls::{self, Arch},
};

/// Who decides it.
pub struct Starts {
    /// Nonzero: the hook was asked for since it was taken away.
    needed: Word,
    /// Processes whose table more than one task has had since their program began.
    sharing: HashMap<MapData, u32, u32>,
    /// `None`: this kernel needs the hook, or nothing is attached yet.
    hook: Option<Arc<Hook>>,
    since: Instant,
    /// How long the hook is kept once nobody needs it; `None`: for good.
    patience: Option<Duration>,
    /// What has its place while there are no other hooks on starts, and is left there then.
    early: Option<Hooks>,
}

/// The hook on the start of all calls.
struct Hook {
    program: ProgramFd,
    orders: Orders,
    /// What holds it in its place.
    link: Mutex<Option<OwnedFd>>,
}

impl Hook {
    fn link(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts it in its place, if it is not there. `place`: one of [`starts`].
    fn attach(&self, place: u64) -> Result<()> {
        let mut link = self.link();
        if link.is_none() {
            let attached = bpf::attach(self.program.as_fd(), None);
            *link = Some(attached.context("the kernel refused to attach the hook on the start of all calls")?);
            self.orders.set(orders::STARTS, place)?;
        }
        Ok(())
    }
}

impl Starts {
    /// Patience doubles whenever the hook is needed again, up to this.
    const LONGEST: Duration = Duration::from_secs(60);

    pub fn new(object: &mut Object) -> Result<Self> {
        Ok(Self {
            needed: Word::take(&mut object.ebpf, shared::NEEDS_STARTS)?,
            sharing: HashMap::try_from(object::map(&mut object.ebpf, "SHARING")?)?,
            hook: None,
            since: Instant::now(),
            patience: None,
            early: None,
        })
    }

    /// All other hooks are in their places now.
    pub fn begin(&mut self, object: &mut Object, orders: Orders, patience: Option<Duration>) -> Result<()> {
        if !object.can_be_late {
            return Ok(());
        }
        let hook = Arc::new(Hook { program: object.enter()?, orders, link: Mutex::new(None) });
        hook.attach(starts::HOOKED)?;
        let needs = RingBuf::try_from(object::map(&mut object.ebpf, "NEEDS")?)?;
        let (watched, weak) = (needs, Arc::downgrade(&hook));
        let watch = move || watch(watched, || weak.upgrade());
        std::thread::Builder::new().name("starts".to_owned()).spawn(watch).context("cannot start a thread")?;
        (self.hook, self.since, self.patience) = (Some(hook), Instant::now(), patience);
        Ok(())
    }

    /// More than one task has the table of a process.
    pub fn is_shared(&mut self, tgid: u32) -> Result<()> {
        self.sharing.insert(tgid, 1, 0).context("cannot tell the kernel side of the threads of a process")
    }

    /// The hook on all starts is not there.
    pub fn are_late(&self) -> bool {
        self.hook.as_ref().is_some_and(|hook| hook.link().is_none())
    }

    /// To be called as often as the ring is looked at.
    pub fn turn(&mut self, object: &mut Object) {
        let (Some(patience), Some(hook)) = (self.patience, self.hook.clone()) else { return };
        if self.since.elapsed() < patience || hook.link().is_none() {
            return;
        }
        self.since = Instant::now();
        if let Err(error) = self.let_be_late(object, &hook) {
            log::debug!("all calls are looked at when they begin: {error:#}");
            self.patience = None;
        }
    }

    /// Takes the hook away, if nobody needs it.
    fn let_be_late(&mut self, object: &mut Object, hook: &Hook) -> Result<()> {
        if self.needed.get() != 0 {
            self.patience = self.patience.map(|patience| (patience * 2).min(Self::LONGEST));
        }
        self.needed.set(0)?;
        if self.anybody_shares() {
            return Ok(());
        }
        if self.early.is_none() {
            let program = object.early(EARLY)?;
            self.early = Some(Hooks::attach(syscalls::early(Arch::native()), program.as_fd())?);
        }
        let mut link = hook.link();
        hook.orders.set(orders::STARTS, starts::LATE)?;
        // From here on who begins to share a table asks for the hook.
        if self.anybody_shares() {
            return hook.orders.set(orders::STARTS, starts::HOOKED_AGAIN);
        }
        *link = None;
        log::debug!("no traced process shares its table: the hook on the start of all calls is taken away");
        Ok(())
    }

    fn anybody_shares(&self) -> bool {
        self.sharing.keys().next().is_some()
    }

    /// Nothing new is to be told.
    pub fn stop(&mut self) -> Result<()> {
        self.patience = None;
        let Some(hook) = self.hook.take() else { return Ok(()) };
        let mut link = hook.link();
        *link = None;
        // Who waits for it to be needed sees that nobody does any more.
        hook.orders.set(orders::STARTS, starts::HOOKED)
    }
}

/// Puts the hook back as soon as it is needed, whatever else is being done, until it is gone.
fn watch(mut needs: RingBuf<MapData>, hook: impl Fn() -> Option<Arc<Hook>>) {
    const LOOK: i32 = 1000;
    loop {
        let mut ready = libc::pollfd { fd: needs.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure that is there for the call.
        let found = unsafe { libc::poll(&raw mut ready, 1, LOOK) };
        if found < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            log::warn!("cannot wait for what needs the hook on the start of all calls: {}", io::Error::last_os_error());
            return;
        }
        let Some(hook) = hook() else { return };
        let mut asked = false;
        while needs.next().is_some() {
            asked = true;
        }
        if !asked {
            continue;
        }
        log::debug!("a traced process shares its table: all calls are looked at when they begin");
        if let Err(error) = hook.attach(starts::HOOKED_AGAIN) {
            log::warn!("what threads do to each other is not seen: {error:#}");
        }
    }
}
