//! Images that a process is about to use, kept from being removed by others.
//!
//! ```text
//! who uses     shared lock on the file ─▶ is the name still this file? ─▶ use
//! who removes  exclusive lock on the file (or leave it) ─▶ row goes ─▶ name goes
//! ```
//!
//! The locks are the kernel's: they end with the process, however it ends. Once a sandbox has a
//! row, the row keeps its image.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The most files that a process holds: each is an open file. Of further ones, a removal at the wrong
/// moment is found when the sandbox is made, whose command then fails.
const MAX_HELD: usize = 256;

/// The files that are held, until dropped.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<BTreeMap<PathBuf, File>>);

impl Holds {
    /// Holds the file; `false` when there is none.
    pub(super) fn hold(&self, path: &Path) -> io::Result<bool> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = held.get(path)
            && is_named(file, path)?
        {
            return Ok(true);
        }
        if held.len() >= MAX_HELD {
            return path.try_exists();
        }
        let Some(file) = hold_file(path)? else { return Ok(false) };
        held.insert(path.to_owned(), file);
        Ok(true)
    }
}

/// Holds one file until it is dropped; `None` when there is none.
pub(super) fn hold_file(path: &Path) -> io::Result<Option<File>> {
    let Some(file) = open(path)? else { return Ok(None) };
    // Whoever removes it is soon done.
    file.lock_shared()?;
    Ok(is_named(&file, path)?.then_some(file))
}

/// A file that nobody holds, locked; what of it there is to remove.
#[derive(Debug)]
pub(super) enum Free {
    /// Nobody uses it before this is dropped.
    Locked(File),
    /// There is no such file.
    Missing,
    /// Another process is about to use it.
    Held,
}

/// Locks the file against use, unless it is used.
pub(super) fn lock_free(path: &Path) -> io::Result<Free> {
    let Some(file) = open(path)? else { return Ok(Free::Missing) };
    match file.try_lock() {
        Ok(()) if is_named(&file, path)? => Ok(Free::Locked(file)),
        Ok(()) => Ok(Free::Missing),
        Err(TryLockError::WouldBlock) => Ok(Free::Held),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether `path` still names `file`.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(meta) => Ok((meta.dev(), meta.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_not_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let holds = Holds::default();
        assert!(!holds.hold(&path).unwrap());
        assert!(matches!(lock_free(&path).unwrap(), Free::Missing));
        fs::write(&path, "1").unwrap();
        assert!(holds.hold(&path).unwrap());
        assert!(matches!(lock_free(&path).unwrap(), Free::Held));
        // Another file of the same name is another file.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "2").unwrap();
        assert!(matches!(lock_free(&path).unwrap(), Free::Locked(_)));
        assert!(holds.hold(&path).unwrap());
        assert!(matches!(lock_free(&path).unwrap(), Free::Held));
        drop(holds);
        assert!(matches!(lock_free(&path).unwrap(), Free::Locked(_)));
    }

    #[test]
    fn there_is_an_end_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let holds = Holds::default();
        let path = |number: usize| dir.path().join(number.to_string());
        for number in 0..=MAX_HELD {
            fs::write(path(number), "x").unwrap();
            assert!(holds.hold(&path(number)).unwrap());
        }
        assert!(matches!(lock_free(&path(MAX_HELD - 1)).unwrap(), Free::Held));
        assert!(matches!(lock_free(&path(MAX_HELD)).unwrap(), Free::Locked(_)));
        assert!(!holds.hold(&path(MAX_HELD + 1)).unwrap());
    }

    #[test]
    fn who_comes_while_it_is_removed_finds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "1").unwrap();
        let Free::Locked(lock) = lock_free(&path).unwrap() else { panic!("not free") };
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || Holds::default().hold(&path).unwrap())
        };
        fs::remove_file(&path).unwrap();
        drop(lock);
        assert!(!waiter.join().unwrap());
    }
}
