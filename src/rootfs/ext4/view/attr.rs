//! Extended attributes: beside the inode, in a block of their own, or, large ones, in an inode.

use std::collections::BTreeMap;

use super::{Inode, Result, View, u16_at, u32_at};
use crate::image::erofs::{MAX_XATTR_VALUE_BYTES, MAX_XATTRS_BYTES};

const MAGIC: u32 = 0xea02_0000;
/// Of what precedes the entries beside an inode, and in a block, in bytes.
const INODE_HEADER: usize = 4;
const BLOCK_HEADER: usize = 32;
/// What an entry has before its name, in bytes.
const ENTRY: usize = 16;
/// What names begin with, by number.
const PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (2, ACL_ACCESS),
    (3, ACL_DEFAULT),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
];
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// Versions of access control lists: as ext4 stores them, and as programs and other file systems do.
const STORED_ACL: u32 = 1;
const ACL: u32 = 2;
/// Tags of entries that name somebody.
const NAMED: [u16; 2] = [2, 8];

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

impl View {
    /// The attributes that another file system can have too.
    pub(super) fn xattrs(&self, inode: &Inode) -> Result<Xattrs> {
        let mut xattrs = self.raw_xattrs(inode)?;
        for name in [ACL_ACCESS, ACL_DEFAULT] {
            if let Some(list) = xattrs.get_mut(name) {
                let converted = acl(list);
                *list = converted.ok_or_else(|| damaged(inode))?;
            }
        }
        xattrs.retain(|name, _| {
            !name.starts_with(b"system.") || matches!(&**name, ACL_ACCESS | ACL_DEFAULT)
        });
        Ok(xattrs)
    }

    /// All of them as they are stored.
    pub(super) fn raw_xattrs(&self, inode: &Inode) -> Result<Xattrs> {
        let mut xattrs = Xattrs::new();
        let beside = &inode.attr_bytes;
        if u32_at(beside, 0) == MAGIC {
            let entries = &beside[INODE_HEADER..];
            self.read_xattrs(inode, entries, entries, &mut xattrs)?;
        }
        if inode.attr_block != 0 {
            let mut block = vec![0; usize::try_from(self.block).unwrap_or(0)];
            self.read_block(inode.attr_block, 0, &mut block)?;
            if u32_at(&block, 0) != MAGIC {
                return Err(damaged(inode));
            }
            self.read_xattrs(inode, &block[BLOCK_HEADER..], &block, &mut xattrs)?;
        }
        Ok(xattrs)
    }

    /// Reads entries whose values are in `values`.
    fn read_xattrs(
        &self,
        inode: &Inode,
        mut entries: &[u8],
        values: &[u8],
        xattrs: &mut Xattrs,
    ) -> Result<()> {
        let mut total: usize = xattrs.values().map(Vec::len).sum();
        while u32_at(entries, 0) != 0 {
            let length = usize::from(entries[0]);
            let name = entries.get(ENTRY..ENTRY + length).ok_or_else(|| damaged(inode))?;
            let (number, size) = (u32_at(entries, 4), u32_at(entries, 8) as usize);
            total += size;
            if size > MAX_XATTR_VALUE_BYTES || total > MAX_XATTRS_BYTES {
                return Err(damaged(inode));
            }
            let value = if number == 0 {
                let at = usize::from(u16_at(entries, 2));
                values.get(at..at + size).ok_or_else(|| damaged(inode))?.to_vec()
            } else {
                let mut value = vec![0; size];
                self.read_blocks(&self.inode(number)?, 0, &mut value)?;
                value
            };
            let prefix = PREFIXES.iter().find(|(number, _)| *number == entries[1]);
            if let Some((_, prefix)) = prefix {
                xattrs.insert([prefix, name].concat(), value);
            }
            let next = (ENTRY + length).next_multiple_of(4);
            entries = entries.get(next..).unwrap_or_default();
        }
        Ok(())
    }
}

fn damaged(inode: &Inode) -> String {
    format!("the attributes of inode {} are damaged", inode.number)
}

/// The list in the form that is not ext4's own.
fn acl(stored: &[u8]) -> Option<Vec<u8>> {
    let mut rest = stored.get(4..).filter(|_| u32_at(stored, 0) == STORED_ACL)?;
    let mut list = ACL.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let is_named = NAMED.contains(&u16_at(rest, 0));
        let (entry, after) = rest.split_at_checked(if is_named { 8 } else { 4 })?;
        list.extend(&entry[..4]);
        list.extend(if is_named { u32_at(entry, 4) } else { u32::MAX }.to_le_bytes());
        rest = after;
    }
    Some(list)
}
