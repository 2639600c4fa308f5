//! The on-disk structures, little-endian throughout, named as in the kernel's `erofs_fs.h`.

use super::attr::{Attr, split_xattr_name};
use super::error::ErofsError;

/// Block size in bytes: the page size of every guest.
pub(super) const BLOCK: u64 = 4096;
/// log₂ of [`BLOCK`].
pub(super) const BLOCK_BITS: u8 = 12;
/// Inodes are addressed in slots of this many bytes.
pub(super) const SLOT: u64 = 32;
/// Where the superblock starts.
pub(super) const SUPER_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub(super) const MAGIC: u32 = 0xE0F5_E1E2;
/// Address of a hole in a chunk map.
pub(super) const NULL_ADDR: u32 = u32::MAX;
/// Size of one directory entry without its name.
pub(super) const DIRENT: usize = 12;
/// Size of the header before the xattrs of an inode.
const XATTR_HEADER: usize = 12;

const FEATURE_COMPAT_SB_CHKSUM: u32 = 0x1;
const FEATURE_INCOMPAT_CHUNKED_FILE: u32 = 0x4;

/// Where the contents of an inode are (`i_format` bits 1–3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataLayout {
    FlatPlain = 0,
    FlatInline = 2,
    ChunkBased = 4,
}

/// File types in directory entries.
pub(super) mod file_type {
    pub(in super::super) const REGULAR: u8 = 1;
    pub(in super::super) const DIRECTORY: u8 = 2;
    pub(in super::super) const CHAR: u8 = 3;
    pub(in super::super) const BLOCK: u8 = 4;
    pub(in super::super) const FIFO: u8 = 5;
    pub(in super::super) const SOCKET: u8 = 6;
    pub(in super::super) const SYMLINK: u8 = 7;
}

/// `S_IF*` bits of a directory entry's file type.
pub(super) fn mode_type(kind: u8) -> u16 {
    match kind {
        file_type::DIRECTORY => 0o040_000,
        file_type::CHAR => 0o020_000,
        file_type::BLOCK => 0o060_000,
        file_type::FIFO => 0o010_000,
        file_type::SOCKET => 0o140_000,
        file_type::SYMLINK => 0o120_000,
        _ => 0o100_000,
    }
}

/// What the superblock says; everything else in it is fixed.
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) meta_block: u32,
    pub(super) chunked: bool,
}

impl Superblock {
    /// The whole first block.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; SUPER_OFFSET];
        block.extend(MAGIC.to_le_bytes());
        block.extend([0; 4]); // checksum, below
        block.extend(FEATURE_COMPAT_SB_CHKSUM.to_le_bytes());
        block.push(BLOCK_BITS);
        block.push(0); // no extension slots
        block.extend(self.root_nid.to_le_bytes());
        block.extend(self.inodes.to_le_bytes());
        block.extend([0; 12]); // build time and its nanoseconds: the same bytes at any time
        block.extend(self.blocks.to_le_bytes());
        block.extend(self.meta_block.to_le_bytes());
        block.extend([0; 4]); // no shared xattrs
        block.extend([0; 32]); // UUID and volume name
        let incompat = if self.chunked { FEATURE_INCOMPAT_CHUNKED_FILE } else { 0 };
        block.extend(incompat.to_le_bytes());
        block.resize(1 << BLOCK_BITS, 0);
        let checksum = crc32c(&block[SUPER_OFFSET..]);
        block[SUPER_OFFSET + 4..SUPER_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// CRC-32C as the kernel's `crc32c(~0, …)`: without the final inversion.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

/// One inode as it is encoded.
#[derive(Debug)]
pub(super) struct RawInode<'a> {
    pub(super) kind: u8,
    pub(super) layout: DataLayout,
    pub(super) attr: &'a Attr,
    pub(super) size: u64,
    /// `i_u`: block address, device number or chunk format, by kind and layout.
    pub(super) union: u32,
    pub(super) number: u32,
    pub(super) links: u32,
}

/// Whether the 32-byte form can hold this inode. It has no time of its own but the image's, zero.
pub(super) fn is_compact(attr: &Attr, size: u64, links: u32) -> bool {
    attr.mtime == 0
        && attr.mtime_nsec == 0
        && u16::try_from(attr.uid).is_ok()
        && u16::try_from(attr.gid).is_ok()
        && u32::try_from(size).is_ok()
        && u16::try_from(links).is_ok()
}

/// Size of the inode and its xattrs in bytes, a multiple of four.
pub(super) fn head_len(attr: &Attr, size: u64, links: u32) -> usize {
    (if is_compact(attr, size, links) { 32 } else { 64 }) + xattrs_len(attr)
}

impl RawInode<'_> {
    /// The inode and its xattrs.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ErofsError> {
        let xattrs = xattrs_len(self.attr);
        let icount = if xattrs == 0 { 0 } else { (xattrs - XATTR_HEADER) / 4 + 1 };
        let icount = u16::try_from(icount)
            .map_err(|_| ErofsError::TooLarge { what: "extended attributes of one file" })?;
        let compact = is_compact(self.attr, self.size, self.links);
        let format = u16::from(!compact) | ((self.layout as u16) << 1);
        let mode = mode_type(self.kind) | (self.attr.mode & 0o7777);
        out.extend(format.to_le_bytes());
        out.extend(icount.to_le_bytes());
        out.extend(mode.to_le_bytes());
        if compact {
            out.extend(low16(self.links));
            out.extend(&self.size.to_le_bytes()[..4]);
            out.extend([0; 4]);
            out.extend(self.union.to_le_bytes());
            out.extend(self.number.to_le_bytes());
            out.extend(low16(self.attr.uid));
            out.extend(low16(self.attr.gid));
            out.extend([0; 4]);
        } else {
            out.extend([0; 2]);
            out.extend(self.size.to_le_bytes());
            out.extend(self.union.to_le_bytes());
            out.extend(self.number.to_le_bytes());
            out.extend(self.attr.uid.to_le_bytes());
            out.extend(self.attr.gid.to_le_bytes());
            out.extend(self.attr.mtime.to_le_bytes());
            out.extend(self.attr.mtime_nsec.to_le_bytes());
            out.extend(self.links.to_le_bytes());
            out.extend([0; 16]);
        }
        encode_xattrs(self.attr, out)
    }
}

/// The low half of a number that is known to fit.
fn low16(value: u32) -> [u8; 2] {
    let [a, b, ..] = value.to_le_bytes();
    [a, b]
}

/// Size on disk of all xattrs with their header; 0 without any.
fn xattrs_len(attr: &Attr) -> usize {
    let entries: usize = attr
        .xattrs
        .iter()
        .filter_map(|(name, value)| {
            let (_, rest) = split_xattr_name(name)?;
            Some((4 + rest.len() + value.len()).next_multiple_of(4))
        })
        .sum();
    if entries == 0 { 0 } else { XATTR_HEADER + entries }
}

fn encode_xattrs(attr: &Attr, out: &mut Vec<u8>) -> Result<(), ErofsError> {
    if xattrs_len(attr) == 0 {
        return Ok(());
    }
    out.extend([0; XATTR_HEADER]);
    for (name, value) in &attr.xattrs {
        let Some((index, rest)) = split_xattr_name(name) else { continue };
        let too_large = |_| ErofsError::TooLarge { what: "extended attribute" };
        out.push(u8::try_from(rest.len()).map_err(too_large)?);
        out.push(index);
        out.extend(u16::try_from(value.len()).map_err(too_large)?.to_le_bytes());
        out.extend(rest);
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    Ok(())
}

/// Device number as the kernel's `new_encode_dev`: 12 bits of major, 20 of minor. `None` if it does
/// not fit.
pub(super) fn encode_device(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20)
        .then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn device_numbers() {
        assert_eq!(encode_device(1, 3), Some(0x103));
        assert_eq!(encode_device(259, 0x12345), Some(0x1231_0345));
        assert_eq!(encode_device(4096, 0), None);
        assert_eq!(encode_device(0, 1 << 20), None);
    }

    #[test]
    fn superblock_is_one_block() {
        let block = Superblock { root_nid: 1, inodes: 1, blocks: 2, meta_block: 1, chunked: false };
        assert_eq!(block.encode().len() as u64, BLOCK);
    }
}
