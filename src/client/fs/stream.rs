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
    torn: bool,
}

impl FsReader {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), ended: false, torn: false }
    }

    /// The next bytes, at most 256 KiB; `None` at the end. Once the future was dropped half way
    /// there are no more: [`FsError::Torn`].
    pub async fn next(&mut self) -> Result<Option<&[u8]>, FsError> {
        if self.ended {
            return Ok(None);
        }
        begin(&mut self.torn)?;
        let frame = read_frame(&mut self.stream, &mut self.buffer).await?;
        self.torn = false;
        match frame {
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
    torn: bool,
}

impl FsWriter {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream, torn: false }
    }

    /// Adds bytes. Once the future was dropped half way the file cannot be completed:
    /// [`FsError::Torn`].
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
        begin(&mut self.torn)?;
        let sent = write_data(&mut self.stream, 0, bytes).await;
        self.torn = false;
        match sent {
            Ok(()) => Ok(()),
            // Why nobody listens any more has been said before.
            Err(error) => match done(&mut self.stream, &mut Vec::new()).await {
                Err(said @ FsError::Guest { .. }) => Err(said),
                _ => Err(msb_protocol::FrameError::Io(error).into()),
            },
        }
    }
}

/// What begins is torn until it has ended.
fn begin(torn: &mut bool) -> Result<(), FsError> {
    if std::mem::replace(torn, true) { Err(FsError::Torn) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_was_dropped_half_way_is_not_gone_on_with() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut writer = FsWriter::new(ours);
        // More than a socket takes.
        while writer.write(&[0; 64 << 10]).now_or_never().is_some() {}
        assert!(matches!(writer.write(&[0]).await, Err(FsError::Torn)));
        assert!(matches!(writer.finish().await, Err(FsError::Torn)));

        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut reader = FsReader::new(ours);
        assert!(reader.next().now_or_never().is_none());
        drop(theirs);
        assert!(matches!(reader.next().await, Err(FsError::Torn)));
    }
}
