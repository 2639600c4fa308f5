//! The tree that is written: directories own their entries, everything else is an inode by number, so
//! that several names can share one.

use std::collections::BTreeMap;

use super::attr::Attr;
use super::data::FileData;

/// Number of an inode that is not a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::image) struct InodeId(pub(in crate::image) usize);

/// An inode that is not a directory.
#[derive(Debug)]
pub(in crate::image) struct Inode {
    pub(in crate::image) attr: Attr,
    pub(in crate::image) kind: Kind,
}

/// What kind of inode, with what only that kind has.
#[derive(Debug)]
pub(in crate::image) enum Kind {
    File(FileData),
    Symlink(Box<[u8]>),
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
    Socket,
}

/// A directory.
#[derive(Debug, Default)]
pub(in crate::image) struct Dir {
    pub(in crate::image) attr: Attr,
    pub(in crate::image) entries: BTreeMap<Box<[u8]>, Node>,
}

/// What a name stands for.
#[derive(Debug)]
pub(in crate::image) enum Node {
    Dir(Dir),
    Leaf(InodeId),
}

/// A whole file system.
#[derive(Debug)]
pub(in crate::image) struct Tree {
    pub(in crate::image) root: Dir,
    /// Indexed by [`InodeId`]; those that no directory names are left out of the image.
    pub(in crate::image) inodes: Vec<Inode>,
}
