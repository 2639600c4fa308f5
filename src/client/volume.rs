//! Volumes that belong to no project: those that a Sandboxfile uses with `external = true`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::home::Home;
use crate::reconcile::{
    self, NewVolume, VolumeError, VolumeGrowth, VolumeInfo, create_volume, grow_volume,
    list_volumes, remove_volume,
};
use crate::spec::{ByteSize, Name, VolumeKind};
use crate::store::Store;

const MIB: u64 = 1 << 20;

/// How a volume is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeConfig {
    /// Its name, unique among the volumes without a project.
    pub name: Name,
    /// How it is kept.
    pub kind: VolumeKind,
    /// The most that it holds, in MiB: the size of a disk, a hard limit, 10 GiB where it is not
    /// given. A directory cannot be held to one.
    pub quota_mib: Option<u64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl VolumeConfig {
    /// A disk of the usual size.
    pub fn new(name: Name) -> Self {
        Self { name, kind: VolumeKind::Disk, quota_mib: None, labels: BTreeMap::new() }
    }
}

/// A named persistent volume. All functions block for a few writes to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    name: String,
    path: PathBuf,
}

/// A volume as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct VolumeHandle {
    home: Home,
    info: VolumeInfo,
}

impl Volume {
    /// Makes a volume.
    ///
    /// # Errors
    /// A volume of that name exists, or the quota is none that its kind can have. Nothing is left
    /// half made.
    pub fn create(home: &Home, config: &VolumeConfig) -> Result<Self, VolumeError> {
        let quota = |mib: u64| ByteSize::from_bytes(mib.saturating_mul(MIB));
        let new = NewVolume {
            name: config.name.clone(),
            kind: config.kind,
            quota: config.quota_mib.map(quota),
            labels: config.labels.clone(),
        };
        let row = create_volume(&Store::open(home)?, &new)?;
        Ok(Self { path: reconcile::volume_path(home, &row), name: row.name })
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// [`VolumeError::Unknown`] where there is none.
    pub fn get(home: &Home, name: &str) -> Result<VolumeHandle, VolumeError> {
        let mut all = Self::list(home)?;
        all.retain(|volume| volume.name() == name);
        all.pop().ok_or_else(|| VolumeError::Unknown(name.to_owned()))
    }

    /// All volumes without a project, the newest first.
    pub fn list(home: &Home) -> Result<Vec<VolumeHandle>, VolumeError> {
        let Some(store) = Store::open_read_only(home)? else { return Ok(Vec::new()) };
        let mut all = list_volumes(&store)?;
        all.retain(|info| info.row.project.is_none());
        all.sort_by_key(|info| std::cmp::Reverse(info.row.created_ms));
        Ok(all.into_iter().map(|info| VolumeHandle { home: home.clone(), info }).collect())
    }

    /// Removes the volume of that name, with all that it holds.
    ///
    /// # Errors
    /// [`VolumeError::InUse`] while a sandbox mounts it, running or not.
    pub fn remove(home: &Home, name: &str) -> Result<(), VolumeError> {
        Self::get(home, name)?.remove()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is on the host: the image of its disk, or its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl VolumeHandle {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.info.row.name
    }

    /// Where it is on the host: the image of its disk, or its directory.
    pub fn path(&self) -> &Path {
        &self.info.path
    }

    /// The most that it holds, in whole MiB; a directory has no limit.
    pub fn quota_mib(&self) -> Option<u64> {
        self.info.row.quota_bytes.map(|bytes| bytes / MIB)
    }

    /// What it takes on the host's disk now, in bytes. The files of a directory are counted for it,
    /// the first million.
    pub fn used_bytes(&self) -> u64 {
        self.info.disk_usage().bytes
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.info.row.labels
    }

    /// When it was made, in milliseconds since the Unix epoch.
    pub fn created_at(&self) -> i64 {
        self.info.row.created_ms
    }

    /// Makes a disk larger. A sandbox that runs with it sees the new size when this returns, or from
    /// its next start on: what is returned says which. Needs a tokio runtime with I/O and time, and
    /// takes little more than a minute at most.
    ///
    /// # Errors
    /// [`VolumeError::Shrinks`] for a smaller quota, [`VolumeError::NoSize`] for a directory.
    pub async fn resize(&mut self, quota_mib: u64) -> Result<Vec<VolumeGrowth>, VolumeError> {
        let size = ByteSize::from_bytes(quota_mib.saturating_mul(MIB));
        let told = grow_volume(&self.home, &self.info.row, size).await?;
        self.info.row.quota_bytes = Some(size.bytes());
        Ok(told)
    }

    /// Removes it, with all that it holds.
    ///
    /// # Errors
    /// [`VolumeError::InUse`] while a sandbox mounts it, running or not.
    pub fn remove(self) -> Result<(), VolumeError> {
        remove_volume(&Store::open(&self.home)?, &self.info.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_found_and_removed() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let home = Home::at(dir.path().join("home"));
        assert!(Volume::list(&home)?.is_empty());
        let label = ("team".to_owned(), "db".to_owned());
        let config = VolumeConfig {
            quota_mib: Some(64),
            labels: [label.clone()].into(),
            ..VolumeConfig::new(Name::new("data")?)
        };
        let made = Volume::create(&home, &config)?;
        assert_eq!(std::fs::metadata(made.path())?.len(), 64 * MIB);
        assert!(Volume::create(&home, &config).is_err());
        let usual = VolumeConfig::new(Name::new("usual")?);
        Volume::create(&home, &usual)?;
        let dir = VolumeConfig { kind: VolumeKind::Dir, ..VolumeConfig::new(Name::new("dir")?) };
        Volume::create(&home, &dir)?;
        assert!(Volume::create(&home, &VolumeConfig { quota_mib: Some(1), ..dir }).is_err());

        let found = Volume::get(&home, "data")?;
        assert_eq!((found.name(), found.path()), (made.name(), made.path()));
        assert_eq!((found.quota_mib(), found.labels()), (Some(64), &[label].into()));
        assert!((1..MIB).contains(&found.used_bytes()), "{}", found.used_bytes());
        assert_eq!(Volume::get(&home, "usual")?.quota_mib(), Some(10 * 1024));
        assert_eq!(Volume::get(&home, "dir")?.quota_mib(), None);
        let all = Volume::list(&home)?;
        assert!(all.is_sorted_by_key(|volume| std::cmp::Reverse(volume.created_at())));
        found.remove()?;
        Volume::remove(&home, "dir")?;
        assert!(matches!(Volume::remove(&home, "dir"), Err(VolumeError::Unknown(_))));
        assert_eq!(Volume::list(&home)?.len(), 1);
        Ok(())
    }
}
