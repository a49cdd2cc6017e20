//! What fdtrace may take of the machine: who attaches to a process that is on fire must not add to the fire.
//!
//! Over the budget it leaves out more and more: copies of stacks, then all that tells who makes a call, then paths. What
//! happened comes last: at the end of the ladder fdtrace rests, and what the ring does not hold meanwhile is lost and
//! counted. With much left of the budget it takes one step back.
//!
//! No clock and no kernel in here: what was used is told by the caller.

use std::time::Duration;

use fdtrace_common::wire::shed;

use crate::model::DEAD_LIVES;

/// What one step is judged by.
const WINDOW: Duration = Duration::from_millis(500);
/// For how long less than half must have been used before a step is taken back.
const CALM: Duration = Duration::from_secs(5);
/// The longest rest, and what is owed at most.
const REST: Duration = Duration::from_secs(1);
/// Lives that are over, of which so few are kept in the end that nothing is gained by keeping fewer.
const FEW: usize = 256;

/// What the user allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Of one processor: 1 is all of it.
    pub cpu: Option<f64>,
    /// Bytes of memory of our own.
    pub memory: Option<u64>,
}

/// What fdtrace used, since it was started or at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub time: Duration,
    pub cpu: Duration,
    pub memory: u64,
    /// The ring was nearly full when it was looked at last.
    pub is_flooded: bool,
    /// Lives that are over and remembered.
    pub dead: usize,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// What is to be left out, one of [`shed`].
    pub shed: u64,
    /// As much of it as the limits demand: the rest is for want of room in the ring.
    pub demanded: u64,
    /// For so long nothing is done.
    pub rest: Duration,
    /// So many lives that are over are kept from now on.
    pub keep_dead: Option<usize>,
    /// All was left out that can be, and it is still too much memory.
    pub is_over: bool,
}

#[derive(Debug, Default)]
pub struct Budget {
    limits: Limits,
    /// The step that the limits demand.
    level: u64,
    began: Option<Usage>,
    /// How long nothing must be done for what was used to be what is allowed.
    debt: Duration,
    calm_since: Option<Duration>,
    /// The ring was nearly full then.
    flooded: Option<Duration>,
    /// Nothing more can be forgotten.
    is_bare: bool,
    /// How many lives that are over are kept, if fewer than at first.
    kept: Option<usize>,
}

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// What has to be told of usage now and then: nothing, if there are no limits.
    pub fn has_limits(&self) -> bool {
        self.limits.cpu.is_some() || self.limits.memory.is_some()
    }

    /// To be called often.
    pub fn step(&mut self, usage: Usage) -> Step {
        if usage.is_flooded {
            self.flooded = Some(usage.time);
        }
        let mut step = Step::default();
        let began = *self.began.get_or_insert(usage);
        let window = usage.time.saturating_sub(began.time);
        if self.has_limits() && window >= WINDOW {
            self.began = Some(usage);
            let cpu = usage.cpu.saturating_sub(began.cpu);
            self.weigh(usage, cpu.as_secs_f64() / window.as_secs_f64(), &mut step);
            if let Some(most) = self.limits.cpu.filter(|_| self.level == shed::PATHS) {
                self.debt = (self.debt + cpu.div_f64(most)).saturating_sub(window).min(REST);
                step.rest = self.debt;
            } else {
                self.debt = Duration::ZERO;
            }
        }
        let is_flooded = self.flooded.is_some_and(|then| usage.time.saturating_sub(then) < WINDOW);
        step.demanded = self.level;
        step.shed = if is_flooded { shed::PATHS } else { self.level };
        step
    }

    fn weigh(&mut self, usage: Usage, cpu: f64, step: &mut Step) {
        let over_cpu = self.limits.cpu.is_some_and(|most| cpu > most);
        let over_memory = self.limits.memory.is_some_and(|most| usage.memory > most);
        if over_memory {
            step.is_over = self.is_bare && self.level == shed::PATHS;
            self.is_bare = usage.dead <= FEW;
            self.kept = Some(if self.is_bare { 0 } else { usage.dead / 2 });
            step.keep_dead = self.kept;
        } else {
            self.is_bare = false;
        }
        if over_cpu || over_memory {
            self.calm_since = None;
            self.level = (self.level + 1).min(shed::PATHS);
            return;
        }
        let half_used = self.limits.cpu.is_some_and(|most| cpu > most / 2.0)
            || self.limits.memory.is_some_and(|most| usage.memory > most / 4 * 3);
        if half_used || (self.level == shed::NOTHING && self.kept.is_none()) {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(usage.time);
        if usage.time.saturating_sub(since) >= CALM {
            self.level = self.level.saturating_sub(1);
            self.calm_since = None;
            step.keep_dead = self.kept.map(|most| (most * 2).clamp(FEW, DEAD_LIVES));
            self.kept = step.keep_dead.filter(|most| *most < DEAD_LIVES);
        }
    }
}

/// What is left out, in words.
pub fn named(level: u64) -> &'static str {
    match level {
        shed::NOTHING => "nothing is left out",
        shed::COPIES => "native frames are left out",
        shed::STACKS => "stacks and owners are left out",
        _ => "stacks, owners and paths are left out",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses `cpu` of a processor and so much memory, for so many half seconds; the steps.
    fn spend(budget: &mut Budget, usage: &mut Usage, cpu: f64, memory: u64, windows: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..windows {
            usage.time += WINDOW;
            usage.cpu += WINDOW.mul_f64(cpu);
            usage.memory = memory;
            steps.push(budget.step(*usage));
            usage.time += steps[steps.len() - 1].rest;
            usage.dead = steps[steps.len() - 1].keep_dead.map_or(usage.dead, |most| usage.dead.min(most));
        }
        steps
    }

    fn sheds(steps: &[Step]) -> Vec<u64> {
        steps.iter().map(|step| step.shed).collect()
    }

    #[test]
    fn stacks_go_first_and_rest_keeps_the_budget() {
        let mut budget = Budget::new(Limits { cpu: Some(0.2), memory: None });
        let mut usage = Usage::default();
        budget.step(usage);
        assert_eq!(sheds(&spend(&mut budget, &mut usage, 0.5, 0, 4)), [1, 2, 3, 3]);
        // Whatever it would use, it has its share and no more.
        let (time, cpu) = (usage.time, usage.cpu);
        let steps = spend(&mut budget, &mut usage, 0.5, 0, 20);
        assert!(steps.iter().all(|step| step.rest > Duration::ZERO && !step.is_over));
        let share = (usage.cpu - cpu).as_secs_f64() / (usage.time - time).as_secs_f64();
        assert!(share < 0.21, "{share}");
    }

    #[test]
    fn what_was_left_out_comes_back_step_by_step() {
        let mut budget = Budget::new(Limits { cpu: Some(0.2), memory: None });
        let mut usage = Usage::default();
        budget.step(usage);
        spend(&mut budget, &mut usage, 0.5, 0, 3);
        let steps = sheds(&spend(&mut budget, &mut usage, 0.05, 0, 40));
        assert_eq!([steps[0], steps[12], steps[24], steps[39]], [3, 2, 1, 0]);
        // Half of it is no calm.
        spend(&mut budget, &mut usage, 0.3, 0, 1);
        assert!(sheds(&spend(&mut budget, &mut usage, 0.15, 0, 40)).iter().all(|shed| *shed == 1));
    }

    #[test]
    fn memory_is_given_back_before_it_is_too_much() {
        let mut budget = Budget::new(Limits { cpu: None, memory: Some(100) });
        let mut usage = Usage { dead: 1000, ..Usage::default() };
        budget.step(usage);
        let steps = spend(&mut budget, &mut usage, 3.0, 101, 6);
        let kept: Vec<_> = steps.iter().map(|step| step.keep_dead).collect();
        assert_eq!(kept, [Some(500), Some(250), Some(0), Some(0), Some(0), Some(0)]);
        let over: Vec<bool> = steps.iter().map(|step| step.is_over).collect();
        assert_eq!(over, [false, false, false, true, true, true]);
        assert_eq!(sheds(&steps), [1, 2, 3, 3, 3, 3]);
        assert!(steps.iter().all(|step| step.rest.is_zero()));
        assert!(!spend(&mut budget, &mut usage, 3.0, 99, 1)[0].is_over);
        // With room again, as many are kept as at first, step by step.
        let kept: Vec<_> =
            spend(&mut budget, &mut usage, 0.0, 10, 200).iter().filter_map(|step| step.keep_dead).collect();
        assert_eq!((kept[0], kept[1], kept[kept.len() - 1], kept.len()), (FEW, 2 * FEW, DEAD_LIVES, 9));
    }

    #[test]
    fn a_flooded_ring_has_no_room_for_paths() {
        let mut budget = Budget::default();
        let flooded = Usage { is_flooded: true, ..Usage::default() };
        assert_eq!(budget.step(flooded), Step { shed: shed::PATHS, ..Step::default() });
        let mut usage = Usage { time: WINDOW / 2, ..Usage::default() };
        assert_eq!(budget.step(usage).shed, shed::PATHS);
        usage.time = WINDOW;
        assert_eq!(budget.step(usage).shed, shed::NOTHING);
    }
}
