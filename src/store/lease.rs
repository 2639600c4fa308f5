//! The lease: one command at a time changes a project, or one of its sandboxes.
//!
//! The lock is an advisory lock on a file, so the kernel releases it when the holder ends, however
//! it ends, and wakes who waits. The row beside it says who holds it.
//!
//! ```text
//! the whole project   flock, exclusive
//! one sandbox         flock, shared, and the byte of the file that its name hashes to, exclusive
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use rusqlite::{OptionalExtension, params};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Durability, Store, StoreError, now_ms};
use crate::home::Home;

/// The right to change a project, or one sandbox of it, until dropped.
#[derive(Debug)]
pub struct Lease {
    project: String,
    _lock: File,
}

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot.
    pub start_time: u64,
    /// The boot it belongs to.
    pub boot_id: String,
    /// What it does, such as `msb up`.
    pub command: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub acquired_ms: i64,
}

/// Why the lease was not had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another command held it for the whole time.
    #[error("project `{project}` is being changed by {}", describe(holder.as_ref()))]
    Held {
        /// The project.
        project: String,
        /// Who; `None` where it has not said yet.
        holder: Option<Holder>,
    },
    /// The lock file could not be used.
    #[error("{path}: cannot lock")]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The row could not be read or written.
    #[error("the lease of project `{project}` cannot be recorded")]
    Store {
        /// The project.
        project: String,
        /// Why.
        source: StoreError,
    },
}

fn describe(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!("`{}` (pid {})", holder.command, holder.pid),
        None => "another command".into(),
    }
}

/// What a lock on the file of a project stands for.
#[derive(Clone, Copy)]
enum Lock {
    /// The whole project.
    Whole,
    /// A share of it, so that nobody has the whole.
    Share,
    /// The byte of one sandbox.
    Byte(i64),
}

impl Lock {
    fn of_sandbox(name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let mut offset = [0; 8];
        offset.copy_from_slice(&hash.as_bytes()[..8]);
        // The end of the byte is an offset too.
        Self::Byte(i64::from_le_bytes(offset) & (i64::MAX >> 1))
    }

    /// Whether the lock is had; without `waits`, false where another has it.
    fn take(self, file: &File, waits: bool) -> io::Result<bool> {
        loop {
            let taken = match self {
                Self::Whole if waits => flock(file, FlockOperation::LockExclusive),
                Self::Whole => flock(file, FlockOperation::NonBlockingLockExclusive),
                Self::Share if waits => flock(file, FlockOperation::LockShared),
                Self::Share => flock(file, FlockOperation::NonBlockingLockShared),
                Self::Byte(offset) => lock_byte(file, offset, waits),
            };
            match taken {
                Ok(()) => return Ok(true),
                Err(Errno::WOULDBLOCK | Errno::ACCESS) if !waits => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A lock of the open file, not of the process: two of one process exclude each other too.
#[allow(clippy::cast_possible_truncation, reason = "both constants are 0 or 1")]
fn lock_byte(file: &File, offset: i64, waits: bool) -> Result<(), Errno> {
    let byte = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset,
        l_len: 1,
        l_pid: 0,
    };
    let request = if waits { FcntlArg::F_OFD_SETLKW(&byte) } else { FcntlArg::F_OFD_SETLK(&byte) };
    fcntl(file, request).map(drop).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

impl Lease {
    /// Takes the lease of `project` for `me`. Where another holds it, tells `waiting` who, and waits
    /// at most `timeout` (`None`: as long as it takes). Blocks the thread.
    pub fn acquire(
        store: &Store,
        project: &str,
        me: &Holder,
        timeout: Option<Duration>,
        waiting: impl FnOnce(Option<&Holder>),
    ) -> Result<Self, LeaseError> {
        Self::take(store, project, me, &[Lock::Whole], timeout, waiting)
    }

    /// [`Lease::acquire`], where nobody holds the project or a sandbox of it right now.
    pub fn try_acquire(
        store: &Store,
        project: &str,
        me: &Holder,
    ) -> Result<Option<Self>, LeaseError> {
        match Self::acquire(store, project, me, Some(Duration::ZERO), |_| {}) {
            Ok(lease) => Ok(Some(lease)),
            Err(LeaseError::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the lease of one sandbox of `project`, with which nothing else of the project may be
    /// changed. Others may have those of other sandboxes meanwhile, and nobody that of the project.
    /// Waits at most `timeout`. Blocks the thread.
    pub fn acquire_sandbox(
        store: &Store,
        project: &str,
        sandbox: &str,
        me: &Holder,
        timeout: Option<Duration>,
    ) -> Result<Self, LeaseError> {
        let locks = [Lock::Share, Lock::of_sandbox(sandbox)];
        Self::take(store, project, me, &locks, timeout, |_| {})
    }

    fn take(
        store: &Store,
        project: &str,
        me: &Holder,
        locks: &[Lock],
        timeout: Option<Duration>,
        waiting: impl FnOnce(Option<&Holder>),
    ) -> Result<Self, LeaseError> {
        let path = lock_path(store.home(), project);
        let failed = |source| LeaseError::Lock { path: path.clone(), source };
        let record = |source| LeaseError::Store { project: project.into(), source };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let until = timeout.map(|timeout| Instant::now() + timeout);
        let mut waiting = Some(waiting);
        for lock in locks {
            if lock.take(&file, false).map_err(failed)? {
                continue;
            }
            if let Some(waiting) = waiting.take() {
                waiting(store.lease_holder(project).map_err(record)?.as_ref());
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let waited = if left == Some(Duration::ZERO) {
                None
            } else {
                wait(file, *lock, left).map_err(failed)?
            };
            file = match waited {
                Some(file) => file,
                None => {
                    let holder = store.lease_holder(project).map_err(record)?;
                    return Err(LeaseError::Held { project: project.into(), holder });
                }
            };
        }
        store.put_lease(project, me).map_err(record)?;
        Ok(Self { project: project.to_owned(), _lock: file })
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.project
    }
}

/// Waits for a lock on a thread of its own, because a wait for a lock has no time limit. After a
/// time-out the thread stays until the holder ends, and lets go at once.
fn wait(file: File, lock: Lock, timeout: Option<Duration>) -> io::Result<Option<File>> {
    let (send, receive) = mpsc::channel();
    std::thread::Builder::new().name("lease".into()).spawn(move || {
        let locked = lock.take(&file, true).map(|_| file);
        let _ = send.send(locked);
    })?;
    let ended = || io::Error::other("the waiting thread ended");
    match timeout {
        None => receive.recv().map_err(|_| ended())?.map(Some),
        Some(timeout) => match receive.recv_timeout(timeout) {
            Ok(locked) => locked.map(Some),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ended()),
        },
    }
}

fn lock_path(home: &Home, project: &str) -> PathBuf {
    home.run().join(format!("{}.lease", project.replace('/', "+")))
}

impl Store {
    /// Who took the lease of `project` last. It is held only while that process lives.
    pub fn lease_holder(&self, project: &str) -> Result<Option<Holder>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(
                    "SELECT pid, start_time, boot_id, command, acquired_ms FROM lease
                     WHERE project = ?1",
                )?
                .query_row([project], |row| {
                    Ok(Holder {
                        pid: row.get(0)?,
                        start_time: row.get(1)?,
                        boot_id: row.get(2)?,
                        command: row.get(3)?,
                        acquired_ms: row.get(4)?,
                    })
                })
                .optional()
        };
        self.sql("read a lease", read())
    }

    fn put_lease(&self, project: &str, me: &Holder) -> Result<(), StoreError> {
        self.write(Durability::Relaxed, |w| {
            let write = || {
                w.conn
                    .prepare_cached(
                        "INSERT OR REPLACE INTO lease
                             (project, pid, start_time, boot_id, command, acquired_ms)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?
                    .execute(params![
                        project,
                        me.pid,
                        me.start_time,
                        me.boot_id,
                        me.command,
                        now_ms()
                    ])
            };
            w.sql("write a lease", write()).map(drop)
        })
    }
}
