//! A plan and its steps.

use std::fmt;

use serde::Serialize;

use crate::spec::{
    ByteSize, Condition, Image, Millis, Name, Origin, PullPolicy, ResourceId, VolumeSpec,
};

use super::{Cause, PlannedSpec};

/// The number of a step, from 1. `plan.steps[id.index()]` is the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct StepId(pub u32);

impl StepId {
    /// The position of the step in [`Plan::steps`].
    pub const fn index(self) -> usize {
        self.0 as usize - 1
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What a step does. Every action may be applied twice: one that finds its work done succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Puts an image in the cache.
    PullImage {
        /// The image.
        image: Image,
        /// The policy of the first sandbox that uses it.
        policy: PullPolicy,
        /// The manifest digest that is needed, where it is known: the disk of an existing sandbox
        /// fits no other.
        digest: Option<String>,
    },
    /// Makes the disk and the row of a sandbox that does not exist.
    CreateSandbox {
        /// Its spec.
        spec: PlannedSpec,
        /// The manifest digest of its image; none: what its reference is in the cache by then.
        image_digest: Option<String>,
        /// The Sandboxfile that declares it.
        origin_file: Option<String>,
    },
    /// Tells a living supervisor (where `live`) about a new spec, then writes it to the row.
    UpdateSandbox {
        /// The id of the sandbox.
        id: String,
        /// Its spec.
        spec: PlannedSpec,
        /// Whether it runs while this happens.
        live: bool,
        /// The Sandboxfile that declares it.
        origin_file: Option<String>,
    },
    /// Starts the sandbox as its row says and ends once its workload runs.
    StartSandbox {
        /// The id of the sandbox; none: the one that this plan creates.
        id: Option<String>,
    },
    /// Ends once the condition holds; fails once it cannot hold any more.
    AwaitSandbox {
        /// The condition.
        condition: Condition,
    },
    /// Stops the sandbox and ends once nothing of it runs.
    StopSandbox {
        /// The id of the sandbox.
        id: String,
        /// Grace over the spec's.
        grace: Option<Millis>,
    },
    /// Removes the row and the disk of a sandbox that does not run.
    RemoveSandbox {
        /// The id of the sandbox.
        id: String,
    },
    /// Makes a volume.
    CreateVolume {
        /// Its spec.
        spec: VolumeSpec,
    },
    /// Writes the labels and the protection of a volume to its row.
    UpdateVolume {
        /// Its spec.
        spec: VolumeSpec,
    },
    /// Raises the quota of a volume.
    GrowVolume {
        /// The new quota.
        quota: ByteSize,
    },
    /// Removes a volume and everything in it.
    RemoveVolume,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub id: StepId,
    /// What it does.
    pub action: Action,
    /// What it acts on.
    pub resource: ResourceId,
    /// Why.
    pub cause: Cause,
    /// Where what it acts on is declared; of an await, where the first who waits says so.
    pub origin: Option<Origin>,
    /// Steps that must have succeeded; it is skipped once one has not. In order of id.
    pub needs: Vec<StepId>,
    /// Steps that must have ended, well or not. In order of id.
    pub after: Vec<StepId>,
    /// It destroys data: the command asks before it is executed.
    pub needs_confirmation: bool,
    /// Its failure does not make the run a failed one (a dependency with `required = false`).
    pub optional: bool,
}

/// A sandbox that exists and is not declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// Its name.
    pub name: Name,
    /// The Sandboxfile that created it.
    pub file: Option<String>,
    /// Whether this plan removes it.
    pub removed: bool,
}

/// A change that is due and that the plan does not make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Withheld {
    /// What it would act on.
    pub resource: ResourceId,
    /// Why it is due.
    pub cause: Cause,
    /// Why it is not made.
    pub reason: WithheldReason,
    /// Where the resource is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Why a change is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WithheldReason {
    /// A protected resource would be replaced.
    ProtectedReplace,
    /// A protected resource would be removed.
    ProtectedRemove,
    /// A volume would shrink.
    VolumeShrink,
    /// A volume would be removed that a sandbox which stays mounts.
    VolumeInUse,
}

/// How many sandboxes a plan does what to; each counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Do not exist yet.
    pub create: usize,
    /// Get a new disk.
    pub replace: usize,
    /// Get a new run on the same disk.
    pub restart: usize,
    /// Exist and are started.
    pub start: usize,
    /// Get a new spec without a new run.
    pub update: usize,
    /// Are stopped and kept.
    pub stop: usize,
    /// Are removed.
    pub remove: usize,
    /// Are as asked for.
    pub unchanged: usize,
}

/// Steps in topological order, with everything a command says about them.
///
/// `Display` is the stable text form; the JSON form is the contract `msb.plan/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The project.
    pub project: Name,
    /// The serial of the state it was made for.
    pub serial: u64,
    /// The steps; each comes after all it needs.
    pub steps: Vec<Step>,
    /// Sandboxes that exist and are not declared.
    pub orphans: Vec<Orphan>,
    /// Changes that are due and not made.
    pub withheld: Vec<Withheld>,
    /// Counts.
    pub summary: Summary,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The step with this number.
    pub fn step(&self, id: StepId) -> &Step {
        &self.steps[id.index()]
    }

    /// The steps that destroy data.
    pub fn needing_confirmation(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.needs_confirmation)
    }
}

impl Action {
    /// Whether a crash in the middle may leave something half made.
    pub const fn is_journaled(&self) -> bool {
        !matches!(self, Self::PullImage { .. } | Self::AwaitSandbox { .. })
    }
}
