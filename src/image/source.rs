//! Where manifests and blobs come from: a registry, a layout directory, an archive. Everything
//! after that is one path.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;

use super::digest::Digest;
use super::error::Reason;
use super::growing::Growing;
use super::wire::Descriptor;

/// Bytes as they arrive. Ends early or late when the other side lies: the taker counts.
pub(super) type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Reason>> + Send>>;

/// A source of one image reference.
pub(super) trait Registry: Send + Sync {
    /// The manifest or index with that digest, or the one that the reference names. The bytes are
    /// bounded; with a digest they are what it says.
    fn manifest<'a>(&'a self, digest: Option<&'a Digest>)
    -> BoxFuture<'a, Result<Vec<u8>, Reason>>;

    /// The blob, from the byte `from` on where the source can. Not verified.
    fn blob<'a>(&'a self, blob: &'a Descriptor, from: u64) -> BoxFuture<'a, Result<Blob, Reason>>;
}

/// The content of a blob.
pub(super) enum Blob {
    /// Comes over the network; `start` is what was asked for, or 0.
    Stream { start: u64, body: ByteStream },
    /// Is part of a local file.
    File(FilePart),
}

/// `size_bytes` of a file from `offset` on.
#[derive(Debug)]
pub(super) struct FilePart {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) size_bytes: u64,
}

impl FilePart {
    /// A reader of the part, independent of the position of the file.
    pub(super) fn reader(self) -> PartReader {
        PartReader { part: self, position: 0, growing: None }
    }

    /// The same of a part that is still growing.
    pub(super) fn growing_reader(self, growing: Option<Arc<Growing>>) -> PartReader {
        PartReader { part: self, position: 0, growing }
    }
}

/// Reads a [`FilePart`] from its start.
pub(super) struct PartReader {
    part: FilePart,
    position: u64,
    growing: Option<Arc<Growing>>,
}

impl PartReader {
    /// Reads what there is of the part before `end`.
    fn read_until(&self, end: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        let left = end.min(self.part.size_bytes) - self.position;
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.part.file.read_at(&mut buffer[..want], self.part.offset + self.position)?;
        if got == 0 && want > 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(got)
    }
}

impl std::io::Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = match &self.growing {
            None => self.read_until(self.part.size_bytes, buffer),
            Some(growing) => growing.read_beyond(self.position, |end| self.read_until(end, buffer)),
        }?;
        self.position += got as u64;
        Ok(got)
    }
}
