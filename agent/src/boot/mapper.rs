//! Device mapper: disks that are put together of parts, one after the other. What is mounted of such
//! a disk stays mounted when it gets a further part.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const CONTROL: &str = "/dev/mapper/control";
/// Numbers of calls: `_IOWR(0xfd, …, struct dm_ioctl)`.
const CREATE: libc::Ioctl = 0xc138_fd03;
const REMOVE: libc::Ioctl = 0xc138_fd04;
/// `DM_DEV_SUSPEND` without its flag: what has been loaded takes effect.
const RESUME: libc::Ioctl = 0xc138_fd06;
const LOAD: libc::Ioctl = 0xc138_fd09;
/// The file system is not frozen meanwhile; the first parts stay what they are.
const SKIP_LOCKFS: u32 = 1 << 10;
/// The major version of the interface.
const VERSION: u32 = 4;
/// `struct dm_ioctl`: its length, and where its fields are.
const HEADER: usize = 312;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;
/// Names have at most this many bytes; the field has one more.
const MAX_NAME: usize = 127;
/// `struct dm_target_spec`, without its parameters: its length, and where its fields are.
const TARGET: usize = 40;
const START: usize = 0;
const LENGTH: usize = 8;
const NEXT: usize = 20;
const TYPE: usize = 24;
/// Targets begin at multiples of this.
const ALIGN: usize = 8;
/// What everything is counted in, in bytes.
pub(super) const SECTOR: u64 = 512;

/// Makes the disk `name` of `parts`; its device.
pub(super) fn create(name: &str, parts: &[&File]) -> io::Result<PathBuf> {
    let control = control()?;
    let answer = call(&control, CREATE, request(name, 0, &[])?)?;
    extend(name, parts).inspect_err(|_| {
        let _ = request(name, 0, &[]).and_then(|request| call(&control, REMOVE, request));
    })?;
    let device = answer.get(DEVICE..).and_then(|rest| rest.first_chunk());
    let device = u64::from_ne_bytes(*device.ok_or(io::ErrorKind::UnexpectedEof)?);
    // As the kernel's `new_encode_dev` has it.
    let minor = device & 0xff | device >> 12 & 0x000f_ff00;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

/// Makes the disk `name`, which may be mounted, of `parts`: those that it has, and further ones.
pub(super) fn extend(name: &str, parts: &[&File]) -> io::Result<()> {
    let control = control()?;
    call(&control, LOAD, request(name, 0, parts)?)?;
    call(&control, RESUME, request(name, SKIP_LOCKFS, &[])?)?;
    Ok(())
}

/// The length of a disk, in bytes.
pub(super) fn length(mut disk: &File) -> io::Result<u64> {
    disk.seek(SeekFrom::End(0))
}

fn control() -> io::Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(CONTROL);
    opened.map_err(|error| io::Error::new(error.kind(), format!("{CONTROL}: {error}")))
}

fn call(control: &File, command: libc::Ioctl, mut request: Vec<u8>) -> io::Result<Vec<u8>> {
    // SAFETY: the kernel reads and writes as many bytes as the request says that there are.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), command, request.as_mut_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
}

/// A `struct dm_ioctl` with a linear target for each of `parts`.
fn request(name: &str, flags: u32, parts: &[&File]) -> io::Result<Vec<u8>> {
    if name.len() > MAX_NAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut targets = Vec::new();
    let mut start = 0;
    for part in parts {
        let sectors = length(part)? / SECTOR;
        targets.extend(linear(start, sectors, part.metadata()?.rdev()));
        start += sectors;
    }
    let mut bytes = vec![0; HEADER];
    let size = short(HEADER + targets.len())?;
    put(&mut bytes, 0, &VERSION.to_ne_bytes());
    put(&mut bytes, DATA_SIZE, &size.to_ne_bytes());
    put(&mut bytes, DATA_START, &short(HEADER)?.to_ne_bytes());
    put(&mut bytes, TARGET_COUNT, &short(parts.len())?.to_ne_bytes());
    put(&mut bytes, FLAGS, &flags.to_ne_bytes());
    put(&mut bytes, NAME, name.as_bytes());
    bytes.extend(targets);
    Ok(bytes)
}

/// A target: so many sectors of the device `disk`, from its first on.
fn linear(start: u64, sectors: u64, disk: u64) -> Vec<u8> {
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    let parameters = format!("{major}:{minor} 0\0");
    let length = (TARGET + parameters.len()).next_multiple_of(ALIGN);
    let mut bytes = vec![0; length];
    put(&mut bytes, START, &start.to_ne_bytes());
    put(&mut bytes, LENGTH, &sectors.to_ne_bytes());
    put(&mut bytes, NEXT, &u32::try_from(length).unwrap_or(0).to_ne_bytes());
    put(&mut bytes, TYPE, b"linear");
    put(&mut bytes, TARGET, parameters.as_bytes());
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn short(number: usize) -> io::Result<u32> {
    u32::try_from(number).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let request = request("volume0", SKIP_LOCKFS, &[]).unwrap();
        assert_eq!(request.len(), HEADER);
        assert_eq!(request[..4], [4, 0, 0, 0]);
        assert_eq!(request[12..20], [56, 1, 0, 0, 56, 1, 0, 0]);
        assert_eq!(request[28..32], [0, 4, 0, 0]);
        assert_eq!(request[48..56], *b"volume0\0");
        assert!(super::request(&"n".repeat(128), 0, &[]).is_err());
    }

    #[test]
    fn a_target_says_where_the_next_one_is() {
        let target = linear(8, 16, rustix::fs::makedev(254, 48));
        assert_eq!(target.len(), 56);
        assert_eq!(target[..16], [8, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(target[20..24], [56, 0, 0, 0]);
        assert_eq!(target[24..40], *b"linear\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(target[40..], *b"254:48 0\0\0\0\0\0\0\0\0");
    }
}
