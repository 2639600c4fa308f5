//! Which name the root of a tree gets, by the rules of `cp`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::TransferError;

/// Where a tree goes.
///
/// | `path` | a file or link | a directory |
/// |---|---|---|
/// | a directory | into it, as `name` | into it, as `name`; with `contents`, its children into it |
/// | anything else | in its place | refused |
/// | nothing, in a directory | as that name; refused with a slash at its end | as that name |
///
/// Links on the way, and one to a directory at the end, are followed: the path is the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The path.
    pub path: &'a Path,
    /// What the root is called where it comes from; empty for `/`.
    pub name: &'a OsStr,
    /// The children of the root go into `path` themselves.
    pub contents: bool,
}

/// A directory, and the root's name in it.
#[derive(Debug)]
pub(crate) struct Place {
    /// A descriptor that paths start from.
    pub(crate) dir: OwnedFd,
    /// None: the root is the directory itself.
    pub(crate) name: Option<Vec<u8>>,
    /// The path of the root, for messages.
    pub(crate) shown: PathBuf,
}

/// Opens what is at `path` as a place to start from.
fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

impl Target<'_> {
    pub(crate) fn find(&self, root_is_dir: bool) -> Result<Place, TransferError> {
        let fail = |error: Errno| TransferError::local(self.path, error);
        match open_dir(self.path) {
            Ok(dir) if root_is_dir && (self.contents || self.name.is_empty()) => {
                Ok(Place { dir, name: None, shown: self.path.to_owned() })
            }
            Ok(dir) => {
                let name = self.name.as_bytes().to_vec();
                Ok(Place { dir, name: Some(name), shown: self.path.join(self.name) })
            }
            Err(Errno::NOTDIR) if root_is_dir => Err(fail(Errno::NOTDIR)),
            Err(error @ (Errno::NOENT | Errno::NOTDIR)) => {
                if !root_is_dir && self.path.as_os_str().as_bytes().ends_with(b"/") {
                    return Err(fail(error));
                }
                self.beside()
            }
            Err(error) => Err(fail(error)),
        }
    }

    /// The place of a path that is no directory.
    fn beside(&self) -> Result<Place, TransferError> {
        let Some(name) = self.path.file_name() else {
            return Err(TransferError::invalid(self.path, "it has no last component"));
        };
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let dir = open_dir(parent).map_err(|error| match error {
            Errno::NOENT => {
                let why = "the directory that it would be in does not exist";
                TransferError::local(self.path, io::Error::new(io::ErrorKind::NotFound, why))
            }
            error => TransferError::local(self.path, error),
        })?;
        let name = name.as_bytes().to_vec();
        Ok(Place { dir, name: Some(name), shown: self.path.to_owned() })
    }
}
