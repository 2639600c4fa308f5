//! From layers to one bootable image, in one pass over each layer.

use std::fs::File;
use std::io::Read;

use super::layer::{LayerError, Limits, Merge};

/// One layer to be read.
#[derive(Debug)]
pub struct Layer<R> {
    /// How errors call it, usually its digest.
    pub name: String,
    /// The uncompressed tar archive. It is read to its end, so a reader that checks a digest there is
    /// always asked for it; an error of the reader comes back as [`LayerError::Read`].
    pub reader: R,
}

/// What was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildReport {
    /// Size of the image in bytes, a multiple of 4096. Parts of it may be holes in the host's file.
    pub size_bytes: u64,
    /// Inodes in the image, directories among them.
    pub inodes: u64,
    /// Entries of all archives.
    pub entries: u64,
    /// Bytes of all archives.
    pub tar_bytes: u64,
    /// Extended attributes that EROFS has no namespace for, or that would be instructions to the
    /// overlay file system of the guest (`trusted.overlay.*`).
    pub dropped_xattrs: u64,
}

/// Lays `layers`, **top layer first**, over one another and writes the result to `out` as EROFS.
///
/// `out` must be readable and writable; what it holds is dropped. Nothing is synced, renamed or
/// published. On an error `out` holds rubbish. The same layers make the same bytes.
pub fn build_image<R: Read>(
    layers: impl IntoIterator<Item = Layer<R>>,
    out: File,
    limits: &Limits,
) -> Result<BuildReport, LayerError> {
    let mut merge = Merge::new(out, limits)?;
    for Layer { name, reader } in layers {
        merge.layer(&name, reader)?;
    }
    merge.finish()
}
