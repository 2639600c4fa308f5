//! Disk volumes that become larger while they are mounted.
//!
//! ```text
//! on a device    ext4 ─▶ device mapper ─┬─▶ virtio disk: as long as it was when the guest booted
//!                                       └─▶ loop device ─▶ share of the same file: what came later
//! on a share     ext4 ─▶ loop device ─▶ share
//! ```
//!
//! A virtio disk never shows that its file has become longer, but the file server does. The parts
//! behind the old end are reached by it until the next boot. All of it is the work of a helper
//! process: each step may be done again, so that a helper which was killed leaves nothing behind.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, fstat, openat, openat2, statx};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::{grow, loops, mapper};

/// The kernel passes over what it hears of a file while that is written to, so that it is asked
/// again.
const ATTEMPTS: usize = 1000;

/// A disk volume that is written to.
pub(super) struct Volume {
    /// The share that its disk is, where it can grow.
    pub(super) share: Option<u32>,
    /// Where it is mounted.
    pub(super) path: String,
    /// What is mounted there.
    pub(super) device: PathBuf,
    /// The name for the device mapper and the virtio disk, where the device is made of them.
    pub(super) mapped: Option<(String, PathBuf)>,
}

/// All of them, and what they need to grow.
#[derive(Default)]
pub(super) struct Volumes {
    pub(super) all: Vec<Volume>,
    /// The directory of the shares, which is mounted nowhere.
    pub(super) shares: Option<OwnedFd>,
}

/// The growth of one volume: what a helper has to know of it.
pub(crate) struct Growth<'a> {
    volume: &'a Volume,
    share: u32,
    shares: BorrowedFd<'a>,
    /// The agent's own mount namespace, where nothing covers devices.
    first: BorrowedFd<'a>,
}

impl Volumes {
    /// The growth of the volume whose disk is `share`.
    pub(super) fn growth<'a>(&'a self, share: u32, first: &'a File) -> Option<Growth<'a>> {
        let volume = self.all.iter().find(|volume| volume.share == Some(share))?;
        Some(Growth { volume, share, shares: self.shares.as_ref()?.as_fd(), first: first.as_fd() })
    }
}

impl Growth<'_> {
    /// What must stay open in the helper.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.shares.as_raw_fd(), self.first.as_raw_fd()]
    }

    /// Makes the disk, and the file system on it, as large as the host's file. For a process of its
    /// own, which leaves its mount namespace.
    pub(crate) fn carry_out(&self) -> io::Result<()> {
        let root = mounted(&self.volume.path)?;
        move_into_thread_name_spaces(self.first, ThreadNameSpaceType::MOUNT)?;
        if fs::metadata(&self.volume.device)?.rdev() != fstat(&root)?.st_dev {
            let why = format!("the volume is not what {} shows", self.volume.path);
            return Err(io::Error::other(why));
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat(self.shares, self.share.to_string(), flags, Mode::empty())?;
        match &self.volume.mapped {
            None => refresh(&file, 0, &writable(&self.volume.device)?)?,
            Some((name, disk)) => self.lengthen(&file, name, disk)?,
        }
        grow::grow(&self.volume.device, root.as_fd())
    }

    /// Adds what the file has behind the end of the virtio disk.
    fn lengthen(&self, file: &OwnedFd, name: &str, disk: &Path) -> io::Result<()> {
        let disk = File::open(disk)?;
        let end = mapper::length(&disk)?;
        if told_length(file)? < end + mapper::SECTOR {
            return Ok(());
        }
        let tail = match tail(&self.volume.device)? {
            Some(device) => writable(&device)?,
            None => loops::attach(file, false, end)?.device,
        };
        refresh(file, end, &tail)?;
        mapper::extend(name, &[&disk, &tail])
    }
}

/// The root of what is mounted at `path`, as the workload sees it.
fn mounted(path: &str) -> io::Result<OwnedFd> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&root, path, flags, Mode::empty(), resolve)?)
}

fn writable(device: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(device)
}

/// The length of `file`, as the file server has it now.
fn told_length(file: &OwnedFd) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    Ok(statx(file, c"", flags, StatxFlags::SIZE)?.stx_size)
}

/// Has `device`, which is `file` from `offset` on, show all of it.
fn refresh(file: &OwnedFd, offset: u64, device: &File) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        let length = told_length(file)?.saturating_sub(offset);
        loops::refresh(device)?;
        if mapper::length(device)? / mapper::SECTOR >= length / mapper::SECTOR {
            return Ok(());
        }
    }
    Err(io::Error::other("the disk does not show its new length"))
}

/// The loop device that is a part of the mapped disk `device`.
fn tail(device: &Path) -> io::Result<Option<PathBuf>> {
    let name = device.file_name().unwrap_or_default();
    for part in fs::read_dir(Path::new("/sys/block").join(name).join("slaves"))? {
        let part = part?.file_name();
        if part.as_encoded_bytes().starts_with(b"loop") {
            return Ok(Some(Path::new("/dev").join(part)));
        }
    }
    Ok(None)
}
