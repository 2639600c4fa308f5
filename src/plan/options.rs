//! What a command asks of the planner, and why it may be refused.

use std::collections::BTreeSet;

use crate::spec::{GuestPath, Millis, Name, VolumeKind};

/// What a command is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// Make what exists match what is declared.
    #[default]
    Up,
    /// Stop and remove.
    Down {
        /// Remove declared volumes too, where they are neither protected nor external.
        volumes: bool,
    },
    /// Start what exists and does not run, as it was made.
    Start,
    /// Stop what runs.
    Stop,
    /// Stop and start what exists, as it was made.
    Restart,
    /// Remove what exists.
    Remove {
        /// Stop it first where it runs; without this, a sandbox that runs is an error.
        force: bool,
    },
}

/// Options of [`super::plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// What the command is for.
    pub intent: Intent,
    /// The sandboxes named on the command line; empty: all (of the selection, for `up`).
    pub names: BTreeSet<Name>,
    /// Jobs that are run again where they have completed.
    pub again: BTreeSet<Name>,
    /// Sandboxes to replace whatever their state; a protected one must be named here.
    pub replace: BTreeSet<Name>,
    /// Act on [`PlanOptions::names`] alone and take what they depend on as it is.
    pub no_deps: bool,
    /// Remove sandboxes that exist and are not declared.
    pub remove_orphans: bool,
    /// Let [`PlanOptions::remove_orphans`] act on a project that declares no sandbox at all.
    pub allow_empty: bool,
    /// End only once services are healthy (those with a health check) and jobs have completed.
    pub wait: bool,
    /// Grace from the stop signal to SIGKILL, over each sandbox's own.
    pub grace: Option<Millis>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Sandboxes that wait for each other.
    #[error("sandboxes depend on each other in a cycle: {}", cycle_text(.cycle))]
    Cycle {
        /// The cycle: each depends on the next, the last on the first.
        cycle: Vec<Name>,
    },
    /// A name that is neither declared nor exists.
    #[error("there is no sandbox `{name}` in project `{project}`")]
    Unknown {
        /// The name.
        name: Name,
        /// The project.
        project: Name,
    },
    /// A sandbox that is declared but was never created.
    #[error("sandbox `{name}` does not exist yet: run `msb up {name}`")]
    NotCreated {
        /// The sandbox.
        name: Name,
    },
    /// A sandbox that runs and was to be removed without force.
    #[error("sandbox `{name}` is {status}: stop it first, or force the removal")]
    StillRuns {
        /// The sandbox.
        name: Name,
        /// What it is doing.
        status: crate::spec::Status,
    },
    /// Orphans were to be removed and nothing at all is declared.
    #[error(
        "the project declares no sandbox, so all {count} that exist would be removed: \
         allow an empty project if that is meant"
    )]
    WouldEmpty {
        /// How many sandboxes exist.
        count: usize,
    },
    /// A pattern of `lifecycle.ignore` that cannot be read.
    #[error("sandbox `{sandbox}` has an invalid pattern `{pattern}` in lifecycle.ignore: {reason}")]
    Pattern {
        /// The sandbox.
        sandbox: Name,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A declared volume that cannot be had.
    #[error("the volume `{name}` {problem}")]
    Volume {
        /// The volume.
        name: Name,
        /// Why not.
        problem: VolumeProblem,
    },
    /// A stored spec that cannot be read.
    #[error("the stored spec of sandbox `{sandbox}` cannot be read: {reason}")]
    StoredSpec {
        /// The sandbox.
        sandbox: Name,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a declared volume cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeProblem {
    /// It is external and nobody has made it.
    #[error("is external and does not exist")]
    Missing,
    /// It is a disk, external, and a sandbox mounts it twice.
    #[error("is a disk, and sandbox `{sandbox}` mounts it twice")]
    Twice {
        /// The sandbox.
        sandbox: Name,
        /// Where, the second time.
        at: GuestPath,
    },
    /// It exists in another form, which is never changed into the declared one.
    #[error("exists as a {} and is declared as another kind", .found.as_str())]
    Kind {
        /// What it is.
        found: VolumeKind,
        /// Its project.
        project: Name,
    },
}

impl PlanError {
    /// What the user can do, where the error is about a volume.
    pub fn volume_help(&self) -> Option<String> {
        let Self::Volume { name, problem } = self else { return None };
        Some(match problem {
            VolumeProblem::Missing => {
                format!("`msb volume create {}` makes it", name.local())
            }
            VolumeProblem::Twice { .. } => {
                "mount it once, above what needs it, or use one of kind `dir`".to_owned()
            }
            VolumeProblem::Kind { found, project } => format!(
                "declare `kind = \"{}\"`, or `msb volume rm {project}/{name}`, which loses what it holds",
                found.as_str()
            ),
        })
    }
}

fn cycle_text(cycle: &[Name]) -> String {
    let mut names: Vec<&str> = cycle.iter().map(Name::as_str).collect();
    names.extend(cycle.first().map(Name::as_str));
    names.join(" -> ")
}
