//! How much of everything an image may hold. Archives are hostile: whatever grows with what they say
//! is counted against one of these before it is allocated or written.

/// Limits of one image; [`Limits::default`] is what `msb` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Layers.
    pub layers: usize,
    /// Bytes of all uncompressed archives together.
    pub total_bytes: u64,
    /// Size in bytes of one file, holes included.
    pub file_bytes: u64,
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
            entries: 4_000_000,
            metadata_bytes: 512 << 20,
            depth: 512,
        }
    }
}
