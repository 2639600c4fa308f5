//! What is done with volumes on request, beside plans.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use super::files::{self, FileError};
use crate::home::Home;
use crate::image::{DiskUsage, disk_usage_within};
use crate::reconcile::journal::{self, CREATE_VOLUME, Entry, NO_PROJECT, RecoverError};
use crate::rootfs::ext4::{MAX_BYTES, MIN_BYTES};
use crate::spec::{ByteSize, GuestPath, Mount, MountSource, Name, VolumeKind, VolumeSpec};
use crate::store::{
    Durability, Holder, JournalState, Lease, LeaseError, SandboxRow, Store, StoreError, VolumeRow,
    VolumeUpdate, now_ms,
};
use crate::supervisor;

/// How long another command on volumes is waited for.
const LEASE_TIMEOUT: Duration = Duration::from_secs(60);
/// The most entries of a directory that are looked at for its size: guests decide how many there are.
const MAX_ENTRIES: usize = 1 << 20;

/// A volume that is to be made, and belongs to no project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name: one segment.
    pub name: Name,
    /// How it is kept.
    pub kind: VolumeKind,
    /// The size of a disk; default [`VolumeSpec::DEFAULT_QUOTA`]. A directory has none.
    pub quota: Option<ByteSize>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume with what there is to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its row.
    pub row: VolumeRow,
    /// The disk's file, or the directory.
    pub path: PathBuf,
    /// The sandboxes that mount it, running or not.
    pub users: Vec<VolumeUser>,
}

impl VolumeInfo {
    /// Counts what it takes on the disk now, at most a million entries of a directory.
    pub fn disk_usage(&self) -> DiskUsage {
        disk_usage_within(&self.path, MAX_ENTRIES)
    }
}

/// A sandbox that mounts a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeUser {
    /// Its project.
    pub project: String,
    /// Its name.
    pub sandbox: String,
}

/// Why something could not be done with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is none of that name.
    #[error("there is no volume `{0}`")]
    Unknown(String),
    /// A sandbox mounts it.
    #[error("volume `{name}` is in use by {}", list(users))]
    InUse {
        /// The volume.
        name: String,
        /// Who mounts it.
        users: Vec<VolumeUser>,
    },
    /// A process has it.
    #[error("volume `{0}` is in use by another process")]
    Locked(String),
    /// It is protected.
    #[error("volume `{0}` is protected")]
    Protected(String),
    /// It would become smaller.
    #[error("volume `{name}` has {} and never shrinks", ByteSize::from_bytes(*has))]
    Shrinks {
        /// The volume.
        name: String,
        /// Its size in bytes.
        has: u64,
    },
    /// A directory is held to no size.
    #[error("a directory cannot be held to a size: a volume of kind `disk` can")]
    NoSize,
    /// A size that no disk can have.
    #[error("a disk is between 16 MiB and 16 TiB, not {0}")]
    Size(ByteSize),
    /// A name with more than one segment belongs to a project.
    #[error("`{0}` is the name of a project's volume, which `msb up` makes")]
    NotLocal(Name),
    /// Its files.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another command is changing the project, or volumes without one.
    #[error("another command is changing volumes")]
    Lease(#[from] LeaseError),
    /// What a command left that was killed could not be removed.
    #[error("what a command left that was killed cannot be removed")]
    Recover(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This process cannot say who it is.
    #[error("cannot tell who this process is")]
    Process(#[source] std::io::Error),
}

impl From<RecoverError> for VolumeError {
    fn from(error: RecoverError) -> Self {
        Self::Recover(Box::new(error))
    }
}

fn list(users: &[VolumeUser]) -> String {
    let names: Vec<String> =
        users.iter().map(|user| format!("sandbox {}/{}", user.project, user.sandbox)).collect();
    names.join(", ")
}

/// Where a volume keeps what it holds: the disk's file, or the directory.
pub fn volume_path(home: &Home, row: &VolumeRow) -> PathBuf {
    files::data(home, &row.id, row.kind)
}

/// All volumes, those without a project first, by project and name.
pub fn list_volumes(store: &Store) -> Result<Vec<VolumeInfo>, StoreError> {
    let mut users = users(&store.all_sandboxes()?);
    let home = store.home();
    let info = |row: VolumeRow| {
        let users = users.remove(&(row.project.clone(), row.name.clone())).unwrap_or_default();
        VolumeInfo { path: volume_path(home, &row), row, users }
    };
    Ok(store.volumes()?.into_iter().map(info).collect())
}

/// The volumes that may go: no sandbox mounts them, and they are not protected.
pub fn prunable_volumes(store: &Store) -> Result<Vec<VolumeInfo>, StoreError> {
    let mut all = list_volumes(store)?;
    all.retain(|info| info.users.is_empty() && !info.row.protect);
    Ok(all)
}

/// The part of a stored spec that says what is mounted.
#[derive(Deserialize)]
struct Mounts {
    #[serde(default)]
    volumes: BTreeMap<GuestPath, Mount>,
}

type Key = (Option<String>, String);

/// The volumes that the sandbox of `row` mounts, by project and name, and whether it writes to them.
fn mounts(row: &SandboxRow) -> Vec<(Key, bool)> {
    // Whoever cannot be read uses nothing that this version knows of.
    let Ok(mounts) = serde_json::from_str::<Mounts>(&row.spec_json) else { return Vec::new() };
    let key = |mount: &Mount| {
        let MountSource::Named { volume, external } = &mount.source else { return None };
        let key = match external {
            true => (None, volume.local().to_string()),
            false => (Some(row.project.clone()), volume.to_string()),
        };
        Some((key, !mount.readonly))
    };
    mounts.volumes.values().filter_map(key).collect()
}

fn user(row: &SandboxRow) -> VolumeUser {
    VolumeUser { project: row.project.clone(), sandbox: row.name.clone() }
}

/// Who mounts which volume, by project and name of the volume.
fn users(rows: &[SandboxRow]) -> BTreeMap<Key, Vec<VolumeUser>> {
    let mut users: BTreeMap<Key, Vec<VolumeUser>> = BTreeMap::new();
    for row in rows {
        for (key, _) in mounts(row) {
            let users = users.entry(key).or_default();
            if !users.contains(&user(row)) {
                users.push(user(row));
            }
        }
    }
    users
}

/// The sandboxes that live and write to the volume, with their ids.
pub(super) fn writers_of(
    store: &Store,
    row: &VolumeRow,
) -> Result<Vec<(VolumeUser, String)>, StoreError> {
    let key = (row.project.clone(), row.name.clone());
    let mut rows = store.all_sandboxes()?;
    rows.retain(|row| row.status.is_live() && mounts(row).contains(&(key.clone(), true)));
    Ok(rows.into_iter().map(|row| (user(&row), row.id)).collect())
}

/// Refuses a volume that a sandbox mounts or a process has.
pub(in crate::reconcile) fn check_unused(
    store: &Store,
    row: &VolumeRow,
) -> Result<(), VolumeError> {
    let key = (row.project.clone(), row.name.clone());
    if let Some(users) = users(&store.all_sandboxes()?).remove(&key) {
        return Err(VolumeError::InUse { name: row.title(), users });
    }
    // A supervisor whose sandbox lost its row may still have it.
    if let Ok(file) = std::fs::File::open(volume_path(store.home(), row))
        && let Err(rustix::io::Errno::WOULDBLOCK) =
            flock(&file, FlockOperation::NonBlockingLockExclusive)
    {
        return Err(VolumeError::Locked(row.title()));
    }
    Ok(())
}

/// Takes the lease of the volume's project, and cleans up after a command that was killed.
pub(super) fn lease(
    store: &Store,
    project: Option<&str>,
    command: &str,
) -> Result<Lease, VolumeError> {
    let me = supervisor::own(String::new()).map_err(VolumeError::Process)?;
    let holder = Holder {
        pid: me.pid,
        start_time: me.start_time,
        boot_id: me.boot_id,
        command: command.to_owned(),
        acquired_ms: 0,
    };
    let project = project.unwrap_or(NO_PROJECT);
    let lease = Lease::acquire(store, project, &holder, Some(LEASE_TIMEOUT), |_| {})?;
    if project == NO_PROJECT {
        let open = store.open_journal(project)?;
        for row in &open {
            journal::undo(store, row)?;
        }
        if !open.is_empty() {
            store.write(Durability::Synced, |w| w.clear_journal(project))?;
        }
    }
    Ok(lease)
}

/// Does `work` with an open entry in the journal.
fn journalled<T>(
    store: &Store,
    row: &VolumeRow,
    action: &str,
    work: impl FnOnce() -> Result<T, VolumeError>,
) -> Result<T, VolumeError> {
    let project = row.project.as_deref().unwrap_or(NO_PROJECT);
    let entry = Entry {
        action: action.to_owned(),
        resource: format!("volume {}", row.name),
        id: Some(row.id.clone()),
    };
    let text = serde_json::to_string(&entry).map_err(|e| VolumeError::Recover(e.into()))?;
    let steps = store.write(Durability::Synced, |w| w.begin_steps(project, 0, [text.as_str()]))?;
    super::super::crash_point("begun");
    let done = work();
    let state = if done.is_ok() { JournalState::Done } else { JournalState::Failed };
    store.write(Durability::Relaxed, |w| {
        steps.iter().try_for_each(|step| w.close_step(*step, state))
    })?;
    done
}

/// Makes a volume that belongs to no project.
///
/// # Errors
/// Nothing is left half made.
pub fn create_volume(store: &Store, new: &NewVolume) -> Result<VolumeRow, VolumeError> {
    if new.name != new.name.local() {
        return Err(VolumeError::NotLocal(new.name.clone()));
    }
    let quota = match (new.kind, new.quota) {
        (VolumeKind::Dir, None) => None,
        (VolumeKind::Dir, Some(_)) => return Err(VolumeError::NoSize),
        (VolumeKind::Disk, quota) => Some(quota.unwrap_or(VolumeSpec::DEFAULT_QUOTA)),
    };
    quota.map_or(Ok(()), check_size)?;
    let row = VolumeRow {
        id: supervisor::new_id().map_err(VolumeError::Process)?,
        project: None,
        name: new.name.to_string(),
        kind: new.kind,
        quota_bytes: quota.map(ByteSize::bytes),
        labels: new.labels.clone(),
        protect: false,
        origin_file: None,
        created_ms: now_ms(),
    };
    let _lease = lease(store, None, "msb volume create")?;
    if store.volume(None, &row.name)?.is_some() {
        return Err(StoreError::VolumeExists { name: row.name }.into());
    }
    journalled(store, &row, CREATE_VOLUME, || write_row(store, &row))?;
    Ok(row)
}

pub(super) fn check_size(size: ByteSize) -> Result<(), VolumeError> {
    if (MIN_BYTES..=MAX_BYTES).contains(&size.bytes()) {
        Ok(())
    } else {
        Err(VolumeError::Size(size))
    }
}

/// Makes the files of `row`, then the row.
pub(in crate::reconcile) fn write_row(store: &Store, row: &VolumeRow) -> Result<(), VolumeError> {
    let made = files::make(store.home(), row).map_err(VolumeError::from);
    let made = made.and_then(|()| Ok(store.write(Durability::Synced, |w| w.create_volume(row))?));
    made.inspect_err(|_| {
        // Without a row nobody would find it again.
        let _ = files::remove(store.home(), &row.id);
    })
}

/// Removes a volume and all that it holds.
///
/// # Errors
/// [`VolumeError::InUse`] while a sandbox mounts it, running or not; [`VolumeError::Protected`].
pub fn remove_volume(store: &Store, row: &VolumeRow) -> Result<(), VolumeError> {
    let _lease = lease(store, row.project.as_deref(), "msb volume rm")?;
    journalled(store, row, journal::REMOVE_VOLUME, || {
        // One transaction, so that no sandbox gets a row that mounts it in between.
        store.write(Durability::Synced, |w| {
            let found = store.volume_by_id(&row.id)?;
            let row = found.ok_or_else(|| VolumeError::Unknown(row.title()))?;
            if row.protect {
                return Err(VolumeError::Protected(row.title()));
            }
            check_unused(store, &row)?;
            Ok(w.remove_volume(&row.id)?)
        })?;
        super::super::crash_point("volume-after-row");
        Ok(files::remove(store.home(), &row.id)?)
    })
}

/// Writes what of a volume changes in place to its record and its row.
pub(in crate::reconcile) fn update(store: &Store, row: &VolumeRow) -> Result<(), VolumeError> {
    files::write_record(&store.home().volume(&row.id), row)?;
    let update = VolumeUpdate {
        quota_bytes: row.quota_bytes,
        labels: &row.labels,
        protect: row.protect,
        origin_file: row.origin_file.as_deref(),
    };
    Ok(store.write(Durability::Synced, |w| w.update_volume(&row.id, &update))?)
}
