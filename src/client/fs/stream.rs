//! Files piece by piece.

use msb_protocol::{Frame, FsReply, read_frame, write_data};
use tokio::net::UnixStream;

use super::{FsError, done};

/// The contents of a file as they arrive. A reader that is slow holds the sandbox's helper up, and
/// nothing else; dropping it ends the request.
#[derive(Debug)]
pub struct FsReader {
    stream: UnixStream,
    buffer: Vec<u8>,
    ended: bool,
}

impl FsReader {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), ended: false }
    }

    /// The next bytes, at most 256 KiB; `None` at the end. Dropping the future may lose some.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, FsError> {
        if self.ended {
            return Ok(None);
        }
        match read_frame(&mut self.stream, &mut self.buffer).await? {
            Some(Frame::Data { fd: 1, bytes }) => Ok(Some(bytes)),
            Some(Frame::Data { .. }) => Err(FsError::UNEXPECTED),
            Some(frame) => match frame.message()? {
                FsReply::Done => {
                    self.ended = true;
                    Ok(None)
                }
                FsReply::Failed(failure) => Err(failure.into()),
                _ => Err(FsError::UNEXPECTED),
            },
            None => Err(FsError::Gone),
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct FsWriter {
    stream: UnixStream,
}

impl FsWriter {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Adds bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        // An empty frame would be the end.
        if bytes.is_empty() { Ok(()) } else { self.send(bytes).await }
    }

    /// Completes the file.
    pub async fn finish(mut self) -> Result<(), FsError> {
        self.send(&[]).await?;
        done(&mut self.stream, &mut Vec::new()).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        match write_data(&mut self.stream, 0, bytes).await {
            Ok(()) => Ok(()),
            // Why nobody listens any more has been said before.
            Err(error) => match done(&mut self.stream, &mut Vec::new()).await {
                Err(said @ FsError::Guest { .. }) => Err(said),
                _ => Err(msb_protocol::FrameError::Io(error).into()),
            },
        }
    }
}
