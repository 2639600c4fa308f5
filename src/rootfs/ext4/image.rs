//! The bytes: superblock, descriptors, bitmaps, inodes, directories, journal.

use std::io;

use super::geometry::{
    BLOCK, DESCRIPTOR, GROUP_BLOCKS, Geometry, INODE, META_GROUP, USED_INODES, has_descriptors,
    has_superblock,
};

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_EXT_ATTR: u32 = 0x8;
const COMPAT_DIR_INDEX: u32 = 0x20;
const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_SPARSE_SUPER: u32 = 0x1;
const RO_LARGE_FILE: u32 = 0x2;
const RO_HUGE_FILE: u32 = 0x8;
const RO_DIR_NLINK: u32 = 0x20;
const RO_EXTRA_ISIZE: u32 = 0x40;
const RO_METADATA_CSUM: u32 = 0x400;

const INODE_UNINIT: u16 = 0x1;
const BLOCK_UNINIT: u16 = 0x2;
const ITABLE_ZEROED: u16 = 0x4;

const ROOT_INODE: u32 = 2;
const JOURNAL_INODE: u32 = 8;
const LOST_FOUND_INODE: u32 = 11;
const EXTENTS_FLAG: u32 = 0x8_0000;
const EXTRA_ISIZE: u16 = 32;
const DIR_TAIL: usize = 12;
const DIRECTORY: u8 = 2;
const BLOCK_LEN: usize = 4096;
const INODE_LEN: usize = 256;
const DESCRIPTOR_LEN: usize = 64;
const SUPERBLOCK_OFFSET: u64 = 1024;
const SUPERBLOCK_LEN: usize = 1024;

/// Takes bytes at an offset.
pub(super) type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> io::Result<()>;

/// What all parts need.
struct Image<'a> {
    geometry: &'a Geometry,
    uuid: [u8; 16],
    /// The checksum of the UUID, with which all others start.
    seed: u32,
}

/// Writes the file system of shape `geometry`; what is not written is zero.
pub(super) fn write(geometry: &Geometry, uuid: [u8; 16], sink: Sink<'_>) -> io::Result<()> {
    let image = Image { geometry, uuid, seed: crc32c(!0, &uuid) };
    let last = geometry.groups - 1;
    let bitmap = image.block_bitmap(0);
    sink(geometry.block_bitmap(0) * BLOCK, &bitmap)?;
    if last > 0 {
        sink(geometry.block_bitmap(last) * BLOCK, &image.block_bitmap(last))?;
    }
    sink(geometry.inode_bitmap(0) * BLOCK, &image.inode_bitmap())?;
    image.inodes(sink)?;
    sink(geometry.root_dir() * BLOCK, &image.root_dir())?;
    sink(geometry.lost_found() * BLOCK, &image.lost_found())?;
    sink(geometry.journal_start() * BLOCK, &image.journal())?;
    for first in (0..geometry.groups).step_by(BLOCK_LEN / DESCRIPTOR_LEN) {
        let block = image.descriptors(first);
        let end = (first + META_GROUP).min(geometry.groups);
        for group in (first..end).filter(|group| has_descriptors(*group)) {
            sink(geometry.descriptor_block(group) * BLOCK, &block)?;
        }
    }
    // Last: a file without its first superblock is not taken for a file system.
    for group in (0..geometry.groups).rev().filter(|group| has_superblock(*group)) {
        let offset = if group == 0 { SUPERBLOCK_OFFSET } else { group * GROUP_BLOCKS * BLOCK };
        sink(offset, &image.superblock(group))?;
    }
    Ok(())
}

impl Image<'_> {
    fn superblock(&self, group: u64) -> [u8; SUPERBLOCK_LEN] {
        let geometry = self.geometry;
        let free: u64 = (0..geometry.groups).map(|group| geometry.free(group)).sum();
        let inodes = geometry.groups * geometry.group_inodes;
        let mut bytes = [0; SUPERBLOCK_LEN];
        let mut put = Fields(&mut bytes);
        put.u32(0x00, low(inodes));
        put.u32(0x04, low(geometry.blocks));
        put.u32(0x0c, low(free));
        put.u32(0x10, low(inodes - USED_INODES));
        put.u32(0x18, 2); // 1024 << 2 bytes a block
        put.u32(0x1c, 2);
        put.u32(0x20, low(GROUP_BLOCKS));
        put.u32(0x24, low(GROUP_BLOCKS));
        put.u32(0x28, low(geometry.group_inodes));
        put.u16(0x36, u16::MAX); // never checked for having been mounted often
        put.u16(0x38, 0xef53);
        put.u16(0x3a, 1); // clean
        put.u16(0x3c, 2); // read-only after an error
        put.u32(0x4c, 1); // revision with features
        put.u32(0x54, LOST_FOUND_INODE); // the first that is not reserved
        put.u16(0x58, low16(INODE));
        put.u16(0x5a, low16(group));
        put.u32(0x5c, COMPAT_HAS_JOURNAL | COMPAT_EXT_ATTR | COMPAT_DIR_INDEX);
        put.u32(0x60, INCOMPAT_FILETYPE | INCOMPAT_META_BG | INCOMPAT_EXTENTS | INCOMPAT_64BIT);
        put.u32(
            0x64,
            RO_SPARSE_SUPER
                | RO_LARGE_FILE
                | RO_HUGE_FILE
                | RO_DIR_NLINK
                | RO_EXTRA_ISIZE
                | RO_METADATA_CSUM,
        );
        put.bytes(0x68, &self.uuid);
        put.u32(0xe0, JOURNAL_INODE);
        put.bytes(0xec, &self.uuid); // seed of directory hashes
        put.u8(0xfc, 1); // half MD4
        put.u8(0xfd, 1); // the inode of the journal is backed up below
        put.u16(0xfe, low16(DESCRIPTOR));
        put.u32(0x100, 0xc); // user_xattr, acl
        put.bytes(0x10c, &extent(geometry.journal_start(), geometry.journal));
        put.u32(0x10c + 16 * 4, low(geometry.journal * BLOCK));
        put.u32(0x150, high(geometry.blocks));
        put.u32(0x158, high(free));
        put.u16(0x15c, EXTRA_ISIZE);
        put.u16(0x15e, EXTRA_ISIZE);
        put.u32(0x160, 1); // directory hashes of signed characters
        put.u8(0x175, 1); // CRC-32C
        put.u32(0x268, LOST_FOUND_INODE);
        let checksum = crc32c(!0, &bytes[..SUPERBLOCK_LEN - 4]);
        Fields(&mut bytes).u32(SUPERBLOCK_LEN - 4, checksum);
        bytes
    }

    /// The descriptors of the meta group that starts with group `first`.
    fn descriptors(&self, first: u64) -> Vec<u8> {
        let end = (first + META_GROUP).min(self.geometry.groups);
        let mut block = vec![0; BLOCK_LEN];
        for (group, bytes) in (first..end).zip(block.chunks_exact_mut(DESCRIPTOR_LEN)) {
            self.descriptor(group, bytes);
        }
        block
    }

    fn descriptor(&self, group: u64, bytes: &mut [u8]) {
        let geometry = self.geometry;
        let first = group == 0;
        let (used_inodes, directories) = if first { (USED_INODES, 2) } else { (0, 0) };
        let free_inodes = geometry.group_inodes - used_inodes;
        let mut flags = ITABLE_ZEROED;
        let mut put = Fields(bytes);
        if first {
            let bytes = usize::try_from(geometry.group_inodes / 8).unwrap_or(BLOCK_LEN);
            let checksum = crc32c(self.seed, &self.inode_bitmap()[..bytes]);
            put.u16(0x1a, low16(u64::from(checksum)));
            put.u16(0x3a, low16(u64::from(checksum >> 16)));
        } else {
            flags |= INODE_UNINIT;
        }
        if first || group == geometry.groups - 1 {
            let checksum = crc32c(self.seed, &self.block_bitmap(group));
            put.u16(0x18, low16(u64::from(checksum)));
            put.u16(0x38, low16(u64::from(checksum >> 16)));
        } else {
            flags |= BLOCK_UNINIT;
        }
        put.split(0x00, 0x20, geometry.block_bitmap(group));
        put.split(0x04, 0x24, geometry.inode_bitmap(group));
        put.split(0x08, 0x28, geometry.inode_table(group));
        put.u16(0x0c, low16(geometry.free(group)));
        put.u16(0x0e, low16(free_inodes));
        put.u16(0x10, directories);
        put.u16(0x12, flags);
        put.u16(0x1c, low16(free_inodes));
        let checksum = crc32c(crc32c(self.seed, &low(group).to_le_bytes()), bytes);
        Fields(bytes).u16(0x1e, low16(u64::from(checksum)));
    }

    /// The blocks in use, and those past the end of the last group.
    fn block_bitmap(&self, group: u64) -> Vec<u8> {
        let mut bitmap = vec![0; BLOCK_LEN];
        set_bits(&mut bitmap, 0, self.geometry.used(group));
        set_bits(&mut bitmap, self.geometry.group_len(group), GROUP_BLOCKS);
        bitmap
    }

    /// The inodes in use in the first group, and those past its end.
    fn inode_bitmap(&self) -> Vec<u8> {
        let mut bitmap = vec![0; BLOCK_LEN];
        set_bits(&mut bitmap, 0, USED_INODES);
        set_bits(&mut bitmap, self.geometry.group_inodes, GROUP_BLOCKS);
        bitmap
    }

    fn inodes(&self, sink: Sink<'_>) -> io::Result<()> {
        let geometry = self.geometry;
        let journal = geometry.journal;
        for (number, mode, links, start, blocks) in [
            (ROOT_INODE, 0o040_755, 3, geometry.root_dir(), 1),
            (JOURNAL_INODE, 0o100_600, 1, geometry.journal_start(), journal),
            (LOST_FOUND_INODE, 0o040_700, 2, geometry.lost_found(), 1),
        ] {
            let mut bytes = [0; INODE_LEN];
            let mut put = Fields(&mut bytes);
            put.u16(0x00, mode);
            put.split(0x04, 0x6c, blocks * BLOCK);
            put.u16(0x1a, links);
            put.u32(0x1c, low(blocks * BLOCK / 512));
            put.u32(0x20, EXTENTS_FLAG);
            put.bytes(0x28, &extent(start, blocks));
            put.u16(0x80, EXTRA_ISIZE);
            let checksum = crc32c(self.inode_seed(number), &bytes);
            let mut put = Fields(&mut bytes);
            put.u16(0x7c, low16(u64::from(checksum)));
            put.u16(0x82, low16(u64::from(checksum >> 16)));
            let offset = geometry.inode_table(0) * BLOCK + u64::from(number - 1) * INODE;
            sink(offset, &bytes)?;
        }
        Ok(())
    }

    fn root_dir(&self) -> Vec<u8> {
        let entries = [(ROOT_INODE, "."), (ROOT_INODE, ".."), (LOST_FOUND_INODE, "lost+found")];
        self.directory(ROOT_INODE, &entries)
    }

    fn lost_found(&self) -> Vec<u8> {
        self.directory(LOST_FOUND_INODE, &[(LOST_FOUND_INODE, "."), (ROOT_INODE, "..")])
    }

    fn directory(&self, inode: u32, entries: &[(u32, &str)]) -> Vec<u8> {
        let mut block = vec![0; BLOCK_LEN];
        let room = BLOCK_LEN - DIR_TAIL;
        let mut at = 0;
        for (index, (target, name)) in entries.iter().enumerate() {
            let last = index + 1 == entries.len();
            let length = if last { room - at } else { (8 + name.len()).next_multiple_of(4) };
            let mut put = Fields(&mut block);
            put.u32(at, *target);
            put.u16(at + 4, low16(length as u64));
            put.u8(at + 6, name.len().to_le_bytes()[0]);
            put.u8(at + 7, DIRECTORY);
            put.bytes(at + 8, name.as_bytes());
            at += length;
        }
        let checksum = crc32c(self.inode_seed(inode), &block[..room]);
        let mut put = Fields(&mut block);
        put.u16(room + 4, low16(DIR_TAIL as u64));
        put.u8(room + 7, 0xde); // the tail looks like an unused entry of this kind
        put.u32(room + 8, checksum);
        block
    }

    /// The superblock of an empty journal; big-endian.
    fn journal(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_LEN];
        for (offset, value) in [
            (0x00, 0xc03b_3998),
            (0x04, 4), // superblock, version 2
            (0x0c, low(BLOCK)),
            (0x10, low(self.geometry.journal)),
            (0x14, 1), // the first block of the log
            (0x18, 1), // the first sequence number
            (0x40, 1), // users
        ] {
            block[offset..offset + 4].copy_from_slice(&u32::to_be_bytes(value));
        }
        block[0x30..0x40].copy_from_slice(&self.uuid);
        block
    }

    fn inode_seed(&self, inode: u32) -> u32 {
        crc32c(crc32c(self.seed, &inode.to_le_bytes()), &0_u32.to_le_bytes())
    }
}

/// The root of an extent tree with one extent: what an inode has for its block map.
fn extent(start: u64, blocks: u64) -> [u8; 60] {
    let mut bytes = [0; 60];
    let mut put = Fields(&mut bytes);
    put.u16(0, 0xf30a);
    put.u16(2, 1); // one entry
    put.u16(4, 4); // room for four
    put.u16(16, low16(blocks));
    put.u16(18, low16(start >> 32));
    put.u32(20, low(start));
    bytes
}

fn set_bits(bitmap: &mut [u8], from: u64, to: u64) {
    for bit in from..to {
        if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|index| bitmap.get_mut(index)) {
            *byte |= 1 << (bit % 8);
        }
    }
}

fn low(value: u64) -> u32 {
    let [b0, b1, b2, b3, ..] = value.to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}

fn low16(value: u64) -> u16 {
    let [b0, b1, ..] = value.to_le_bytes();
    u16::from_le_bytes([b0, b1])
}

/// Little-endian fields by their offset.
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn bytes(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn u8(&mut self, offset: usize, value: u8) {
        self.0[offset] = value;
    }

    fn u16(&mut self, offset: usize, value: u16) {
        self.bytes(offset, &value.to_le_bytes());
    }

    fn u32(&mut self, offset: usize, value: u32) {
        self.bytes(offset, &value.to_le_bytes());
    }

    fn split(&mut self, low_offset: usize, high_offset: usize, value: u64) {
        self.u32(low_offset, low(value));
        self.u32(high_offset, high(value));
    }
}

const fn crc32c_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0_u32;
    while index < 256 {
        let mut crc = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
}
static CRC32C: [u32; 256] = crc32c_table();

/// CRC-32C that goes on from `crc`; neither end is inverted, as ext4 wants it.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(crc, |crc, byte| (crc >> 8) ^ CRC32C[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_check_value() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_hundred_gigabytes_take_few_writes() -> io::Result<()> {
        let (mut writes, mut bytes) = (0, 0);
        write(&Geometry::of((100 << 30) / BLOCK), [7; 16], &mut |_, part| {
            writes += 1;
            bytes += part.len();
            Ok(())
        })?;
        assert!(writes < 80 && bytes < 300 << 10, "{writes} writes of {bytes} bytes");
        Ok(())
    }
}
