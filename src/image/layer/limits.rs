//! How much of everything an image may hold. Archives are hostile: whatever grows with what they say
//! is counted against one of these before it is allocated or written.

/// Limits of one image; [`Limits::default`] is what `msb` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Layers.
    pub layers: usize,
    /// Bytes of all uncompressed archives together.
    pub total_bytes: u64,
    /// Size in bytes of one file, holes included. At most 1 TiB.
    pub file_bytes: u64,
    /// Size in bytes of the image, holes included. At most 1 TiB.
    pub image_bytes: u64,
    /// Entries of all archives together, directories that they only imply included.
    pub entries: u64,
    /// Bytes of names, link targets, extended attributes and the like that are kept in memory until
    /// the image is done.
    pub metadata_bytes: u64,
    /// Names in one path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers: 512,
            total_bytes: 64 << 30,
            file_bytes: 1 << 40,
            image_bytes: 512 << 30,
            entries: 2_000_000,
            metadata_bytes: 512 << 20,
            depth: 256,
        }
    }
}

/// Longest path or link target in bytes (`PATH_MAX` without its NUL).
pub(super) const MAX_PATH_BYTES: usize = 4095;
/// Most symlinks that are followed on the way to one entry, as in the kernel.
pub(super) const MAX_SYMLINKS: usize = 40;
/// Longest extended header (PAX, GNU long name) in bytes.
pub(super) const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Most extended headers in front of one entry.
pub(super) const MAX_EXTENSIONS: usize = 64;
/// Most data segments of one sparse file.
pub(super) const MAX_SEGMENTS: usize = 1 << 18;
