//! The archive as a stream that knows where it is.

use std::io::{self, Read};

/// Bytes read ahead; larger reads go past the buffer.
const BUFFER: usize = 128 << 10;

/// A buffered reader that counts.
#[derive(Debug)]
pub(super) struct Source<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    offset: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; BUFFER].into(), start: 0, end: 0, offset: 0 }
    }

    /// Bytes handed out so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills `space` as far as the stream goes and says how far that was.
    pub(super) fn fill(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < space.len() {
            match self.read(&mut space[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Drops up to `count` bytes and says how many there were.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<u64> {
        let mut left = count;
        while left > 0 {
            if self.start == self.end && self.refill()? == 0 {
                break;
            }
            let have = self.end - self.start;
            let take = have.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.start += take;
            self.offset += take as u64;
            left -= take as u64;
        }
        Ok(count - left)
    }

    fn refill(&mut self) -> io::Result<usize> {
        loop {
            match self.reader.read(&mut self.buffer) {
                Ok(count) => {
                    (self.start, self.end) = (0, count);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let count = if self.start < self.end {
            let take = space.len().min(self.end - self.start);
            space[..take].copy_from_slice(&self.buffer[self.start..self.start + take]);
            self.start += take;
            take
        } else if space.len() >= BUFFER {
            self.reader.read(space)?
        } else {
            self.refill()?;
            let take = space.len().min(self.end);
            space[..take].copy_from_slice(&self.buffer[..take]);
            self.start = take;
            take
        };
        self.offset += count as u64;
        Ok(count)
    }
}
