//! Files of the guest: the messages of an fs stream.
//!
//! ```text
//! Stat, MakeDir, Remove, …     agent → Metadata | Done | Failed
//! List                         agent → Entries, Entries, …, Done | Failed
//! Read                         agent → data of fd 1, …, Done | Failed
//! Write                        host → data of fd 0, …, an empty one; agent → Done | Failed
//! Get                          agent → a tree
//! Put                          host → a tree;                        agent → Done | Failed
//! ```
//!
//! A tree is one root item. A directory is followed by its children and an `End`, a file by its
//! contents (data of fd 0, and holes) and an `End`; names are single path components, so no item can
//! name a place outside of its directory. The sender ends with `Finished` or `Failed`. Nothing is
//! acknowledged on the way: small files fill whole frames, and the stream's window is the credit.
//!
//! A host that goes away in the middle of a stream ends it: what was not complete is removed.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Names in one path of a tree; deeper ones are refused.
pub const MAX_TREE_DEPTH: usize = 256;
/// Entries in one [`FsReply::Entries`].
pub const MAX_ENTRIES: usize = 512;

/// What is done with the files of the guest, by root. Paths are bytes, relative ones start at `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FsRequest {
    /// What is there.
    Stat {
        /// Where.
        path: FsPath,
        /// Whether a symbolic link stands for what it leads to.
        follow: bool,
    },
    /// The entries of a directory, in no order.
    List {
        /// Where.
        path: FsPath,
    },
    /// Make a directory and those above it; one that exists is fine.
    MakeDir {
        /// Where.
        path: FsPath,
    },
    /// Remove what is there unless it is a directory.
    Remove {
        /// Where.
        path: FsPath,
    },
    /// Remove a directory with all that is in it.
    RemoveDir {
        /// Where.
        path: FsPath,
    },
    /// Give a file or directory another name, making the directories above it.
    Rename {
        /// From where.
        from: FsPath,
        /// To where; what is there is replaced.
        to: FsPath,
    },
    /// Copy one file within the guest, making the directories above it.
    Copy {
        /// From where; links are followed.
        from: FsPath,
        /// To where; what is there is replaced when the copy is complete.
        to: FsPath,
    },
    /// The contents of a file.
    Read {
        /// Where; links are followed.
        path: FsPath,
        /// The first byte.
        offset: u64,
        /// How many bytes; none is to the end.
        length: Option<u64>,
    },
    /// Write a file, making the directories above it.
    Write(FsWrite),
    /// Send a tree.
    Get {
        /// Where.
        path: FsPath,
        /// Whether a symbolic link at `path` itself stands for what it leads to.
        follow: bool,
    },
    /// Receive a tree.
    Put(FsPut),
}

/// How a file is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsWrite {
    /// Where.
    pub path: FsPath,
    /// Write in place from this byte on, making the file where it is missing. Without it the file
    /// is replaced once all has arrived.
    #[serde(default)]
    pub offset: Option<u64>,
    /// Its permission bits; none keeps those of the file that is replaced, or else is 0644.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Whether the contents are on the disk when it is done.
    #[serde(default)]
    pub sync: bool,
}

/// Where a tree goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsPut {
    /// Where. An existing directory takes the root in under `name`.
    pub path: FsPath,
    /// The name of the root where it comes from.
    pub name: FsPath,
    /// The children of the root go into `path` themselves.
    #[serde(default)]
    pub contents: bool,
    /// Keep owners and the setuid, setgid and sticky bits; else all belongs to root.
    #[serde(default)]
    pub archive: bool,
}

/// Agent → host on an fs stream that sends no tree, beside data frames. All but `Entries` are last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FsReply {
    /// It is done.
    Done,
    /// What is there.
    Metadata(FsMetadata),
    /// Some of the entries of a directory, at most [`MAX_ENTRIES`].
    Entries(Vec<FsEntry>),
    /// It is not done.
    Failed(FsFailure),
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsMetadata {
    /// What it is.
    pub kind: FsKind,
    /// Its size in bytes.
    pub size: u64,
    /// Permission bits, with setuid, setgid and sticky; no type.
    pub mode: u32,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was modified, in milliseconds since the Unix epoch.
    pub modified_ms: Option<i64>,
    /// When it was made, where the file system knows.
    pub created_ms: Option<i64>,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsEntry {
    /// Its name.
    pub name: FsPath,
    /// What is known of it; of what cannot be looked at, only that it is there.
    pub metadata: FsMetadata,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FsKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a pipe, a socket or something unknown.
    #[serde(other)]
    Other,
}

/// One item of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeItem {
    /// A directory; its children follow, then `End`.
    Dir(Node),
    /// A file; its contents follow, then `End`.
    File {
        /// Its name and attributes.
        node: Node,
        /// How many bytes follow, holes included.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Its name and attributes; it has no mode.
        node: Node,
        /// What it says.
        target: FsPath,
    },
    /// Another name for a file of this tree that has been sent.
    HardLink {
        /// The name.
        name: FsPath,
        /// The names that lead from the root to the file, without the root's own.
        to: Vec<FsPath>,
    },
    /// Zeros in a file that take no room, in bytes.
    Hole(u64),
    /// The end of the file or directory that was begun last.
    End,
    /// Something is not sent as it is: a special file, a file that shrank meanwhile.
    Skipped {
        /// Its path, from the root on.
        path: FsPath,
        /// Why.
        why: String,
    },
    /// The root is complete; nothing follows.
    Finished,
    /// The sender cannot go on; nothing follows.
    Failed(FsFailure),
}

/// Name and attributes of an item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// One path component; that of the root is for people.
    pub name: FsPath,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was modified, in seconds since the Unix epoch.
    pub mtime: i64,
    /// Nanoseconds beside them.
    pub mtime_ns: u32,
}

/// Why a request on files failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{path}: {message}", path = .path.shown())]
pub struct FsFailure {
    /// What kind of failure, for programs.
    pub kind: FsErrorKind,
    /// Which file.
    pub path: FsPath,
    /// What the kernel said, for people.
    pub message: String,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FsErrorKind {
    /// No such file or directory.
    NotFound,
    /// Not permitted.
    PermissionDenied,
    /// A part of the path, or the target, is not a directory.
    NotADirectory,
    /// A directory where a file is needed.
    IsADirectory,
    /// Something is there already.
    AlreadyExists,
    /// A directory that is not empty.
    NotEmpty,
    /// The disk, or the quota, is full.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// From one file system to another.
    CrossesDevices,
    /// A symbolic link where none is followed, or a loop of them.
    Link,
    /// The request makes no sense.
    Invalid,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// A path, or a part of one: any bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FsPath(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl FsPath {
    /// As text; what is no UTF-8 is replaced. Not safe for a terminal.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl fmt::Debug for FsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown(), f)
    }
}

impl From<&str> for FsPath {
    fn from(path: &str) -> Self {
        Self(path.as_bytes().to_vec())
    }
}

impl From<&[u8]> for FsPath {
    fn from(path: &[u8]) -> Self {
        Self(path.to_vec())
    }
}

impl FsFailure {
    /// What `error` says of `path`.
    pub fn new(path: &[u8], error: &io::Error) -> Self {
        Self { kind: error.into(), path: path.into(), message: error.to_string() }
    }
}

impl From<&io::Error> for FsErrorKind {
    fn from(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::NotFound => Self::NotFound,
            Kind::PermissionDenied => Self::PermissionDenied,
            Kind::NotADirectory => Self::NotADirectory,
            Kind::IsADirectory => Self::IsADirectory,
            Kind::AlreadyExists => Self::AlreadyExists,
            Kind::DirectoryNotEmpty => Self::NotEmpty,
            Kind::StorageFull | Kind::QuotaExceeded => Self::NoSpace,
            Kind::ReadOnlyFilesystem => Self::ReadOnly,
            Kind::CrossesDevices => Self::CrossesDevices,
            Kind::InvalidInput | Kind::InvalidFilename => Self::Invalid,
            _ if error.raw_os_error() == Some(ELOOP) => Self::Link,
            _ => Self::Other,
        }
    }
}

/// Too many symbolic links.
const ELOOP: i32 = 40;
