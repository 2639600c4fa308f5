//! Why an operation on files did not succeed.

use std::io;
use std::path::PathBuf;

use msb_protocol::{FrameError, FsErrorKind, FsFailure};
use msb_transfer::TransferError;

use crate::supervisor::ControlError;

/// The longest text of a sandbox that is kept, in characters; a path may be as long.
const MAX_TEXT: usize = 4096;

/// Why an operation on files did not succeed. Texts of a sandbox are bounded, but may hold control
/// characters: escape them before they are shown.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The supervisor did not open a session.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A file in the sandbox.
    #[error("{path}: {message}")]
    Guest {
        /// What kind of failure.
        kind: FsErrorKind,
        /// Which file, as the sandbox says.
        path: String,
        /// Why, as the sandbox says.
        message: String,
    },
    /// A file on this machine.
    #[error("{path}", path = .path.display())]
    Host {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More than the operation returns; its variant with a stream has no limit.
    #[error("{path}: it is larger than {limit}", path = .path.display())]
    TooLarge {
        /// Which file or directory.
        path: PathBuf,
        /// The limit, in bytes or entries.
        limit: u64,
    },
    /// The file is not UTF-8.
    #[error("{path}: it is not text", path = .path.display())]
    NotText {
        /// Which file.
        path: PathBuf,
        /// Where it is not.
        source: std::str::Utf8Error,
    },
    /// The sandbox ended, or was told to, before the operation did.
    #[error("the sandbox ended before the operation did")]
    Gone,
    /// The sandbox sent what it may not.
    #[error("the sandbox broke the protocol: {0}")]
    Broken(&'static str),
    /// An earlier call was dropped half way.
    #[error("an earlier call was dropped half way: begin the stream again")]
    Torn,
    /// The stream made no sense.
    #[error("the session with the sandbox broke")]
    Frame(#[source] FrameError),
}

impl FsError {
    pub(super) const UNEXPECTED: Self = Self::Broken("an unexpected frame");

    /// What kind of failure of a file it is, on either side; `None` for any other.
    pub fn kind(&self) -> Option<FsErrorKind> {
        match self {
            Self::Guest { kind, .. } => Some(*kind),
            Self::Host { source, .. } => Some(source.into()),
            _ => None,
        }
    }
}

impl From<FsFailure> for FsError {
    fn from(failure: FsFailure) -> Self {
        let bounded = |text: &str| text.chars().take(MAX_TEXT).collect();
        let path = bounded(&failure.path.shown());
        Self::Guest { kind: failure.kind, path, message: bounded(&failure.message) }
    }
}

impl From<FrameError> for FsError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Truncated => Self::Gone,
            FrameError::Io(error) if is_gone(&error) => Self::Gone,
            error => Self::Frame(error),
        }
    }
}

impl From<TransferError> for FsError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Local { path, source } => Self::Host { path, source },
            TransferError::Peer(failure) => failure.into(),
            TransferError::Protocol(why) => Self::Broken(why),
            TransferError::Cut => Self::Gone,
            TransferError::Frame(error) => error.into(),
            TransferError::Write(error) => FrameError::Io(error).into(),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
