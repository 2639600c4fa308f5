//! The machine being reconciled.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::plan::{ObservedState, Step, StepId};
use crate::rootfs::patch::PatchError;
use crate::spec::{Name, Project};

/// The machine being reconciled.
///
/// What makes a crash at any point harmless: every action commits its row last, may be applied a
/// second time, and is announced by [`Host::begin`] before it starts, so that
/// [`Host::recover`] finds what it may have left half made.
pub trait Host: Send + Sync {
    /// Finishes or undoes what open journal entries of `project` left half made, and closes them.
    /// Called with the project's lease held, before [`Host::observe`].
    fn recover(&self, project: &Name) -> impl Future<Output = Result<(), HostError>> + Send;

    /// What exists of the project. Reads the store and looks at processes; no network, no guest.
    fn observe(
        &self,
        project: &Project,
    ) -> impl Future<Output = Result<ObservedState, HostError>> + Send;

    /// Writes open journal entries for steps that are about to be applied, in one commit.
    /// Only steps with [`crate::plan::Action::is_journaled`] are passed, never none.
    fn begin(&self, steps: &[&Step]) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Does what the step says and ends when it is done.
    fn apply(
        &self,
        step: &Step,
        progress: &ProgressHandle,
    ) -> impl Future<Output = Result<StepOutput, HostError>> + Send;

    /// Closes the journal entries of steps that were begun, in one commit.
    fn finish(&self, steps: &[(&Step, bool)])
    -> impl Future<Output = Result<(), HostError>> + Send;
}

/// What a step reports when it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepOutput {
    /// Nothing had to be done: another command or an earlier run had done it.
    pub already: bool,
    /// What whoever reads that it is done should know as well.
    pub notice: Option<String>,
}

impl StepOutput {
    /// Of a step that had nothing to do.
    pub const ALREADY: Self = Self { already: true, notice: None };
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The health check of a sandbox that was waited for failed.
    #[error("sandbox `{sandbox}` is unhealthy{}", detail(.output))]
    Unhealthy {
        /// The sandbox.
        sandbox: Name,
        /// The last output of the probe.
        output: String,
    },
    /// A job that was waited for failed, or a sandbox ended before it was ready.
    #[error("sandbox `{sandbox}` ended with exit code {code}{}", detail(.reason))]
    Exited {
        /// The sandbox.
        sandbox: Name,
        /// Its exit code.
        code: i32,
        /// What is known beside the code, such as a command that does not exist; may be empty.
        reason: String,
    },
    /// The VM or the supervisor ended out of order.
    #[error("sandbox `{sandbox}` crashed: {reason}")]
    Crashed {
        /// The sandbox.
        sandbox: Name,
        /// What is known of it.
        reason: String,
    },
    /// A condition did not hold in time.
    #[error("sandbox `{sandbox}` was not ready after {} ms", .after.as_millis())]
    TimedOut {
        /// The sandbox.
        sandbox: Name,
        /// The limit.
        after: Duration,
    },
    /// A patch cannot be applied to the image.
    #[error("the image of sandbox `{sandbox}` cannot be patched")]
    Patch {
        /// The sandbox.
        sandbox: Name,
        /// Which patch, and why.
        source: PatchError,
    },
    /// Anything else.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl HostError {
    /// Wraps the error of an operation.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

fn detail(output: &str) -> String {
    let output = output.trim();
    if output.is_empty() { String::new() } else { format!(": {output}") }
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A phase has begun (`pull`, `build`, `boot`, …).
    Phase(&'static str),
    /// Bytes of the current phase.
    Bytes {
        /// Done so far.
        done: u64,
        /// In all, where it is known.
        total: Option<u64>,
    },
}

/// Through which [`Host::apply`] says how far it is.
#[derive(Clone, Debug)]
pub struct ProgressHandle {
    step: StepId,
    sender: UnboundedSender<(StepId, Progress)>,
}

impl ProgressHandle {
    /// A handle that sends to `sender` under the number of a step.
    pub fn new(step: StepId, sender: UnboundedSender<(StepId, Progress)>) -> Self {
        Self { step, sender }
    }

    /// Passes progress on; dropped when nobody listens any more.
    pub fn report(&self, progress: Progress) {
        let _ = self.sender.send((self.step, progress));
    }
}
