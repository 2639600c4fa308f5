//! Names: finding, making, moving and removing what has them.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Caller, Entry, Server};
use crate::files::host::{self, Result, checked};
use crate::files::nodes::{Held, Place, ROOT};

/// Permissions that files can have: no setuid, setgid or sticky.
pub(super) const FILE_MODE: u32 = 0o777;
/// And directories.
pub(super) const DIR_MODE: u32 = 0o1777;

impl Server {
    pub(in crate::files) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry> {
        let name = checked(name)?;
        if parent == ROOT {
            return self.share_entry(name);
        }
        let dir = self.held(parent)?;
        let found = host::child(&dir.fd, name)?;
        self.entry(place(&dir, parent, name), Arc::new(found))
    }

    fn share_entry(&self, name: &OsStr) -> Result<Entry> {
        let number = name.to_str().and_then(|name| name.parse::<usize>().ok());
        let number = number.filter(|number| *number < self.shares.len()).ok_or(Errno::NOENT)?;
        let place = Self::root_place(number);
        if place.name != name {
            return Err(Errno::NOENT);
        }
        let root = self.roots.get(number).ok_or(Errno::NOENT)?;
        self.entry(place, Arc::clone(root))
    }

    pub(in crate::files) fn readlink(&self, id: u64) -> Result<Vec<u8>> {
        if id == ROOT {
            return Err(Errno::INVAL);
        }
        let held = self.held(id)?;
        match rustix::fs::readlinkat(&held.fd, c"", Vec::new()) {
            Ok(target) => Ok(target.into_bytes()),
            // What the kernel says of what is no link.
            Err(Errno::NOENT) => Err(Errno::INVAL),
            Err(error) => Err(error),
        }
    }

    /// Notes the owner of what was just made, and tells of it.
    pub(super) fn made(
        &self,
        dir: &Held,
        parent: u64,
        name: &OsStr,
        fd: OwnedFd,
        by: Caller,
    ) -> Result<Entry> {
        let stat = host::stat(&fd)?;
        self.owners.made(&self.all, fd.as_fd(), &stat, by);
        self.entry(place(dir, parent, name), Arc::new(fd))
    }

    pub(in crate::files) fn mkdir(
        &self,
        by: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
    ) -> Result<Entry> {
        let dir = self.writable(parent)?;
        rustix::fs::mkdirat(&dir.fd, checked(name)?, Mode::from_raw_mode(mode & DIR_MODE))?;
        let made = host::child(&dir.fd, name)?;
        self.made(&dir, parent, name, made, by)
    }

    /// Regular files, pipes and sockets; no devices.
    pub(in crate::files) fn mknod(
        &self,
        by: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
    ) -> Result<Entry> {
        let dir = self.writable(parent)?;
        let permissions = mode & FILE_MODE;
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => {
                let file = host::create(&dir.fd, name, OFlags::WRONLY, permissions)?;
                let held = self.all.hold(file.as_fd())?;
                return self.made(&dir, parent, name, held, by);
            }
            libc::S_IFIFO => rustix::fs::FileType::Fifo,
            libc::S_IFSOCK => rustix::fs::FileType::Socket,
            _ => return Err(Errno::PERM),
        };
        let permissions = Mode::from_raw_mode(permissions);
        rustix::fs::mknodat(&dir.fd, checked(name)?, kind, permissions, 0)?;
        let made = host::child(&dir.fd, name)?;
        self.made(&dir, parent, name, made, by)
    }

    /// The target is data: nothing here follows it.
    pub(in crate::files) fn symlink(
        &self,
        by: Caller,
        parent: u64,
        name: &OsStr,
        target: &Path,
    ) -> Result<Entry> {
        let dir = self.writable(parent)?;
        rustix::fs::symlinkat(target, &dir.fd, checked(name)?)?;
        let made = host::child(&dir.fd, name)?;
        self.made(&dir, parent, name, made, by)
    }

    pub(in crate::files) fn link(&self, id: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        let (held, dir) = (self.writable(id)?, self.writable(parent)?);
        if held.share != dir.share {
            return Err(Errno::XDEV);
        }
        self.all.link(held.fd.as_fd(), dir.fd.as_fd(), name)?;
        self.entry(place(&dir, parent, name), held.fd)
    }

    pub(in crate::files) fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let dir = self.writable(parent)?;
        rustix::fs::unlinkat(&dir.fd, checked(name)?, AtFlags::empty())
    }

    pub(in crate::files) fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let dir = self.writable(parent)?;
        rustix::fs::unlinkat(&dir.fd, checked(name)?, AtFlags::REMOVEDIR)
    }

    pub(in crate::files) fn rename(
        &self,
        (parent, name): (u64, &OsStr),
        (newparent, newname): (u64, &OsStr),
        flags: u32,
    ) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            // Whiteouts are devices.
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.writable(parent)?, self.writable(newparent)?);
        if from.share != to.share {
            return Err(Errno::XDEV);
        }
        let (name, newname) = (checked(name)?, checked(newname)?);
        rustix::fs::renameat_with(&from.fd, name, &to.fd, newname, flags)?;
        self.moved(&to, newparent, newname);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.moved(&from, parent, name);
        }
        Ok(())
    }

    /// Notes by which name a file is to be found from here on.
    fn moved(&self, dir: &Held, parent: u64, name: &OsStr) {
        if let Ok(stat) = host::child(&dir.fd, name).and_then(host::stat) {
            self.nodes().renamed(place(dir, parent, name), &stat);
        }
    }
}

pub(super) fn place(dir: &Held, parent: u64, name: &OsStr) -> Place {
    Place { share: dir.share, parent, name: name.to_owned() }
}
