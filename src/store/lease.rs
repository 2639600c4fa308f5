//! The lease: one command at a time changes a project.
//!
//! The lock is an advisory lock (`flock`) on a file, so the kernel releases it when the holder
//! ends, however it ends, and wakes who waits. The row beside it says who holds it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{OptionalExtension, params};
use rustix::fs::{FlockOperation, flock};

use super::{Durability, Store, StoreError, now_ms};
use crate::home::Home;

/// The right to change a project, until dropped.
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
        let path = lock_path(store.home(), project);
        let failed = |source| LeaseError::Lock { path: path.clone(), source };
        let record = |source| LeaseError::Store { project: project.into(), source };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let file = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => file,
            Err(rustix::io::Errno::WOULDBLOCK) => {
                waiting(store.lease_holder(project).map_err(record)?.as_ref());
                match wait(file, timeout).map_err(failed)? {
                    Some(file) => file,
                    None => {
                        let holder = store.lease_holder(project).map_err(record)?;
                        return Err(LeaseError::Held { project: project.into(), holder });
                    }
                }
            }
            Err(errno) => return Err(failed(errno.into())),
        };
        store.put_lease(project, me).map_err(record)?;
        Ok(Self { project: project.to_owned(), _lock: file })
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.project
    }
}

/// Waits for the lock on a thread of its own, because a wait for a lock has no time limit. After a
/// time-out the thread stays until the holder ends, and lets go at once.
fn wait(file: File, timeout: Option<Duration>) -> io::Result<Option<File>> {
    let (send, receive) = mpsc::channel();
    std::thread::Builder::new().name("lease".into()).spawn(move || {
        let locked = loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => break Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => break Err(io::Error::from(errno)),
            }
        };
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
