//! A file that is read while it is written: a layer is unpacked while it arrives.
//!
//! Who reads it learns of the end only when who writes has said that everything has come and is right, so
//! that nothing is taken for whole that is not.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What is known of the file.
#[derive(Debug, Default)]
pub(super) struct Growing {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Bytes that are there.
    len: u64,
    /// Whether it is whole; none while it grows.
    ended: Option<bool>,
}

impl Growing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, until: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.state();
        let waited = self.changed.wait_while(state, |state| !until(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `read` take what there is beyond `position`, of which it is told the end; waits until there
    /// is something, or all of it has been there.
    pub(super) fn read_beyond(
        &self,
        position: u64,
        read: impl FnOnce(u64) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let State { len, ended } =
            *self.wait(|state| state.len > position || state.ended.is_some());
        match ended {
            Some(false) => Err(io::Error::other("the rest has not come")),
            Some(true) if len <= position => Ok(0),
            Some(true) | None => read(len),
        }
    }

    /// Waits for the end; says whether the file is whole.
    pub(super) fn is_whole(&self) -> bool {
        self.wait(|state| state.ended.is_some()).ended == Some(true)
    }
}

/// The side that writes. Dropped before [`Feed::complete`], it ends the file as one that is not whole.
#[derive(Debug, Default)]
pub(super) struct Feed(Arc<Growing>);

impl Feed {
    /// For who reads.
    pub(super) fn growing(&self) -> Arc<Growing> {
        self.0.clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state());
        self.0.changed.notify_all();
    }

    /// So many bytes are there.
    pub(super) fn grown(&self, len: u64) {
        self.change(|state| state.len = len);
    }

    /// Everything has come and is right.
    pub(super) fn complete(self) {
        self.change(|state| state.ended = Some(true));
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.change(|state| {
            state.ended.get_or_insert(false);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_waits_for_bytes_and_for_the_end() {
        let feed = Feed::default();
        let growing = feed.growing();
        let reads = |at: u64| growing.read_beyond(at, |end| Ok(usize::try_from(end - at).unwrap()));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| (reads(0).unwrap(), reads(3).unwrap(), growing.is_whole()));
            feed.grown(3);
            feed.complete();
            assert_eq!(reader.join().unwrap(), (3, 0, true));
        });
    }

    #[test]
    fn what_is_dropped_is_not_whole() {
        let feed = Feed::default();
        let growing = feed.growing();
        feed.grown(3);
        drop(feed);
        assert!(growing.read_beyond(3, |_| Ok(0)).is_err());
        assert!(growing.read_beyond(0, |_| Ok(3)).is_err());
        assert!(!growing.is_whole());
    }
}
