//! Reading a tar archive front to back: ustar, GNU (long names, base-256 numbers, sparse files) and PAX
//! (paths, sizes, times, `SCHILY.xattr`, GNU sparse 0.0, 0.1 and 1.0).
//!
//! Global PAX headers are skipped, as container runtimes do. Whether names make sense is for the
//! caller to find out.

use std::io::{self, Read};

use super::error::Problem;
use super::header::{BLOCK, GnuSparse, Header, Segments, gnu_segments};
use super::limits::{MAX_EXTENSION_BYTES, MAX_EXTENSIONS, MAX_SEGMENTS};
use super::pax::{Pax, PaxSparse, decimal};
use super::source::Source;
use crate::image::erofs::Attr;

/// An archive being read.
#[derive(Debug)]
pub(super) struct Archive<R> {
    source: Source<R>,
    /// Bytes of the current entry's contents that were not read yet, and of the padding after them.
    contents: u64,
    padding: u64,
    /// Where the archive must have ended.
    limit: u64,
}

/// One entry, before its contents.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) attr: Attr,
    pub(super) kind: EntryKind,
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum EntryKind {
    File {
        /// With holes.
        size: u64,
        /// Where data are, in order and without overlap: (offset, length). The lengths together are
        /// what follows in the archive.
        segments: Segments,
    },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u64, u64),
    Block(u64, u64),
    Directory,
    Fifo,
}

/// Why there is no next entry.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The stream failed.
    Source(io::Error),
    /// The header at this offset is malformed.
    At(u64, Problem),
    /// The entry of this name is malformed.
    Entry(Vec<u8>, Problem),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Source(error)
    }
}

/// What the headers in front of an entry said.
#[derive(Debug, Default)]
struct Extensions {
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    count: usize,
}

impl<R: Read> Archive<R> {
    /// An archive that may have at most `limit` bytes.
    pub(super) fn new(reader: R, limit: u64) -> Self {
        Self { source: Source::new(reader), contents: 0, padding: 0, limit }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// The next entry; its predecessor's contents are skipped as far as they were not read.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ReadError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_contents()?;
            let at = self.source.offset();
            let Some(header) = self.header()? else {
                return if extensions.count == 0 { Ok(None) } else { Err(truncated(at)) };
            };
            let fail = |problem| ReadError::At(at, problem);
            match header.type_flag() {
                b'x' | b'X' => {
                    let bytes = self.extension(&header)?;
                    extensions.pax.parse(&bytes).map_err(fail)?;
                }
                b'L' => extensions.long_name = Some(until_nul(self.extension(&header)?)),
                b'K' => extensions.long_link = Some(until_nul(self.extension(&header)?)),
                b'g' | b'V' => {
                    let size = header.size().map_err(fail)?;
                    self.expect(size).map_err(fail)?;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
            extensions.count += 1;
            if extensions.count > MAX_EXTENSIONS {
                return Err(fail(Problem::Pax("too many in front of one entry")));
            }
        }
    }

    /// Reads what follows the end of the archive, so that a reader that checks a digest gets to see
    /// all of it.
    pub(super) fn drain(&mut self) -> Result<(), ReadError> {
        let at = self.source.offset();
        self.source.skip(self.limit.saturating_sub(at).saturating_add(1))?;
        if self.source.offset() > self.limit { Err(self.too_long(at)) } else { Ok(()) }
    }

    /// The contents of the current entry; the caller counts.
    pub(super) fn contents(&mut self) -> Contents<'_, R> {
        Contents(self)
    }

    fn skip_contents(&mut self) -> Result<(), ReadError> {
        let rest = self.contents + self.padding;
        let at = self.source.offset();
        let skipped = self.source.skip(rest)?;
        (self.contents, self.padding) = (0, 0);
        // Some writers leave out the padding of the last entry.
        if skipped < rest && rest - skipped >= BLOCK as u64 { Err(truncated(at)) } else { Ok(()) }
    }

    /// The next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, ReadError> {
        let at = self.source.offset();
        if at > self.limit {
            return Err(self.too_long(at));
        }
        let Some(block) = self.block()? else { return Ok(None) };
        match Header::new(block).map_err(|problem| ReadError::At(at, problem))? {
            Some(header) => Ok(Some(header)),
            None => match self.block()? {
                None => Ok(None),
                Some(block) if block == [0; BLOCK] => Ok(None),
                Some(_) => Err(ReadError::At(at, Problem::LoneZeroBlock)),
            },
        }
    }

    /// A whole block, or `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ReadError> {
        let at = self.source.offset();
        let mut block = [0; BLOCK];
        match self.source.fill(&mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(truncated(at)),
        }
    }

    /// `size` bytes of contents follow, padded to whole blocks.
    fn expect(&mut self, size: u64) -> Result<(), Problem> {
        if size > self.limit.saturating_sub(self.source.offset()) {
            return Err(Problem::Limit { what: "bytes of layers", limit: self.limit });
        }
        self.contents = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The contents of an extended header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, ReadError> {
        let at = self.source.offset();
        let fail = |problem| ReadError::At(at, problem);
        let size = header.size().map_err(fail)?;
        if size > MAX_EXTENSION_BYTES {
            let limit = MAX_EXTENSION_BYTES;
            return Err(fail(Problem::Limit { what: "bytes of extended header", limit }));
        }
        self.expect(size).map_err(fail)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        if self.source.fill(&mut bytes)? < bytes.len() {
            return Err(truncated(at));
        }
        self.contents = 0;
        Ok(bytes)
    }

    /// Puts an entry together from its header and what came before it.
    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, ReadError> {
        let Extensions { pax, long_name, long_link, .. } = extensions;
        let path = pax.sparse.name.clone().or(pax.path).or(long_name);
        let path = path.unwrap_or_else(|| header.path());
        let fail = |problem| ReadError::Entry(path.clone(), problem);
        let id = |value: u64, field| u32::try_from(value).map_err(|_| Problem::Number(field));
        let attr = (|| {
            let (mtime, mtime_nsec) = pax.mtime.map_or_else(|| Ok((header.mtime()?, 0)), Ok)?;
            let uid = id(pax.uid.map_or_else(|| header.uid(), Ok)?, "uid")?;
            let gid = id(pax.gid.map_or_else(|| header.gid(), Ok)?, "gid")?;
            Ok(Attr { mode: header.mode()?, uid, gid, mtime, mtime_nsec, xattrs: pax.xattrs })
        })()
        .map_err(fail)?;
        let link = || pax.link.or(long_link).unwrap_or_else(|| header.link());
        let kind = match header.type_flag() {
            // Before directories had a type they had a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") => EntryKind::Directory,
            flag @ (b'0' | 0 | b'7' | b'S') => {
                let size = pax.size.map_or_else(|| header.size(), Ok).map_err(fail)?;
                self.expect(size).map_err(fail)?;
                let sparse = if flag == b'S' {
                    Some(self.gnu_sparse(header))
                } else {
                    self.pax_sparse(&pax.sparse).transpose()
                };
                match sparse {
                    None if size == 0 => EntryKind::File { size, segments: vec![] },
                    None => EntryKind::File { size, segments: vec![(0, size)] },
                    Some(Ok((size, map))) => {
                        check_segments(size, &map, self.contents).map_err(fail)?;
                        EntryKind::File { size, segments: map }
                    }
                    Some(Err(SparseError::Source(error))) => return Err(error.into()),
                    Some(Err(SparseError::Problem(problem))) => return Err(fail(problem)),
                }
            }
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::Symlink(link()),
            b'3' => header.device().map(|(a, b)| EntryKind::Char(a, b)).map_err(fail)?,
            b'4' => header.device().map(|(a, b)| EntryKind::Block(a, b)).map_err(fail)?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(fail(Problem::UnknownType(other))),
        };
        Ok(Entry { path, attr, kind })
    }

    /// The map of a GNU sparse header; extension blocks lie between it and the contents.
    fn gnu_sparse(&mut self, header: &Header) -> Result<(u64, Segments), SparseError> {
        let GnuSparse { segments: mut map, mut more, size } = header.gnu_sparse()?;
        while more {
            let mut block = [0; BLOCK];
            if self.source.fill(&mut block)? < BLOCK {
                return Err(Problem::Truncated.into());
            }
            map.extend(gnu_segments(&block[..504])?);
            if map.len() > MAX_SEGMENTS {
                return Err(too_many_segments());
            }
            more = block[504] != 0;
        }
        Ok((size, map))
    }

    /// The map of a sparse file in a PAX archive, if it is one.
    fn pax_sparse(&mut self, sparse: &PaxSparse) -> Result<Option<(u64, Segments)>, SparseError> {
        let numbers = match (sparse.version, &sparse.map) {
            ((Some(1), Some(0)), _) => self.sparse_prefix()?,
            ((None, None) | (Some(0), Some(0 | 1)), Some(map)) => map.clone(),
            ((None, None), None) => return Ok(None),
            _ => return Err(Problem::Sparse("unknown version").into()),
        };
        if numbers.len() / 2 > MAX_SEGMENTS {
            return Err(too_many_segments());
        }
        if !numbers.len().is_multiple_of(2) {
            return Err(Problem::Sparse("offset without length").into());
        }
        let map = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let size = sparse.size.ok_or(Problem::Sparse("no size"))?;
        Ok(Some((size, map)))
    }

    /// Format 1.0: the contents start with decimal numbers, one a line, padded to whole blocks.
    fn sparse_prefix(&mut self) -> Result<Vec<u64>, SparseError> {
        let mut numbers = Vec::new();
        let mut wanted = 1;
        let mut line: Vec<u8> = Vec::new();
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            if self.contents < BLOCK as u64 || self.source.fill(&mut block)? < BLOCK {
                return Err(Problem::Truncated.into());
            }
            self.contents -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let number = decimal(&line).ok_or(Problem::Sparse("bad number"))?;
                line.clear();
                if wanted == 1 {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    if count > MAX_SEGMENTS {
                        return Err(too_many_segments());
                    }
                    wanted += 2 * count;
                }
                numbers.push(number);
                if numbers.len() == wanted {
                    break;
                }
            }
            if line.len() > 20 {
                return Err(Problem::Sparse("bad number").into());
            }
        }
        numbers.remove(0);
        Ok(numbers)
    }

    fn too_long(&self, at: u64) -> ReadError {
        ReadError::At(at, Problem::Limit { what: "bytes of layers", limit: self.limit })
    }
}

/// Segments must be in order, apart, within the file, and add up to what is stored. A last segment of
/// length zero only marks the size.
fn check_segments(size: u64, map: &[(u64, u64)], stored: u64) -> Result<(), Problem> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for &(offset, length) in map {
        let next = offset.checked_add(length).ok_or(Problem::Sparse("bad number"))?;
        if offset < end {
            return Err(Problem::Sparse("segments overlap"));
        }
        if next > size {
            return Err(Problem::Sparse("a segment is beyond the end"));
        }
        end = next;
        sum += length;
    }
    if sum == stored { Ok(()) } else { Err(Problem::Sparse("segments do not add up")) }
}

fn too_many_segments() -> SparseError {
    Problem::Limit { what: "segments of a sparse file", limit: MAX_SEGMENTS as u64 }.into()
}

fn truncated(at: u64) -> ReadError {
    ReadError::At(at, Problem::Truncated)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[derive(Debug)]
enum SparseError {
    Source(io::Error),
    Problem(Problem),
}

impl From<io::Error> for SparseError {
    fn from(error: io::Error) -> Self {
        Self::Source(error)
    }
}

impl From<Problem> for SparseError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Reads the contents of an entry, never beyond them.
#[derive(Debug)]
pub(super) struct Contents<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let most = space.len().min(usize::try_from(self.0.contents).unwrap_or(usize::MAX));
        let count = self.0.source.read(&mut space[..most])?;
        self.0.contents -= count as u64;
        Ok(count)
    }
}
