//! Formats sparse files as ext4, writing a few blocks whatever the size. [`view`] reads what others made.
//!
//! The format is that of the Linux kernel (`Documentation/filesystems/ext4`), with 4 KiB blocks.
//! All groups look alike, and nearly all of a group is left to holes, which read as zeros:
//!
//! ```text
//! group (128 MiB)   [superblock] [descriptors] block bitmap, inode bitmap, inode table, data …
//!                    groups 0, 1   the first,
//!                    and powers    second and last
//!                    of 3, 5, 7    of 64 groups
//! group 0, data     root directory, lost+found, journal
//! ```
//!
//! Descriptors are spread over the disk (`meta_bg`), so that it can be grown to any size while it
//! is mounted. Bitmaps of all groups but the first and the last are computed by the kernel
//! (`BLOCK_UNINIT`, `INODE_UNINIT`). Everything carries checksums (`metadata_csum`). The same size
//! and UUID make the same bytes.

mod geometry;
mod image;
pub(super) mod view;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use geometry::{BLOCK, Geometry};

/// The smallest disk, in bytes.
pub const MIN_BYTES: u64 = 16 << 20;
/// The largest disk, in bytes.
pub const MAX_BYTES: u64 = 16 << 40;

/// Why a disk could not be formatted.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The size is out of range.
    #[error("a disk of {0} bytes is not between 16 MiB and 16 TiB")]
    Size(u64),
    /// The file could not be written.
    #[error("the disk could not be written")]
    Io(#[from] io::Error),
}

/// Makes `file` an empty ext4 file system of `size_bytes`, rounded down to whole blocks; what it
/// held is gone. Nothing is synced to disk.
pub fn format(file: &File, size_bytes: u64, uuid: [u8; 16]) -> Result<(), FormatError> {
    if !(MIN_BYTES..=MAX_BYTES).contains(&size_bytes) {
        return Err(FormatError::Size(size_bytes));
    }
    let geometry = Geometry::of(size_bytes / BLOCK);
    file.set_len(0)?;
    file.set_len(size_bytes / BLOCK * BLOCK)?;
    image::write(&geometry, uuid, &mut |offset, bytes| file.write_all_at(bytes, offset))?;
    Ok(())
}
