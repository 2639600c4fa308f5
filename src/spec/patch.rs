//! Changes to an image before the guest boots.

use serde::{Deserialize, Serialize};

use super::GuestPath;

/// One patch; a sandbox's patches are applied in order.
///
/// Host paths are absolute; `digest` says what was found there (see [`Patch::set_digest`]). `mode` is the permission bits (at most `0o7777`). `replace` allows the
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
        /// Digest of the file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// Copies a tree of the host.
    CopyDir {
        /// The directory of the host.
        source: String,
        /// The directory in the guest.
        to: GuestPath,
        /// Whether the target may exist.
        replace: bool,
        /// Digest of the tree.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
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

impl Patch {
    /// The path in the guest that it is about, as declared.
    pub fn target(&self) -> &GuestPath {
        match self {
            Self::Text { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Append { path, .. }
            | Self::Remove { path } => path,
            Self::CopyFile { to, .. } | Self::CopyDir { to, .. } => to,
            Self::Symlink { at, .. } => at,
        }
    }

    /// Records what a source on the host holds: 64 lower-case hex digits. A Sandboxfile does not
    /// say it; whoever plans reads the sources first, so that a changed source is a changed spec.
    /// Patches without a source stay as they are.
    pub fn set_digest(&mut self, found: String) {
        match self {
            Self::CopyFile { digest, .. } | Self::CopyDir { digest, .. } => *digest = Some(found),
            Self::Text { .. }
            | Self::Mkdir { .. }
            | Self::Append { .. }
            | Self::Symlink { .. }
            | Self::Remove { .. } => {}
        }
    }
}
