//! A small EROFS reader, written from the format's documentation and not from the writer: what both
//! agree on is what a kernel sees. It checks every invariant that it comes across.
//!
//! Patches look at images with it; they are files that this program wrote, so what is wrong with
//! one is said in words and nothing more.
#![allow(missing_docs, reason = "fields are named after the on-disk ones")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// An opened image.
#[derive(Debug)]
pub struct Image {
    file: File,
    meta: u64,
    root: u64,
    pub inodes: u64,
    pub blocks: u64,
}

/// One inode. Equal inode numbers mean the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub nid: u64,
    /// File type and permissions.
    pub mode: u16,
    pub links: u32,
    pub size: u64,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub mtime_nsec: u32,
    pub rdev: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    layout: u16,
    union: u32,
    head: u64,
}

/// Errors are sentences: what is wrong with the image.
type Result<T> = std::result::Result<T, String>;

fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

impl Image {
    /// Reads and checks the superblock.
    pub fn open(file: File) -> Result<Self> {
        let mut block = vec![0; 3072];
        file.read_exact_at(&mut block, 1024).map_err(|error| error.to_string())?;
        let stored = le(&block[4..8]);
        block[4..8].fill(0);
        if le(&block[0..4]) != 0xE0F5_E1E2 || block[12] != 12 {
            return Err("not an erofs image with 4 KiB blocks".into());
        }
        if u64::from(super::format::crc32c(&block)) != stored {
            return Err("superblock checksum".into());
        }
        let image = Self {
            meta: le(&block[40..44]) * 4096,
            root: le(&block[14..16]),
            inodes: le(&block[16..24]),
            blocks: le(&block[36..40]),
            file,
        };
        let length = image.file.metadata().map_err(|error| error.to_string())?.len();
        if length != image.blocks * 4096 {
            return Err(format!("{} blocks in {length} bytes", image.blocks));
        }
        Ok(image)
    }

    fn bytes(&self, at: u64, count: u64) -> Result<Vec<u8>> {
        if count > self.blocks * 4096 {
            return Err(format!("{count} bytes in an image of {} blocks", self.blocks));
        }
        let mut bytes = vec![0; usize::try_from(count).map_err(|error| error.to_string())?];
        self.file
            .read_exact_at(&mut bytes, at)
            .map_err(|error| format!("{count} bytes at {at}: {error}"))?;
        Ok(bytes)
    }

    /// The root directory.
    pub fn root(&self) -> Result<Stat> {
        self.stat(self.root)
    }

    /// The inode with number `nid`.
    pub fn stat(&self, nid: u64) -> Result<Stat> {
        let at = self.meta + nid * 32;
        let format = le(&self.bytes(at, 2)?);
        let extended = format & 1 == 1;
        let core = if extended { 64 } else { 32 };
        if at % 4096 + core > 4096 {
            return Err(format!("inode {nid} crosses a block"));
        }
        let raw = self.bytes(at, core)?;
        let small = |range: std::ops::Range<usize>| u32::try_from(le(&raw[range])).unwrap_or(0);
        let xattr_count = le(&raw[2..4]);
        let xattr_size = if xattr_count == 0 { 0 } else { 12 + (xattr_count - 1) * 4 };
        let mut stat = Stat {
            nid,
            mode: u16::try_from(le(&raw[4..6])).unwrap_or(0),
            links: if extended { small(44..48) } else { small(6..8) },
            size: if extended { le(&raw[8..16]) } else { le(&raw[8..12]) },
            uid: if extended { small(24..28) } else { small(24..26) },
            gid: if extended { small(28..32) } else { small(26..28) },
            mtime: if extended { le(&raw[32..40]).cast_signed() } else { 0 },
            mtime_nsec: if extended { small(40..44) } else { 0 },
            rdev: 0,
            xattrs: BTreeMap::new(),
            layout: u16::try_from(format >> 1).unwrap_or(u16::MAX),
            union: small(16..20),
            head: at + core + xattr_size,
        };
        if matches!(stat.mode & 0o170_000, 0o020_000 | 0o060_000) {
            stat.rdev = stat.union;
        }
        if xattr_size > 0 {
            stat.xattrs = parse_xattrs(&self.bytes(at + core, xattr_size)?)?;
        }
        Ok(stat)
    }

    /// `count` bytes of the contents from `offset` on.
    pub fn read(&self, stat: &Stat, offset: u64, count: u64) -> Result<Vec<u8>> {
        let count = count.min(stat.size.saturating_sub(offset));
        match stat.layout {
            0 => self.bytes(u64::from(stat.union) * 4096 + offset, count),
            2 => {
                let tail = stat.size % 4096;
                if stat.head % 4096 + tail > 4096 {
                    return Err(format!("inline data of inode {} cross a block", stat.nid));
                }
                let whole = stat.size - tail;
                let in_blocks = count.min(whole.saturating_sub(offset));
                let mut all = self.bytes(u64::from(stat.union) * 4096 + offset, in_blocks)?;
                let into_tail = (offset + in_blocks).saturating_sub(whole);
                all.extend(self.bytes(stat.head + into_tail, count - in_blocks)?);
                Ok(all)
            }
            4 => {
                let chunk = 4096_u64 << (stat.union & 0x1f);
                let mut all = Vec::new();
                let mut at = offset;
                while at < offset + count {
                    let take = (chunk - at % chunk).min(offset + count - at);
                    let block = le(&self.bytes(stat.head + at / chunk * 4, 4)?);
                    if block == 0xffff_ffff {
                        all.resize(all.len() + usize::try_from(take).unwrap_or(0), 0);
                    } else {
                        all.extend(self.bytes(block * 4096 + at % chunk, take)?);
                    }
                    at += take;
                }
                Ok(all)
            }
            other => Err(format!("data layout {other}")),
        }
    }

    /// All contents; the target of a symlink.
    pub fn contents(&self, stat: &Stat) -> Result<Vec<u8>> {
        self.read(stat, 0, stat.size)
    }

    /// The entries of a directory, `.` and `..` among them, checked for their order and types.
    pub fn entries(&self, stat: &Stat) -> Result<Vec<(Vec<u8>, u64)>> {
        let entries = self.typed_entries(stat)?;
        for (_, nid, kind) in &entries {
            let mode = self.stat(*nid)?.mode >> 12;
            let kinds = [0_u16, 0o10, 0o4, 0o2, 0o6, 0o1, 0o14, 0o12];
            if kinds.get(usize::from(*kind)) != Some(&mode) {
                return Err(format!("entry type {kind} of mode {mode:o}"));
            }
        }
        Ok(entries.into_iter().map(|(name, nid, _)| (name, nid)).collect())
    }

    /// The entries of a directory as [`Image::entries`], without a look at their inodes.
    pub fn names(&self, stat: &Stat) -> Result<Vec<(Vec<u8>, u64)>> {
        Ok(self.typed_entries(stat)?.into_iter().map(|(name, nid, _)| (name, nid)).collect())
    }

    /// Names, inode numbers and types, checked for their order.
    fn typed_entries(&self, stat: &Stat) -> Result<Vec<(Vec<u8>, u64, u8)>> {
        let bytes = self.contents(stat)?;
        let broken = || format!("directory {} is damaged", stat.nid);
        let mut entries: Vec<(Vec<u8>, u64, u8)> = Vec::new();
        for block in bytes.chunks(4096) {
            let start_of = |index: usize| -> Option<usize> {
                usize::try_from(le(block.get(index * 12 + 8..index * 12 + 10)?)).ok()
            };
            let count = start_of(0).ok_or_else(broken)? / 12;
            for index in 0..count {
                let raw = block.get(index * 12..(index + 1) * 12).ok_or_else(broken)?;
                let start = start_of(index).ok_or_else(broken)?;
                let rest = block.get(start..).ok_or_else(broken)?;
                let length = if index + 1 < count {
                    start_of(index + 1).and_then(|end| end.checked_sub(start)).ok_or_else(broken)?
                } else {
                    rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len())
                };
                let name = rest.get(..length).ok_or_else(broken)?.to_vec();
                if entries.last().is_some_and(|(last, ..)| *last >= name) {
                    return Err(format!("directory {} is not sorted", stat.nid));
                }
                entries.push((name, le(&raw[0..8]), raw[10]));
            }
        }
        Ok(entries)
    }

    /// Everything, by path without leading `/`; the root is the empty path. Link counts are checked.
    pub fn walk(&self) -> Result<BTreeMap<Vec<u8>, Stat>> {
        let mut found = BTreeMap::new();
        let mut names: BTreeMap<u64, u32> = BTreeMap::new();
        let mut todo = vec![(Vec::new(), self.root, self.root)];
        while let Some((path, nid, parent)) = todo.pop() {
            let stat = self.stat(nid)?;
            for (name, child) in self.entries(&stat)? {
                *names.entry(child).or_default() += 1;
                match name.as_slice() {
                    b"." if child == nid => continue,
                    b".." if child == parent => continue,
                    b"." | b".." => return Err(format!("`.` or `..` of {nid} is {child}")),
                    _ => {}
                }
                let mut full = path.clone();
                if !full.is_empty() {
                    full.push(b'/');
                }
                full.extend(name);
                let child_stat = self.stat(child)?;
                if child_stat.mode >> 12 == 0o4 {
                    todo.push((full, child, nid));
                } else {
                    found.insert(full, child_stat);
                }
            }
            found.insert(path, stat);
        }
        for stat in found.values() {
            let expected = names.get(&stat.nid).copied().unwrap_or(0);
            // A directory is named by its parent, itself and its subdirectories: all counted above.
            // The root's own `..` stands for the parent's name.
            if stat.links != expected {
                return Err(format!("inode {}: {} links, {expected} names", stat.nid, stat.links));
            }
        }
        if names.len() as u64 != self.inodes {
            return Err(format!("{} inodes, {} found", self.inodes, names.len()));
        }
        Ok(found)
    }
}

fn parse_xattrs(bytes: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut xattrs = BTreeMap::new();
    if bytes.get(4) != Some(&0) {
        return Err("shared xattrs".into());
    }
    let mut rest = bytes.get(12..).ok_or("short xattrs")?;
    while rest.len() >= 4 {
        let (name, value) = (usize::from(rest[0]), usize::try_from(le(&rest[2..4])).unwrap_or(0));
        let body = rest.get(4..4 + name + value).ok_or("xattr beyond its inode")?;
        let full = super::attr::join_xattr_name(rest[1], &body[..name]).ok_or("xattr namespace")?;
        xattrs.insert(full, body[name..].to_vec());
        rest = rest.get((4 + name + value).next_multiple_of(4)..).ok_or("xattr padding")?;
    }
    Ok(xattrs)
}
