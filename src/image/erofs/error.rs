//! What can go wrong while an EROFS file is written.

use std::io;

/// Why a file system could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The output file could not be written.
    #[error("cannot write the image file")]
    Write(#[source] io::Error),
    /// The contents of a file could not be read, or ended early.
    #[error("cannot read the contents of {path}")]
    Contents {
        /// Where in the tree.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A path that is empty, holds `..`, NUL or a name over 255 bytes, or runs through a non-directory.
    #[error("{path}: {why}")]
    Path {
        /// Which.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something does not fit into the format.
    #[error("too large for the file system: {what}")]
    TooLarge {
        /// What.
        what: &'static str,
    },
}
