//! Partition tables, as the kernel of a guest reads them: GPT, else MBR with logical partitions.

use super::bytes::DiskBytes;

/// What disks are addressed in, in bytes.
pub(super) const SECTOR: u64 = 512;
const SECTOR_LEN: usize = 512;
const MBR_MAGIC: [u8; 2] = [0x55, 0xaa];
/// Where the four entries of an MBR are, in bytes, and the length of one.
const MBR_ENTRIES: usize = 446;
const MBR_ENTRY: usize = 16;
/// Types of MBR partitions that hold others.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The type of the entry that stands for a GPT.
const PROTECTIVE: u8 = 0xee;
/// What there is of a partition that holds others, as the kernel shows it, in sectors.
const EXTENDED_SECTORS: u64 = 2;
/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;
const GPT_MAGIC: &[u8] = b"EFI PART";
/// Of a GPT's header, in bytes.
const GPT_HEADER: std::ops::RangeInclusive<usize> = 92..=SECTOR_LEN;
const GPT_CHECKSUM: std::ops::Range<usize> = 16..20;
/// Of an entry of a GPT, in bytes.
const GPT_ENTRY: std::ops::RangeInclusive<u64> = 128..=4096;
/// The most partitions that the kernel shows.
const MAX_PARTS: u32 = 256;

/// Partitions by number: where they start and how long they are, in bytes.
type Parts = Vec<(u32, (u64, u64))>;

/// The partitions of a disk; none where it has no table.
pub(super) fn parts(disk: &DiskBytes) -> Result<Parts, String> {
    let Some(first) = sector(disk, 0)? else { return Ok(Parts::new()) };
    let Some(entries) = entries(&first) else { return Ok(Parts::new()) };
    if entries.iter().any(|entry| entry.kind == PROTECTIVE) {
        return gpt(disk);
    }
    let mut parts = Parts::new();
    for (number, entry) in (1..).zip(&entries) {
        if entry.sectors == 0 {
            continue;
        }
        let is_extended = EXTENDED.contains(&entry.kind);
        let sectors = if is_extended { EXTENDED_SECTORS } else { entry.sectors };
        push(&mut parts, disk, number, entry.start, sectors);
        if is_extended {
            logical(disk, entry.start, &mut parts)?;
        }
    }
    parts.sort_unstable();
    Ok(parts)
}

fn sector(disk: &DiskBytes, number: u64) -> Result<Option<[u8; SECTOR_LEN]>, String> {
    let mut bytes = [0; SECTOR_LEN];
    match number.checked_mul(SECTOR) {
        Some(at) if at + SECTOR <= disk.len() => disk.read(at, &mut bytes)?,
        _ => return Ok(None),
    }
    Ok(Some(bytes))
}

/// Adds what of a partition lies on the disk.
fn push(parts: &mut Parts, disk: &DiskBytes, number: u32, start: u64, sectors: u64) {
    let (Some(start), Some(len)) = (start.checked_mul(SECTOR), sectors.checked_mul(SECTOR)) else {
        return;
    };
    if start < disk.len() {
        parts.push((number, (start, len.min(disk.len() - start))));
    }
}

/// A partition as an MBR states it, in sectors.
struct Entry {
    kind: u8,
    start: u64,
    sectors: u64,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// The entries of an MBR, if it is one: the start of a file system is not.
fn entries(sector: &[u8; SECTOR_LEN]) -> Option<Vec<Entry>> {
    let (entries, magic) = sector[MBR_ENTRIES..].split_at(4 * MBR_ENTRY);
    let mut entries = entries.chunks_exact(MBR_ENTRY);
    let is_one = magic == MBR_MAGIC && entries.clone().all(|entry| entry[0] & 0x7f == 0);
    let entry = |raw: &[u8]| Entry {
        kind: raw[4],
        start: number(&raw[8..12]),
        sectors: number(&raw[12..16]),
    };
    is_one.then(|| entries.by_ref().map(entry).collect())
}

/// The chain of partitions in an extended one that starts at the sector `first`.
fn logical(disk: &DiskBytes, first: u64, parts: &mut Parts) -> Result<(), String> {
    let (mut at, mut number) = (first, FIRST_LOGICAL);
    for _ in 0..MAX_PARTS {
        let Some(table) = sector(disk, at)? else { return Ok(()) };
        let Some(entries) = entries(&table) else { return Ok(()) };
        let is_extended = |entry: &&Entry| entry.sectors > 0 && EXTENDED.contains(&entry.kind);
        let data = entries.iter().find(|entry| entry.sectors > 0 && !is_extended(entry));
        if let Some(data) = data {
            push(parts, disk, number, at + data.start, data.sectors);
            number += 1;
        }
        match entries.iter().find(is_extended) {
            Some(next) => at = first + next.start,
            None => return Ok(()),
        }
    }
    Ok(())
}

fn gpt(disk: &DiskBytes) -> Result<Parts, String> {
    let damaged = || "its partition table is damaged".to_owned();
    let header = sector(disk, 1)?.filter(|header| header.starts_with(GPT_MAGIC));
    let header = header.ok_or_else(damaged)?;
    let length = usize::try_from(number(&header[12..16])).map_err(|_| damaged())?;
    if !GPT_HEADER.contains(&length) {
        return Err(damaged());
    }
    let mut summed = header;
    summed[GPT_CHECKSUM].fill(0);
    let mut checksum = flate2::Crc::new();
    checksum.update(&summed[..length]);
    let (first, size) = (number(&header[72..80]), number(&header[84..88]));
    if u64::from(checksum.sum()) != number(&header[GPT_CHECKSUM]) || !GPT_ENTRY.contains(&size) {
        return Err(damaged());
    }
    let count = number(&header[80..84]).min(u64::from(MAX_PARTS));
    let mut parts = Parts::new();
    for index in 0..count {
        let mut entry = [0; 48];
        let at = first.checked_mul(SECTOR).and_then(|at| at.checked_add(index * size));
        disk.read(at.ok_or_else(damaged)?, &mut entry)?;
        let (start, end) = (number(&entry[32..40]), number(&entry[40..48]));
        if entry[..16] != [0; 16] && start <= end && end < u64::MAX {
            let number = u32::try_from(index + 1).unwrap_or(MAX_PARTS);
            push(&mut parts, disk, number, start, end - start + 1);
        }
    }
    Ok(parts)
}
