//! What a qcow2 file may say of itself. The rest of it is read by the VM process.

/// First in the file.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Length of the header of version 2, and of the part of version 3 that is looked at, in bytes.
const HEADER_2: usize = 72;
const HEADER_3: usize = 104;
/// Sizes of clusters, as powers of two.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The largest disk, in bytes.
const MAX_BYTES: u64 = 16 << 40;
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

fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    let mut four = [0; 4];
    // Callers have checked the length.
    if let Some(found) = bytes.get(at..at + 4) {
        four.copy_from_slice(found);
    }
    four
}
