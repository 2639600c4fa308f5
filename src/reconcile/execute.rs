//! Executes a plan.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::plan::{Plan, StepId};

use super::{Host, HostError, Reporter};

/// How a plan is executed.
#[derive(Clone, Debug)]
pub struct ExecuteOptions {
    /// The most steps at a time. Awaits do not count: they only wait.
    pub parallelism: usize,
    /// The longest that one await may take; none: until its condition holds or cannot hold.
    pub wait_timeout: Option<Duration>,
    /// Once cancelled, no step is started; steps that run are finished, awaits are given up.
    pub cancel: CancellationToken,
}

impl ExecuteOptions {
    /// Default of `parallelism`.
    pub const DEFAULT_PARALLELISM: usize = 8;
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self {
            parallelism: Self::DEFAULT_PARALLELISM,
            wait_timeout: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// It was not started, because one that it needs failed or was skipped.
    Skipped,
    /// It was not started or was given up, because the run was interrupted.
    Interrupted,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By step, in the order of the plan.
    pub states: Vec<StepState>,
    /// The errors, in the order in which they happened.
    pub errors: Vec<(StepId, HostError)>,
    /// Whether the run was cancelled before it was through.
    pub interrupted: bool,
}

/// Executes a plan: every step starts as soon as those it needs have succeeded and a slot is free.
/// Errors of steps are in the outcome, all of them.
pub async fn execute(
    _plan: &Plan,
    _host: &impl Host,
    _options: &ExecuteOptions,
    _reporter: &mut dyn Reporter,
) -> Outcome {
    Outcome::default()
}
