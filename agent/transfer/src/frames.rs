//! Frames in and out, many to a system call.

use std::io::{BufReader, Read, Write};

use msb_protocol::{Frame, FrameError, TreeItem, append_data, append_message, read_frame_blocking};

use crate::TransferError;

/// What is gathered before it is written, and the most that is read at a time, in bytes.
const FULL: usize = 128 << 10;
/// The payload of a data frame, in bytes.
pub(crate) const CHUNK: usize = 128 << 10;

/// Where frames come from.
#[derive(Debug)]
pub struct Input<R> {
    reader: BufReader<R>,
    buffer: Vec<u8>,
}

/// A part of a tree.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// An item.
    Item(TreeItem),
    /// Contents of the file that was begun last.
    Data(&'a [u8]),
}

impl<R: Read> Input<R> {
    /// Frames from `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(FULL, reader), buffer: Vec::new() }
    }

    /// The next frame; an end of the stream is an error.
    pub fn frame(&mut self) -> Result<Frame<'_>, TransferError> {
        read_frame_blocking(&mut self.reader, &mut self.buffer)?.ok_or(TransferError::Cut)
    }

    /// The next part of a tree.
    pub fn part(&mut self) -> Result<Incoming<'_>, TransferError> {
        match self.frame()? {
            Frame::Data { fd: 0, bytes } => Ok(Incoming::Data(bytes)),
            Frame::Data { .. } => Err(FrameError::Unexpected.into()),
            frame @ Frame::Message(_) => Ok(Incoming::Item(frame.message()?)),
        }
    }
}

/// Where frames go.
#[derive(Debug)]
pub struct Output<W> {
    writer: W,
    buffer: Vec<u8>,
}

impl<W: Write> Output<W> {
    /// Frames to `writer`, which gets large pieces.
    pub fn new(writer: W) -> Self {
        Self { writer, buffer: Vec::with_capacity(FULL + CHUNK + 64) }
    }

    /// Adds a message.
    pub fn message<T: serde::Serialize>(&mut self, message: &T) -> Result<(), TransferError> {
        append_message(&mut self.buffer, message).map_err(TransferError::Write)?;
        self.spill()
    }

    /// Adds a data frame of `fd` of at most `capacity` bytes, which `fill` writes; none, when it
    /// writes none. How many it wrote.
    pub fn data(
        &mut self,
        fd: u8,
        capacity: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, TransferError>,
    ) -> Result<usize, TransferError> {
        let mut failed = None;
        let filled = append_data(&mut self.buffer, fd, capacity.min(CHUNK), |space| {
            Ok(fill(space).unwrap_or_else(|error| {
                failed = Some(error);
                0
            }))
        });
        match failed {
            Some(error) => Err(error),
            None => {
                self.spill()?;
                filled.map_err(TransferError::Write)
            }
        }
    }

    /// Writes all that was gathered.
    pub fn flush(&mut self) -> Result<(), TransferError> {
        let written = self.writer.write_all(&self.buffer).and_then(|()| self.writer.flush());
        self.buffer.clear();
        written.map_err(TransferError::Write)
    }

    fn spill(&mut self) -> Result<(), TransferError> {
        if self.buffer.len() < FULL { Ok(()) } else { self.flush() }
    }
}
