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
    /// The archive is malformed where no entry has a name yet.
    #[error("layer {layer}: at byte {offset} of the archive: {problem}")]
    Archive {
        /// Which layer.
        layer: String,
        /// Where in the uncompressed archive.
        offset: u64,
        /// What is wrong.
        problem: Problem,
    },
    /// An entry is malformed or cannot be applied.
    #[error("layer {layer}: entry `{entry}`: {problem}")]
    Entry {
        /// Which layer.
        layer: String,
        /// Path of the entry as the archive has it, unprintable characters escaped.
        entry: String,
        /// What is wrong.
        problem: Problem,
    },
    /// More layers than [`super::Limits::layers`].
    #[error("more than {limit} layers")]
    TooManyLayers {
        /// How many are allowed.
        limit: usize,
    },
    /// The image file could not be written.
    #[error("cannot write the image file")]
    Write(#[source] io::Error),
    /// The tree does not fit the file system.
    #[error("cannot make the image")]
    Image(#[source] ErofsError),
}

/// What is wrong with an archive or an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The stream ends inside a header or inside contents.
    #[error("the archive is cut short")]
    Truncated,
    /// The sum over a header differs from the one in it.
    #[error("the checksum of the header does not match")]
    Checksum,
    /// One block of zeros that is not followed by another.
    #[error("a block of zeros between entries")]
    LoneZeroBlock,
    /// A numeric field is not a number, negative or too large.
    #[error("bad number in field `{0}`")]
    Number(&'static str),
    /// A PAX extended header is malformed.
    #[error("bad extended header: {0}")]
    Pax(&'static str),
    /// A sparse map is malformed.
    #[error("bad sparse map: {0}")]
    Sparse(&'static str),
    /// A type flag that is not known.
    #[error("unknown entry type `{}`", .0.escape_ascii())]
    UnknownType(u8),
    /// A path with a `..`.
    #[error("`..` in the path")]
    DotDot,
    /// A path or target with a NUL.
    #[error("NUL in a name")]
    Nul,
    /// A path without any name, where one is needed.
    #[error("no name")]
    NoName,
    /// A name over 255 bytes.
    #[error("a name is longer than 255 bytes")]
    NameTooLong,
    /// A path or link target over 4095 bytes.
    #[error("the path is longer than 4095 bytes")]
    PathTooLong,
    /// The root of the image is given as something else than a directory.
    #[error("the root must be a directory")]
    RootNotDirectory,
    /// A whiteout of no name, or a whiteout that has entries below it.
    #[error("bad whiteout")]
    Whiteout,
    /// A parent is a file of the same layer.
    #[error("`{0}` is not a directory")]
    ParentNotDirectory(String),
    /// The path runs through more symlinks than a kernel would follow.
    #[error("too many symbolic links in the path")]
    SymlinkLoop,
    /// A symlink without a target.
    #[error("a symbolic link without target")]
    NoTarget,
    /// A hard link to something that is in no layer below, or hidden there.
    #[error("hard link to `{0}`, which does not exist")]
    LinkTargetMissing(String),
    /// A hard link to a directory.
    #[error("hard link to `{0}`, which is a directory")]
    LinkToDirectory(String),
    /// A device number beyond 12 bits of major or 20 bits of minor.
    #[error("device number {0}:{1} is too large")]
    DeviceNumber(u64, u64),
    /// An extended attribute with an empty, malformed or overlong name, or with an overlong value.
    #[error("bad extended attribute: {0}")]
    Xattr(&'static str),
    /// A limit is exceeded.
    #[error("more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
}

/// A path for messages: what is not printable text is escaped, and very long ones are cut.
pub(super) fn show(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    let cut = &path[..path.len().min(SHOWN)];
    let text = String::from_utf8_lossy(cut).escape_debug().to_string();
    if cut.len() < path.len() { format!("{text}…") } else { text }
}
