//! What the journal says of a step, and what is done about one that a crash left open.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::plan::Action;
use crate::spec::{Name, ResourceId};
use crate::store::{JournalRow, Store, StoreError};

/// The journal of commands on volumes that belong to no project.
pub(super) const NO_PROJECT: &str = "";

/// What the journal says of a step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) action: String,
    /// What it acts on.
    #[serde(rename = "sandbox")]
    pub(super) resource: String,
    /// The id of what it makes or removes.
    pub(super) id: Option<String>,
}

/// Why a step that was left open could not be undone.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}: cannot be removed")]
    Remove(std::path::PathBuf, #[source] io::Error),
}

/// The word for an action.
pub(super) const fn word(action: &Action) -> &'static str {
    match action {
        Action::PullImage { .. } => "pull",
        Action::CreateSandbox { .. } => "create",
        Action::UpdateSandbox { .. } => "update",
        Action::StartSandbox { .. } => "start",
        Action::AwaitSandbox { .. } => "await",
        Action::StopSandbox { .. } => "stop",
        Action::RemoveSandbox { .. } => "remove",
        Action::CreateVolume { .. } => CREATE_VOLUME,
        Action::UpdateVolume { .. } => "update-volume",
        Action::GrowVolume { .. } => "grow-volume",
        Action::RemoveVolume => REMOVE_VOLUME,
    }
}

pub(super) const CREATE_VOLUME: &str = "create-volume";
pub(super) const REMOVE_VOLUME: &str = "remove-volume";

/// Whether a row is about the sandbox `name`.
pub(super) fn is_about(row: &JournalRow, name: &Name) -> bool {
    let entry = serde_json::from_str::<Entry>(&row.step);
    entry.is_ok_and(|entry| entry.resource == ResourceId::Sandbox(name.clone()).to_string())
}

/// Removes what an open entry may have left: a directory without a row is half made or half removed.
pub(super) fn undo(store: &Store, row: &JournalRow) -> Result<(), RecoverError> {
    let Ok(entry) = serde_json::from_str::<Entry>(&row.step) else { return Ok(()) };
    let Some(id) = entry.id else { return Ok(()) };
    let home = store.home();
    let remove = |(path, source)| RecoverError::Remove(path, source);
    if matches!(entry.action.as_str(), CREATE_VOLUME | REMOVE_VOLUME) {
        if store.volume_by_id(&id)?.is_none() {
            remove_dirs(home, &home.volume(&id), &id).map_err(remove)?;
        }
    } else if store.sandbox_by_id(&id)?.is_none() {
        remove_sandbox(home, &id).map_err(remove)?;
    }
    Ok(())
}

/// Removes all files of a sandbox.
pub(super) fn remove_sandbox(home: &Home, id: &str) -> Result<(), (std::path::PathBuf, io::Error)> {
    remove_dirs(home, &home.sandbox(id), id)?;
    let _ = std::fs::remove_file(home.socket(id));
    Ok(())
}

/// Removes a directory and what was made for it.
pub(super) fn remove_dirs(
    home: &Home,
    dir: &Path,
    id: &str,
) -> Result<(), (std::path::PathBuf, io::Error)> {
    for dir in [dir.to_owned(), home.tmp().join(id)] {
        match std::fs::remove_dir_all(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err((dir, error)),
        }
    }
    Ok(())
}
