//! Directories, and what is in an inode itself.

use std::collections::BTreeMap;

use super::{Inode, PLACE, Result, View, u16_at, u32_at};

/// The largest directory, in bytes.
const MAX_DIRECTORY: u64 = 64 << 20;
/// What an entry has before its name, in bytes.
const HEADER: usize = 8;
/// What a directory in an inode starts with: its parent.
const PARENT: usize = 4;
/// Where the rest of what does not fit into an inode is among its attributes.
const INLINE_ATTR: &[u8] = b"system.data";

type Names = BTreeMap<Vec<u8>, u32>;

impl View {
    /// The names in the blocks of a directory. Those of an index look like empty ones.
    pub(super) fn block_names(&self, inode: &Inode) -> Result<Names> {
        if inode.size > MAX_DIRECTORY {
            let number = inode.number;
            return Err(format!("the directory {number} has more than {MAX_DIRECTORY} bytes"));
        }
        let mut names = Names::new();
        let mut block = vec![0; usize::try_from(self.block).unwrap_or(0)];
        for at in 0..inode.size.div_ceil(self.block) {
            self.read_blocks(inode, at * self.block, &mut block)?;
            read_names(inode, &block, &mut names)?;
        }
        Ok(names)
    }

    /// The names of a directory in an inode.
    pub(super) fn inline_names(&self, inode: &Inode) -> Result<Names> {
        let contents = self.inline(inode)?;
        let (first, rest) = contents.split_at(PLACE.min(contents.len()));
        let mut names = Names::new();
        read_names(inode, first.get(PARENT..).unwrap_or_default(), &mut names)?;
        read_names(inode, rest, &mut names)?;
        Ok(names)
    }

    /// The contents that an inode holds itself.
    pub(super) fn inline(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut contents = inode.place.to_vec();
        contents.extend(self.raw_xattrs(inode)?.remove(INLINE_ATTR).unwrap_or_default());
        match usize::try_from(inode.size) {
            Ok(size) if size <= contents.len() => contents.truncate(size),
            _ => return Err(format!("the contents of inode {} are damaged", inode.number)),
        }
        Ok(contents)
    }
}

fn read_names(inode: &Inode, mut rest: &[u8], names: &mut Names) -> Result<()> {
    let damaged = || format!("the directory {} is damaged", inode.number);
    while !rest.is_empty() {
        let length = match u16_at(rest, 4) {
            // What 16 bits cannot say.
            0 | u16::MAX => 1 << 16,
            length => usize::from(length),
        };
        let name_length = usize::from(*rest.get(6).ok_or_else(damaged)?);
        if length < HEADER + name_length || length > rest.len() {
            return Err(damaged());
        }
        let (entry, after) = rest.split_at(length);
        let (number, name) = (u32_at(entry, 0), &entry[HEADER..HEADER + name_length]);
        rest = after;
        if number == 0 || matches!(name, b"." | b"..") {
            continue;
        }
        let is_name = !name.is_empty() && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
        if !is_name || names.insert(name.to_vec(), number).is_some() {
            return Err(damaged());
        }
    }
    Ok(())
}
