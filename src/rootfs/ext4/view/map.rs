//! Where the contents of an inode are: extents, or tables of blocks as before ext4.

use super::{EXTENTS, Inode, Result, View, joined, u16_at, u32_at};

const EXTENT_MAGIC: u16 = 0xf30a;
/// Of a header and of an entry, in bytes.
const ENTRY: usize = 12;
const MAX_DEPTH: u16 = 5;
/// Longer extents have room but no contents, and are so much shorter.
const UNWRITTEN: u64 = 0x8000;
/// Blocks that an inode names itself.
const DIRECT: u64 = 12;
/// Levels of tables after those.
const LEVELS: usize = 3;
/// Blocks of the largest file.
const MAX_BLOCKS: u64 = 1 << 32;

/// Blocks in a row: where they are, unless they are a hole, and how many.
type Run = (Option<u64>, u64);

impl View {
    /// Fills `buffer` with contents from `at` on.
    pub(super) fn read_blocks(
        &self,
        inode: &Inode,
        mut at: u64,
        mut buffer: &mut [u8],
    ) -> Result<()> {
        while !buffer.is_empty() {
            let (logical, within) = (at / self.block, at % self.block);
            if logical >= MAX_BLOCKS {
                return Err(format!("inode {} is too long", inode.number));
            }
            let (place, blocks) = if inode.has(EXTENTS) {
                self.extent(inode, logical)?
            } else {
                self.table(inode, logical)?
            };
            let count = usize::try_from(blocks * self.block - within).unwrap_or(usize::MAX);
            let (part, rest) = buffer.split_at_mut(count.min(buffer.len()));
            match place {
                Some(block) => self.read_block(block, within, part)?,
                None => part.fill(0),
            }
            at += part.len() as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// The extent that holds the block `logical` of a file.
    fn extent(&self, inode: &Inode, logical: u64) -> Result<Run> {
        let damaged = || format!("the extents of inode {} are damaged", inode.number);
        let mut node = inode.place.to_vec();
        let mut end = MAX_BLOCKS;
        let mut depth = u16_at(&node, 6);
        if depth > MAX_DEPTH {
            return Err(damaged());
        }
        loop {
            let count = usize::from(u16_at(&node, 2));
            let entries = node.get(ENTRY..(count + 1) * ENTRY).ok_or_else(damaged)?;
            if u16_at(&node, 0) != EXTENT_MAGIC || u16_at(&node, 6) != depth {
                return Err(damaged());
            }
            let entries: Vec<&[u8]> = entries.chunks_exact(ENTRY).collect();
            let after = entries.partition_point(|entry| u64::from(u32_at(entry, 0)) <= logical);
            if let Some(next) = entries.get(after) {
                end = end.min(u64::from(u32_at(next, 0)));
            }
            let hole = (None, end.saturating_sub(logical).max(1));
            let Some(entry) = after.checked_sub(1).map(|index| entries[index]) else {
                return Ok(hole);
            };
            if depth == 0 {
                let skipped = logical - u64::from(u32_at(entry, 0));
                let length = u64::from(u16_at(entry, 4));
                let is_written = length <= UNWRITTEN;
                let length = if is_written { length } else { length - UNWRITTEN };
                if skipped >= length {
                    return Ok(hole);
                }
                let start = joined(u16_at(entry, 6), u32_at(entry, 8));
                return Ok((is_written.then_some(start + skipped), length - skipped));
            }
            let child = joined(u16_at(entry, 8), u32_at(entry, 4));
            node = vec![0; usize::try_from(self.block).unwrap_or(0)];
            self.read_block(child, 0, &mut node)?;
            depth -= 1;
        }
    }

    /// The block `logical` of a file without extents.
    fn table(&self, inode: &Inode, logical: u64) -> Result<Run> {
        let named = |index: u64| {
            let at = usize::try_from(index * 4).unwrap_or(usize::MAX);
            u64::from(u32_at(&inode.place, at))
        };
        let run = |block: u64| ((block != 0).then_some(block), 1);
        if logical < DIRECT {
            return Ok(run(named(logical)));
        }
        let per_block = self.block / 4;
        let mut rest = logical - DIRECT;
        for level in 0..LEVELS {
            let mut covered = per_block.pow(u32::try_from(level).unwrap_or(0));
            if rest >= covered * per_block {
                rest -= covered * per_block;
                continue;
            }
            let mut block = named(DIRECT + level as u64);
            for _ in 0..=level {
                if block == 0 {
                    return Ok((None, 1));
                }
                let mut entry = [0; 4];
                self.read_block(block, rest / covered * 4, &mut entry)?;
                block = u64::from(u32::from_le_bytes(entry));
                rest %= covered;
                covered = (covered / per_block).max(1);
            }
            return Ok(run(block));
        }
        Err(format!("inode {} is too long", inode.number))
    }
}
