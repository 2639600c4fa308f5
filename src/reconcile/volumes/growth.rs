//! Disks that become longer, and the sandboxes that see it at once.
//!
//! ```text
//! file ─▶ longer ─▶ sandboxes that run with it are told ─▶ record ─▶ row
//! ```
//!
//! Whoever is killed in between leaves a row with the old size: the next one goes through all of it
//! again, which does no harm.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;

use super::commands::{
    VolumeError, VolumeUser, check_size, lease, update, volume_path, writers_of,
};
use super::files;
use crate::home::Home;
use crate::reconcile::crash_point;
use crate::spec::{ByteSize, VolumeKind};
use crate::store::{Store, VolumeRow};
use crate::supervisor::{ControlClient, ControlError, DeniedReason, GROWTH_PATIENCE, wait_until};

/// What a supervisor may take beside its guest.
const MARGIN: Duration = Duration::from_secs(10);

/// A sandbox that runs with a volume which has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeGrowth {
    /// The sandbox.
    pub user: VolumeUser,
    /// Why it sees the new size from its next start on; none: it sees it.
    pub later: Option<String>,
}

/// A volume whose file has its new size.
#[derive(Debug)]
pub(in crate::reconcile) struct Growing {
    home: Home,
    id: String,
    file: PathBuf,
    size: ByteSize,
    writers: Vec<(VolumeUser, String)>,
}

/// Makes the disk of `row` longer.
///
/// # Errors
/// [`VolumeError::Shrinks`], [`VolumeError::NoSize`].
pub(in crate::reconcile) fn lengthen(
    store: &Store,
    row: &VolumeRow,
    size: ByteSize,
) -> Result<Growing, VolumeError> {
    let Some(has) = row.quota_bytes.filter(|_| row.kind == VolumeKind::Disk) else {
        return Err(VolumeError::NoSize);
    };
    if size.bytes() < has {
        return Err(VolumeError::Shrinks { name: row.title(), has });
    }
    let file = volume_path(store.home(), row);
    files::grow(&file, size)?;
    crash_point("volume-grown");
    let writers = writers_of(store, row)?;
    Ok(Growing { home: store.home().clone(), id: row.id.clone(), file, size, writers })
}

impl Growing {
    /// Tells the sandboxes that run with it, and waits for what their guests say, not much longer
    /// than [`GROWTH_PATIENCE`].
    pub(in crate::reconcile) async fn tell(&self) -> Vec<VolumeGrowth> {
        let mut told = Vec::new();
        for (user, id) in &self.writers {
            let later = match timeout(GROWTH_PATIENCE + MARGIN, self.show(id)).await {
                Ok(Ok(())) => None,
                // It has ended, and its next start is the next mount.
                Ok(Err(ControlError::NotRunning | ControlError::Gone)) => continue,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(DeniedReason::NoAnswer.to_string()),
            };
            told.push(VolumeGrowth { user: user.clone(), later });
        }
        crash_point("volume-told");
        told
    }

    async fn show(&self, id: &str) -> Result<(), ControlError> {
        let client = ControlClient::new(&self.home, id);
        match client.grow(&self.file).await {
            Err(ControlError::Denied(DeniedReason::NotReady)) => {
                wait_until(&self.home, id, |event| event.started).await?;
                client.grow(&self.file).await
            }
            answer => answer,
        }
    }

    /// Says the new size in the record and in the row.
    pub(in crate::reconcile) fn record(&self, store: &Store) -> Result<(), VolumeError> {
        // What else of it has changed meanwhile stays.
        let row = store.volume_by_id(&self.id)?;
        let row = row.ok_or_else(|| VolumeError::Unknown(self.id.clone()))?;
        update(store, &VolumeRow { quota_bytes: Some(self.size.bytes()), ..row })
    }
}

/// Makes a disk larger. A sandbox that runs with it sees the new size when this returns, or from its
/// next start on, where its guest does not let the file system grow; without one the file system
/// grows when it is mounted the next time. Blocks for a few writes to the disk.
///
/// # Errors
/// [`VolumeError::Shrinks`] for a smaller size, [`VolumeError::NoSize`] for a directory.
pub async fn grow_volume(
    home: &Home,
    row: &VolumeRow,
    size: ByteSize,
) -> Result<Vec<VolumeGrowth>, VolumeError> {
    check_size(size)?;
    let (_lease, growing) = {
        let store = Store::open(home)?;
        let lease = lease(&store, row.project.as_deref(), "msb volume resize")?;
        let found = store.volume_by_id(&row.id)?;
        let row = found.ok_or_else(|| VolumeError::Unknown(row.title()))?;
        (lease, lengthen(&store, &row, size)?)
    };
    let told = growing.tell().await;
    growing.record(&Store::open(home)?)?;
    Ok(told)
}

/// From when on the new size is seen, where that is not now.
pub fn growth_notice(told: &[VolumeGrowth]) -> Option<String> {
    if told.is_empty() {
        return Some("from its next mount on".to_owned());
    }
    let later = |growth: &VolumeGrowth| {
        let VolumeUser { project, sandbox } = &growth.user;
        let why = growth.later.as_ref()?;
        Some(format!("in sandbox {project}/{sandbox} from its next start on: {why}"))
    };
    let later: Vec<String> = told.iter().filter_map(later).collect();
    (!later.is_empty()).then(|| later.join("; "))
}
