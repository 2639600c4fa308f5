//! Reading directories.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;

use fuser::FileType;
use rustix::fs::{OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::{Entry, Server};
use crate::files::handles::Handle;
use crate::files::host::{self, Result};
use crate::files::nodes::ROOT;

/// The handle of the directory of the shares.
const ROOT_HANDLE: u64 = 0;
/// So much of a directory is read at a time, in bytes: what an answer of a page has room for.
/// Kernels ask for pages, and what is read beyond is read again.
const CHUNK: usize = 4 << 10;
/// The same when attributes are told too, of which fewer have room.
const CHUNK_PLUS: usize = 1 << 10;

/// An entry of a directory.
#[derive(Debug)]
pub(in crate::files) struct Listed {
    pub(in crate::files) name: OsString,
    pub(in crate::files) number: u64,
    pub(in crate::files) kind: FileType,
    /// Where the next one is.
    pub(in crate::files) next: u64,
}

impl Listed {
    /// Whether it is the directory itself or its parent.
    pub(in crate::files) fn is_dots(&self) -> bool {
        matches!(self.name.as_bytes(), b"." | b"..")
    }
}

impl Server {
    pub(in crate::files) fn opendir(&self, id: u64) -> Result<u64> {
        if id == ROOT {
            return Ok(ROOT_HANDLE);
        }
        let held = self.held(id)?;
        if !host::stat(&held.fd)?.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let file = self.all.open(held.fd.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let handle =
            Handle { file, node: id, share: held.share, dir: true, reading: Mutex::default() };
        self.handles.add(handle)
    }

    /// Gives the entries from `offset` on to `each`, until that has enough; `plus` when it is about
    /// to tell their attributes.
    pub(in crate::files) fn readdir(
        &self,
        (id, handle): (u64, u64),
        offset: u64,
        plus: bool,
        mut each: impl FnMut(Listed) -> Result<bool>,
    ) -> Result<()> {
        if id == ROOT {
            return self.list_shares(offset, each);
        }
        let open = self.handles.get(handle, id, true)?;
        let dev = host::stat(&open.file)?.dev;
        let _alone = open.reading.lock();
        rustix::fs::seek(&open.file, SeekFrom::Start(offset))?;
        let mut buffer = [MaybeUninit::uninit(); CHUNK];
        let chunk = if plus { CHUNK_PLUS } else { CHUNK };
        let mut entries = RawDir::new(&open.file, buffer.get_mut(..chunk).unwrap_or_default());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let listed = Listed {
                name: OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
                number: self.nodes().number(open.share, dev, entry.ino()),
                kind: kind(entry.file_type()),
                next: entry.next_entry_cookie(),
            };
            if each(listed)? {
                break;
            }
        }
        Ok(())
    }

    fn list_shares(&self, offset: u64, mut each: impl FnMut(Listed) -> Result<bool>) -> Result<()> {
        let dots = [OsString::from("."), OsString::from("..")];
        let shares = (0..self.shares.len()).map(|share| Self::root_place(share).name);
        let names = dots.into_iter().chain(shares).enumerate();
        for (position, name) in names.skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            let root = position.checked_sub(2).and_then(|share| self.roots.get(share));
            let (number, kind) = match root {
                None => (ROOT, FileType::Directory),
                Some(root) => {
                    let stat = host::stat(root)?;
                    (self.nodes().number(position - 2, stat.dev, stat.ino), super::kind(stat.mode))
                }
            };
            if each(Listed { name, number, kind, next: position as u64 + 1 })? {
                break;
            }
        }
        Ok(())
    }

    /// What to tell of an entry that was listed. `None` when it is gone.
    pub(in crate::files) fn listed_entry(
        &self,
        dir: u64,
        listed: &Listed,
    ) -> Result<Option<Entry>> {
        match self.lookup(dir, &listed.name) {
            Ok(entry) => Ok(Some(entry)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(in crate::files) fn releasedir(&self, id: u64, handle: u64) -> Result<()> {
        if id == ROOT { Ok(()) } else { self.handles.remove(handle, id) }
    }

    pub(in crate::files) fn fsyncdir(&self, id: u64, handle: u64) -> Result<()> {
        if id == ROOT {
            return Ok(());
        }
        rustix::fs::fsync(&self.handles.get(handle, id, true)?.file)
    }
}

fn kind(of: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Host;
    match of {
        Host::Directory => FileType::Directory,
        Host::Symlink => FileType::Symlink,
        Host::Fifo => FileType::NamedPipe,
        Host::Socket => FileType::Socket,
        Host::CharacterDevice => FileType::CharDevice,
        Host::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}
