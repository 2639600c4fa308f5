//! What can be wrong with a patch.

use std::io;
use std::path::PathBuf;

use super::limits::{MAX_DEPTH, MAX_ENTRIES, MAX_FILE_BYTES, MAX_TOTAL_BYTES};
use crate::image::erofs::ErofsError;

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("patch {}: {problem}", .index + 1)]
pub struct PatchError {
    /// Which, counted from 0.
    pub index: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// Why there is no layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A patch is wrong.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The image cannot be read.
    #[error("{path}: the image cannot be read: {reason}")]
    Image {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The layer's file cannot be made.
    #[error("{path}: cannot make the patch layer")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layer cannot be written.
    #[error("{path}: cannot write the patch layer")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ErofsError,
    },
}

/// What is wrong with one patch. Host paths are as declared or below it; guest paths are absolute.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The source is not beneath the project directory, or a link on its way leads outside.
    #[error("{0} is outside of the project directory")]
    Outside(PathBuf),
    /// There is no such source.
    #[error("{0} does not exist")]
    NoSource(PathBuf),
    /// `copy_file` of something else.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// `copy_dir` of something else.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// A socket, pipe or device in a tree.
    #[error("{0} is a socket, a pipe or a device")]
    Special(PathBuf),
    /// The source cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The source is not what it was when the spec was made.
    #[error("{0} has changed since the plan was made")]
    Changed(PathBuf),
    /// The sources were not looked at first.
    #[error("the source has no digest")]
    NoDigest,
    /// A file over [`MAX_FILE_BYTES`].
    #[error("{0} has more than {MAX_FILE_BYTES} bytes")]
    FileTooLarge(String),
    /// Files over [`MAX_TOTAL_BYTES`] together.
    #[error("the patches hold more than {MAX_TOTAL_BYTES} bytes")]
    TooLarge,
    /// More than [`MAX_ENTRIES`].
    #[error("the patches make more than {MAX_ENTRIES} files and directories")]
    TooMany,
    /// More than [`MAX_DEPTH`] names.
    #[error("{0} has more than {MAX_DEPTH} names in its path")]
    TooDeep(String),
    /// A name or path that the file system cannot hold.
    #[error("{0}: the path or a name in it is too long")]
    TooLong(String),
    /// Something is there and `replace` is not set.
    #[error("{0} exists")]
    Exists(String),
    /// A directory is there, which a file never replaces.
    #[error("{0} is a directory")]
    IsDirectory(String),
    /// Something else is where a directory is needed.
    #[error("{0} is not a directory in the guest")]
    NotAGuestDirectory(String),
    /// `append` to what is not there.
    #[error("{0} does not exist in the guest")]
    NoGuestFile(String),
    /// `append` to a device or the like.
    #[error("{0} is not a regular file in the guest")]
    NotAGuestFile(String),
    /// Links in a circle.
    #[error("{0}: too many symbolic links")]
    Loop(String),
    /// A link to nothing, or with a NUL.
    #[error("the target of the link must have 1 to 4095 bytes and no NUL")]
    BadTarget,
    /// The image cannot be read.
    #[error("the image cannot be read: {0}")]
    Image(String),
    /// The file system of a disk image cannot be read.
    #[error("the disk image cannot be looked into: {0}")]
    Disk(String),
    /// A disk image with a file system that only guests read.
    #[error("the file system of the disk image is {0}; patches look into ext2, ext3 and ext4")]
    FileSystem(String),
    /// A disk image that the guest writes to.
    #[error("a disk image that the guest writes to cannot be patched")]
    WrittenDisk,
}

impl Problem {
    /// What the user can do.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::Outside(_) => "copy it into the project; sources are read beneath it only",
            Self::NoSource(_) => "relative paths are seen from the file that states them",
            Self::NotAFile(_) => "`copy_dir` copies directories; special files are not copied",
            Self::NotADirectory(_) => "`copy_file` copies files",
            Self::Special(_) => {
                "move it out of the tree: only files, directories and links are copied"
            }
            Self::Changed(_) => "`msb up` looks at it anew",
            Self::FileTooLarge(_) | Self::TooLarge | Self::TooMany | Self::TooDeep(_) => {
                "put it into the image or into a volume"
            }
            Self::Exists(_) => "`replace = true` allows that",
            Self::IsDirectory(_) => "a `remove` patch before it removes the directory",
            Self::NotAGuestDirectory(_) => "a `remove` patch before it makes room",
            Self::NoGuestFile(_) => "`text` writes a new file",
            Self::NotAGuestFile(_) => "`append` is for regular files",
            Self::Disk(_) => "`e2fsck -fn` says what is wrong with a file system",
            Self::FileSystem(_) => {
                "change it in the disk image, mount a file or directory over it (`mounts`), or copy the \
                 file system to ext4"
            }
            Self::WrittenDisk => "without `writable`, the image stays as it is",
            Self::Unreadable { .. }
            | Self::NoDigest
            | Self::TooLong(_)
            | Self::Loop(_)
            | Self::BadTarget
            | Self::Image(_) => return None,
        })
    }
}
