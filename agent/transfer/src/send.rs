//! Reading a tree.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use msb_protocol::{FsPath, MAX_TREE_DEPTH, Node, TreeItem};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;

use crate::frames::{CHUNK, Output};
use crate::sparse::{Part, Parts};
use crate::{Event, TransferError, Watch};

/// What the names of files with several names may take in memory, in bytes. The files beyond are
/// sent once per name.
const MAX_LINK_BYTES: usize = 16 << 20;
/// Permission bits, setuid, setgid and sticky.
const MODE: u32 = 0o7777;

/// Sends the file or directory at `source`; with `follow`, a symbolic link there stands for what it
/// leads to. Special files are left out, links below the root are sent as links. The other side is
/// told of a failure, too.
pub fn send<W: Write>(
    source: &Path,
    follow: bool,
    output: &mut Output<W>,
    watch: &mut Watch<'_>,
) -> Result<(), TransferError> {
    let mut sender =
        Sender { output, watch, source, path: Vec::new(), links: BTreeMap::new(), link_bytes: 0 };
    let end = match sender.root(follow) {
        Ok(()) => TreeItem::Finished,
        Err(error @ TransferError::Local { .. }) => {
            output.message(&TreeItem::Failed(error.failure()))?;
            output.flush()?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    output.message(&end)?;
    output.flush()
}

struct Sender<'a, 'w, W> {
    output: &'a mut Output<W>,
    watch: &'a mut Watch<'w>,
    source: &'a Path,
    /// The names from the root on, without its own.
    path: Vec<FsPath>,
    /// Where files with several names were sent, by device and inode.
    links: BTreeMap<(u64, u64), Vec<FsPath>>,
    link_bytes: usize,
}

impl<W: Write> Sender<'_, '_, W> {
    fn root(&mut self, follow: bool) -> Result<(), TransferError> {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let stat = statat(CWD, self.source, flags).map_err(|errno| self.fail(errno))?;
        let name = self.source.file_name().unwrap_or_default().as_bytes();
        let path = self.source.as_os_str().as_bytes();
        let path =
            CString::new(path).map_err(|_| TransferError::invalid(self.source, "a NUL byte"))?;
        let is_sent = self.entry(CWD, &path, name, &stat, !follow);
        if is_sent? { Ok(()) } else { Err(self.unsendable(&stat)) }
    }

    fn unsendable(&self, stat: &Stat) -> TransferError {
        match special(stat) {
            Some(_) => TransferError::invalid(self.source, "a device, a pipe or a socket"),
            None => self.fail(Errno::NOENT),
        }
    }

    fn fail(&self, errno: Errno) -> TransferError {
        TransferError::local(shown(self.source, &self.path), errno)
    }

    /// Sends what is at `path` in `dir`; whether there was something that can be sent.
    fn entry(
        &mut self,
        dir: impl AsFd,
        path: &CStr,
        name: &[u8],
        stat: &Stat,
        is_link_kept: bool,
    ) -> Result<bool, TransferError> {
        let no_follow = if is_link_kept { OFlags::NOFOLLOW } else { OFlags::empty() };
        // Never waits for a writer and never makes a terminal one's own.
        let flags =
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | no_follow;
        let open = |flags| match openat(&dir, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            // It went away, or became something else, since it was listed.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => Ok(None),
            Err(errno) => Err(self.fail(errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => match open(flags | OFlags::DIRECTORY)? {
                Some(fd) => self.dir(fd, name).map(|()| true),
                None => Ok(false),
            },
            FileType::RegularFile => match open(flags)? {
                Some(fd) => self.file(File::from(fd), name),
                None => Ok(false),
            },
            FileType::Symlink => match readlinkat(&dir, path, Vec::new()) {
                Ok(target) => {
                    let target = FsPath(target.into_bytes());
                    self.output.message(&TreeItem::Symlink { node: node(name, stat), target })?;
                    (self.watch)(Event::Entry);
                    Ok(true)
                }
                Err(Errno::NOENT | Errno::INVAL) => Ok(false),
                Err(errno) => Err(self.fail(errno)),
            },
            _ => Ok(false),
        }
    }

    fn dir(&mut self, fd: OwnedFd, name: &[u8]) -> Result<(), TransferError> {
        if self.path.len() >= MAX_TREE_DEPTH {
            return Err(TransferError::invalid(
                &shown(self.source, &self.path),
                "directories are nested too deeply",
            ));
        }
        let stat = fstat(&fd).map_err(|errno| self.fail(errno))?;
        self.output.message(&TreeItem::Dir(node(name, &stat)))?;
        let mut entries = Dir::read_from(&fd).map_err(|errno| self.fail(errno))?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(|errno| self.fail(errno))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.path.push(name.to_bytes().into());
            self.child(&fd, name)?;
            self.path.pop();
        }
        self.output.message(&TreeItem::End)?;
        (self.watch)(Event::Entry);
        Ok(())
    }

    fn child(&mut self, dir: &OwnedFd, name: &CStr) -> Result<(), TransferError> {
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.fail(errno)),
        };
        match special(&stat) {
            Some(why) => self.skip(why),
            None => self.entry(dir, name, name.to_bytes(), &stat, true).map(drop),
        }
    }

    fn skip(&mut self, why: &str) -> Result<(), TransferError> {
        let names: Vec<_> = self.path.iter().map(|name| name.0.as_slice()).collect();
        let path = names.join(&b'/');
        (self.watch)(Event::Skipped { path: &path, why });
        self.output.message(&TreeItem::Skipped { path: FsPath(path), why: why.to_owned() })
    }

    /// Sends an open file, or another name of one that was sent; whether it is a file.
    fn file(&mut self, file: File, name: &[u8]) -> Result<bool, TransferError> {
        let stat = fstat(&file).map_err(|errno| self.fail(errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(to) = self.links.get(&inode)
        {
            let to = to.clone();
            self.output.message(&TreeItem::HardLink { name: name.into(), to })?;
        } else {
            self.contents(&file, name, &stat)?;
            if stat.st_nlink > 1 && self.link_bytes < MAX_LINK_BYTES {
                self.link_bytes += self.path.iter().map(|name| 64 + name.0.len()).sum::<usize>();
                self.links.insert(inode, self.path.clone());
            }
        }
        (self.watch)(Event::Entry);
        Ok(true)
    }

    fn contents(&mut self, file: &File, name: &[u8], stat: &Stat) -> Result<(), TransferError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.output.message(&TreeItem::File { node: node(name, stat), size })?;
        let mut parts = Parts::of(file, stat);
        let mut at = 0;
        while let Some(part) = parts.next() {
            match part {
                Part::Hole(end) => {
                    self.output.message(&TreeItem::Hole(end - at))?;
                    at = end;
                }
                Part::Data(end) => {
                    at = self.data(file, at, end)?;
                    if at < end {
                        break;
                    }
                }
            }
        }
        if at < size {
            self.output.message(&TreeItem::Hole(size - at))?;
        }
        self.output.message(&TreeItem::End)?;
        if at < size { self.skip("it shrank while it was read; the rest is zeros") } else { Ok(()) }
    }

    /// Sends the bytes between two offsets; where they ended.
    fn data(&mut self, file: &File, mut at: u64, end: u64) -> Result<u64, TransferError> {
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let count = self.output.data(0, wanted, |space| {
                file.read_at(space, at)
                    .map_err(|error| TransferError::local(shown(self.source, &self.path), error))
            })?;
            if count == 0 {
                break;
            }
            at += count as u64;
            (self.watch)(Event::Bytes(count as u64));
        }
        Ok(at)
    }
}

/// The path of what is being sent, for messages.
fn shown(source: &Path, path: &[FsPath]) -> PathBuf {
    let mut shown = source.to_owned();
    shown.extend(path.iter().map(|name| OsStr::from_bytes(&name.0)));
    shown
}

/// Why a file is not sent.
fn special(stat: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Directory | FileType::Symlink => None,
        FileType::Fifo => Some("a pipe is not copied"),
        FileType::Socket => Some("a socket is not copied"),
        _ => Some("a device is not copied"),
    }
}

fn node(name: &[u8], stat: &Stat) -> Node {
    Node {
        name: name.into(),
        mode: stat.st_mode & MODE,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        mtime_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}
