//! Decides what must change, and in which order: desired state + observed state → [`Plan`].
//!
//! [`plan`] is a function of its arguments alone: no file, clock, environment, database or
//! process is looked at, so a dry run cannot act and the same input gives the same bytes. The
//! executor (`reconcile`) has no decision left to make.
//!
//! ```text
//! spec hash equal? ──yes──▶ up to date, unless its image moved, it does not run, or a dependency restarts
//!        │ no
//!        ▼
//! typed diff per field ──▶ change class (live < restart < replace) ──▶ steps of the sandbox
//!                                                                        │
//! dependencies, shared images, volumes ──────────▶ edges between steps ──▶ one graph, sorted
//! ```
//!
//! Steps of one sandbox, by class: *live* `update`; *restart* `stop → update → start` (the row is
//! written while nothing runs, so a crash in between leaves a difference that the next plan sees);
//! *replace* `pull → stop → remove → create → start`.
//!
//! Edges between sandboxes: a start needs the starts (or awaited conditions) of what it depends
//! on; a stop comes before the stops of what it depends on, and otherwise after everything that
//! its own new start needs, so that a sandbox serves until its own turn. No stop happens for a
//! replacement whose image could not be pulled.
//!
//! A job that ended with exit code 0 counts as converged for as long as its spec stays the same;
//! one that failed is run again.

mod assemble;
mod build;
mod cause;
mod class;
mod desired;
mod diff;
mod existing;
mod graph;
mod hash;
mod json;
mod node;
mod observed;
mod options;
mod step;
mod teardown;
#[cfg(test)]
mod testing;
mod text;
mod up;
mod volumes;

pub use build::plan;
pub use cause::{Cause, FieldChange};
pub use class::ChangeClass;
pub use desired::{Desired, DesiredImage, PlannedSpec};
pub use hash::{InvalidSpecHash, SpecHash, canonical_json, spec_hash};
pub use observed::{ObservedSandbox, ObservedState, ObservedVolume};
pub use options::{Intent, PlanError, PlanOptions, VolumeProblem};
pub use step::{Action, Orphan, Plan, Step, StepId, Summary, Withheld, WithheldReason};
