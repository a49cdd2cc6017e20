//! The signals that ask fdtrace to stop.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask us to stop.
pub struct Signals {
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    hangup: Signal,
    interrupts: u32,
}

/// Somebody asked.
pub struct Asked {
    /// With a key, so that the command was asked too.
    pub from_terminal: bool,
    /// For the second time.
    pub again: bool,
}

impl Signals {
    pub fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            interrupts: 0,
        })
    }

    pub async fn next(&mut self) -> Asked {
        let from_terminal = tokio::select! {
            _ = self.interrupt.recv() => true,
            _ = self.quit.recv() => true,
            _ = self.terminate.recv() => false,
            _ = self.hangup.recv() => false,
        };
        if from_terminal {
            self.interrupts += 1;
        }
        Asked { from_terminal, again: self.interrupts > 1 }
    }
}
