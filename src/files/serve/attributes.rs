//! Attributes: what files are, and what is noted about them.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use rustix::fs::{OFlags, StatVfs, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use super::names::{DIR_MODE, FILE_MODE};
use super::{Entry, FRESH, Server};
use crate::files::ShareKind;
use crate::files::host::{self, Result};
use crate::files::limits::{MAX_XATTR, MAX_XATTR_NAME};
use crate::files::nodes::{Held, ROOT};
use crate::files::owner::OWN_XATTRS;

/// The directory of the shares.
const ROOT_MODE: u16 = 0o755;
/// What guests can have: the attributes that belong to users.
const XATTRS: &[u8] = b"user.";

/// A change of a time.
#[derive(Clone, Copy, Debug)]
pub(in crate::files) enum Time {
    Now,
    At(SystemTime),
}

/// Changes of attributes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::files) struct Changes {
    pub(in crate::files) mode: Option<u32>,
    pub(in crate::files) uid: Option<u32>,
    pub(in crate::files) gid: Option<u32>,
    pub(in crate::files) size: Option<u64>,
    pub(in crate::files) atime: Option<Time>,
    pub(in crate::files) mtime: Option<Time>,
}

impl Server {
    pub(in crate::files) fn getattr(&self, id: u64, handle: Option<u64>) -> Result<Entry> {
        if id == ROOT {
            return Ok(self.root());
        }
        if let Some(handle) = handle {
            let open = self.handles.get(handle, id, false);
            let open = open.or_else(|_| self.handles.get(handle, id, true))?;
            let stat = host::stat(&open.file)?;
            let owner = self.owners.of(&self.all, open.file.as_fd(), &stat);
            return Ok(self.described(id, open.share, &stat, owner));
        }
        self.told(id, &self.held(id)?)
    }

    fn told(&self, id: u64, held: &Held) -> Result<Entry> {
        let stat = host::stat(&held.fd)?;
        let owner = self.owners.of(&self.all, held.fd.as_fd(), &stat);
        Ok(self.described(id, held.share, &stat, owner))
    }

    fn root(&self) -> Entry {
        let attr = FileAttr {
            ino: INodeNo(ROOT),
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: ROOT_MODE,
            nlink: u32::try_from(self.shares.len()).unwrap_or(u32::MAX).saturating_add(2),
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        Entry { attr, generation: 0, fresh: FRESH }
    }

    pub(in crate::files) fn setattr(
        &self,
        id: u64,
        handle: Option<u64>,
        changes: &Changes,
    ) -> Result<Entry> {
        let held = self.writable(id)?;
        let stat = host::stat(&held.fd)?;
        if changes.uid.is_some() || changes.gid.is_some() {
            let (uid, gid) = self.owners.of(&self.all, held.fd.as_fd(), &stat);
            let owner = (changes.uid.unwrap_or(uid), changes.gid.unwrap_or(gid));
            self.owners.set(&self.all, held.fd.as_fd(), &stat, owner)?;
        }
        if let Some(mode) = changes.mode {
            let mask = if stat.is_dir() { DIR_MODE } else { FILE_MODE };
            self.all.chmod(held.fd.as_fd(), mode & mask)?;
        }
        if let Some(size) = changes.size {
            self.truncate(id, handle, &held, size)?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(changes.atime),
                last_modification: timespec(changes.mtime),
            };
            self.all.set_times(held.fd.as_fd(), &times)?;
        }
        self.told(id, &held)
    }

    fn truncate(&self, id: u64, handle: Option<u64>, held: &Held, size: u64) -> Result<()> {
        if let Some(open) = handle.and_then(|handle| self.handles.get(handle, id, false).ok()) {
            return rustix::fs::ftruncate(&open.file, size);
        }
        if !host::stat(&held.fd)?.is_file() {
            return Err(Errno::INVAL);
        }
        rustix::fs::ftruncate(self.all.open(held.fd.as_fd(), OFlags::WRONLY)?, size)
    }

    pub(in crate::files) fn statfs(&self, id: u64) -> Result<StatVfs> {
        let fd = match id {
            ROOT => self.roots.first().map(std::sync::Arc::clone).ok_or(Errno::NOENT)?,
            _ => self.held(id)?.fd,
        };
        rustix::fs::fstatvfs(fd)
    }

    /// Whether the file is there, and can be written if `write`. Permissions are the guest's own
    /// matter: its kernel knows them.
    pub(in crate::files) fn access(&self, id: u64, write: bool) -> Result<()> {
        if id == ROOT {
            return if write { Err(Errno::ROFS) } else { Ok(()) };
        }
        let held = self.held(id)?;
        if write { self.may_write(held.share) } else { Ok(()) }
    }

    pub(in crate::files) fn getxattr(&self, id: u64, name: &OsStr) -> Result<Vec<u8>> {
        if id == ROOT || !visible(name) {
            return Err(Errno::NODATA);
        }
        self.all.xattr(self.held(id)?.fd.as_fd(), name)
    }

    pub(in crate::files) fn listxattr(&self, id: u64) -> Result<Vec<u8>> {
        if id == ROOT {
            return Ok(Vec::new());
        }
        let all = match self.all.xattrs(self.held(id)?.fd.as_fd()) {
            Err(Errno::OPNOTSUPP) => Vec::new(),
            other => other?,
        };
        let names = all.split_inclusive(|byte| *byte == 0);
        let seen = names.filter(|name| visible(OsStr::from_bytes(name.trim_suffix_zero())));
        Ok(seen.flatten().copied().collect())
    }

    pub(in crate::files) fn setxattr(
        &self,
        id: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        let held = self.changeable(id, name)?;
        if value.len() > MAX_XATTR {
            return Err(Errno::TOOBIG);
        }
        let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
        if !(XattrFlags::CREATE | XattrFlags::REPLACE).contains(flags) {
            return Err(Errno::INVAL);
        }
        self.all.set_xattr(held.fd.as_fd(), name, value, flags)
    }

    pub(in crate::files) fn removexattr(&self, id: u64, name: &OsStr) -> Result<()> {
        self.all.remove_xattr(self.changeable(id, name)?.fd.as_fd(), name)
    }

    fn changeable(&self, id: u64, name: &OsStr) -> Result<Held> {
        let held = self.writable(id)?;
        match name.as_bytes() {
            long if long.len() > MAX_XATTR_NAME => Err(Errno::RANGE),
            _ if visible(name) => Ok(held),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    /// Whether attributes may be asked for at all: a disk is a file without any.
    pub(super) fn is_disk(&self, share: usize) -> bool {
        self.kind(share) == ShareKind::Disk
    }
}

/// Whether guests see the attribute.
fn visible(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.len() > XATTRS.len() && name.starts_with(XATTRS) && !name.starts_with(OWN_XATTRS)
}

trait TrimSuffixZero {
    fn trim_suffix_zero(&self) -> &[u8];
}

impl TrimSuffixZero for [u8] {
    fn trim_suffix_zero(&self) -> &[u8] {
        self.strip_suffix(&[0]).unwrap_or(self)
    }
}

fn timespec(time: Option<Time>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(Time::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(Time::At(time)) => {
            let (sign, since) = match time.duration_since(UNIX_EPOCH) {
                Ok(since) => (1, since),
                // What arrives has its nanoseconds counted from the second on.
                Err(before) => (-1, before.duration()),
            };
            let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            Timespec { tv_sec: sign * seconds, tv_nsec: nanoseconds(since) }
        }
    }
}

fn nanoseconds(of: Duration) -> i64 {
    i64::from(of.subsec_nanos())
}
