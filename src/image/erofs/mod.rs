//! Writing EROFS, the read-only file system that images and boot disks are made of.
//!
//! The on-disk format is the one of the Linux kernel (`Documentation/filesystems/erofs.rst`), without
//! compression. A file that comes out looks like this:
//!
//! ```text
//! block 0            superblock at byte 1024 (CRC-32C over the rest of the block)
//! block 1 …          contents of regular files, in the order in which they came, 4 KiB aligned
//! …                  directory blocks and long symlink targets that do not fit beside their inode
//! meta_blkaddr …     inodes in 32-byte slots, each followed by its xattrs and, where it fits into the
//!                    block, its small contents (symlink target, end of a directory, tiny file)
//! ```
//!
//! Contents go out as they arrive and metadata come last, so memory grows with the number of entries
//! and never with bytes. Runs of zeros in large files become holes (chunk-based layout). The same
//! entries in the same order make the same bytes: directories are sorted, the UUID and the build time
//! are zero.
//!
//! [`Builder`] is the way in for small trees; `image::layer` feeds the parts below it directly.

mod attr;
mod builder;
mod data;
mod error;
mod format;
mod layout;
pub mod reader;
mod tree;
mod write;

pub use attr::{
    Attr, MAX_NAME_BYTES, MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES, MAX_XATTRS_BYTES,
};
pub use builder::{Builder, Device};
pub use error::ErofsError;
pub use write::Finished;

pub(in crate::image) use attr::xattr_is_storable;
pub(in crate::image) use data::{FileData, Output, PumpError, Sink};
pub(in crate::image) use tree::{Dir, Inode, InodeId, Kind, Node, Tree};
pub(in crate::image) use write::write_tree;
