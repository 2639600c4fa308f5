//! Locks between processes, as files that exist while they are held.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use super::error::Reason;

/// A lock that is held until dropped. The kernel frees it when the process dies; the file that
/// then stays behind locks nothing.
#[derive(Debug)]
pub(super) struct FileLock {
    path: PathBuf,
    _file: File,
}

impl FileLock {
    /// Waits for the lock; `on_wait` is called once if it is not free at once.
    ///
    /// The wait is a blocking one in a thread of its own, which the runtime does not wait for. When
    /// the future is dropped, the thread stays until the lock is free and lets go of it at once.
    pub(super) async fn acquire(path: PathBuf, on_wait: impl FnOnce()) -> Result<Self, Reason> {
        if let Some(lock) = Self::try_acquire(&path)? {
            return Ok(lock);
        }
        on_wait();
        let fail = {
            let path = path.clone();
            move |source| Reason::File { what: "cannot be locked", path, source }
        };
        let (done, waited) = oneshot::channel();
        let wait = move || drop(done.send(Self::attempt(&path, true)));
        let thread = std::thread::Builder::new().name("image-lock".to_owned());
        if let Err(source) = thread.spawn(wait) {
            return Err(fail(source));
        }
        match waited.await {
            Ok(Ok(Some(lock))) => Ok(lock),
            Ok(Ok(None)) | Err(_) => Err(fail(io::ErrorKind::WouldBlock.into())),
            Ok(Err(source)) => Err(fail(source)),
        }
    }

    /// The lock, unless another holds it.
    pub(super) fn try_acquire(path: &Path) -> Result<Option<Self>, Reason> {
        Self::attempt(path, false).map_err(|source| Reason::File {
            what: "cannot be locked",
            path: path.to_owned(),
            source,
        })
    }

    /// The lock; `None` if another holds it and this is not to wait.
    fn attempt(path: &Path, wait: bool) -> io::Result<Option<Self>> {
        loop {
            let file =
                File::options().create(true).write(true).truncate(false).mode(0o600).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if wait => file.lock()?,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The last holder may have removed the name between the open and the lock.
            let own = file.metadata()?.ino();
            match fs::metadata(path) {
                Ok(meta) if meta.ino() == own => {
                    return Ok(Some(Self { path: path.to_owned(), _file: file }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // The name goes before the lock does, so that whoever locks the removed file sees it.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let lock = FileLock::try_acquire(&path).unwrap().unwrap();
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        drop(lock);
        assert!(!path.exists());
        // A file that a dead process left locks nothing.
        fs::write(&path, "").unwrap();
        drop(FileLock::try_acquire(&path).unwrap().unwrap());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_waiter_gets_it_and_one_that_gave_up_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let held = FileLock::try_acquire(&path).unwrap().unwrap();
        let (told, waits) = oneshot::channel();
        let waiter =
            tokio::spawn(FileLock::acquire(path.clone(), || told.send(()).unwrap_or_default()));
        waits.await.unwrap();
        let (told, waits) = oneshot::channel();
        let given_up =
            tokio::spawn(FileLock::acquire(path.clone(), || told.send(()).unwrap_or_default()));
        waits.await.unwrap();
        given_up.abort();
        drop(held);
        drop(waiter.await.unwrap().unwrap());
        drop(FileLock::acquire(path, || {}).await.unwrap());
    }

    #[test]
    fn many_threads_never_hold_it_together() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let holders = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lock = loop {
                            if let Some(lock) = FileLock::try_acquire(&path).unwrap() {
                                break lock;
                            }
                            std::thread::yield_now();
                        };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
