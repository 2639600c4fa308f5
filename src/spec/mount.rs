//! What is mounted into a guest.

use serde::{Deserialize, Serialize};

use super::{ByteSize, Name};

/// A mount; its guest path is the key under which the sandbox holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where the content comes from.
    #[serde(flatten)]
    pub source: MountSource,
    /// The guest cannot write; enforced outside the guest.
    #[serde(default)]
    pub readonly: bool,
}

/// Where the content of a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// The host path, absolute.
        path: String,
        /// Make the directory when it is missing. Default false: a missing source is an error.
        create: bool,
    },
    /// A declared volume.
    Named {
        /// The volume.
        volume: Name,
        /// Whether it is one that belongs to no project.
        #[serde(default, skip_serializing_if = "is_false")]
        external: bool,
    },
    /// Memory of the guest.
    Tmpfs {
        /// The most it may hold; default half of the guest's memory.
        size: Option<ByteSize>,
        /// Permission bits of its root; default 0755.
        mode: Option<u32>,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}
