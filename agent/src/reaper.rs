//! The one place that waits for processes.
//!
//! PID 1 inherits every orphan, so one loop collects whatever has ended and hands each status to
//! the session that started the process. It runs on the thread that forks: between a fork and
//! [`Reaper::watch`] nothing can be collected.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use msb_protocol::ExitStatus;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};

/// Collects processes that have ended.
pub(crate) struct Reaper {
    watched: RefCell<BTreeMap<i32, oneshot::Sender<ExitStatus>>>,
    collected: Notify,
}

impl Reaper {
    /// The reaper, and the events that [`Reaper::run`] waits for.
    pub(crate) fn new() -> io::Result<(Self, Signal)> {
        let events = signal(SignalKind::child())?;
        Ok((Self { watched: RefCell::default(), collected: Notify::new() }, events))
    }

    /// Collects for ever.
    pub(crate) async fn run(&self, mut events: Signal) {
        loop {
            self.collect();
            self.collected.notify_waiters();
            if events.recv().await.is_none() {
                return;
            }
        }
    }

    /// The status of the child `pid`, once it has ended.
    pub(crate) fn watch(&self, pid: i32) -> oneshot::Receiver<ExitStatus> {
        let (sender, receiver) = oneshot::channel();
        self.watched.borrow_mut().insert(pid, sender);
        receiver
    }

    /// Sends `signal` to the process group that the watched child `pid` leads. Nothing happens when
    /// the child has been collected, since its number may be another's then.
    pub(crate) fn signal_group(&self, pid: i32, signal: i32) {
        if self.watched.borrow().contains_key(&pid) {
            // SAFETY: kill(2) takes no pointers.
            unsafe { libc::kill(-pid, signal) };
        }
    }

    /// Returns when no child is left, living or dead.
    pub(crate) async fn alone(&self) {
        loop {
            let collected = self.collected.notified();
            tokio::pin!(collected);
            collected.as_mut().enable();
            if self.collect() {
                return;
            }
            collected.await;
        }
    }

    /// Collects what has ended; whether no child is left.
    fn collect(&self) -> bool {
        loop {
            let mut status = 0;
            // SAFETY: `status` is a valid place to write to.
            match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL) } {
                0 => return false,
                -1 => return true,
                pid => {
                    if let Some(watcher) = self.watched.borrow_mut().remove(&pid) {
                        let _ = watcher.send(exit_status(status));
                    }
                }
            }
        }
    }
}

fn exit_status(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(libc::WTERMSIG(status))
    } else {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    }
}
