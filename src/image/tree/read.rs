//! Reads a host directory: into a digest, and into an image where one is wanted.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FileType, major, minor};
use rustix::io::Errno;

use super::walk::{Entry, Visit, changed, unreadable, wrong};
use crate::image::digest::{Digest, Hasher};
use crate::image::erofs::{Attr, Builder, Device, ErofsError, xattr_is_storable};
use crate::image::error::Reason;
use crate::image::layer::Limits;
use crate::image::progress::{Progress, ProgressEvent};

/// First in what is hashed: another way to hash makes other digests.
const VERSION: &[u8] = b"directory 1\n";
/// What of an image's mode is permission.
const PERMISSIONS: u32 = 0o7777;
/// How many bytes go by between two reports.
const PROGRESS_STEP_BYTES: u64 = 4 << 20;

/// Reads all that a walk comes by.
pub(super) struct Reading<'a> {
    hasher: Hasher,
    builder: Option<Builder>,
    /// Where the builder writes, for messages.
    out: &'a Path,
    limits: &'a Limits,
    /// Paths of files with several names, by inode.
    linked: BTreeMap<u64, Vec<u8>>,
    bytes: u64,
    told: u64,
    /// All bytes of files, and who is told of them.
    total: u64,
    progress: &'a dyn Progress,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        builder: Option<Builder>,
        out: &'a Path,
        limits: &'a Limits,
        total: u64,
        progress: &'a dyn Progress,
    ) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(VERSION);
        let linked = BTreeMap::new();
        Self { hasher, builder, out, limits, linked, bytes: 0, told: 0, total, progress }
    }

    /// The digest of everything: names, types, permissions, owners, extended attributes, contents and
    /// links, not times. The image, where there is one, is complete.
    pub(super) fn finish(self) -> Result<Digest, Reason> {
        if let Some(builder) = self.builder {
            builder.finish().map_err(|error| build_error(error, self.out))?;
        }
        Ok(self.hasher.finish())
    }

    fn field(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn put(
        &mut self,
        body: impl FnOnce(&mut Builder) -> Result<(), ErofsError>,
    ) -> Result<(), Reason> {
        let out = self.out;
        self.builder.as_mut().map_or(Ok(()), |b| body(b).map_err(|error| build_error(error, out)))
    }

    fn file(&mut self, entry: &Entry<'_>, attr: Attr, shown: &Path) -> Result<(), Reason> {
        let size = u64::try_from(entry.stat.st_size).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(size);
        if size > self.limits.file_bytes || self.bytes > self.limits.total_bytes {
            return Err(wrong(shown, "the image would be too large"));
        }
        let file = entry.open(shown)?;
        let mut contents = Contents { file: &file, hasher: blake3::Hasher::new(), failed: None };
        match &mut self.builder {
            Some(builder) => {
                let written = builder.file(entry.path, attr, size, &mut contents);
                if let Some(error) = contents.failed {
                    return Err(unreadable(shown, error));
                }
                written.map_err(|error| match error {
                    ErofsError::Contents { .. } => changed(shown),
                    error => build_error(error, self.out),
                })?;
            }
            None => {
                let copied = io::copy(&mut (&mut contents).take(size), &mut io::sink());
                if copied.map_err(|error| unreadable(shown, error))? != size {
                    return Err(changed(shown));
                }
            }
        }
        let hash = contents.hasher.finalize();
        if !entry.is_same(&file).map_err(|error| unreadable(shown, error))? {
            return Err(changed(shown));
        }
        self.field(b"file");
        self.field(hash.as_bytes());
        if self.bytes >= self.told + PROGRESS_STEP_BYTES {
            self.told = self.bytes;
            let (bytes, total) = (self.bytes, self.total);
            self.progress.event(ProgressEvent::Reading { bytes, total });
        }
        Ok(())
    }

    /// Whether an entry is a further name of a file that has been read.
    fn is_link(&mut self, entry: &Entry<'_>) -> Result<bool, Reason> {
        if entry.stat.st_nlink < 2 || entry.kind() == FileType::Directory {
            return Ok(false);
        }
        let Some(first) = self.linked.get(&entry.stat.st_ino).cloned() else {
            self.linked.insert(entry.stat.st_ino, entry.path.to_owned());
            return Ok(false);
        };
        self.field(b"hard link");
        self.field(&first);
        self.put(|builder| builder.hard_link(entry.path, &first))?;
        Ok(true)
    }

    fn special(&mut self, entry: &Entry<'_>, attr: Attr, shown: &Path) -> Result<(), Reason> {
        let number = entry.stat.st_rdev;
        let device = match entry.kind() {
            FileType::CharacterDevice => Device::Char(major(number), minor(number)),
            FileType::BlockDevice => Device::Block(major(number), minor(number)),
            FileType::Fifo => Device::Fifo,
            FileType::Socket => Device::Socket,
            _ => return Err(wrong(shown, "its type is not known")),
        };
        self.field(format!("{device:?}").as_bytes());
        self.put(|builder| builder.device(entry.path, attr, device))
    }
}

impl Visit for Reading<'_> {
    fn entry(&mut self, entry: &Entry<'_>, shown: &Path) -> Result<(), Reason> {
        self.field(entry.path);
        if self.is_link(entry)? {
            return Ok(());
        }
        let attr = attr(entry, shown)?;
        self.field(format!("{:o} {}:{}", attr.mode, attr.uid, attr.gid).as_bytes());
        for (name, value) in &attr.xattrs {
            self.field(name);
            self.field(value);
        }
        match entry.kind() {
            FileType::Directory => {
                self.field(b"directory");
                let path = if entry.path.is_empty() { b"/" } else { entry.path };
                self.put(|builder| builder.dir(path, attr))
            }
            FileType::RegularFile => self.file(entry, attr, shown),
            FileType::Symlink => {
                let target = entry.target(shown)?;
                self.field(b"link");
                self.field(&target);
                self.put(|builder| builder.symlink(entry.path, attr, &target))
            }
            _ => self.special(entry, attr, shown),
        }
    }
}

/// Contents on their way, hashed.
struct Contents<'a> {
    file: &'a File,
    hasher: blake3::Hasher,
    failed: Option<io::Error>,
}

impl Read for Contents<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Ok(count) => {
                self.hasher.update(&buffer[..count]);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let shown = io::Error::new(error.kind(), error.to_string());
                self.failed = Some(error);
                Err(shown)
            }
        }
    }
}

fn attr(entry: &Entry<'_>, shown: &Path) -> Result<Attr, Reason> {
    let stat = &entry.stat;
    Ok(Attr {
        mode: u16::try_from(stat.st_mode & PERMISSIONS).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        mtime_nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        xattrs: xattrs(entry).map_err(|errno| unreadable(shown, errno))?,
    })
}

/// The extended attributes that the format has room for, but for those that would tell the guest's
/// overlay to hide, redirect or replace files.
fn xattrs(entry: &Entry<'_>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let path = entry.proc_path();
    let list = match rustix::fs::llistxattr_query(&path) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        size => {
            let mut list = vec![0; size?];
            let size = rustix::fs::llistxattr(&path, &mut list[..])?;
            list.truncate(size);
            list
        }
    };
    let mut xattrs = BTreeMap::new();
    for name in list.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let bytes = name.to_bytes();
        if !xattr_is_storable(bytes) || bytes.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; rustix::fs::lgetxattr_query(&path, name)?];
        let size = rustix::fs::lgetxattr(&path, name, &mut value[..])?;
        value.truncate(size);
        xattrs.insert(bytes.to_owned(), value);
    }
    Ok(xattrs)
}

fn build_error(error: ErofsError, out: &Path) -> Reason {
    match error {
        ErofsError::Write(source) => {
            Reason::File { what: "cannot be written", path: out.to_owned(), source }
        }
        other => Reason::Build { source: other.into() },
    }
}
