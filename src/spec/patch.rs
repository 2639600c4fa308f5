//! Changes to an image before the guest boots.

use serde::{Deserialize, Serialize};

use super::GuestPath;

/// One patch; a sandbox's patches are applied in order.
///
/// Host paths are absolute. `mode` is the permission bits (at most `0o7777`). `replace` allows the
/// target to exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Patch {
    /// Writes a text file.
    Text { path: GuestPath, content: String, mode: Option<u32>, replace: bool },
    /// Makes a directory and its parents.
    Mkdir { path: GuestPath, mode: Option<u32> },
    /// Appends to a file of the image.
    Append { path: GuestPath, content: String },
    /// Copies one file of the host.
    CopyFile { source: String, to: GuestPath, mode: Option<u32>, replace: bool },
    /// Copies a tree of the host.
    CopyDir { source: String, to: GuestPath, replace: bool },
    /// Makes a symbolic link at `at`.
    Symlink { target: String, at: GuestPath, replace: bool },
    /// Removes a file or tree of the image.
    Remove { path: GuestPath },
}
