//! Loop devices: disks that the host's file server shares as files.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

/// `LOOP_CTL_GET_FREE` of `/dev/loop-control`: the number of a device that is free, made if need be.
const GET_FREE: libc::Ioctl = 0x4c82;
/// `LOOP_CONFIGURE` of a loop device.
const CONFIGURE: libc::Ioctl = 0x4c0a;
/// `LOOP_SET_CAPACITY`: the device gets the size that its file has.
const SET_CAPACITY: libc::Ioctl = 0x4c07;
/// The device may not be written to, and lets go of its file when it is closed for the last time.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
/// A device that was free may be taken before it is opened; nobody else does that while a guest boots.
const ATTEMPTS: usize = 8;

/// `struct loop_config`, of whose `struct loop_info64` only the offset and the flags are used.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    numbers: [u64; 3],
    offset: u64,
    size_limit: u64,
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(mem::size_of::<Config>() == 304);

/// A block device over a file.
pub(super) struct Loop {
    pub(super) path: PathBuf,
    /// Keeps the device until it is mounted.
    pub(super) device: File,
}

/// Makes a block device of the file `tree`, which is open by its path only, from `offset` on.
pub(super) fn attach(tree: &OwnedFd, readonly: bool, offset: u64) -> io::Result<Loop> {
    let by_number = PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd()));
    let file = OpenOptions::new().read(true).write(!readonly).open(by_number)?;
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    let config = Config {
        fd: u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX),
        block_size: 0,
        numbers: [0; 3],
        offset,
        size_limit: 0,
        number: 0,
        encryption: [0; 2],
        flags: AUTOCLEAR | if readonly { READ_ONLY } else { 0 },
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..ATTEMPTS {
        // SAFETY: the call takes no argument and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(!readonly).open(&path)?;
        // SAFETY: the call reads the structure, whose layout is the kernel's.
        let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
        if done == 0 {
            return Ok(Loop { path, device });
        }
        last = io::Error::last_os_error();
        if last.raw_os_error() != Some(libc::EBUSY) {
            break;
        }
    }
    Err(last)
}

/// Has the block device `device` become as large as what is behind it. The kernel must have heard of
/// its new size before.
pub(super) fn refresh(device: &File) -> io::Result<()> {
    // SAFETY: the call takes no argument.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), SET_CAPACITY, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
