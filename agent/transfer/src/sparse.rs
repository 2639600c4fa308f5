//! Where a file has data, and where holes.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, Stat, seek};
use rustix::io::Errno;

/// The unit of `st_blocks`, in bytes.
const BLOCK: u64 = 512;
/// What is copied at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Data, up to this offset.
    Data(u64),
    /// Zeros that take no room, up to this offset.
    Hole(u64),
}

/// The parts of a file of `size` bytes, in order; asked of the kernel only where blocks are missing.
pub(crate) struct Parts<'a> {
    file: &'a File,
    at: u64,
    size: u64,
    sparse: bool,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(file: &'a File, stat: &Stat) -> Self {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        Self { file, at: 0, size, sparse: blocks.saturating_mul(BLOCK) < size }
    }

    /// The next part; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Part> {
        if self.at >= self.size {
            return None;
        }
        let part = if self.sparse { self.look() } else { Part::Data(self.size) };
        let (Part::Data(end) | Part::Hole(end)) = part;
        self.at = end;
        Some(part)
    }

    fn look(&self) -> Part {
        let within = |offset: u64| offset.min(self.size);
        match seek(self.file, SeekFrom::Data(self.at)) {
            Ok(data) if data > self.at => Part::Hole(within(data)),
            Ok(_) => match seek(self.file, SeekFrom::Hole(self.at)) {
                Ok(hole) if hole > self.at => Part::Data(within(hole)),
                _ => Part::Data(self.size),
            },
            Err(Errno::NXIO) => Part::Hole(self.size),
            // A file system that knows of no holes.
            Err(_) => Part::Data(self.size),
        }
    }
}

/// Copies the contents of `from` to the empty file `to`, holes as holes. A file without a size (of
/// `/proc`) is read to its end.
pub fn copy_file(from: &File, to: &File) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let mut parts = Parts::of(from, &stat);
    let mut at = 0;
    while let Some(part) = parts.next() {
        match part {
            Part::Hole(end) => at = end,
            Part::Data(end) => {
                if copy_range(from, to, at, end)? < end - at {
                    // It shrank.
                    return Ok(());
                }
                at = end;
            }
        }
    }
    if stat.st_size == 0 {
        copy_range(from, to, 0, u64::MAX)?;
        return Ok(());
    }
    to.set_len(at)
}

/// Copies bytes between two offsets; how many there were.
fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut buffer = Vec::new();
    let mut at = start;
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let (mut source, mut target) = (at, at);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), wanted) {
            Ok(0) | Err(_) => {
                // Not between these file systems, or the end.
                buffer.resize(wanted, 0);
                let count = from.read_at(&mut buffer, at)?;
                if count == 0 {
                    break;
                }
                to.write_all_at(&buffer[..count], at)?;
                at += count as u64;
            }
            Ok(count) => at += count as u64,
        }
    }
    Ok(at - start)
}
