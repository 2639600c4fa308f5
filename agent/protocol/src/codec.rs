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
    let (kind, length) = parse_header(header)?;
    buffer.resize(length, 0);
    reader.read_exact(buffer).await.map_err(truncated)?;
    Ok(Some(frame(kind, buffer)))
}

/// As [`read_frame`], from a reader that blocks.
pub fn read_frame_blocking<'a, R: io::Read>(
    reader: &mut R,
    buffer: &'a mut Vec<u8>,
) -> Result<Option<Frame<'a>>, FrameError> {
    let mut header = [0; HEADER];
    loop {
        match reader.read(&mut header[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    reader.read_exact(&mut header[1..]).map_err(truncated)?;
    let (kind, length) = parse_header(header)?;
    buffer.resize(length, 0);
    reader.read_exact(buffer).map_err(truncated)?;
    Ok(Some(frame(kind, buffer)))
}

/// The kind and the length that a header states, when they are allowed.
fn parse_header([kind, l0, l1, l2, l3]: [u8; HEADER]) -> Result<(u8, usize), FrameError> {
    let announced = u32::from_le_bytes([l0, l1, l2, l3]);
    let limit = match kind {
        0 => MAX_MESSAGE,
        1..=3 => MAX_DATA,
        _ => return Err(FrameError::Kind(kind)),
    };
    let length = usize::try_from(announced).unwrap_or(usize::MAX);
    if length > limit { Err(FrameError::TooLong(announced)) } else { Ok((kind, length)) }
}

fn frame(kind: u8, buffer: &[u8]) -> Frame<'_> {
    match kind {
        0 => Frame::Message(buffer),
        kind => Frame::Data { fd: kind - 1, bytes: buffer },
    }
}

/// Writes `message` as one frame.
pub async fn write_message<W: AsyncWrite + Unpin, T: Serialize>(
    writer: &mut W,
    message: &T,
) -> io::Result<()> {
    let mut frame = Vec::new();
    append_message(&mut frame, message)?;
    writer.write_all(&frame).await
}

/// Appends `message` to `bytes` as one frame; nothing, when it is too long.
pub fn append_message<T: Serialize>(bytes: &mut Vec<u8>, message: &T) -> io::Result<()> {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; HEADER]);
    let encoded = ciborium::into_writer(message, &mut *bytes).map_err(io::Error::other);
    let length = bytes.len() - start - HEADER;
    if encoded.is_err() || length > MAX_MESSAGE {
        bytes.truncate(start);
        encoded?;
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    bytes[start + 1..start + HEADER].copy_from_slice(&length);
    Ok(())
}

/// Appends one data frame of stream `fd` (0, 1 or 2) to `bytes` whose payload `fill` writes into the
/// space of at most `capacity` bytes (at most [`MAX_DATA`]) that it is given; nothing when there is
/// none. How long the payload is.
pub fn append_data(
    bytes: &mut Vec<u8>,
    fd: u8,
    capacity: usize,
    fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let start = bytes.len();
    bytes.resize(start + HEADER + capacity.min(MAX_DATA), 0);
    let filled = fill(&mut bytes[start + HEADER..]);
    let length = *filled.as_ref().unwrap_or(&0);
    bytes.truncate(if length == 0 { start } else { start + HEADER + length });
    if length > 0 {
        bytes[start] = fd + 1;
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        bytes[start + 1..start + HEADER].copy_from_slice(&length);
    }
    filled
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A frame that owns its payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Owned {
        Message(String),
        Data(u8, Vec<u8>),
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    async fn write_all(frames: &[Owned]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            match frame {
                Owned::Message(text) => write_message(&mut bytes, text).await.unwrap(),
                Owned::Data(fd, data) => write_data(&mut bytes, *fd, data).await.unwrap(),
            }
        }
        bytes
    }

    fn read_all_blocking(mut bytes: &[u8]) -> Vec<Owned> {
        let (mut buffer, mut frames) = (Vec::new(), Vec::new());
        while let Some(frame) = read_frame_blocking(&mut bytes, &mut buffer).unwrap() {
            frames.push(match frame {
                Frame::Message(_) => Owned::Message(frame.message().unwrap()),
                Frame::Data { fd, bytes } => Owned::Data(fd, bytes.to_vec()),
            });
        }
        frames
    }

    async fn read_all<R: AsyncRead + Unpin>(mut reader: R) -> Result<Vec<Owned>, FrameError> {
        let (mut buffer, mut frames) = (Vec::new(), Vec::new());
        while let Some(frame) = read_frame(&mut reader, &mut buffer).await? {
            frames.push(match frame {
                Frame::Message(_) => Owned::Message(frame.message()?),
                Frame::Data { fd, bytes } => Owned::Data(fd, bytes.to_vec()),
            });
        }
        Ok(frames)
    }

    fn frames() -> impl Strategy<Value = Vec<Owned>> {
        let message = any::<String>().prop_map(Owned::Message);
        let data = (0..3_u8, vec(any::<u8>(), 0..40)).prop_map(|(fd, data)| Owned::Data(fd, data));
        vec(prop_oneof![message, data], 0..6)
    }

    proptest! {
        #[test]
        fn frames_round_trip_over_every_split(frames in frames()) {
            run(async {
                let bytes = write_all(&frames).await;
                assert_eq!(read_all_blocking(&bytes), frames);
                for split in 0..=bytes.len() {
                    let (front, back) = bytes.split_at(split);
                    assert_eq!(read_all(front.chain(back)).await.unwrap(), frames);
                }
            });
        }

        #[test]
        fn a_cut_stream_is_an_error_unless_the_cut_is_between_frames(frames in frames()) {
            run(async {
                let bytes = write_all(&frames).await;
                for cut in 0..bytes.len() {
                    match read_all(&bytes[..cut]).await {
                        Ok(read) => assert_eq!(read[..], frames[..read.len()]),
                        Err(error) => assert!(matches!(error, FrameError::Truncated), "{error}"),
                    }
                }
            });
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            let _ = run(read_all(&bytes[..]));
        }

        #[test]
        fn any_payload_decodes_or_is_refused(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Frame::Message(&bytes).message::<crate::Request>();
            let _ = Frame::Message(&bytes).message::<crate::ControlInput>();
            let _ = Frame::Message(&bytes).message::<crate::ExecOutput>();
            let _ = Frame::Message(&bytes).message::<crate::TreeItem>();
            let _ = Frame::Message(&bytes).message::<crate::FsReply>();
        }
    }

    #[test]
    fn a_frame_may_be_as_long_as_the_limit_and_no_longer() {
        for (kind, limit) in [(0, MAX_MESSAGE), (1, MAX_DATA), (2, MAX_DATA), (3, MAX_DATA)] {
            let header = |length: usize| {
                let mut bytes = vec![kind];
                bytes.extend(u32::try_from(length).unwrap().to_le_bytes());
                bytes
            };
            let mut longest = header(limit);
            longest.resize(HEADER + limit, 0);
            let mut buffer = Vec::new();
            let frame = run(read_frame(&mut &longest[..], &mut buffer)).unwrap().unwrap();
            assert!(
                matches!(frame, Frame::Message(bytes) | Frame::Data { bytes, .. } if bytes.len() == limit)
            );
            // Refused by its header: nothing is allocated for the rest.
            let mut buffer = Vec::new();
            let error = run(read_frame(&mut &header(limit + 1)[..], &mut buffer)).unwrap_err();
            assert!(matches!(error, FrameError::TooLong(_)), "{error}");
            assert_eq!(buffer.capacity(), 0);
        }
    }

    #[test]
    fn refuses_unknown_kinds_and_what_is_not_expected() {
        let mut buffer = Vec::new();
        for kind in 4..=u8::MAX {
            let error = run(read_frame(&mut &[kind, 0, 0, 0, 0][..], &mut buffer)).unwrap_err();
            assert!(matches!(error, FrameError::Kind(found) if found == kind));
        }
        let data = Frame::Data { fd: 0, bytes: b"x" };
        assert!(matches!(data.message::<String>(), Err(FrameError::Unexpected)));
        for bytes in [&b""[..], b"\xff", b"\x01", b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff", b"\x9f"]
        {
            assert!(matches!(
                Frame::Message(bytes).message::<String>(),
                Err(FrameError::Malformed)
            ));
        }
        let deep = vec![0x81; MAX_MESSAGE];
        let error = Frame::Message(&deep).message::<crate::Request>().unwrap_err();
        assert!(matches!(error, FrameError::Malformed));
    }

    #[test]
    fn a_message_that_is_too_long_is_not_written() {
        let mut bytes = Vec::new();
        let error = run(write_message(&mut bytes, &"x".repeat(MAX_MESSAGE))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(bytes.is_empty());
    }

    #[test]
    fn frames_are_appended_or_not_at_all() {
        let mut bytes = b"before".to_vec();
        let error = append_message(&mut bytes, &"x".repeat(MAX_MESSAGE)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(append_data(&mut bytes, 0, 10, |_| Ok(0)).unwrap(), 0);
        append_data(&mut bytes, 0, 10, |_| Err(io::ErrorKind::Other.into())).unwrap_err();
        assert_eq!(bytes, b"before");
        bytes.clear();
        let fill = |space: &mut [u8]| {
            assert_eq!(space.len(), MAX_DATA);
            space[..2].copy_from_slice(b"hi");
            Ok(2)
        };
        assert_eq!(append_data(&mut bytes, 1, usize::MAX, fill).unwrap(), 2);
        append_message(&mut bytes, &"end").unwrap();
        let expected = [Owned::Data(1, b"hi".to_vec()), Owned::Message("end".into())];
        assert_eq!(read_all_blocking(&bytes), expected);
    }

    #[test]
    fn long_data_becomes_several_frames() {
        let data: Vec<u8> = (0..=u8::MAX).cycle().take(2 * MAX_DATA + 1).collect();
        let mut bytes = Vec::new();
        run(write_data(&mut bytes, 2, &data)).unwrap();
        let frames = run(read_all(&bytes[..])).unwrap();
        assert_eq!(frames.len(), 3);
        let joined: Vec<u8> = frames
            .into_iter()
            .flat_map(|frame| match frame {
                Owned::Data(2, bytes) => bytes,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(joined == data);
    }
}
