//! Writing a placed tree: tail blocks, inodes, superblock.

use super::data::{FileData, Output};
use super::error::ErofsError;
use super::format::{
    BLOCK, BLOCK_BITS, DIRENT, DataLayout, RawInode, SLOT, Superblock, encode_device, file_type,
};
use super::layout::{FlatDir, Layout, Place, Target, dir_blocks, leaf_size, leaf_type};
use super::tree::{Inode, Kind, Tree};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Size of the image in bytes, a multiple of 4096.
    pub size_bytes: u64,
    /// Inodes in it, directories among them.
    pub inodes: u64,
}

/// Appends all metadata of `tree` to `out`, whose region holds the contents, and writes the superblock.
pub(in crate::image) fn write_tree(tree: &Tree, out: &mut Output) -> Result<Finished, ErofsError> {
    let layout = Layout::new(tree)?;
    let tail_start = out.block().map_err(ErofsError::Write)?;
    let writer = Writer { tree, layout: &layout, tail_start };
    for (target, place) in &layout.order {
        writer.tail(*target, *place, out)?;
    }
    let meta_block = out.block().map_err(ErofsError::Write)?;
    let meta_start = out.position();
    let mut bytes = Vec::new();
    for (number, (target, place)) in layout.order.iter().enumerate() {
        let at = meta_start + place.nid * SLOT;
        out.zeros(at - out.position()).map_err(ErofsError::Write)?;
        bytes.clear();
        let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
        writer.inode(*target, *place, number, &mut bytes)?;
        out.append(&bytes).map_err(ErofsError::Write)?;
    }
    let blocks = out.block().map_err(ErofsError::Write)?;
    out.flush().map_err(ErofsError::Write)?;
    let too_large = |_| ErofsError::TooLarge { what: "root directory attributes" };
    let superblock = Superblock {
        root_nid: u16::try_from(layout.order[0].1.nid).map_err(too_large)?,
        inodes: layout.order.len() as u64,
        blocks,
        meta_block,
        chunked: layout
            .leaf_places
            .keys()
            .any(|id| matches!(tree.inodes[id.0].kind, Kind::File(FileData::Chunks { .. }))),
    };
    let size_bytes = u64::from(blocks) * BLOCK;
    out.finish(&superblock.encode(), size_bytes).map_err(ErofsError::Write)?;
    Ok(Finished { size_bytes, inodes: superblock.inodes })
}

struct Writer<'a> {
    tree: &'a Tree,
    layout: &'a Layout<'a>,
    tail_start: u32,
}

impl Writer<'_> {
    /// Writes the blocks of an inode in the tail area, if it has any.
    fn tail(&self, target: Target, place: Place, out: &mut Output) -> Result<(), ErofsError> {
        match target {
            Target::Dir(index) => {
                let dir = &self.layout.dirs[index];
                for block in dir_blocks(&dir.entries) {
                    let bytes = self.dir_block(block)?;
                    let last = block.as_ptr_range().end == dir.entries.as_ptr_range().end;
                    if last && place.inline {
                        break;
                    }
                    out.append(&bytes).map_err(ErofsError::Write)?;
                    out.align().map_err(ErofsError::Write)?;
                }
            }
            Target::Leaf(id) => {
                if let Some(bytes) = small_contents(&self.tree.inodes[id.0].kind)
                    && !place.inline
                    && !bytes.is_empty()
                {
                    out.append(bytes).map_err(ErofsError::Write)?;
                    out.align().map_err(ErofsError::Write)?;
                }
            }
        }
        Ok(())
    }

    /// Writes an inode with all that follows it.
    fn inode(
        &self,
        target: Target,
        place: Place,
        number: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), ErofsError> {
        match target {
            Target::Dir(index) => self.dir_inode(&self.layout.dirs[index], place, number, out),
            Target::Leaf(id) => self.leaf_inode(&self.tree.inodes[id.0], place, number, out),
        }
    }

    fn dir_inode(
        &self,
        dir: &FlatDir<'_>,
        place: Place,
        number: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), ErofsError> {
        let raw = RawInode {
            kind: file_type::DIRECTORY,
            layout: layout_of(place),
            attr: &dir.dir.attr,
            size: dir.size,
            union: self.tail_block(place)?,
            number,
            links: place.links,
        };
        raw.encode(out)?;
        if place.inline
            && let Some(last) = dir_blocks(&dir.entries).last()
        {
            out.extend(self.dir_block(last)?);
        }
        Ok(())
    }

    fn leaf_inode(
        &self,
        inode: &Inode,
        place: Place,
        number: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), ErofsError> {
        let (layout, union) = match &inode.kind {
            Kind::File(FileData::Flat { block, .. }) => (DataLayout::FlatPlain, *block),
            Kind::File(FileData::Chunks { chunk_bits, .. }) => {
                (DataLayout::ChunkBased, chunk_bits - u32::from(BLOCK_BITS))
            }
            Kind::File(FileData::Inline(_)) | Kind::Symlink(_) => {
                (layout_of(place), self.tail_block(place)?)
            }
            Kind::Char { major, minor } | Kind::Block { major, minor } => {
                let device = encode_device(*major, *minor);
                let too_large = ErofsError::TooLarge { what: "device number" };
                (DataLayout::FlatPlain, device.ok_or(too_large)?)
            }
            Kind::Fifo | Kind::Socket => (DataLayout::FlatPlain, 0),
        };
        let raw = RawInode {
            kind: leaf_type(&inode.kind),
            layout,
            attr: &inode.attr,
            size: leaf_size(&inode.kind),
            union,
            number,
            links: place.links,
        };
        raw.encode(out)?;
        if let Kind::File(FileData::Chunks { map, .. }) = &inode.kind {
            out.extend(map.iter().flat_map(|block| block.to_le_bytes()));
        }
        if place.inline {
            out.extend(small_contents(&inode.kind).unwrap_or_default());
        }
        Ok(())
    }

    /// Address of the first tail block of an inode.
    fn tail_block(&self, place: Place) -> Result<u32, ErofsError> {
        u32::try_from(u64::from(self.tail_start) + place.block)
            .map_err(|_| ErofsError::TooLarge { what: "image" })
    }

    /// One directory block, as far as it is used.
    fn dir_block(&self, entries: &[(&[u8], Target)]) -> Result<Vec<u8>, ErofsError> {
        let mut block = Vec::new();
        let mut name_at = entries.len() * DIRENT;
        for (name, target) in entries {
            let (place, kind) = match target {
                Target::Dir(index) => (self.layout.dir_places[*index], file_type::DIRECTORY),
                Target::Leaf(id) => (
                    self.layout.leaf_places.get(id).copied(),
                    leaf_type(&self.tree.inodes[id.0].kind),
                ),
            };
            let nid = place.map_or(0, |place| place.nid);
            block.extend(nid.to_le_bytes());
            let offset = u16::try_from(name_at)
                .map_err(|_| ErofsError::TooLarge { what: "directory block" })?;
            block.extend(offset.to_le_bytes());
            block.extend([kind, 0]);
            name_at += name.len();
        }
        for (name, _) in entries {
            block.extend(*name);
        }
        Ok(block)
    }
}

/// Contents that are not written through a sink.
fn small_contents(kind: &Kind) -> Option<&[u8]> {
    match kind {
        Kind::File(FileData::Inline(bytes)) => Some(bytes),
        Kind::Symlink(target) => Some(target),
        Kind::File(FileData::Flat { .. } | FileData::Chunks { .. })
        | Kind::Char { .. }
        | Kind::Block { .. }
        | Kind::Fifo
        | Kind::Socket => None,
    }
}

fn layout_of(place: Place) -> DataLayout {
    if place.inline { DataLayout::FlatInline } else { DataLayout::FlatPlain }
}
