//! Where everything is.

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// Blocks of a group: as many as a bitmap of one block has bits.
pub(super) const GROUP_BLOCKS: u64 = BLOCK * 8;
/// Bytes of an inode.
pub(super) const INODE: u64 = 256;
/// Bytes of a group descriptor.
pub(super) const DESCRIPTOR: u64 = 64;
/// Groups whose descriptors share a block.
pub(super) const META_GROUP: u64 = BLOCK / DESCRIPTOR;
/// Inodes 1 to 10 are reserved, 11 is `lost+found`.
pub(super) const USED_INODES: u64 = 11;
/// One inode per this many bytes, the usual ratio.
const INODE_RATIO: u64 = 16 << 10;
/// A last group with less room than this beside its own tables is left out.
const MIN_GROUP_DATA: u64 = 50;

/// The shape of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Blocks, less a last group that would be too small to be of use.
    pub(super) blocks: u64,
    /// Groups.
    pub(super) groups: u64,
    /// Inodes of each group.
    pub(super) group_inodes: u64,
    /// Blocks of the journal.
    pub(super) journal: u64,
}

impl Geometry {
    /// The shape for `blocks` blocks, at least 4096.
    pub(super) fn of(blocks: u64) -> Self {
        let first = blocks.min(GROUP_BLOCKS);
        // Whole blocks of inodes; their number is then a multiple of 8, as bitmaps want it.
        let group_inodes = (first * BLOCK / INODE_RATIO).next_multiple_of(BLOCK / INODE);
        let mut geometry = Self {
            blocks,
            groups: blocks.div_ceil(GROUP_BLOCKS),
            group_inodes,
            journal: journal_blocks(blocks),
        };
        let last = geometry.groups - 1;
        if last > 0
            && geometry.group_len(last)
                < geometry.tables(last) + geometry.table_blocks() + MIN_GROUP_DATA
        {
            geometry.groups -= 1;
            geometry.blocks = geometry.groups * GROUP_BLOCKS;
        }
        geometry
    }

    /// Blocks of an inode table.
    pub(super) fn table_blocks(&self) -> u64 {
        self.group_inodes * INODE / BLOCK
    }

    /// Blocks of `group`.
    pub(super) fn group_len(&self, group: u64) -> u64 {
        GROUP_BLOCKS.min(self.blocks - group * GROUP_BLOCKS)
    }

    /// Blocks of `group` before its inode table: superblock, descriptors, two bitmaps.
    pub(super) fn tables(&self, group: u64) -> u64 {
        u64::from(has_superblock(group)) + u64::from(has_descriptors(group)) + 2
    }

    /// The block that holds the descriptors of the meta group of `group`, as `group` keeps it.
    pub(super) fn descriptor_block(&self, group: u64) -> u64 {
        group * GROUP_BLOCKS + u64::from(has_superblock(group))
    }

    /// The block bitmap of `group`; the inode bitmap and the inode table follow.
    pub(super) fn block_bitmap(&self, group: u64) -> u64 {
        group * GROUP_BLOCKS + self.tables(group) - 2
    }

    /// The inode bitmap of `group`.
    pub(super) fn inode_bitmap(&self, group: u64) -> u64 {
        self.block_bitmap(group) + 1
    }

    /// The first block of the inode table of `group`.
    pub(super) fn inode_table(&self, group: u64) -> u64 {
        self.block_bitmap(group) + 2
    }

    /// The block of the root directory; `lost+found` and the journal follow.
    pub(super) fn root_dir(&self) -> u64 {
        self.inode_table(0) + self.table_blocks()
    }

    /// The block of `lost+found`.
    pub(super) fn lost_found(&self) -> u64 {
        self.root_dir() + 1
    }

    /// The first block of the journal.
    pub(super) fn journal_start(&self) -> u64 {
        self.root_dir() + 2
    }

    /// Blocks of `group` that are in use, all of them at its start.
    pub(super) fn used(&self, group: u64) -> u64 {
        let content = if group == 0 { 2 + self.journal } else { 0 };
        self.tables(group) + self.table_blocks() + content
    }

    /// Free blocks of `group`.
    pub(super) fn free(&self, group: u64) -> u64 {
        self.group_len(group) - self.used(group)
    }
}

/// Whether `group` has the superblock or a backup of it.
pub(super) fn has_superblock(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || power_of(3) || power_of(5) || power_of(7)
}

/// Whether `group` has a copy of the descriptors of its meta group.
pub(super) fn has_descriptors(group: u64) -> bool {
    matches!(group % META_GROUP, 0 | 1) || group % META_GROUP == META_GROUP - 1
}

/// What `mke2fs` takes, up to 64 MiB, which the first group has room for in one piece.
fn journal_blocks(blocks: u64) -> u64 {
    match blocks {
        0..0x8000 => 1024,
        0x8000..0x4_0000 => 4096,
        0x4_0000..0x8_0000 => 8192,
        _ => 16384,
    }
}
