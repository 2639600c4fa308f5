//! What is to be done with each sandbox, before it is cut into steps.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::spec::{
    Condition, Dependency, GuestPath, Health, HealthCheck, Image, Mount, MountSource, Name, Origin,
    PullPolicy, SandboxKind, SandboxSpec, Status,
};

use super::{Cause, ObservedSandbox, PlanError, PlannedSpec};

/// What is to be done with a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing.
    #[default]
    Keep,
    /// Write a new spec.
    Update,
    /// A run of what does not run.
    Start,
    /// A new run of what runs.
    Restart,
    /// A new disk and a run.
    Replace,
    /// A first disk and a run.
    Create,
}

/// An image that must be in the cache first.
pub(super) struct ImageNeed {
    pub(super) image: Image,
    pub(super) policy: PullPolicy,
    pub(super) digest: Option<String>,
}

/// An edge to a sandbox that is depended on.
pub(super) struct Link {
    /// Its position among the nodes.
    pub(super) to: usize,
    pub(super) condition: Condition,
    pub(super) required: bool,
    pub(super) restart: bool,
}

/// One sandbox.
pub(super) struct Node<'a> {
    pub(super) name: &'a Name,
    pub(super) observed: Option<&'a ObservedSandbox>,
    pub(super) links: Vec<Link>,
    pub(super) is_job: bool,
    pub(super) has_healthcheck: bool,
    /// Whether the command is about it; the others are looked at only.
    pub(super) acted: bool,
    pub(super) work: Work,
    /// Why it gets a new run (or, without one, a new spec).
    pub(super) cause: Cause,
    /// The spec to write, and why where the cause of the run is another.
    pub(super) spec: Option<PlannedSpec>,
    pub(super) spec_cause: Option<Cause>,
    /// What it depended on when it was made or last updated, where that may have changed.
    pub(super) old_dependencies: Vec<Name>,
    /// The digest of the image that a new disk is made on.
    pub(super) image_digest: Option<String>,
    pub(super) image: Option<ImageNeed>,
    /// Where it is declared, once it is known that it has steps.
    pub(super) origin: Option<Origin>,
    /// Volumes that must exist before it starts.
    pub(super) volumes: Vec<&'a Name>,
}

impl<'a> Node<'a> {
    pub(super) fn new(name: &'a Name, observed: Option<&'a ObservedSandbox>) -> Self {
        Self {
            name,
            observed,
            links: Vec::new(),
            is_job: false,
            has_healthcheck: false,
            acted: false,
            work: Work::Keep,
            cause: Cause::Requested,
            spec: None,
            spec_cause: None,
            old_dependencies: Vec::new(),
            image_digest: None,
            image: None,
            origin: None,
            volumes: Vec::new(),
        }
    }

    /// The Sandboxfile that declares it.
    pub(super) fn origin_file(&self) -> Option<String> {
        self.origin.as_ref().map(|origin| origin.file.to_string())
    }

    /// Whether a supervisor lives.
    pub(super) fn is_live(&self) -> bool {
        self.observed.is_some_and(ObservedSandbox::is_live)
    }

    /// Whether it gets a new run.
    pub(super) fn new_run(&self) -> bool {
        matches!(self.work, Work::Start | Work::Restart | Work::Replace | Work::Create)
    }

    /// Whether its current run is stopped.
    pub(super) fn stops(&self) -> bool {
        self.is_live() && self.new_run()
    }

    /// Whether it is stopped or removed so that what it depends on can start anew.
    pub(super) fn yields(&self) -> bool {
        matches!(self.cause, Cause::DependencyReplaced { .. })
    }

    /// Whether the work is done: it is a job that ended with exit code 0.
    pub(super) fn completed(&self) -> bool {
        self.is_job && self.observed.is_some_and(has_succeeded)
    }

    /// Whether a condition already holds, without any step.
    pub(super) fn satisfies(&self, condition: Condition) -> bool {
        let Some(observed) = self.observed else { return false };
        match condition {
            Condition::Started => observed.status != Status::Starting,
            Condition::Healthy => {
                observed.status == Status::Running
                    && (!self.has_healthcheck || observed.health == Some(Health::Healthy))
            }
            Condition::Completed => self.completed(),
        }
    }
}

/// Whether the last run ended in order with exit code 0.
pub(super) fn has_succeeded(observed: &ObservedSandbox) -> bool {
    observed.status == Status::Stopped && observed.exit_code == Some(0)
}

/// Why a sandbox that should run is started: none where it runs.
pub(super) fn not_running(observed: &ObservedSandbox, is_job: bool) -> Option<Cause> {
    match observed.status {
        Status::Starting | Status::Running | Status::Restarting => None,
        Status::Crashed => Some(Cause::Crashed),
        Status::Stopped if is_job && has_succeeded(observed) => None,
        Status::Created | Status::Draining | Status::Stopped => {
            Some(Cause::NotRunning { status: observed.status, exit_code: observed.exit_code })
        }
    }
}

/// The part of a stored spec that commands on existing sandboxes look at.
#[derive(Deserialize)]
pub(super) struct Outline {
    pub(super) image: Image,
    #[serde(default)]
    pub(super) kind: SandboxKind,
    #[serde(default)]
    pub(super) pull_policy: PullPolicy,
    #[serde(default)]
    pub(super) depends_on: BTreeMap<Name, Dependency>,
    #[serde(default)]
    volumes: BTreeMap<GuestPath, Mount>,
    #[serde(default)]
    pub(super) healthcheck: Option<HealthCheck>,
}

impl Outline {
    pub(super) fn read(sandbox: &Name, observed: &ObservedSandbox) -> Result<Self, PlanError> {
        serde_json::from_str(&observed.spec_json).map_err(|error| PlanError::StoredSpec {
            sandbox: sandbox.clone(),
            reason: error.to_string(),
        })
    }

    /// The named volumes that it mounts.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &Name> {
        named_volumes(&self.volumes)
    }
}

/// The named volumes that a sandbox mounts.
pub(super) fn volumes_of(spec: &SandboxSpec) -> impl Iterator<Item = &Name> {
    named_volumes(&spec.volumes)
}

fn named_volumes(mounts: &BTreeMap<GuestPath, Mount>) -> impl Iterator<Item = &Name> {
    mounts.values().filter_map(|mount| match &mount.source {
        MountSource::Named { volume, .. } => Some(volume),
        MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
    })
}
