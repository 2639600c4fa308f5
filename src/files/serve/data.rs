//! The contents of files.
#![allow(clippy::disallowed_methods, reason = "times of files are compared with the clock")]

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::names::{FILE_MODE, place};
use super::{Caller, Entry, Server};
use crate::files::ShareKind;
use crate::files::handles::Handle;
use crate::files::host::{self, Result};
use crate::files::limits::MAX_COPY;
use crate::files::nodes::ROOT;

/// What an opened file is for its guest.
#[derive(Clone, Copy, Debug)]
pub(in crate::files) struct Opened {
    pub(in crate::files) handle: u64,
    /// Whether what the guest has in its cache is still true.
    pub(in crate::files) unchanged: bool,
}

impl Server {
    pub(in crate::files) fn open(&self, id: u64, flags: i32) -> Result<Opened> {
        if id == ROOT {
            return Err(Errno::ISDIR);
        }
        let held = self.held(id)?;
        let mut flags = open_flags(flags)?;
        if self.is_disk(held.share) {
            if flags.contains(OFlags::TRUNC) {
                return Err(Errno::PERM);
            }
            flags &= OFlags::ACCMODE;
        }
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            self.may_write(held.share)?;
        }
        let stat = host::stat(&held.fd)?;
        if !stat.is_file() {
            return Err(if stat.is_dir() { Errno::ISDIR } else { Errno::NXIO });
        }
        let file = self.all.open(held.fd.as_fd(), flags)?;
        let stat = host::stat(&file)?;
        let handle =
            Handle { file, node: id, share: held.share, dir: false, reading: Mutex::default() };
        let handle = self.handles.add(handle)?;
        let unchanged = self.nodes().unchanged(id, (stat.mtime, stat.size), SystemTime::now());
        Ok(Opened { handle, unchanged })
    }

    pub(in crate::files) fn create(
        &self,
        by: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        let dir = self.writable(parent)?;
        let wanted = open_flags(flags)?;
        let file = match host::create(&dir.fd, name, wanted, mode & FILE_MODE) {
            Ok(file) => file,
            Err(Errno::EXIST) if flags & libc::O_EXCL == 0 => {
                let entry = self.lookup(parent, name)?;
                let opened = self.open(entry.attr.ino.0, flags);
                if opened.is_err() {
                    self.forget(entry.attr.ino.0, 1);
                }
                return Ok((entry, opened?));
            }
            Err(error) => return Err(error),
        };
        let stat = host::stat(&file)?;
        self.owners.made(&self.all, file.as_fd(), &stat, by);
        let held = self.all.hold(file.as_fd())?;
        let entry = self.entry(place(&dir, parent, name), Arc::new(held))?;
        let node = entry.attr.ino.0;
        let handle = Handle { file, node, share: dir.share, dir: false, reading: Mutex::default() };
        match self.handles.add(handle) {
            Ok(handle) => Ok((entry, Opened { handle, unchanged: false })),
            Err(error) => {
                self.forget(node, 1);
                Err(error)
            }
        }
    }

    fn opened(&self, id: u64, handle: u64) -> Result<Arc<Handle>> {
        self.handles.get(handle, id, false)
    }

    /// Fills `buffer` from `offset` on; how much there was.
    pub(in crate::files) fn read(
        &self,
        id: u64,
        handle: u64,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let open = self.opened(id, handle)?;
        let mut length = 0;
        while length < buffer.len() {
            let rest = buffer.get_mut(length..).unwrap_or_default();
            match rustix::io::pread(&open.file, rest, offset.saturating_add(length as u64)) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(Errno::INTR) => {}
                Err(_) if length > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }

    /// How much was written.
    pub(in crate::files) fn write(
        &self,
        id: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<usize> {
        let open = self.opened(id, handle)?;
        self.may_write(open.share)?;
        self.within(&open, offset, data.len() as u64)?;
        let mut length = 0;
        while length < data.len() {
            let rest = data.get(length..).unwrap_or_default();
            match rustix::io::pwrite(&open.file, rest, offset.saturating_add(length as u64)) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(Errno::INTR) => {}
                Err(_) if length > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }

    /// A disk is never written behind its end.
    fn within(&self, open: &Handle, offset: u64, length: u64) -> Result<()> {
        if self.kind(open.share) == ShareKind::Files {
            return Ok(());
        }
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        if end <= host::stat(&open.file)?.size { Ok(()) } else { Err(Errno::NOSPC) }
    }

    pub(in crate::files) fn release(&self, id: u64, handle: u64) -> Result<()> {
        self.handles.remove(handle, id)
    }

    pub(in crate::files) fn fsync(&self, id: u64, handle: u64, data_only: bool) -> Result<()> {
        let open = self.opened(id, handle)?;
        if data_only { rustix::fs::fdatasync(&open.file) } else { rustix::fs::fsync(&open.file) }
    }

    pub(in crate::files) fn fallocate(
        &self,
        id: u64,
        handle: u64,
        (offset, length): (u64, u64),
        mode: i32,
    ) -> Result<()> {
        let open = self.opened(id, handle)?;
        self.may_write(open.share)?;
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let keep = FallocateFlags::KEEP_SIZE;
        let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !(keep | holes).contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        if self.is_disk(open.share) {
            if !mode.contains(keep) || !mode.intersects(holes) {
                return Err(Errno::PERM);
            }
            self.within(&open, offset, length)?;
        }
        rustix::fs::fallocate(&open.file, mode, offset, length)
    }

    /// Where the next data or hole is.
    pub(in crate::files) fn lseek(
        &self,
        id: u64,
        handle: u64,
        offset: i64,
        whence: i32,
    ) -> Result<u64> {
        let open = self.opened(id, handle)?;
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let position = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        rustix::fs::seek(&open.file, position)
    }

    /// How much was copied, which may be less than asked for.
    pub(in crate::files) fn copy(
        &self,
        (from, from_handle, mut from_offset): (u64, u64, u64),
        (to, to_handle, mut to_offset): (u64, u64, u64),
        length: u64,
    ) -> Result<usize> {
        let (source, target) = (self.opened(from, from_handle)?, self.opened(to, to_handle)?);
        self.may_write(target.share)?;
        let length = usize::try_from(length.min(MAX_COPY)).map_err(|_| Errno::INVAL)?;
        self.within(&target, to_offset, length as u64)?;
        rustix::fs::copy_file_range(
            &source.file,
            Some(&mut from_offset),
            &target.file,
            Some(&mut to_offset),
            length,
        )
    }
}

/// What of the flags of a guest's `open` holds on the host.
fn open_flags(flags: i32) -> Result<OFlags> {
    let kept = libc::O_ACCMODE | libc::O_APPEND | libc::O_TRUNC | libc::O_SYNC | libc::O_DSYNC;
    if flags & libc::O_ACCMODE == libc::O_ACCMODE {
        return Err(Errno::INVAL);
    }
    Ok(OFlags::from_bits_retain((flags & kept).cast_unsigned()))
}
