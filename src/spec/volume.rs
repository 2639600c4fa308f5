//! Volumes as declared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ByteSize;

/// A declared volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// How it is kept.
    pub kind: VolumeKind,
    /// The most it may hold; for a disk volume its size (default [`VolumeSpec::DEFAULT_QUOTA`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<ByteSize>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `down -v` refuses to remove it.
    #[serde(default)]
    pub protect: bool,
    /// It must exist already and is never created or removed.
    #[serde(default)]
    pub external: bool,
}

/// How a volume is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// An ext4 disk of its own; one writer at a time.
    #[default]
    Disk,
    /// A host directory that several sandboxes may share.
    Dir,
}

impl VolumeKind {
    /// The word for it in a Sandboxfile.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Dir => "dir",
        }
    }
}

impl VolumeSpec {
    /// The size of a disk volume without a quota.
    pub const DEFAULT_QUOTA: ByteSize = ByteSize::from_mib(10 * 1024);

    /// What it is held to: a disk always has a size, a directory none.
    pub fn size(&self) -> Option<ByteSize> {
        match self.kind {
            VolumeKind::Disk => Some(self.quota.unwrap_or(Self::DEFAULT_QUOTA)),
            VolumeKind::Dir => self.quota,
        }
    }
}
