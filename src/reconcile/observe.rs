//! What exists of a project: its rows, and whether the processes that they name live.

use std::collections::BTreeMap;

use crate::plan::{InvalidSpecHash, ObservedSandbox, ObservedState, ObservedVolume};
use crate::spec::{ByteSize, InvalidName, Name, Status};
use crate::store::{SandboxRow, Store, StoreError};
use crate::supervisor;

/// Why what exists cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The store.
    #[error("what exists cannot be read")]
    Store(#[from] StoreError),
    /// `/proc` is not as it should be.
    #[error("cannot tell which processes live")]
    Processes(#[source] std::io::Error),
    /// A row whose name this version would not have written.
    #[error("the row of {what} `{name}` has a bad name")]
    Name {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        source: InvalidName,
    },
    /// A row whose hash this version would not have written.
    #[error("the row of sandbox `{sandbox}` has a bad hash")]
    Hash {
        /// The sandbox.
        sandbox: String,
        /// What is wrong with it.
        source: InvalidSpecHash,
    },
}

/// The rows of `project`, by name, with the status of those whose supervisor died corrected.
/// Writes nothing.
pub fn rows(store: &Store, project: &str) -> Result<Vec<SandboxRow>, ObserveError> {
    let mut rows = store.sandboxes(project)?;
    let boot = supervisor::boot_id().map_err(ObserveError::Processes)?;
    supervisor::interpret(&mut rows, &boot);
    Ok(rows)
}

/// Everything that exists of `project`. No network and no guest; without a store there is nothing.
pub fn observe(store: Option<&Store>, project: &Name) -> Result<ObservedState, ObserveError> {
    let mut state = ObservedState::default();
    let Some(store) = store else { return Ok(state) };
    for row in store.volumes()? {
        let volumes = match &row.project {
            None => &mut state.standalone,
            Some(owner) if owner == project.as_str() => &mut state.volumes,
            Some(_) => continue,
        };
        let name = Name::new(row.name.as_str()).map_err(|source| ObserveError::Name {
            what: "volume",
            name: row.name,
            source,
        })?;
        let quota = row.quota_bytes.map(ByteSize::from_bytes);
        let (kind, labels, protect) = (row.kind, row.labels, row.protect);
        volumes.insert(name, ObservedVolume { kind, quota, labels, protect });
    }
    let Some(row) = store.project(project.as_str())? else { return Ok(state) };
    state.serial = row.serial;
    state.sandboxes = rows(store, project.as_str())?
        .into_iter()
        .map(observed)
        .collect::<Result<BTreeMap<_, _>, _>>()?;
    Ok(state)
}

fn observed(row: SandboxRow) -> Result<(Name, ObservedSandbox), ObserveError> {
    let name = Name::new(row.name.as_str()).map_err(|source| ObserveError::Name {
        what: "sandbox",
        name: row.name.clone(),
        source,
    })?;
    let spec_hash = row
        .spec_hash
        .parse()
        .map_err(|source| ObserveError::Hash { sandbox: row.name.clone(), source })?;
    let sandbox = ObservedSandbox {
        id: row.id,
        spec_json: row.spec_json,
        spec_hash,
        image_digest: row.image_digest,
        status: row.status,
        health: row.health.filter(|_| row.status == Status::Running),
        exit_code: row.exit_code.filter(|_| !row.status.is_live()),
        protect: row.protect,
        origin_file: row.origin_file,
    };
    Ok((name, sandbox))
}
