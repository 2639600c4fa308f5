//! Observes a machine, executes plans on it.
//!
//! [`Host`] is the machine: `FakeHost` in memory for tests, the real one in the product. A plan is
//! executed by [`execute`], which has no opinion about desired state: it starts every step as soon
//! as those it needs have succeeded, skips the dependents of a failed one, and collects all errors.
#![allow(clippy::disallowed_methods, reason = "reconcile acts on the machine")]

mod execute;
mod host_trait;
mod report;

pub use execute::{ExecuteOptions, Outcome, StepState, execute};
pub use host_trait::{Host, HostError, Progress, ProgressHandle, StepOutput};
pub use report::{Event, Reporter, Silent};
