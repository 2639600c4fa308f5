//! From the tree of changes to an EROFS file.

use std::fs::File;
use std::io::{self, Read};

use super::error::{LayerError, PatchError, Problem};
use super::limits::MAX_TOTAL_BYTES;
use super::lower::Lower;
use super::source::{Root, Scan, What};
use super::tree::{Dir, Node, Part};
use crate::image::erofs::{Builder, ErofsError};

/// Bytes that are read of an image at a time.
const CHUNK: usize = 1 << 18;

/// What the contents of files are read from.
pub(super) struct Contents<'a> {
    pub(super) image: &'a Lower,
    pub(super) root: &'a Root,
    /// By patch.
    pub(super) scans: &'a [Option<Scan>],
}

/// Why a layer was not written.
pub(super) enum WriteError {
    Layer(LayerError),
    Erofs(ErofsError),
}

impl From<ErofsError> for WriteError {
    fn from(error: ErofsError) -> Self {
        Self::Erofs(error)
    }
}

/// Checks how much the files hold together; the last patch is what is one too many.
pub(super) fn check_total(root: &Dir, patches: usize) -> Result<(), PatchError> {
    let mut total = 0_u64;
    let mut todo = vec![root];
    while let Some(dir) = todo.pop() {
        for node in dir.entries.values() {
            match node {
                Node::Dir(child) => todo.push(child),
                Node::File(_, parts) => total += parts.iter().map(Part::size).sum::<u64>(),
                Node::Symlink(..) | Node::Whiteout => {}
            }
        }
    }
    if total > MAX_TOTAL_BYTES {
        let index = patches.saturating_sub(1);
        return Err(PatchError { index, problem: Problem::TooLarge });
    }
    Ok(())
}

/// Writes the layer into `out`.
pub(super) fn write(root: &Dir, contents: &Contents<'_>, out: File) -> Result<(), WriteError> {
    let mut builder = Builder::new(out)?;
    builder.dir("/", root.attr.clone())?;
    let mut path = Vec::new();
    write_entries(&mut builder, root, contents, &mut path)?;
    builder.finish()?;
    Ok(())
}

fn write_entries(
    builder: &mut Builder,
    dir: &Dir,
    contents: &Contents<'_>,
    path: &mut Vec<u8>,
) -> Result<(), WriteError> {
    for (name, node) in &dir.entries {
        let length = path.len();
        path.push(b'/');
        path.extend_from_slice(name);
        match node {
            Node::Dir(child) => {
                match child.lower {
                    Some(_) => builder.dir(&*path, child.attr.clone())?,
                    None => builder.opaque_dir(&*path, child.attr.clone())?,
                }
                write_entries(builder, child, contents, path)?;
            }
            Node::File(attr, parts) => {
                let size = parts.iter().map(Part::size).sum();
                let mut reader = Reader { contents, parts, offset: 0, open: None, failed: None };
                let written = builder.file(&*path, attr.clone(), size, &mut reader);
                if let Some(error) = reader.failed {
                    return Err(WriteError::Layer(error));
                }
                written?;
            }
            Node::Symlink(attr, target) => builder.symlink(&*path, attr.clone(), target)?,
            Node::Whiteout => builder.whiteout(&*path)?,
        }
        path.truncate(length);
    }
    Ok(())
}

/// Reads the parts of a file one after the other.
struct Reader<'a> {
    contents: &'a Contents<'a>,
    parts: &'a [Part],
    /// How much of the first of the parts has been read.
    offset: u64,
    /// The source that is read, and the hash so far.
    open: Option<(File, Box<blake3::Hasher>)>,
    failed: Option<LayerError>,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((part, rest)) = self.parts.split_first() {
            let left = part.size() - self.offset;
            if left == 0 {
                self.parts = rest;
                self.offset = 0;
                continue;
            }
            if buffer.is_empty() {
                return Ok(0);
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = self.read_part(part, &mut buffer[..count])?;
            self.offset += count as u64;
            if self.offset == part.size() {
                self.end(part)?;
                self.parts = rest;
                self.offset = 0;
            }
            return Ok(count);
        }
        Ok(0)
    }
}

impl Reader<'_> {
    fn read_part(&mut self, part: &Part, buffer: &mut [u8]) -> io::Result<usize> {
        match part {
            Part::Bytes(bytes) => {
                let from = usize::try_from(self.offset).map_err(io::Error::other)?;
                buffer.copy_from_slice(&bytes[from..from + buffer.len()]);
                Ok(buffer.len())
            }
            Part::Image(stat) => {
                let count = CHUNK.min(buffer.len());
                let read = self.contents.image.read(*stat, self.offset, &mut buffer[..count]);
                read.map_err(io::Error::other)
            }
            Part::Source { patch, entry, .. } => {
                let (file, hasher) = match &mut self.open {
                    Some(open) => open,
                    None => {
                        let file = self.reopen(*patch, *entry)?;
                        self.open.insert((file, Box::default()))
                    }
                };
                let count = file.read(buffer)?;
                hasher.update(&buffer[..count]);
                if count == 0 { Err(self.changed(*patch, *entry)) } else { Ok(count) }
            }
        }
    }

    /// A part has been read to its end.
    fn end(&mut self, part: &Part) -> io::Result<()> {
        let Part::Source { patch, entry, .. } = part else { return Ok(()) };
        let Some((_, hasher)) = self.open.take() else { return Ok(()) };
        let scan = self.contents.scans.get(*patch).and_then(Option::as_ref);
        match scan.and_then(|scan| scan.entries.get(*entry)).map(|entry| &entry.what) {
            Some(What::File { hash, .. }) if *hash == hasher.finalize() => Ok(()),
            _ => Err(self.changed(*patch, *entry)),
        }
    }

    fn reopen(&mut self, patch: usize, entry: usize) -> io::Result<File> {
        let scan = self.contents.scans.get(patch).and_then(Option::as_ref);
        let found = scan.and_then(|scan| Some((scan, scan.entries.get(entry)?)));
        let opened = match found {
            Some((scan, entry)) => self.contents.root.reopen(scan, entry),
            None => Err(Problem::NoDigest),
        };
        opened.map_err(|problem| self.fail(patch, problem))
    }

    fn changed(&mut self, patch: usize, entry: usize) -> io::Error {
        let scan = self.contents.scans.get(patch).and_then(Option::as_ref);
        let path =
            scan.and_then(|scan| Some(self.contents.root.shown(scan, scan.entries.get(entry)?)));
        self.fail(patch, Problem::Changed(path.unwrap_or_default()))
    }

    /// Keeps what is wrong past the file system's builder, which knows only of readers that fail.
    fn fail(&mut self, index: usize, problem: Problem) -> io::Error {
        self.failed = Some(PatchError { index, problem }.into());
        io::Error::other("a source of a patch")
    }
}
