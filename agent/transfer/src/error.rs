//! Why a transfer did not succeed.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use msb_protocol::{FrameError, FsErrorKind, FsFailure};

/// Why a transfer did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A file here could not be read or made.
    #[error("{path}", path = .path.display())]
    Local {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file there could not be read or made.
    #[error(transparent)]
    Peer(FsFailure),
    /// The other side sent what it may not.
    #[error("the other side broke the protocol: {0}")]
    Protocol(&'static str),
    /// The stream ended before the transfer did.
    #[error("the connection ended before the transfer did")]
    Cut,
    /// A frame could not be read.
    #[error("the connection broke")]
    Frame(#[source] FrameError),
    /// A frame could not be written.
    #[error("the connection broke")]
    Write(#[source] io::Error),
}

impl TransferError {
    /// What `error` says of the file at `path`.
    pub fn local(path: impl Into<PathBuf>, error: impl Into<io::Error>) -> Self {
        Self::Local { path: path.into(), source: error.into() }
    }

    pub(crate) fn invalid(path: &Path, why: &'static str) -> Self {
        Self::local(path, io::Error::new(io::ErrorKind::InvalidInput, why))
    }

    /// What the other side is told.
    pub fn failure(&self) -> FsFailure {
        match self {
            Self::Local { path, source } => FsFailure::new(path.as_os_str().as_bytes(), source),
            Self::Peer(failure) => failure.clone(),
            Self::Protocol(_) | Self::Cut | Self::Frame(_) | Self::Write(_) => {
                FsFailure { kind: FsErrorKind::Invalid, path: "".into(), message: self.to_string() }
            }
        }
    }
}

impl From<FrameError> for TransferError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Truncated => Self::Cut,
            FrameError::Io(error) if error.kind() == io::ErrorKind::ConnectionReset => Self::Cut,
            error => Self::Frame(error),
        }
    }
}
