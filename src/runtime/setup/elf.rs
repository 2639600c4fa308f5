//! Cuts the kernel out of a libkrunfw library, and makes an ELF file of it.
//!
//! The library is an ELF file (System V gABI) whose symbol `KERNEL_BUNDLE` is a flat kernel image.
//! QEMU wants an ELF file with a PVH entry (Xen `PHYS32_ENTRY` note); the kernel states that entry
//! in a note that is still in the flat image.

use std::ops::Range;

const SYMBOL: &[u8] = b"KERNEL_BUNDLE";
/// Where a libkrunfw kernel is loaded.
const LOAD: u64 = 0x100_0000;
/// Its 64-bit entry, from the load address; QEMU uses the PVH entry.
const ENTRY_64: u64 = 0x123;
/// Memory that the kernel uses behind its image before it looks at the memory map.
const EXTRA: u64 = 4 << 20;
const PAGE: u64 = 4096;
/// The largest entry that the note may state, from the load address.
const MAX_IMAGE: u64 = 128 << 20;

const SECTION_DYNSYM: u32 = 11;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
/// Name length 4, value length 8, type 18 (`PHYS32_ENTRY`), name `Xen`.
const NOTE: [u8; 16] = *b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0";

/// Why there is no usable kernel in a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// It is not a 64-bit little-endian ELF file, or one that is damaged.
    #[error("not an intact ELF library for this machine")]
    NotElf,
    /// It has no kernel.
    #[error("it has no symbol KERNEL_BUNDLE")]
    NoKernel,
    /// The kernel has no PVH entry.
    #[error("its kernel has no PVH entry")]
    NoPvh,
}

/// A kernel file: `head`, then the bytes of the library in `body`.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) head: Vec<u8>,
    pub(super) body: Range<usize>,
}

/// The kernel file for the library `bytes`.
pub(super) fn kernel(bytes: &[u8]) -> Result<Kernel, KernelError> {
    let body = bundle(bytes)?;
    let image = &bytes[body.clone()];
    // Notes are aligned to 4 bytes.
    let at = (0..image.len())
        .step_by(4)
        .find(|at| image[*at..].starts_with(&NOTE))
        .ok_or(KernelError::NoPvh)?;
    let entry = u64_at(image, at + NOTE.len()).ok_or(KernelError::NoPvh)?;
    if !(LOAD..LOAD + MAX_IMAGE).contains(&entry) {
        return Err(KernelError::NoPvh);
    }
    Ok(Kernel { head: head(image.len() as u64, entry), body })
}

/// Where in the file the kernel image is.
fn bundle(bytes: &[u8]) -> Result<Range<usize>, KernelError> {
    let intact = bytes.starts_with(b"\x7fELF\x02\x01");
    let machine = u16_at(bytes, 0x12).filter(|_| intact).ok_or(KernelError::NotElf)?;
    if machine != MACHINE {
        return Err(KernelError::NotElf);
    }
    let (address, size) = symbol(bytes)?;
    let offset = file_offset(bytes, address).ok_or(KernelError::NotElf)?;
    let start = index(offset)?;
    // The symbol is one byte longer than the image: a string literal.
    let end = start.checked_add(index(size / PAGE * PAGE)?).ok_or(KernelError::NotElf)?;
    if end > bytes.len() || start == end {
        return Err(KernelError::NotElf);
    }
    Ok(start..end)
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(not(target_arch = "x86_64"))]
const MACHINE: u16 = 183;

/// Address and size of the symbol.
fn symbol(bytes: &[u8]) -> Result<(u64, u64), KernelError> {
    let table = u64_at(bytes, 0x28).ok_or(KernelError::NotElf)?;
    let entry = u64::from(u16_at(bytes, 0x3a).ok_or(KernelError::NotElf)?);
    let count = u64::from(u16_at(bytes, 0x3c).ok_or(KernelError::NotElf)?);
    let section = |number: u64| -> Option<usize> {
        (number < count)
            .then(|| table.checked_add(number * entry))
            .flatten()
            .and_then(|offset| usize::try_from(offset).ok())
    };
    for number in 0..count {
        let header = section(number).ok_or(KernelError::NotElf)?;
        if u32_at(bytes, header.saturating_add(4)) != Some(SECTION_DYNSYM) {
            continue;
        }
        let found = || -> Option<(u64, u64)> {
            let symbols = section_bytes(bytes, header)?;
            let link = u32_at(bytes, header + 0x28)?;
            let names = section_bytes(bytes, section(u64::from(link))?)?;
            symbols.chunks_exact(24).find_map(|symbol| {
                let name = names.get(usize::try_from(u32_at(symbol, 0)?).ok()?..)?;
                let name = name.split(|byte| *byte == 0).next()?;
                (name == SYMBOL).then(|| Some((u64_at(symbol, 8)?, u64_at(symbol, 16)?)))?
            })
        };
        return found().ok_or(KernelError::NoKernel);
    }
    Err(KernelError::NoKernel)
}

fn section_bytes(bytes: &[u8], header: usize) -> Option<&[u8]> {
    let start = usize::try_from(u64_at(bytes, header.checked_add(0x18)?)?).ok()?;
    let size = usize::try_from(u64_at(bytes, header.checked_add(0x20)?)?).ok()?;
    bytes.get(start..start.checked_add(size)?)
}

/// Where in the file the byte at `address` is.
fn file_offset(bytes: &[u8], address: u64) -> Option<u64> {
    let table = u64_at(bytes, 0x20)?;
    let entry = u64::from(u16_at(bytes, 0x36)?);
    let count = u64::from(u16_at(bytes, 0x38)?);
    (0..count).find_map(|number| {
        let header = usize::try_from(table.checked_add(number * entry)?).ok()?;
        let segment = bytes.get(header..)?;
        let start = u64_at(segment, 0x10)?;
        let inside = u32_at(segment, 0)? == SEGMENT_LOAD
            && address >= start
            && address - start < u64_at(segment, 0x20)?;
        inside.then(|| u64_at(segment, 8)?.checked_add(address - start))?
    })
}

/// The ELF header, two program headers (the image, the note) and the note, padded to a page.
fn head(image_len: u64, pvh_entry: u64) -> Vec<u8> {
    const HEADER: u64 = 64;
    const SEGMENT: u16 = 56;
    let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let note = HEADER + 2 * u64::from(SEGMENT);
    let note_len = NOTE.len() as u64 + 8;
    put(&mut head, &[2, 0]); // an executable
    put(&mut head, &MACHINE.to_le_bytes());
    put(&mut head, &1_u32.to_le_bytes());
    for value in [LOAD + ENTRY_64, HEADER, 0] {
        put(&mut head, &value.to_le_bytes());
    }
    put(&mut head, &0_u32.to_le_bytes());
    for value in [64, SEGMENT, 2, 0, 0, 0] {
        put(&mut head, &value.to_le_bytes());
    }
    for (kind, flags, offset, address, file, memory, align) in [
        (SEGMENT_LOAD, 7_u32, PAGE, LOAD, image_len, image_len + EXTRA, PAGE),
        (SEGMENT_NOTE, 4, note, 0, note_len, note_len, 4),
    ] {
        put(&mut head, &kind.to_le_bytes());
        put(&mut head, &flags.to_le_bytes());
        for value in [offset, address, address, file, memory, align] {
            put(&mut head, &value.to_le_bytes());
        }
    }
    put(&mut head, &NOTE);
    put(&mut head, &pvh_entry.to_le_bytes());
    head.resize(usize::try_from(PAGE).unwrap_or(head.len()), 0);
    head
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
}

fn index(value: u64) -> Result<usize, KernelError> {
    usize::try_from(value).map_err(|_| KernelError::NotElf)
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_no_library() {
        assert_eq!(kernel(b"").err(), Some(KernelError::NotElf));
        assert_eq!(kernel(b"#!/bin/sh\n").err(), Some(KernelError::NotElf));
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(kernel(&own).err(), Some(KernelError::NoKernel));
        assert!(kernel(&own[..own.len() / 2]).is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(mut bytes: Vec<u8>, header: [u8; 58]) {
            let mut input = b"\x7fELF\x02\x01".to_vec();
            input.extend_from_slice(&header);
            input[0x12] = 62;
            input[0x13] = 0;
            input.append(&mut bytes);
            let _ = kernel(&input);
        }
    }
}
