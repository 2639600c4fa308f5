//! Reads file systems of the ext family that somebody else has made: ext2, ext3 and ext4.
//!
//! ```text
//! superblock ─▶ group descriptors ─▶ inode ─┬─ extents, or tables of blocks ─▶ contents, names
//!                                          └─ extended attributes beside it and in a block
//! ```
//!
//! What is read is hostile: every number that leads somewhere is checked or bounded by what it is used
//! for, and nothing is kept. The journal is not replayed, as in a guest, which has the disk read-only.
//! Errors are sentences.

mod attr;
mod map;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::geometry::has_superblock;
use crate::image::DiskBytes;
use crate::image::erofs::Attr;

/// Files of types, in a mode.
const TYPE_BITS: u32 = 12;
const DIRECTORY: u16 = 0o4;
const REGULAR: u16 = 0o10;

const SUPERBLOCK: u64 = 1024;
const MAGIC: u16 = 0xef53;
/// Blocks of 1 KiB to 64 KiB, as powers of two above the smallest.
const MAX_LOG_BLOCK: u32 = 6;
const ROOT: u32 = 2;
const OLD_INODE: usize = 128;
/// What may be in use: file types in names, a journal to replay, descriptors in their groups, extents, 64
/// bits, a lock against two mounts, groups of groups, attributes as inodes, a stated checksum seed, large
/// directories, contents in inodes, encryption and case folding of some.
const INCOMPATIBLE: u32 = 0x3_e7d6;
const META_BG: u32 = 0x10;
const BITS_64: u32 = 0x80;
const LARGE_DIRS: u32 = 0x4000;
const SPARSE_SUPER_2: u32 = 0x200;
const SPARSE_SUPER: u32 = 0x1;
/// Flags of inodes.
const ENCRYPTED: u32 = 0x800;
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;
/// Bytes of an inode that say where its contents are, or hold them.
const PLACE: usize = 60;
/// The longest target of a symbolic link, in bytes.
const MAX_TARGET: u64 = 4095;

type Result<T> = std::result::Result<T, String>;

/// A file system that is read.
#[derive(Debug)]
pub(in crate::rootfs) struct View {
    disk: DiskBytes,
    /// Of a block, in bytes.
    block: u64,
    /// The block of the first group descriptors, and the first block of the first group.
    descriptors: u64,
    first_block: u64,
    group_blocks: u64,
    group_inodes: u32,
    inodes: u32,
    inode_len: usize,
    descriptor_len: u64,
    /// From which group of descriptors on they are in the groups that they describe.
    meta_groups: Option<u64>,
    backups: Backups,
    has_large_dirs: bool,
}

/// Which groups start with a copy of the superblock.
#[derive(Debug)]
enum Backups {
    All,
    Powers,
    Two([u32; 2]),
}

/// A file, directory or anything else.
#[derive(Clone, Debug)]
pub(in crate::rootfs) struct Inode {
    pub(in crate::rootfs) number: u32,
    /// Type and permissions.
    pub(in crate::rootfs) mode: u16,
    /// In bytes.
    pub(in crate::rootfs) size: u64,
    owner: (u32, u32),
    mtime: i64,
    mtime_nsec: u32,
    flags: u32,
    place: [u8; PLACE],
    /// The block with attributes, or 0, and the attributes beside the inode.
    attr_block: u64,
    attr_bytes: Vec<u8>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u16::from_le_bytes(*raw))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// A number whose halves are apart.
fn joined(high: impl Into<u64>, low: u32) -> u64 {
    high.into() << 32 | u64::from(low)
}

impl Inode {
    fn is(&self, kind: u16) -> bool {
        self.mode >> TYPE_BITS == kind
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

impl View {
    /// The file system on `disk`, if it is one of these.
    pub(in crate::rootfs) fn open(disk: DiskBytes) -> Result<Self> {
        let mut raw = [0; 1024];
        disk.read(SUPERBLOCK, &mut raw)?;
        let nonsense = || "its superblock makes no sense".to_owned();
        if u16_at(&raw, 56) != MAGIC {
            return Err("it has no superblock of ext4".to_owned());
        }
        let is_old = u32_at(&raw, 76) == 0;
        let features = |at: usize| if is_old { 0 } else { u32_at(&raw, at) };
        let (compatible, incompatible, readonly) = (features(92), features(96), features(100));
        let unknown = incompatible & !INCOMPATIBLE;
        if unknown != 0 {
            return Err(format!("it has features that are not known ({unknown:#x})"));
        }
        let log_block = u32_at(&raw, 24);
        if log_block > MAX_LOG_BLOCK {
            return Err(nonsense());
        }
        let block = 1024_u64 << log_block;
        let inode_len = if is_old { OLD_INODE } else { usize::from(u16_at(&raw, 88)) };
        let descriptor_len =
            if incompatible & BITS_64 == 0 { 32 } else { u64::from(u16_at(&raw, 254)) };
        let (group_blocks, group_inodes) = (u32_at(&raw, 32), u32_at(&raw, 40));
        let is_sensible = group_blocks > 0
            && group_inodes > 0
            && inode_len.is_power_of_two()
            && (OLD_INODE as u64..=block).contains(&(inode_len as u64))
            && descriptor_len.is_power_of_two()
            && (32..=1024).contains(&descriptor_len);
        if !is_sensible {
            return Err(nonsense());
        }
        let backups = if compatible & SPARSE_SUPER_2 != 0 {
            Backups::Two([u32_at(&raw, 588), u32_at(&raw, 592)])
        } else if readonly & SPARSE_SUPER != 0 {
            Backups::Powers
        } else {
            Backups::All
        };
        Ok(Self {
            disk,
            block,
            descriptors: SUPERBLOCK / block + 1,
            first_block: u64::from(u32_at(&raw, 20)),
            group_blocks: u64::from(group_blocks),
            group_inodes,
            inodes: u32_at(&raw, 0),
            inode_len,
            descriptor_len,
            meta_groups: (incompatible & META_BG != 0).then(|| u64::from(u32_at(&raw, 260))),
            backups,
            has_large_dirs: incompatible & LARGE_DIRS != 0,
        })
    }

    /// Reads from a block on.
    fn read_block(&self, block: u64, within: u64, buffer: &mut [u8]) -> Result<()> {
        let at = block.checked_mul(self.block).and_then(|at| at.checked_add(within));
        self.disk.read(at.ok_or("a block is beyond the end")?, buffer)
    }

    /// The block of the inode table of a group.
    fn inode_table(&self, group: u64) -> Result<u64> {
        let per_block = self.block / self.descriptor_len;
        let (number, within) = (group / per_block, group % per_block * self.descriptor_len);
        let block = match self.meta_groups {
            Some(first) if number >= first => {
                let group = number * per_block;
                let has_backup = group == 0
                    || match self.backups {
                        Backups::All => true,
                        Backups::Powers => has_superblock(group),
                        Backups::Two(groups) => groups.iter().any(|two| u64::from(*two) == group),
                    };
                self.first_block + group * self.group_blocks + u64::from(has_backup)
            }
            _ => self.descriptors + number,
        };
        let mut raw = [0; 64];
        let len = if self.descriptor_len < 64 { 32 } else { 64 };
        self.read_block(block, within, &mut raw[..len])?;
        Ok(joined(u32_at(&raw, 40), u32_at(&raw, 8)))
    }

    /// The root directory.
    pub(in crate::rootfs) fn root(&self) -> Result<Inode> {
        let root = self.inode(ROOT)?;
        if root.is(DIRECTORY) { Ok(root) } else { Err("its root is no directory".to_owned()) }
    }

    /// The inode of that number.
    pub(in crate::rootfs) fn inode(&self, number: u32) -> Result<Inode> {
        let index = number.checked_sub(1).filter(|_| number <= self.inodes);
        let index = index.ok_or_else(|| format!("there is no inode {number}"))?;
        let table = self.inode_table(u64::from(index / self.group_inodes))?;
        let mut raw = vec![0; self.inode_len];
        let within = u64::from(index % self.group_inodes) * self.inode_len as u64;
        self.read_block(table, within, &mut raw)?;
        let extra = usize::from(u16_at(&raw[OLD_INODE..], 0));
        let mode = u16_at(&raw, 0);
        let has_high_size = self.has_large_dirs || mode >> TYPE_BITS == REGULAR;
        let high_size = if has_high_size { u32_at(&raw, 108) } else { 0 };
        let id = |low, high| u32::from(u16_at(&raw, high)) << 16 | u32::from(u16_at(&raw, low));
        // Two bits of what is beside the nanoseconds go on where the seconds end.
        let more = if extra >= 12 { u32_at(&raw, 136) } else { 0 };
        let mut place = [0; PLACE];
        place.copy_from_slice(&raw[40..40 + PLACE]);
        Ok(Inode {
            number,
            mode,
            size: joined(high_size, u32_at(&raw, 4)),
            owner: (id(2, 120), id(24, 122)),
            mtime: i64::from(u32_at(&raw, 16).cast_signed()) + (i64::from(more & 3) << 32),
            mtime_nsec: (more >> 2).min(999_999_999),
            flags: u32_at(&raw, 32),
            place,
            attr_block: joined(u16_at(&raw, 118), u32_at(&raw, 104)),
            attr_bytes: raw.get(OLD_INODE + extra..).unwrap_or_default().to_vec(),
        })
    }

    /// What a copy of it carries.
    pub(in crate::rootfs) fn attr(&self, inode: &Inode) -> Result<Attr> {
        Ok(Attr {
            mode: inode.mode & 0o7777,
            uid: inode.owner.0,
            gid: inode.owner.1,
            mtime: inode.mtime,
            mtime_nsec: inode.mtime_nsec,
            xattrs: self.xattrs(inode)?,
        })
    }

    /// The entries of a directory, by name.
    pub(in crate::rootfs) fn names(&self, inode: &Inode) -> Result<BTreeMap<Vec<u8>, u32>> {
        if !inode.is(DIRECTORY) {
            return Err(format!("inode {} is no directory", inode.number));
        }
        self.check_clear(inode)?;
        if inode.has(INLINE) { self.inline_names(inode) } else { self.block_names(inode) }
    }

    /// The target of a symbolic link.
    pub(in crate::rootfs) fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.size > MAX_TARGET {
            return Err(format!(
                "the link of inode {} has more than {MAX_TARGET} bytes",
                inode.number
            ));
        }
        self.check_clear(inode)?;
        let length = usize::try_from(inode.size).unwrap_or(0);
        if length < PLACE && !inode.has(INLINE | EXTENTS) {
            return Ok(inode.place[..length].to_vec());
        }
        let mut target = vec![0; length];
        self.read(inode, 0, &mut target)?;
        Ok(target)
    }

    /// Fills `buffer` with contents from `at` on; what is not there is zeros.
    pub(in crate::rootfs) fn read(&self, inode: &Inode, at: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_clear(inode)?;
        if inode.has(INLINE) {
            let contents = self.inline(inode)?;
            let rest = usize::try_from(at).ok().and_then(|at| contents.get(at..));
            let rest = rest.unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            buffer[count..].fill(0);
            return Ok(());
        }
        self.read_blocks(inode, at, buffer)
    }

    fn check_clear(&self, inode: &Inode) -> Result<()> {
        if inode.has(ENCRYPTED) {
            return Err(format!("inode {} is encrypted", inode.number));
        }
        Ok(())
    }
}
