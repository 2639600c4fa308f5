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
    Text {
        /// The file.
        path: GuestPath,
        /// All that it holds.
        content: String,
        /// Permission bits, where they are stated.
        mode: Option<u32>,
        /// Whether the file may exist.
        replace: bool,
    },
    /// Makes a directory and its parents.
    Mkdir {
        /// The directory.
        path: GuestPath,
        /// Permission bits, where they are stated.
        mode: Option<u32>,
    },
    /// Appends to a file of the image.
    Append {
        /// The file.
        path: GuestPath,
        /// What is added at its end.
        content: String,
    },
    /// Copies one file of the host.
    CopyFile {
        /// The file of the host.
        source: String,
        /// The file in the guest.
        to: GuestPath,
        /// Permission bits, where they are stated.
        mode: Option<u32>,
        /// Whether the target may exist.
        replace: bool,
    },
    /// Copies a tree of the host.
    CopyDir {
        /// The directory of the host.
        source: String,
        /// The directory in the guest.
        to: GuestPath,
        /// Whether the target may exist.
        replace: bool,
    },
    /// Makes a symbolic link.
    Symlink {
        /// What the link says.
        target: String,
        /// The link.
        at: GuestPath,
        /// Whether something may be there.
        replace: bool,
    },
    /// Removes a file or tree of the image.
    Remove {
        /// What is removed.
        path: GuestPath,
    },
}
