//! What every inode carries: permissions, owner, time, extended attributes.

use std::collections::BTreeMap;

/// Longest name of a directory entry in bytes (`NAME_MAX`).
pub const MAX_NAME_BYTES: usize = 255;
/// Longest name of an extended attribute in bytes, its namespace included (`XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// Longest value of one extended attribute in bytes (a 16-bit field on disk).
pub const MAX_XATTR_VALUE_BYTES: usize = u16::MAX as usize;
/// Most bytes of names and values of all extended attributes of one inode (counted on disk in 16-bit
/// multiples of four; headers need room too).
pub const MAX_XATTRS_BYTES: usize = 128 * 1024;

/// Attributes of one inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Permission bits with set-id and sticky bits (`0o7777`); others are dropped.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification in seconds since 1970; may be negative.
    pub mtime: i64,
    /// Its nanoseconds, below 10⁹.
    pub mtime_nsec: u32,
    /// Extended attributes by full name (`user.x`, `security.capability`, …).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attr {
    /// `mode` with owner root, time zero and no extended attributes.
    pub fn mode(mode: u16) -> Self {
        Self { mode, ..Self::default() }
    }

    /// The same with one more extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.xattrs.insert(name.into(), value.into());
        self
    }
}

/// On-disk numbers of xattr namespaces, as in the kernel's `erofs_fs.h`.
const NAMESPACES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Number of the namespace and the rest of the name; `None` for names the format cannot hold.
pub(super) fn split_xattr_name(name: &[u8]) -> Option<(u8, &[u8])> {
    NAMESPACES.iter().find_map(|&(prefix, index)| {
        let rest = name.strip_prefix(prefix)?;
        let whole = !prefix.ends_with(b".");
        (rest.is_empty() == whole).then_some((index, rest))
    })
}

/// The full name again, from what is on disk.
pub(super) fn join_xattr_name(index: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let (prefix, _) = NAMESPACES.iter().find(|(_, number)| *number == index)?;
    Some([prefix, rest].concat())
}

/// Whether the format has a namespace for `name`. The kernel offers no others on EROFS.
pub(in crate::image) fn xattr_is_storable(name: &[u8]) -> bool {
    split_xattr_name(name).is_some()
}
