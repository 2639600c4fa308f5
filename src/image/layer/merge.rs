//! Layers, top first, into the contents and the tree of one image.
//!
//! Every layer is read once. Its entries go into a tree of their own, which is laid under what the
//! layers above have made. Contents go straight into the image, except those of files that an upper
//! layer hides: a later entry of the same layer may still link to them, so they go far behind the end
//! of the image, come back when they are linked, and are cut off when the layer ends.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use super::archive::{Archive, Entry, EntryKind, ReadError};
use super::error::{LayerError, Problem, show};
use super::limits::{Limits, MAX_PATH_BYTES};
use super::overlay::{Found, LayerDir, LayerNode, Name, What};
use super::path::{Target, classify, resolve, split};
use crate::image::build::BuildReport;
use crate::image::erofs::{
    Attr, Dir, FileData, Inode, InodeId, Kind, MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES,
    MAX_XATTRS_BYTES, Node, Output, PumpError, Sink, Tree, write_tree, xattr_is_storable,
};

/// Where contents of hidden files go; beyond the largest image plus the largest file.
const SPOOL: u64 = 2 << 40;
/// Where contents start: after the superblock.
const FIRST_BLOCK: u64 = 4096;
/// Attributes of directories that no layer describes.
const IMPLIED_MODE: u16 = 0o755;
/// Memory that a name or an inode costs beside its own bytes.
const NODE_BYTES: u64 = 64;

/// An inode while layers come in.
#[derive(Debug)]
enum Slot {
    Ready(Inode),
    /// Its contents are behind the image and go away with the layer.
    Spooled(Attr, FileData),
    /// A hard link to something in a lower layer.
    Pending,
    /// A hard link that was found.
    Alias(InodeId),
}

/// A hard link whose target is in a lower layer.
#[derive(Debug)]
struct PendingLink {
    id: InodeId,
    target: Vec<Name>,
    layer: String,
    entry: String,
}

/// An image in the making.
#[derive(Debug)]
pub(in crate::image) struct Merge<'l> {
    limits: &'l Limits,
    /// All layers so far.
    merged: LayerDir,
    inodes: Vec<Slot>,
    out: Output,
    spool: Output,
    pending: Vec<PendingLink>,
    layers: usize,
    nodes: u64,
    metadata_bytes: u64,
    report: BuildReport,
}

/// Why an entry could not be applied.
enum Failure {
    Problem(Problem),
    Error(LayerError),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl<'l> Merge<'l> {
    /// Starts an image in `out`, whose contents are dropped.
    pub(in crate::image) fn new(out: File, limits: &'l Limits) -> Result<Self, LayerError> {
        out.set_len(0).map_err(LayerError::Write)?;
        let file = Arc::new(out);
        Ok(Self {
            limits,
            merged: LayerDir::default(),
            inodes: Vec::new(),
            out: Output::new(Arc::clone(&file), FIRST_BLOCK),
            spool: Output::new(file, SPOOL),
            pending: Vec::new(),
            layers: 0,
            nodes: 0,
            metadata_bytes: 0,
            report: BuildReport::default(),
        })
    }

    /// Reads the next lower layer to the end of its stream.
    pub(in crate::image) fn layer(
        &mut self,
        name: &str,
        reader: impl Read,
    ) -> Result<(), LayerError> {
        self.layers += 1;
        if self.layers > self.limits.layers {
            return Err(LayerError::TooManyLayers { limit: self.limits.layers });
        }
        let left = self.limits.total_bytes - self.report.tar_bytes;
        let mut archive = Archive::new(reader, left);
        let mut tree = LayerDir::default();
        let older = self.pending.len();
        while let Some(entry) = archive.next().map_err(|error| self.read_error(name, error))? {
            self.report.entries += 1;
            let path = entry.path.clone();
            self.entry(name, &mut tree, entry, &mut archive).map_err(|failure| match failure {
                Failure::Problem(problem) => entry_error(name, &path, problem),
                Failure::Error(error) => error,
            })?;
        }
        archive.drain().map_err(|error| self.read_error(name, error))?;
        self.report.tar_bytes += archive.offset();
        self.find_pending(older, &tree)?;
        self.merged.cover(tree);
        if self.spool.position() > SPOOL {
            self.spool.discard(SPOOL, self.out.position()).map_err(LayerError::Write)?;
        }
        Ok(())
    }

    fn read_error(&self, layer: &str, error: ReadError) -> LayerError {
        let layer = layer.to_owned();
        // The archive knows what was left of the budget, the reader wants to know all of it.
        let whole = |problem| match problem {
            Problem::Limit { what: what @ "bytes of layers", .. } => {
                Problem::Limit { what, limit: self.limits.total_bytes }
            }
            other => other,
        };
        match error {
            ReadError::Source(source) => LayerError::Read { layer, source },
            ReadError::At(offset, problem) => {
                LayerError::Archive { layer, offset, problem: whole(problem) }
            }
            ReadError::Entry(path, problem) => entry_error(&layer, &path, whole(problem)),
        }
    }

    /// Applies one entry.
    fn entry<R: Read>(
        &mut self,
        layer: &str,
        tree: &mut LayerDir,
        entry: Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Failure> {
        let depth = self.limits.depth;
        self.charge(0)?;
        let names = match classify(split(&entry.path, depth)?)? {
            Target::Ignored => return Ok(()),
            Target::Opaque(names) => {
                let mut names = names;
                names.push(b".");
                let path = self.resolve(tree, &names)?;
                self.parent(tree, &path)?.opaque = true;
                return Ok(());
            }
            Target::Whiteout(names) => {
                let path = self.resolve(tree, &names)?;
                self.node(tree, &path)?.whiteout = true;
                return Ok(());
            }
            Target::Entry(names) => names,
        };
        let path = self.resolve(tree, &names)?;
        if let EntryKind::Directory = entry.kind {
            let attr = self.attr(entry.attr)?;
            let dir = if path.is_empty() { tree } else { self.node(tree, &path)?.make_dir() };
            dir.attr = Some(attr);
            return Ok(());
        }
        if path.is_empty() {
            return Err(Problem::RootNotDirectory.into());
        }
        let hidden = self.merged.find(&path) != Found::Nothing;
        let id = match &entry.kind {
            EntryKind::HardLink(target) => self.hard_link(layer, tree, &entry, target, hidden)?,
            _ => self.leaf(layer, entry, hidden, archive)?,
        };
        self.node(tree, &path)?.what = What::Leaf(id);
        Ok(())
    }

    /// Follows the symlinks of this layer among the parents of a path.
    fn resolve(&self, tree: &LayerDir, names: &[&[u8]]) -> Result<Vec<Name>, Problem> {
        resolve(tree, names, self.limits.depth, |id| match &self.inodes[id.0] {
            Slot::Ready(Inode { kind: Kind::Symlink(target), .. }) => Some(target),
            _ => None,
        })
    }

    /// The directory that holds the last name of `path`, made where the layer has none.
    fn parent<'t>(
        &mut self,
        tree: &'t mut LayerDir,
        path: &[Name],
    ) -> Result<&'t mut LayerDir, Problem> {
        let mut dir = tree;
        for name in &path[..path.len().saturating_sub(1)] {
            if !dir.entries.contains_key(name) {
                self.charge(name.len() as u64)?;
            }
            dir = dir.entries.entry(name.clone()).or_default().make_dir();
        }
        Ok(dir)
    }

    /// The node at `path`, made where the layer has none.
    fn node<'t>(
        &mut self,
        tree: &'t mut LayerDir,
        path: &[Name],
    ) -> Result<&'t mut LayerNode, Problem> {
        let name = path.last().ok_or(Problem::Whiteout)?;
        let dir = self.parent(tree, path)?;
        if !dir.entries.contains_key(name) {
            self.charge_bytes(name.len() as u64)?;
        }
        Ok(dir.entries.entry(name.clone()).or_default())
    }

    /// Counts one more entry that keeps `bytes` in memory.
    fn charge(&mut self, bytes: u64) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > self.limits.entries {
            return Err(Problem::Limit { what: "entries", limit: self.limits.entries });
        }
        self.charge_bytes(bytes + NODE_BYTES)
    }

    /// Counts bytes that are kept in memory.
    fn charge_bytes(&mut self, bytes: u64) -> Result<(), Problem> {
        self.metadata_bytes += bytes;
        let limit = self.limits.metadata_bytes;
        if self.metadata_bytes > limit {
            return Err(Problem::Limit { what: "bytes of names and attributes", limit });
        }
        Ok(())
    }

    /// Checks attributes, and drops those that cannot or must not be in the image.
    fn attr(&mut self, mut attr: Attr) -> Result<Attr, Problem> {
        let before = attr.xattrs.len();
        attr.xattrs.retain(|name, _| {
            // They would tell the guest's overlay to hide, redirect or replace files.
            xattr_is_storable(name) && !name.starts_with(b"trusted.overlay.")
        });
        self.report.dropped_xattrs += (before - attr.xattrs.len()) as u64;
        let mut bytes = 0;
        for (name, value) in &attr.xattrs {
            if name.contains(&0) || name.len() > MAX_XATTR_NAME_BYTES {
                return Err(Problem::Xattr("bad name"));
            }
            if value.len() > MAX_XATTR_VALUE_BYTES {
                return Err(Problem::Xattr("value longer than 65535 bytes"));
            }
            bytes += name.len() + value.len();
        }
        if bytes > MAX_XATTRS_BYTES {
            return Err(Problem::Xattr("more than 128 KiB of them"));
        }
        self.charge_bytes(bytes as u64)?;
        Ok(attr)
    }

    /// Makes the inode of an entry that is neither a directory nor a hard link.
    fn leaf<R: Read>(
        &mut self,
        layer: &str,
        entry: Entry,
        hidden: bool,
        archive: &mut Archive<R>,
    ) -> Result<InodeId, Failure> {
        let attr = self.attr(entry.attr)?;
        let kind = match entry.kind {
            EntryKind::File { size, segments } => {
                let data = self.contents(layer, size, &segments, hidden, archive)?;
                self.charge_bytes(data.held())?;
                if hidden && !matches!(data, FileData::Inline(_)) {
                    return Ok(self.slot(Slot::Spooled(attr, data)));
                }
                Kind::File(data)
            }
            EntryKind::Symlink(target) => {
                check_target(&target)?;
                self.charge_bytes(target.len() as u64)?;
                return Ok(self.slot(Slot::Ready(Inode {
                    attr: Attr { mode: 0o777, ..attr },
                    kind: Kind::Symlink(target.into()),
                })));
            }
            EntryKind::Char(major, minor) => {
                let (major, minor) = device(major, minor)?;
                Kind::Char { major, minor }
            }
            EntryKind::Block(major, minor) => {
                let (major, minor) = device(major, minor)?;
                Kind::Block { major, minor }
            }
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::Directory | EntryKind::HardLink(_) => unreachable!("handled by the caller"),
        };
        Ok(self.slot(Slot::Ready(Inode { attr, kind })))
    }

    fn slot(&mut self, slot: Slot) -> InodeId {
        self.inodes.push(slot);
        InodeId(self.inodes.len() - 1)
    }

    /// Copies the contents of a regular file into the image, or behind it.
    fn contents<R: Read>(
        &mut self,
        layer: &str,
        size: u64,
        segments: &[(u64, u64)],
        hidden: bool,
        archive: &mut Archive<R>,
    ) -> Result<FileData, Failure> {
        if size > self.limits.file_bytes {
            let limit = self.limits.file_bytes;
            return Err(Problem::Limit { what: "bytes in one file", limit }.into());
        }
        let out = if hidden { &mut self.spool } else { &mut self.out };
        let data = copy(out, size, segments, archive).map_err(|error| match error {
            PumpError::Read(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Failure::Problem(Problem::Truncated)
            }
            PumpError::Read(source) => {
                Failure::Error(LayerError::Read { layer: layer.to_owned(), source })
            }
            PumpError::Write(error) => Failure::Error(LayerError::Write(error)),
        })?;
        let limit = self.limits.image_bytes;
        if self.out.position().max(self.spool.position() - SPOOL) > limit {
            return Err(Problem::Limit { what: "bytes of image", limit }.into());
        }
        Ok(data)
    }

    /// The inode that a hard link stands for.
    fn hard_link(
        &mut self,
        layer: &str,
        tree: &LayerDir,
        entry: &Entry,
        target: &[u8],
        hidden: bool,
    ) -> Result<InodeId, Failure> {
        let names = split(target, self.limits.depth)?;
        let path = self.resolve(tree, &names)?;
        match tree.find(&path) {
            Found::Leaf(id) => {
                if !hidden {
                    self.unspool(id).map_err(Failure::Error)?;
                }
                Ok(id)
            }
            Found::Dir => Err(Problem::LinkToDirectory(show(target)).into()),
            Found::Hidden => Err(Problem::LinkTargetMissing(show(target)).into()),
            Found::Nothing => {
                self.charge_bytes((target.len() + entry.path.len()) as u64 + 2 * NODE_BYTES)?;
                let id = self.slot(Slot::Pending);
                let (layer, entry) = (layer.to_owned(), show(&entry.path));
                self.pending.push(PendingLink { id, target: path, layer, entry });
                Ok(id)
            }
        }
    }

    /// Brings contents that were put behind the image into it.
    fn unspool(&mut self, id: InodeId) -> Result<(), LayerError> {
        if let Slot::Spooled(attr, data) = &self.inodes[id.0] {
            let attr = attr.clone();
            let data = self.out.adopt(&mut self.spool, data).map_err(LayerError::Write)?;
            self.inodes[id.0] = Slot::Ready(Inode { attr, kind: Kind::File(data) });
        }
        Ok(())
    }

    /// Looks up the first `count` pending links, those of upper layers, in the layer that was just read.
    fn find_pending(&mut self, count: usize, tree: &LayerDir) -> Result<(), LayerError> {
        let newer = self.pending.split_off(count);
        for link in std::mem::replace(&mut self.pending, newer) {
            let shown = show(&link.target.join(&b'/'));
            let fail = |problem| LayerError::Entry {
                layer: link.layer.clone(),
                entry: link.entry.clone(),
                problem,
            };
            let names: Vec<&[u8]> = link.target.iter().map(|name| &**name).collect();
            let path = self.resolve(tree, &names).map_err(fail)?;
            match tree.find(&path) {
                Found::Leaf(id) => {
                    self.unspool(id)?;
                    self.inodes[link.id.0] = Slot::Alias(id);
                }
                Found::Dir => return Err(fail(Problem::LinkToDirectory(shown))),
                Found::Hidden => return Err(fail(Problem::LinkTargetMissing(shown))),
                Found::Nothing => self.pending.push(PendingLink { target: path, ..link }),
            }
        }
        Ok(())
    }

    /// Writes the tree and the superblock.
    pub(in crate::image) fn finish(mut self) -> Result<BuildReport, LayerError> {
        if let Some(PendingLink { target, layer, entry, .. }) = self.pending.into_iter().next() {
            let problem = Problem::LinkTargetMissing(show(&target.join(&b'/')));
            return Err(LayerError::Entry { layer, entry, problem });
        }
        let mut numbers = Numbers { slots: self.inodes, inodes: Vec::new(), new: Vec::new() };
        numbers.new.resize(numbers.slots.len(), None);
        let root = numbers.dir(self.merged)?;
        let tree = Tree { root, inodes: numbers.inodes };
        let finished = write_tree(&tree, &mut self.out).map_err(LayerError::Image)?;
        Ok(BuildReport { size_bytes: finished.size_bytes, inodes: finished.inodes, ..self.report })
    }
}

/// Renumbers inodes, leaving out those without a name.
struct Numbers {
    slots: Vec<Slot>,
    inodes: Vec<Inode>,
    new: Vec<Option<InodeId>>,
}

impl Numbers {
    /// The directory without what was only needed to merge.
    fn dir(&mut self, dir: LayerDir) -> Result<Dir, LayerError> {
        let mut entries = std::collections::BTreeMap::new();
        for (name, node) in dir.entries {
            let node = match node.what {
                What::Nothing => continue,
                What::Dir(child) => Node::Dir(self.dir(child)?),
                What::Leaf(id) => Node::Leaf(self.leaf(id)?),
            };
            entries.insert(name, node);
        }
        Ok(Dir { attr: dir.attr.unwrap_or_else(|| Attr::mode(IMPLIED_MODE)), entries })
    }

    fn leaf(&mut self, mut id: InodeId) -> Result<InodeId, LayerError> {
        while let Slot::Alias(other) = self.slots[id.0] {
            id = other;
        }
        if let Some(new) = self.new[id.0] {
            return Ok(new);
        }
        let Slot::Ready(inode) = std::mem::replace(&mut self.slots[id.0], Slot::Pending) else {
            return Err(LayerError::Write(std::io::Error::other("contents of a file are lost")));
        };
        let new = InodeId(self.inodes.len());
        self.inodes.push(inode);
        self.new[id.0] = Some(new);
        Ok(new)
    }
}

/// Streams the segments of a file, zeros between them.
fn copy<R: Read>(
    out: &mut Output,
    size: u64,
    segments: &[(u64, u64)],
    archive: &mut Archive<R>,
) -> Result<FileData, PumpError> {
    let mut sink = Sink::new(out, size).map_err(PumpError::Write)?;
    let mut at = 0;
    for &(offset, length) in segments {
        sink.zeros(offset - at).map_err(PumpError::Write)?;
        sink.copy(&mut archive.contents(), length)?;
        at = offset + length;
    }
    sink.zeros(size - at).map_err(PumpError::Write)?;
    sink.finish().map_err(PumpError::Write)
}

fn check_target(target: &[u8]) -> Result<(), Problem> {
    match target.len() {
        0 => Err(Problem::NoTarget),
        length if length > MAX_PATH_BYTES => Err(Problem::PathTooLong),
        _ if target.contains(&0) => Err(Problem::Nul),
        _ => Ok(()),
    }
}

/// A device number that a kernel can represent.
fn device(major: u64, minor: u64) -> Result<(u32, u32), Problem> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(a), Ok(b)) if a < 1 << 12 && b < 1 << 20 => Ok((a, b)),
        _ => Err(Problem::DeviceNumber(major, minor)),
    }
}

fn entry_error(layer: &str, path: &[u8], problem: Problem) -> LayerError {
    LayerError::Entry { layer: layer.to_owned(), entry: show(path), problem }
}
