//! What can be wrong with a layer.

use std::io;

use crate::image::erofs::ErofsError;

/// Why an image could not be made from its layers. `layer` is the name that the caller gave, usually a
/// digest.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive could not be read: the source failed (a digest that does not match, a stream that
    /// does not decompress, a lost connection).
    #[error("layer {layer}: cannot read the archive")]
    Read {
        /// Which layer.
        layer: String,
        /// Why.
        source: io::Error,
    },
    /// The image file could not be written.
    #[error("cannot write the image file")]
    Write(#[source] io::Error),
    /// The tree does not fit the file system.
    #[error("cannot make the image")]
    Image(#[source] ErofsError),
}
