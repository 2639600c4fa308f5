//! Growth of an ext4 file system to the size of its device.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `EXT4_IOC_RESIZE_FS`: takes the number of blocks.
const RESIZE: libc::Ioctl = 0x4008_6610;
/// Where the first superblock is, and its fields.
const SUPERBLOCK: u64 = 1024;
const BLOCKS_LOW: u64 = 0x04;
const LOG_BLOCK: u64 = 0x18;
const BLOCKS_HIGH: u64 = 0x150;
/// The largest block that the kernel knows is 64 KiB.
const MAX_LOG_BLOCK: u32 = 6;

/// Makes the file system on `device`, mounted where `root` is, as large as the device.
pub(super) fn grow(device: &Path, root: BorrowedFd<'_>) -> io::Result<()> {
    let mut device = OpenOptions::new().read(true).open(device)?;
    let log_block = field(&device, LOG_BLOCK)?;
    if log_block > MAX_LOG_BLOCK {
        return Err(io::Error::other("the superblock makes no sense"));
    }
    let has =
        u64::from(field(&device, BLOCKS_LOW)?) | u64::from(field(&device, BLOCKS_HIGH)?) << 32;
    let blocks = device.seek(SeekFrom::End(0))? >> (10 + log_block);
    if blocks <= has {
        return Ok(());
    }
    let root = rustix::fs::openat(
        root,
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    // SAFETY: the call reads one 64-bit number, which outlives it.
    let done = unsafe { libc::ioctl(root.as_fd().as_raw_fd(), RESIZE, &raw const blocks) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn field(device: &File, offset: u64) -> io::Result<u32> {
    let mut bytes = [0; 4];
    device.read_exact_at(&mut bytes, SUPERBLOCK + offset)?;
    Ok(u32::from_le_bytes(bytes))
}
