//! What is shared.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Something of the host that a guest sees. Its number is its position in the server's list, and
/// its name, in decimal, in the server's root directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// An absolute path.
    pub path: PathBuf,
    /// Whether every change is refused.
    pub readonly: bool,
    /// What it is.
    pub kind: ShareKind,
}

/// What a share is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareKind {
    /// A directory with everything below it, or a single regular file.
    Files,
    /// The image of a disk: a file that the guest can read and write and never resize. What is
    /// behind its end appears when the host makes it longer.
    Disk,
}
