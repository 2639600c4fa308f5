//! Events, as they are recorded.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::home::Home;
use crate::store::{EventRow, Store, StoreError, event_signal};
use crate::supervisor::readable;

/// Events that are read at a time.
const BATCH: u32 = 256;

/// Why events cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The store.
    #[error("the events cannot be read")]
    Store(#[from] StoreError),
    /// The kernel does not tell of new ones.
    #[error("new events cannot be waited for")]
    Watch(#[from] io::Error),
}

/// Reads events in the order of their sequence numbers, and waits for more. Woken by the kernel;
/// polls nothing.
#[derive(Debug)]
pub struct EventFollower {
    store: Store,
    changes: AsyncFd<OwnedFd>,
    project: Option<String>,
    after: i64,
}

impl EventFollower {
    /// Of the events of `project` (of all where `None`) after `seq`; 0 is all that are kept. Needs a
    /// tokio runtime.
    pub fn open(home: &Home, project: Option<&str>, seq: i64) -> Result<Self, EventError> {
        let store = Store::open(home)?;
        event_signal(home)?;
        // Before the first read, so that nothing is missed.
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(io::Error::from)?;
        inotify::add_watch(&changes, home.events(), inotify::WatchFlags::MODIFY)
            .map_err(io::Error::from)?;
        let project = project.map(str::to_owned);
        Ok(Self { store, changes: readable(changes)?, project, after: seq })
    }

    /// [`EventFollower::open`], of the events that are recorded from here on.
    pub fn from_now(home: &Home, project: Option<&str>) -> Result<Self, EventError> {
        let mut follower = Self::open(home, project, 0)?;
        follower.after = follower.store.newest_event()?.unwrap_or(0);
        Ok(follower)
    }

    /// The next events: one at least. Cancellation-safe.
    pub async fn next(&mut self) -> Result<Vec<EventRow>, EventError> {
        loop {
            let events = self.store.events_since(self.project.as_deref(), self.after, BATCH)?;
            if let Some(last) = events.last() {
                self.after = last.seq;
                return Ok(events);
            }
            self.changed().await?;
        }
    }

    async fn changed(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        loop {
            let mut guard = self.changes.readable().await?;
            let drained = guard.try_io(|changes| {
                Ok(rustix::io::read(changes.get_ref(), &mut buffer[..])
                    .map(|(read, _)| read.len())?)
            });
            match drained {
                Ok(result) => return result.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}
