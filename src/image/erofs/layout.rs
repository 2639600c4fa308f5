//! Where every inode goes.
//!
//! Directories are numbered in pre-order; the inodes of one directory's entries lie side by side in
//! name order, so that listing a directory with attributes touches few blocks.

use std::collections::BTreeMap;

use super::data::FileData;
use super::error::ErofsError;
use super::format::{BLOCK, DIRENT, SLOT, file_type, head_len};
use super::tree::{Dir, Inode, InodeId, Kind, Node, Tree};

/// What a directory entry stands for, with directories numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Dir(usize),
    Leaf(InodeId),
}

/// A directory with its place in the numbering.
#[derive(Debug)]
pub(super) struct FlatDir<'a> {
    pub(super) dir: &'a Dir,
    /// All entries in the order of the disk, `.` and `..` among them.
    pub(super) entries: Vec<(&'a [u8], Target)>,
    /// Bytes of its blocks, the last one counted as far as it is used.
    pub(super) size: u64,
    pub(super) links: u32,
}

/// Where one inode is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) nid: u64,
    /// First of the blocks that hold what is not inline, counted from the start of the tail area.
    pub(super) block: u64,
    /// Whether the end of the contents follows the inode.
    pub(super) inline: bool,
    pub(super) links: u32,
}

/// The numbering of a whole tree.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    pub(super) dirs: Vec<FlatDir<'a>>,
    /// Inodes in the order of the disk.
    pub(super) order: Vec<(Target, Place)>,
    pub(super) dir_places: Vec<Option<Place>>,
    pub(super) leaf_places: BTreeMap<InodeId, Place>,
    /// Blocks of the tail area: directory blocks, long symlink targets.
    pub(super) tail_blocks: u64,
    /// Bytes of the inode area.
    pub(super) meta_bytes: u64,
}

impl<'a> Layout<'a> {
    /// Places everything that can be reached from the root.
    pub(super) fn new(tree: &'a Tree) -> Result<Self, ErofsError> {
        let dirs = flatten(&tree.root)?;
        let links = count_links(&dirs)?;
        let mut layout = Self {
            dir_places: vec![None; dirs.len()],
            dirs: Vec::new(),
            order: Vec::new(),
            leaf_places: BTreeMap::new(),
            tail_blocks: 0,
            // The first slot stays empty: the root must not have inode number zero.
            meta_bytes: SLOT,
        };
        layout.place_dir(0, &dirs);
        for dir in &dirs {
            for (name, target) in &dir.entries {
                match target {
                    _ if matches!(*name, b"." | b"..") => {}
                    Target::Dir(index) => layout.place_dir(*index, &dirs),
                    Target::Leaf(id) => layout.place_leaf(*id, &tree.inodes[id.0], links[id]),
                }
            }
        }
        layout.dirs = dirs;
        Ok(layout)
    }

    fn place_dir(&mut self, index: usize, dirs: &[FlatDir<'_>]) {
        let FlatDir { dir, size, links, .. } = dirs[index];
        let head = head_len(&dir.attr, size, links) as u64;
        let whole = size / BLOCK;
        let place = self.place(head, 0, size % BLOCK, whole, links);
        self.dir_places[index] = Some(place);
        self.order.push((Target::Dir(index), place));
    }

    fn place_leaf(&mut self, id: InodeId, inode: &Inode, links: u32) {
        if self.leaf_places.contains_key(&id) {
            return;
        }
        let size = leaf_size(&inode.kind);
        let head = head_len(&inode.attr, size, links) as u64;
        let place = match &inode.kind {
            Kind::File(FileData::Inline(bytes)) => {
                self.place(head, 0, bytes.len() as u64, 0, links)
            }
            Kind::File(FileData::Chunks { map, .. }) => {
                self.place(head, map.len() as u64 * 4, 0, 0, links)
            }
            Kind::Symlink(target) => self.place_symlink(head, target.len() as u64, links),
            Kind::File(FileData::Flat { .. })
            | Kind::Char { .. }
            | Kind::Block { .. }
            | Kind::Fifo
            | Kind::Socket => self.place(head, 0, 0, 0, links),
        };
        self.leaf_places.insert(id, place);
        self.order.push((Target::Leaf(id), place));
    }

    /// Older kernels refuse an inline target unless inode, xattrs and target share one block.
    fn place_symlink(&mut self, head: u64, target: u64, links: u32) -> Place {
        if head + target <= BLOCK && self.meta_bytes % BLOCK + head + target > BLOCK {
            self.meta_bytes = self.meta_bytes.next_multiple_of(BLOCK);
        }
        if head + target <= BLOCK {
            self.place(head, 0, target, 0, links)
        } else {
            let place = self.place(head, 0, 0, 1, links);
            Place { inline: false, ..place }
        }
    }

    /// Takes room for `head` bytes of inode and xattrs, `map` bytes that may cross blocks, `tail` bytes
    /// that may not, and `whole` blocks elsewhere.
    fn place(&mut self, head: u64, map: u64, tail: u64, whole: u64, links: u32) -> Place {
        let core = head.min(2 * SLOT);
        let fits = |at: u64| {
            at % BLOCK + core <= BLOCK && (tail == 0 || (at + head) % BLOCK + tail <= BLOCK)
        };
        let mut at = self.meta_bytes;
        if !fits(at) {
            at = at.next_multiple_of(BLOCK);
        }
        let inline = tail > 0 && fits(at);
        let block = self.tail_blocks;
        self.tail_blocks += whole + u64::from(tail > 0 && !inline);
        let end = at + head + map + if inline { tail } else { 0 };
        self.meta_bytes = end.next_multiple_of(SLOT);
        Place { nid: at / SLOT, block, inline, links }
    }
}

/// Size of the contents of an inode that is not a directory.
pub(super) fn leaf_size(kind: &Kind) -> u64 {
    match kind {
        Kind::File(data) => data.size(),
        Kind::Symlink(target) => target.len() as u64,
        Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo | Kind::Socket => 0,
    }
}

/// The file type of an inode that is not a directory.
pub(super) fn leaf_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => file_type::REGULAR,
        Kind::Symlink(_) => file_type::SYMLINK,
        Kind::Char { .. } => file_type::CHAR,
        Kind::Block { .. } => file_type::BLOCK,
        Kind::Fifo => file_type::FIFO,
        Kind::Socket => file_type::SOCKET,
    }
}

/// Numbers all directories in pre-order, the root first.
fn flatten(root: &Dir) -> Result<Vec<FlatDir<'_>>, ErofsError> {
    let mut dirs: Vec<FlatDir<'_>> = Vec::new();
    // (directory, its parent's number, where the parent's entry for it is)
    let mut todo: Vec<(&Dir, usize, Option<usize>)> = vec![(root, 0, None)];
    while let Some((dir, parent, slot)) = todo.pop() {
        let index = dirs.len();
        if let Some(slot) = slot {
            dirs[parent].entries[slot].1 = Target::Dir(index);
        }
        let mut entries: Vec<(&[u8], Target)> = Vec::with_capacity(dir.entries.len() + 2);
        entries.push((b".", Target::Dir(index)));
        entries.push((b"..", Target::Dir(parent)));
        for (name, node) in &dir.entries {
            let target = match node {
                Node::Dir(_) => Target::Dir(usize::MAX),
                Node::Leaf(id) => Target::Leaf(*id),
            };
            entries.push((name, target));
        }
        entries.sort_unstable_by_key(|(name, _)| *name);
        let mut subdirs = 0_u32;
        for (slot, (name, _)) in entries.iter().enumerate().rev() {
            if let Some(Node::Dir(child)) = dir.entries.get(*name) {
                todo.push((child, index, Some(slot)));
                subdirs += 1;
            }
        }
        let size = dir_size(&entries);
        let links = subdirs.saturating_add(2);
        if entries.iter().any(|(name, _)| name.len() > super::attr::MAX_NAME_BYTES) {
            return Err(ErofsError::TooLarge { what: "file name" });
        }
        dirs.push(FlatDir { dir, entries, size, links });
    }
    Ok(dirs)
}

/// How many names each leaf has.
fn count_links(dirs: &[FlatDir<'_>]) -> Result<BTreeMap<InodeId, u32>, ErofsError> {
    let mut links = BTreeMap::new();
    for (_, target) in dirs.iter().flat_map(|dir| &dir.entries) {
        if let Target::Leaf(id) = target {
            let count: &mut u32 = links.entry(*id).or_insert(0);
            *count = count.checked_add(1).ok_or(ErofsError::TooLarge { what: "link count" })?;
        }
    }
    Ok(links)
}

/// Splits sorted entries into runs that each fill one block.
pub(super) fn dir_blocks<'e, 'a>(
    entries: &'e [(&'a [u8], Target)],
) -> impl Iterator<Item = &'e [(&'a [u8], Target)]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut used = 0;
        let fits = |(name, _): &&(&[u8], Target)| {
            used += DIRENT + name.len();
            used as u64 <= BLOCK
        };
        let count = rest.iter().take_while(fits).count();
        let (block, after) = rest.split_at(count);
        rest = after;
        (!block.is_empty()).then_some(block)
    })
}

/// Bytes of a directory: whole blocks, the last one as far as it is used.
fn dir_size(entries: &[(&[u8], Target)]) -> u64 {
    let mut size = 0_u64;
    for block in dir_blocks(entries) {
        let used: usize = block.iter().map(|(name, _)| DIRENT + name.len()).sum();
        size = size.next_multiple_of(BLOCK) + used as u64;
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_many_names_takes_several_blocks() {
        let names: Vec<Vec<u8>> = (0..1000).map(|n| format!("name-{n:05}").into_bytes()).collect();
        let entries: Vec<_> =
            names.iter().map(|name| (name.as_slice(), Target::Leaf(InodeId(0)))).collect();
        let blocks: Vec<_> = dir_blocks(&entries).collect();
        assert_eq!(blocks.len(), 1000_usize.div_ceil(4096 / 22));
        assert_eq!(blocks.iter().map(|block| block.len()).sum::<usize>(), 1000);
        assert_eq!(dir_size(&entries), 5 * 4096 + (1000 - 5 * 186) * 22);
    }
}
