//! What the executor says while it works.

use crate::plan::Step;

use super::{HostError, Progress, StepOutput};

/// Something happened to a step.
#[derive(Debug)]
pub enum Event<'a> {
    /// It was started.
    StepStarted {
        /// The step.
        step: &'a Step,
    },
    /// It is further.
    Progress {
        /// The step.
        step: &'a Step,
        /// How far.
        progress: Progress,
    },
    /// It succeeded.
    StepDone {
        /// The step.
        step: &'a Step,
        /// What it reports.
        output: &'a StepOutput,
    },
    /// It failed.
    StepFailed {
        /// The step.
        step: &'a Step,
        /// Why.
        error: &'a HostError,
    },
    /// It will not be started.
    StepSkipped {
        /// The step.
        step: &'a Step,
        /// The failed step that it needs, directly or not; none: the run was interrupted.
        because: Option<&'a Step>,
    },
}

/// Listens to the executor. Calls come from one task, in the order of events.
pub trait Reporter: Send {
    /// Takes one event.
    fn report(&mut self, event: Event<'_>);
}

/// A reporter that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&mut self, _event: Event<'_>) {}
}
