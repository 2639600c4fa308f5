//! qcow2: what a file may say of itself, and where it has the bytes of its disk.
//!
//! ```text
//! header ─▶ level 1 ─▶ tables of level 2 ─▶ clusters, compressed or not
//! ```
//!
//! Guests get such a file as it is, and the VM process reads it; [`Clusters`] is for a look at it
//! without one.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

/// First in the file.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Length of the header of version 2, and of the part of version 3 that is looked at, in bytes.
const HEADER_2: usize = 72;
const HEADER_3: usize = 104;
/// Sizes of clusters, as powers of two.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The largest disk, in bytes.
const MAX_BYTES: u64 = 16 << 40;
/// Where the file goes on, in an entry of a table.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Marks of an entry of level 2: a compressed cluster, and, from version 3 on, one of zeros.
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// What the length of a compressed cluster is counted in, in bytes.
const SECTOR: u64 = 512;
/// Bits of incompatible features, and what they mean.
const FEATURES: [(u64, &str); 5] = [
    (1, "it was not closed in order; `qemu-img check -r all` makes it good"),
    (1 << 1, "it is damaged; `qemu-img check -r all` may make it good"),
    (1 << 2, "its data are in another file; `qemu-img convert -O qcow2` puts them into one"),
    (1 << 3, "its compression is not zlib; `qemu-img convert -O qcow2` makes one that is taken"),
    (1 << 4, "it has subclusters; `qemu-img convert -O qcow2` makes one without"),
];

/// Checks the start of a file; the size of the disk, in bytes.
pub(super) fn check(head: &[u8]) -> Result<u64, String> {
    let header = head.get(..HEADER_2).ok_or("it ends in its header")?;
    let u32_at = |at: usize| u32::from_be_bytes(four(header, at));
    let u64_at = |bytes: &[u8], at: usize| {
        let high = u32::from_be_bytes(four(bytes, at));
        u64::from(high) << 32 | u64::from(u32::from_be_bytes(four(bytes, at + 4)))
    };
    let version = u32_at(4);
    if !matches!(version, 2 | 3) {
        return Err(format!("version {version} of qcow2 is not known"));
    }
    if u64_at(header, 8) != 0 || u32_at(16) != 0 {
        let way = "`qemu-img convert -O qcow2` makes one file of both";
        return Err(format!("it is a layer over another file, which is not opened; {way}"));
    }
    if u32_at(32) != 0 {
        return Err("it is encrypted; `qemu-img convert` makes a copy that is not".to_owned());
    }
    let (bits, bytes) = (u32_at(20), u64_at(header, 24));
    if !CLUSTER_BITS.contains(&bits) || bytes == 0 || bytes > MAX_BYTES {
        return Err("its header makes no sense".to_owned());
    }
    if version == 2 {
        return Ok(bytes);
    }
    let header = head.get(..HEADER_3).ok_or("it ends in its header")?;
    let features = u64_at(header, 72);
    if let Some((_, problem)) = FEATURES.iter().find(|(bit, _)| features & bit != 0) {
        return Err((*problem).to_owned());
    }
    if features != 0 {
        return Err(format!("it has features that are not known ({features:#x})"));
    }
    Ok(bytes)
}

/// Where the clusters of a disk are.
#[derive(Debug)]
pub(super) struct Clusters {
    version: u32,
    /// Size of a cluster, as a power of two.
    bits: u32,
    /// Of the table of level 1: where it is, in bytes, and its entries.
    level1: (u64, u64),
    /// The compressed cluster that was read last, and its bytes.
    last: RefCell<(u64, Vec<u8>)>,
}

/// Says how many bytes are about to be read or decompressed.
type Spend<'a> = dyn Fn(u64) -> Result<(), String> + 'a;

impl Clusters {
    /// Those of a file that starts with `head`, and the size of its disk, in bytes.
    pub(super) fn open(head: &[u8]) -> Result<(Self, u64), String> {
        let bytes = check(head)?;
        let u32_at = |at: usize| u32::from_be_bytes(four(head, at));
        let level1 = u64::from(u32_at(40)) << 32 | u64::from(u32_at(44));
        let clusters = Self {
            version: u32_at(4),
            bits: u32_at(20),
            level1: (level1, u64::from(u32_at(36))),
            last: RefCell::new((0, Vec::new())),
        };
        Ok((clusters, bytes))
    }

    /// Fills `buffer` with the bytes of the disk from `at` on.
    pub(super) fn read(
        &self,
        file: &File,
        mut at: u64,
        mut buffer: &mut [u8],
        spend: &Spend<'_>,
    ) -> Result<(), String> {
        while !buffer.is_empty() {
            let (cluster, within) = (at >> self.bits, at & ((1 << self.bits) - 1));
            let count = usize::try_from((1 << self.bits) - within).unwrap_or(usize::MAX);
            let (part, rest) = buffer.split_at_mut(count.min(buffer.len()));
            spend(part.len() as u64)?;
            let entry = self.entry(file, cluster)?;
            if entry & COMPRESSED != 0 {
                self.inflate(file, entry, spend)?;
                let last = self.last.borrow();
                let from = usize::try_from(within).unwrap_or(usize::MAX);
                let found = last.1.get(from..from + part.len());
                part.copy_from_slice(found.ok_or("a part of it cannot be decompressed")?);
            } else if entry & OFFSET == 0 || self.version > 2 && entry & ZERO != 0 {
                part.fill(0);
            } else {
                read_at(file, (entry & OFFSET) + within, part)?;
            }
            at += part.len() as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// The entry of level 2 of a cluster; zero where there is no table.
    fn entry(&self, file: &File, cluster: u64) -> Result<u64, String> {
        let entry_at = |at: u64| {
            let mut entry = [0; 8];
            read_at(file, at, &mut entry)?;
            Ok::<_, String>(u64::from_be_bytes(entry))
        };
        // A table fills a cluster with entries of 8 bytes.
        let (number, within) = (cluster >> (self.bits - 3), cluster & ((1 << (self.bits - 3)) - 1));
        let (level1, entries) = self.level1;
        if number >= entries {
            return Err("its first table is too short".to_owned());
        }
        let table = entry_at(level1.saturating_add(number * 8))? & OFFSET;
        if table == 0 { Ok(0) } else { entry_at(table + within * 8) }
    }

    fn inflate(&self, file: &File, entry: u64, spend: &Spend<'_>) -> Result<(), String> {
        let mut last = self.last.borrow_mut();
        if last.0 == entry {
            return Ok(());
        }
        last.0 = 0;
        let cluster = 1_u64 << self.bits;
        spend(cluster)?;
        let length_bits = self.bits - 8;
        let at = entry & ((1 << (62 - length_bits)) - 1);
        let sectors = (entry >> (62 - length_bits) & ((1 << length_bits) - 1)) + 1;
        let mut compressed = vec![0; usize::try_from(sectors * SECTOR - at % SECTOR).unwrap_or(0)];
        read_at(file, at, &mut compressed)?;
        last.1.clear();
        let mut decoder = flate2::read::DeflateDecoder::new(&compressed[..]).take(cluster);
        let inflated = decoder.read_to_end(&mut last.1);
        inflated.map_err(|_| "a part of it cannot be decompressed".to_owned())?;
        last.0 = entry;
        Ok(())
    }
}

/// Reads from the file, which has zeros after its end.
fn read_at(file: &File, mut at: u64, mut buffer: &mut [u8]) -> Result<(), String> {
    while !buffer.is_empty() {
        match file.read_at(buffer, at) {
            Ok(0) => {
                buffer.fill(0);
                return Ok(());
            }
            Ok(count) => {
                at = at.saturating_add(count as u64);
                buffer = &mut buffer[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    let mut four = [0; 4];
    // Callers have checked the length.
    if let Some(found) = bytes.get(at..at + 4) {
        four.copy_from_slice(found);
    }
    four
}
