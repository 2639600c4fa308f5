//! Files and links under temporary names, beside the ones that they get.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Names that are tried before giving up: what killed processes of the same number left.
const ATTEMPTS: usize = 10_000;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Makes something under a temporary name in a directory; `make` fails with `EEXIST` where the name
/// is taken.
pub(crate) fn with_name<T>(
    mut make: impl FnMut(&str) -> Result<T, Errno>,
) -> io::Result<(String, T)> {
    for _ in 0..ATTEMPTS {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".msb-{}-{number}", std::process::id());
        match make(&name) {
            Ok(made) => return Ok((name, made)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::EXIST.into())
}

/// Gives what is at `temporary` the name `name`, replacing what has it. On failure it is removed.
pub(crate) fn rename_over(dir: impl AsFd, temporary: &str, name: &[u8]) -> io::Result<()> {
    let renamed = renameat(&dir, temporary, &dir, name);
    // Two names of one file are both left by a rename.
    let _ = unlinkat(&dir, temporary, AtFlags::empty());
    Ok(renamed?)
}

/// A file that gets its name when it is complete. Dropping it removes it.
#[derive(Debug)]
pub struct NewFile {
    dir: OwnedFd,
    file: File,
    name: Vec<u8>,
    /// Where it is until then; none where it has its name already, in a directory that has not.
    temporary: Option<String>,
}

impl NewFile {
    /// An empty file, mode 0600, that becomes `name` in `dir`.
    pub fn beside(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let dir = dir.try_clone_to_owned()?;
        let (temporary, file) = with_name(|name| create(&dir, name.as_bytes()))?;
        Ok(Self { dir, file, name: name.to_vec(), temporary: Some(temporary) })
    }

    /// An empty file that is `name` at once where nothing is, for a directory that nobody sees yet.
    pub(crate) fn unseen(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        match create(dir, name) {
            Ok(file) => {
                let dir = dir.try_clone_to_owned()?;
                Ok(Self { dir, file, name: name.to_vec(), temporary: None })
            }
            Err(Errno::EXIST) => Self::beside(dir, name),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The file, for its contents and attributes.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, replacing what has it unless that is a directory.
    pub fn finish(mut self) -> io::Result<()> {
        match self.temporary.take() {
            Some(temporary) => rename_over(&self.dir, &temporary, &self.name),
            None => {
                self.name.clear();
                Ok(())
            }
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = unlinkat(&self.dir, temporary.as_str(), AtFlags::empty());
        }
    }
}

fn create(dir: impl AsFd, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}
