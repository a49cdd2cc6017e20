//! What a run is, so that it can be done again.

use std::path::PathBuf;
use std::time::Duration;

use crate::profile::Profile;

/// Whether one task at a time makes steps, in an order given by the seed, or all do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Serial,
    Parallel,
    /// Now this, now that, as the seed has it.
    Both,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    pub seed: u64,
    /// Steps of each task in a round.
    pub steps: u32,
    pub rounds: u32,
    pub profile: Profile,
    pub order: Order,
    /// Tasks at one time.
    pub agents: u32,
    /// Longest time to the next quiet point.
    pub patience: Duration,
    /// Where the control file and the scratch files are made.
    pub base: PathBuf,
    /// The program that the exercising tasks are and exec; it calls [`crate::worker::become_one_if_asked`].
    pub exe: PathBuf,
}

impl Config {
    /// A run of `profile`, in the order that fits it.
    pub fn new(exe: impl Into<PathBuf>, seed: u64, profile: Profile) -> Self {
        Self {
            seed,
            steps: 40,
            rounds: 4,
            profile,
            order: if profile.is_serial() { Order::Serial } else { Order::Parallel },
            agents: 12,
            patience: Duration::from_secs(60),
            base: std::env::temp_dir(),
            exe: exe.into(),
        }
    }

    /// The command that runs the same sequence again.
    pub fn replay(&self) -> String {
        let order = match self.order {
            Order::Serial => "serial",
            Order::Parallel => "parallel",
            Order::Both => "both",
        };
        format!(
            "fdtrace-exercise run --seed {} --profile {} --order {order} --steps {} --rounds {} --agents {}",
            self.seed, self.profile, self.steps, self.rounds, self.agents
        )
    }
}
