//! Sandboxes and volumes without a database: each directory holds a record of its row, so a database
//! that was lost is made again from them.
//!
//! ```text
//! volumes/ID/volume.json         the row
//! sandboxes/ID/sandbox.json      the spec columns of the row, as last written
//! supervisor of ID, if it lives  the status columns, asked over the control socket
//! ```
//!
//! A record is written before the row that it stands for. Where the two differ, because the command
//! was killed between them, the next plan sees a difference and makes it right.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::store::{Durability, NewSandbox, StatusChange, Store, StoreError};
use crate::supervisor::{ControlClient, StatusEvent};

use super::record;
use super::volumes::read_record;

const RECORD: &str = "sandbox.json";

/// The spec columns of a sandbox, and the project that its row belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) project: String,
    pub(super) root: String,
    pub(super) files: Vec<String>,
    pub(super) name: String,
    pub(super) spec_json: String,
    pub(super) spec_hash: String,
    pub(super) image_digest: Option<String>,
    pub(super) origin_file: Option<String>,
    pub(super) protect: bool,
    pub(super) driver: Option<String>,
}

/// Why sandboxes could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// A directory or a record could not be read.
    #[error("{path}: cannot be read")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A row could not be written.
    #[error("the sandboxes and volumes that were found cannot be recorded")]
    Store(#[from] StoreError),
}

impl Record {
    /// Writes the record into a sandbox's directory, over the one that is there.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&mut file, self).map_err(io::Error::from)?;
        file.persist(dir.join(RECORD)).map_err(|error| error.error)?;
        Ok(())
    }

    /// The record of a directory; `None` where there is none that makes sense.
    fn read(dir: &Path) -> io::Result<Option<Self>> {
        record::read(&dir.join(RECORD))
    }

    pub(super) fn as_new<'a>(&'a self, id: &'a str) -> NewSandbox<'a> {
        NewSandbox {
            id,
            project: &self.project,
            name: &self.name,
            spec_json: &self.spec_json,
            spec_hash: &self.spec_hash,
            image_digest: self.image_digest.as_deref(),
            origin_file: self.origin_file.as_deref(),
            protect: self.protect,
            driver: self.driver.as_deref(),
        }
    }
}

/// What was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Sandboxes.
    pub sandboxes: usize,
    /// Volumes.
    pub volumes: usize,
}

/// Whether there are sandboxes or volumes and no database.
pub fn is_lost(home: &Home) -> bool {
    let is_missing = fs::metadata(home.database()).map_or(true, |meta| meta.len() == 0);
    let has_some = |dir| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    is_missing && (has_some(home.sandboxes()) || has_some(home.volumes()))
}

/// Makes the rows of sandboxes and volumes that have a directory and no row; says how many. Running
/// ones are not touched. A directory whose record cannot be understood is left as it is.
pub async fn adopt(home: &Home, store: &Store) -> Result<Adopted, AdoptError> {
    // First, so that no sandbox has a row without its volumes.
    let volumes = adopt_volumes(home, store)?;
    let sandboxes = adopt_sandboxes(home, store).await?;
    Ok(Adopted { sandboxes, volumes })
}

fn adopt_volumes(home: &Home, store: &Store) -> Result<usize, AdoptError> {
    let dir = home.volumes();
    let fail = |path: &Path, source| AdoptError::Read { path: path.to_owned(), source };
    let mut adopted = 0;
    for entry in fs::read_dir(&dir).map_err(|e| fail(&dir, e))? {
        let path = entry.map_err(|e| fail(&dir, e))?.path();
        let Some(row) = read_record(&path).map_err(|e| fail(&path, e))? else { continue };
        let is_its_own = path.file_name().is_some_and(|name| name == row.id.as_str());
        if !is_its_own || store.volume_by_id(&row.id)?.is_some() {
            continue;
        }
        match store.write(Durability::Synced, |w| w.create_volume(&row)) {
            Ok(()) => adopted += 1,
            Err(StoreError::VolumeExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(adopted)
}

async fn adopt_sandboxes(home: &Home, store: &Store) -> Result<usize, AdoptError> {
    let dir = home.sandboxes();
    let fail = |path: &Path, source| AdoptError::Read { path: path.to_owned(), source };
    let mut adopted = 0;
    for entry in fs::read_dir(&dir).map_err(|e| fail(&dir, e))? {
        let path = entry.map_err(|e| fail(&dir, e))?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if store.sandbox_by_id(id)?.is_some() {
            continue;
        }
        let Some(record) = Record::read(&path).map_err(|e| fail(&path, e))? else { continue };
        let run = ControlClient::new(home, id).run().await.ok();
        let made = store.write(Durability::Synced, |w| {
            w.put_project(&record.project, &record.root, &record.files)?;
            w.create_sandbox(&record.as_new(id))?;
            if let Some((event, run)) = &run {
                w.begin_run(id, run)?;
                w.set_status(id, &run.run_id, &change(event))?;
            } else {
                // How its last run ended is not known; that there may have been one is enough.
                w.set_stopped(id)?;
            }
            Ok::<(), StoreError>(())
        });
        match made {
            Ok(()) => adopted += 1,
            // A replacement that was cut off leaves two directories of one name: the first wins.
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(adopted)
}

fn change(event: &StatusEvent) -> StatusChange {
    StatusChange {
        status: event.status,
        health: event.health,
        exit_code: event.exit_code,
        finished_ms: None,
        error: event.error.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Status;

    fn record(name: &str) -> Record {
        Record {
            project: "shop".into(),
            root: "/shop".into(),
            files: vec!["/shop/Sandboxfile".into()],
            name: name.into(),
            spec_json: "{}".into(),
            spec_hash: "00".into(),
            image_digest: None,
            origin_file: None,
            protect: true,
            driver: Some("qemu".into()),
        }
    }

    fn rows_after(dirs: &[(&str, Option<&str>)]) -> Vec<(String, Status, bool)> {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.create().unwrap();
        for (id, name) in dirs {
            fs::create_dir(home.sandbox(id)).unwrap();
            if let Some(name) = name {
                record(name).write(&home.sandbox(id)).unwrap();
            }
        }
        assert!(is_lost(&home));
        let store = Store::open(&home).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let adopted = runtime.block_on(adopt(&home, &store)).unwrap();
        assert!(!is_lost(&home));
        assert_eq!(runtime.block_on(adopt(&home, &store)).unwrap(), Adopted::default());
        let rows = store.all_sandboxes().unwrap();
        assert_eq!(adopted.sandboxes, rows.len());
        rows.into_iter().map(|row| (row.name, row.status, row.protect)).collect()
    }

    #[test]
    fn rows_come_back_and_strange_directories_stay() {
        let rows = rows_after(&[("aa", Some("db")), ("bb", None), ("cc", Some("web"))]);
        let stopped = |name: &str| (name.to_owned(), Status::Stopped, true);
        assert_eq!(rows, [stopped("db"), stopped("web")]);
    }

    #[test]
    fn two_of_one_name_give_one_row() {
        assert_eq!(rows_after(&[("aa", Some("db")), ("bb", Some("db"))]).len(), 1);
    }
}
