//! What a live run is to trace: found, waited for if need be, not touched yet.

use std::{
    os::unix::ffi::OsStrExt,
    time::{Duration, Instant},
};

use crate::{
    plan::{Several, Target, User},
    source::{
        launch::Launch,
        select::{self, Choice, SelectError},
        target,
        users::RunAs,
    },
};

use super::{failure::Failure, signals::Signals};

/// What is to be traced, found but not touched yet.
pub enum Started {
    Command(Launch),
    Running(Vec<target::Target>),
    /// Not there yet.
    Awaited {
        name: Vec<u8>,
        choice: Choice,
    },
}

impl Started {
    pub fn resolve(target: &Target) -> Result<Self, Failure> {
        match target {
            Target::Command { program, args, user } => {
                let user = match user {
                    User::Caller => RunAs::Sudo,
                    User::Root => RunAs::Root,
                    User::Named(name) => RunAs::User(name.clone()),
                };
                Ok(Self::Command(Launch { program: program.clone(), args: args.clone(), user }))
            }
            Target::Pids(pids) => {
                let targets: Result<Vec<_>, _> = pids.iter().map(|pid| target::by_pid(*pid)).collect();
                targets.map(Self::Running).map_err(Failure::usage)
            }
            Target::Name { name, several, wait } => {
                let choice = match several {
                    Several::Refuse => Choice::One,
                    Several::All => Choice::All,
                    Several::Newest => Choice::Newest,
                };
                match choose(name.as_bytes(), choice) {
                    Ok(targets) => Ok(Self::Running(targets)),
                    Err(Missing::NotThere(_)) if *wait => Ok(Self::Awaited { name: name.as_bytes().to_vec(), choice }),
                    Err(Missing::NotThere(failure) | Missing::Other(failure)) => Err(failure),
                }
            }
        }
    }
}

/// Why there is nothing to trace.
enum Missing {
    NotThere(Failure),
    Other(Failure),
}

fn choose(name: &[u8], choice: Choice) -> Result<Vec<target::Target>, Missing> {
    let candidates = select::choose(name, choice).map_err(|error| match error {
        SelectError::NoMatch { .. } => Missing::NotThere(Failure::usage(error)),
        error => Missing::Other(Failure::usage(error)),
    })?;
    let held: Result<Vec<_>, _> = candidates.iter().map(select::Candidate::hold).collect();
    held.map_err(|error| Missing::Other(Failure::usage(error)))
}

/// Waits until a process of that name is there; none if the user or the clock was first.
pub async fn wait_for(
    name: &[u8],
    choice: Choice,
    signals: &mut Signals,
    deadline: Option<Instant>,
) -> Result<Option<Vec<target::Target>>, Failure> {
    loop {
        match choose(name, choice) {
            Ok(targets) => return Ok(Some(targets)),
            Err(Missing::NotThere(_)) => {}
            Err(Missing::Other(failure)) => return Err(failure),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
        tokio::select! {
            _ = signals.next() => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}
