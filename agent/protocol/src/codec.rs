//! Frames: `kind: u8`, `length: u32` little-endian, payload.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest message payload, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;
/// The longest data payload, in bytes.
pub const MAX_DATA: usize = 256 << 10;
const HEADER: usize = 5;
/// Deeper nesting than any message has.
const MAX_DEPTH: usize = 32;

/// A frame as it arrives. Data is borrowed from the reader's buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A CBOR message; [`Frame::message`] decodes it.
    Message(&'a [u8]),
    /// Bytes of the stream `0` (stdin), `1` (stdout) or `2` (stderr).
    Data {
        /// Which stream.
        fd: u8,
        /// The bytes.
        bytes: &'a [u8],
    },
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("the stream failed")]
    Io(#[from] io::Error),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The kind is not known.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// The frame is longer than its kind allows.
    #[error("a frame of {0} bytes is too long")]
    TooLong(u32),
    /// A message that does not decode as what is expected here.
    #[error("malformed message")]
    Malformed,
    /// A frame that is not expected here.
    #[error("unexpected frame")]
    Unexpected,
}

impl Frame<'_> {
    /// Decodes a message frame as `T`.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        match self {
            Frame::Message(bytes) => {
                ciborium::de::from_reader_with_recursion_limit(*bytes, MAX_DEPTH)
                    .map_err(|_| FrameError::Malformed)
            }
            Frame::Data { .. } => Err(FrameError::Unexpected),
        }
    }
}

/// Reads one frame into `buffer`, which is reused; `None` at a clean end of the stream.
///
/// Not cancellation-safe: a dropped future may have consumed part of a frame.
pub async fn read_frame<'a, R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &'a mut Vec<u8>,
) -> Result<Option<Frame<'a>>, FrameError> {
    let mut header = [0; HEADER];
    if reader.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut header[1..]).await.map_err(truncated)?;
    let [kind, l0, l1, l2, l3] = header;
    let announced = u32::from_le_bytes([l0, l1, l2, l3]);
    let limit = match kind {
        0 => MAX_MESSAGE,
        1..=3 => MAX_DATA,
        _ => return Err(FrameError::Kind(kind)),
    };
    let length = usize::try_from(announced).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FrameError::TooLong(announced));
    }
    buffer.resize(length, 0);
    reader.read_exact(buffer).await.map_err(truncated)?;
    Ok(Some(match kind {
        0 => Frame::Message(buffer),
        kind => Frame::Data { fd: kind - 1, bytes: buffer },
    }))
}

/// Writes `message` as one frame.
pub async fn write_message<W: AsyncWrite + Unpin, T: Serialize>(
    writer: &mut W,
    message: &T,
) -> io::Result<()> {
    let mut frame = vec![0; HEADER];
    ciborium::into_writer(message, &mut frame).map_err(io::Error::other)?;
    let length = frame.len() - HEADER;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    frame[1..HEADER].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    writer.write_all(&frame).await
}

/// Writes `bytes` of stream `fd` (0, 1 or 2) as frames of at most [`MAX_DATA`] bytes. No bytes
/// write one empty frame, which means end of stream.
pub async fn write_data<W: AsyncWrite + Unpin>(
    writer: &mut W,
    fd: u8,
    bytes: &[u8],
) -> io::Result<()> {
    let mut buffer = DataBuffer::new(bytes.len().min(MAX_DATA));
    let mut rest = bytes;
    loop {
        let (chunk, tail) = rest.split_at(rest.len().min(MAX_DATA));
        buffer.space()[..chunk.len()].copy_from_slice(chunk);
        writer.write_all(buffer.frame(fd, chunk.len())).await?;
        if tail.is_empty() {
            return Ok(());
        }
        rest = tail;
    }
}

/// Room for one data frame whose payload is read in place, so that header and payload are one
/// write.
#[derive(Debug)]
pub struct DataBuffer(Vec<u8>);

impl DataBuffer {
    /// Room for `capacity` bytes, at most [`MAX_DATA`].
    pub fn new(capacity: usize) -> Self {
        Self(vec![0; HEADER + capacity.min(MAX_DATA)])
    }

    /// Where the payload goes.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.0[HEADER..]
    }

    /// The frame of the first `length` bytes of the space, for stream `fd` (0, 1 or 2).
    pub fn frame(&mut self, fd: u8, length: usize) -> &[u8] {
        let end = self.0.len().min(HEADER + length);
        let length = u32::try_from(end - HEADER).unwrap_or(u32::MAX);
        self.0[0] = fd + 1;
        self.0[1..HEADER].copy_from_slice(&length.to_le_bytes());
        &self.0[..end]
    }
}

fn truncated(error: io::Error) -> FrameError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Truncated,
        _ => FrameError::Io(error),
    }
}
