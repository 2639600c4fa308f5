//! What exists, as the planner sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::spec::{ByteSize, Health, Name, Status, VolumeKind};

use super::SpecHash;

/// Everything that exists of one project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedState {
    /// Counts the commits of the store; a saved plan is stale when it has moved.
    pub serial: u64,
    /// Sandboxes by name, declared or not.
    pub sandboxes: BTreeMap<Name, ObservedSandbox>,
    /// Volumes of the project by name, declared or not.
    pub volumes: BTreeMap<Name, ObservedVolume>,
    /// Volumes that belong to no project, which external ones are among.
    pub standalone: BTreeMap<Name, ObservedVolume>,
}

/// A sandbox that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSandbox {
    /// Its id (12 lower-case hex digits).
    pub id: String,
    /// The spec it was made or last updated with, as canonical JSON. It is parsed only when its
    /// hash differs from the desired one's.
    pub spec_json: Arc<str>,
    /// The hash of that spec.
    pub spec_hash: SpecHash,
    /// The manifest digest of the image its disk was made on.
    pub image_digest: Option<String>,
    /// What it is doing. A row that says it lives while its supervisor does not is `Crashed`.
    pub status: Status,
    /// The verdict of its health check, while it runs and has one.
    pub health: Option<Health>,
    /// The exit code of the last run, where that run has ended.
    pub exit_code: Option<i32>,
    /// Whether it is protected; survives the removal of its block from the file.
    pub protect: bool,
    /// The Sandboxfile that declared it.
    pub origin_file: Option<String>,
}

impl ObservedSandbox {
    /// Whether a supervisor lives.
    pub fn is_live(&self) -> bool {
        self.status.is_live()
    }
}

/// A volume that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedVolume {
    /// How it is kept.
    pub kind: VolumeKind,
    /// Its size limit; a disk has one.
    pub quota: Option<ByteSize>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is protected.
    pub protect: bool,
}
