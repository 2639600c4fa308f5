//! Contents of regular files on their way into the output file.
//!
//! [`Output`] appends to one region of the file through a buffer that is read into directly, so bytes
//! are copied once. [`Sink`] turns the bytes of one file into a [`FileData`]:
//!
//! ```text
//! size ≤ 512 B     kept in memory, written beside the inode        FileData::Inline
//! size < 1 MiB     4 KiB-aligned run of blocks                     FileData::Flat
//! larger           in chunks of ≥ 1 MiB; chunks of zeros are holes FileData::Chunks, Flat without holes
//! ```
//!
//! A chunk is large because the kernel maps one chunk at a time: small ones would break up read-ahead.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::format::{BLOCK, NULL_ADDR};

/// Files up to this many bytes are kept with their inode.
const INLINE_MAX: u64 = 512;
/// Files from this size on are looked at for holes; also the smallest chunk.
const CHUNK_MIN: u64 = 1 << 20;
/// A chunk grows with the file so that a chunk map never has more entries than this.
const CHUNKS_MAX: u64 = 1 << 14;
/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;

/// Where the contents of a regular file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::image) enum FileData {
    /// Here, not in the output yet.
    Inline(Box<[u8]>),
    /// In consecutive blocks.
    Flat { block: u32, size: u64 },
    /// In chunks of 2^`chunk_bits` bytes by address; `NULL_ADDR` is a hole.
    Chunks { size: u64, chunk_bits: u32, map: Box<[u32]> },
}

impl FileData {
    /// Size in bytes, holes included.
    pub(in crate::image) fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Flat { size, .. } | Self::Chunks { size, .. } => *size,
        }
    }

    /// Bytes of memory that this keeps until the image is done.
    pub(in crate::image) fn held(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Flat { .. } => 0,
            Self::Chunks { map, .. } => map.len() as u64 * 4,
        }
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(in crate::image) enum PumpError {
    /// The source; `UnexpectedEof` when it ended early.
    Read(io::Error),
    /// The output file.
    Write(io::Error),
}

/// A region of the output file that grows at its end.
#[derive(Debug)]
pub(in crate::image) struct Output {
    file: Arc<File>,
    buffer: Box<[u8]>,
    filled: usize,
    /// File offset of the start of the buffer.
    base: u64,
}

impl Output {
    /// A region from `base` (a multiple of the block size) on. The file must hold nothing there.
    pub(in crate::image) fn new(file: Arc<File>, base: u64) -> Self {
        Self { file, buffer: vec![0; BUFFER].into(), filled: 0, base }
    }

    /// File offset of the next byte.
    pub(in crate::image) fn position(&self) -> u64 {
        self.base + self.filled as u64
    }

    /// Writes out what is buffered.
    pub(in crate::image) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer[..self.filled], self.base)?;
        self.base += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Appends `bytes`.
    pub(in crate::image) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let take = space.len().min(bytes.len());
            space[..take].copy_from_slice(&bytes[..take]);
            self.filled += take;
            bytes = &bytes[take..];
        }
        Ok(())
    }

    /// Appends `count` zeros; long runs are left out of the host's file.
    pub(in crate::image) fn zeros(&mut self, count: u64) -> io::Result<()> {
        let room = (self.buffer.len() - self.filled) as u64;
        if count > room {
            self.flush()?;
            self.base += count;
        } else {
            // Bounded by the buffer, so the cast cannot lose anything.
            let end = self.filled + usize::try_from(count).unwrap_or(0);
            self.buffer[self.filled..end].fill(0);
            self.filled = end;
        }
        Ok(())
    }

    /// Fills up to the next block boundary with zeros.
    pub(in crate::image) fn align(&mut self) -> io::Result<()> {
        let position = self.position();
        self.zeros(position.next_multiple_of(BLOCK) - position)
    }

    /// Free part of the buffer, never empty.
    fn space(&mut self) -> io::Result<&mut [u8]> {
        if self.filled == self.buffer.len() {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..])
    }

    /// Drops what is buffered, goes back to `base` and cuts the whole file to `length` bytes.
    pub(in crate::image) fn discard(&mut self, base: u64, length: u64) -> io::Result<()> {
        self.filled = 0;
        self.base = base;
        self.file.set_len(length)
    }

    /// Writes the superblock's block and brings the file to its final size.
    pub(in crate::image) fn finish(&mut self, first_block: &[u8], size: u64) -> io::Result<()> {
        self.flush()?;
        self.file.set_len(size)?;
        self.file.write_all_at(first_block, 0)
    }

    /// Copies a file's contents out of `from` (another region of the same file) to the end of this one.
    pub(in crate::image) fn adopt(
        &mut self,
        from: &mut Output,
        data: &FileData,
    ) -> io::Result<FileData> {
        from.flush()?;
        Ok(match data {
            FileData::Inline(bytes) => FileData::Inline(bytes.clone()),
            FileData::Flat { block, size } => {
                FileData::Flat { block: self.copy_in(*block, *size)?, size: *size }
            }
            FileData::Chunks { size, chunk_bits, map } => {
                let chunk = 1_u64 << chunk_bits;
                let copy = |(index, block): (usize, &u32)| match *block {
                    NULL_ADDR => Ok(NULL_ADDR),
                    block => self.copy_in(block, chunk.min(size - index as u64 * chunk)),
                };
                let map = map.iter().enumerate().map(copy).collect::<io::Result<_>>()?;
                FileData::Chunks { size: *size, chunk_bits: *chunk_bits, map }
            }
        })
    }

    /// Copies `size` bytes from `block` to the end and returns the block they went to.
    fn copy_in(&mut self, block: u32, size: u64) -> io::Result<u32> {
        let to = self.block()?;
        let (mut offset, end) = (u64::from(block) * BLOCK, u64::from(block) * BLOCK + size);
        let file = Arc::clone(&self.file);
        while offset < end {
            let space = self.space()?;
            let take = space.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            let got = file.read_at(&mut space[..take], offset)?;
            if got == 0 {
                // Beyond the end of the file: trailing zeros that were never written.
                self.zeros(end - offset)?;
                break;
            }
            self.filled += got;
            offset += got as u64;
        }
        self.align()?;
        Ok(to)
    }

    /// Address of the next block, after aligning to it.
    pub(in crate::image) fn block(&mut self) -> io::Result<u32> {
        self.align()?;
        match u32::try_from(self.position() / BLOCK) {
            Ok(block) if block != NULL_ADDR => Ok(block),
            _ => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        }
    }
}

/// Takes the contents of one regular file, front to back.
#[derive(Debug)]
pub(in crate::image) struct Sink<'a> {
    out: &'a mut Output,
    size: u64,
    offset: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Inline(Vec<u8>),
    Flat {
        block: u32,
    },
    Chunks {
        bits: u32,
        map: Vec<u32>,
        /// Zeros since the start of the current chunk, all of it so far; `None` once it has an address.
        zeros: Option<u64>,
    },
}

impl<'a> Sink<'a> {
    /// A sink for a file of exactly `size` bytes.
    pub(in crate::image) fn new(out: &'a mut Output, size: u64) -> io::Result<Self> {
        let state = if size <= INLINE_MAX {
            State::Inline(Vec::new())
        } else if size < CHUNK_MIN {
            State::Flat { block: out.block()? }
        } else {
            out.align()?;
            let chunk = size.div_ceil(CHUNKS_MAX).next_power_of_two().max(CHUNK_MIN);
            State::Chunks { bits: chunk.trailing_zeros(), map: Vec::new(), zeros: Some(0) }
        };
        Ok(Self { out, size, offset: 0, state })
    }

    /// The next `count` bytes, from `from`.
    pub(in crate::image) fn copy(
        &mut self,
        from: &mut dyn Read,
        mut count: u64,
    ) -> Result<(), PumpError> {
        debug_assert!(self.offset + count <= self.size);
        while count > 0 {
            let took = self.read_some(from, count)?;
            self.offset += took;
            count -= took;
            self.end_chunk();
        }
        Ok(())
    }

    /// Reads between one and `count` bytes, not beyond the end of the current chunk.
    fn read_some(&mut self, from: &mut dyn Read, count: u64) -> Result<u64, PumpError> {
        let rest = self.chunk_rest().min(count);
        let space = self.out.space().map_err(PumpError::Write)?;
        let limit = space.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let space = &mut space[..limit];
        let got = loop {
            match from.read(space) {
                Ok(0) => return Err(PumpError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(got) => break got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PumpError::Read(error)),
            }
        };
        match &mut self.state {
            State::Inline(bytes) => bytes.extend(&space[..got]),
            State::Flat { .. } | State::Chunks { zeros: None, .. } => self.out.filled += got,
            State::Chunks { map, zeros: Some(zeros), .. } => {
                if is_zero(&space[..got]) {
                    *zeros += got as u64;
                } else if *zeros == 0 {
                    // Chunks start block-aligned (see `new`), so the bytes can stay where they are.
                    map.push(self.out.block().map_err(PumpError::Write)?);
                    self.out.filled += got;
                    self.start_chunk();
                } else {
                    let (bytes, before) = (space[..got].to_vec(), *zeros);
                    map.push(self.out.block().map_err(PumpError::Write)?);
                    self.out.zeros(before).map_err(PumpError::Write)?;
                    self.out.append(&bytes).map_err(PumpError::Write)?;
                    self.start_chunk();
                }
            }
        }
        Ok(got as u64)
    }

    /// The current chunk has an address from here on.
    fn start_chunk(&mut self) {
        if let State::Chunks { zeros, .. } = &mut self.state {
            *zeros = None;
        }
    }

    /// The next `count` bytes are zeros.
    pub(in crate::image) fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        debug_assert!(self.offset + count <= self.size);
        while count > 0 {
            let take = self.chunk_rest().min(count);
            match &mut self.state {
                State::Inline(bytes) => {
                    bytes.resize(bytes.len() + usize::try_from(take).unwrap_or(0), 0);
                }
                State::Flat { .. } | State::Chunks { zeros: None, .. } => self.out.zeros(take)?,
                State::Chunks { zeros: Some(zeros), .. } => *zeros += take,
            }
            self.offset += take;
            count -= take;
            self.end_chunk();
        }
        Ok(())
    }

    /// Bytes up to the end of the current chunk or of the file.
    fn chunk_rest(&self) -> u64 {
        let rest = self.size - self.offset;
        match self.state {
            State::Inline(_) | State::Flat { .. } => rest,
            State::Chunks { bits, .. } => rest.min((1 << bits) - self.offset % (1 << bits)),
        }
    }

    /// Notes a hole if the chunk that just ended was all zeros, and starts the next one.
    fn end_chunk(&mut self) {
        if let State::Chunks { bits, map, zeros } = &mut self.state
            && (self.offset.is_multiple_of(1 << *bits) || self.offset == self.size)
        {
            if zeros.is_some() {
                map.push(NULL_ADDR);
            }
            *zeros = Some(0);
        }
    }

    /// Where the contents went; all `size` bytes must have come.
    pub(in crate::image) fn finish(self) -> io::Result<FileData> {
        debug_assert_eq!(self.offset, self.size);
        let size = self.size;
        Ok(match self.state {
            State::Inline(bytes) => FileData::Inline(bytes.into()),
            State::Flat { block } => {
                self.out.align()?;
                FileData::Flat { block, size }
            }
            State::Chunks { bits, map, .. } => {
                self.out.align()?;
                match map.first() {
                    Some(&block) if !map.contains(&NULL_ADDR) => FileData::Flat { block, size },
                    _ => FileData::Chunks { size, chunk_bits: bits, map: map.into() },
                }
            }
        })
    }
}

/// Whether there are only zeros; compares whole blocks, which is as fast as memory.
fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}
