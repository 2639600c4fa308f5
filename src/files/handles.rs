//! What a guest has open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::host::Result;

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: OwnedFd,
    /// The node that was opened.
    pub(super) node: u64,
    pub(super) share: usize,
    pub(super) dir: bool,
    /// Held while a directory is read: its descriptor has one position.
    pub(super) reading: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct Handles {
    open: Mutex<Open>,
    max: usize,
}

#[derive(Debug, Default)]
struct Open {
    map: HashMap<u64, Arc<Handle>>,
    /// Never given twice.
    last: u64,
}

impl Handles {
    pub(super) fn new(max: usize) -> Self {
        Self { open: Mutex::default(), max }
    }

    /// Fails with `ENFILE` when too many are open.
    pub(super) fn add(&self, handle: Handle) -> Result<u64> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.map.len() >= self.max {
            return Err(Errno::NFILE);
        }
        open.last += 1;
        let number = open.last;
        open.map.insert(number, Arc::new(handle));
        Ok(number)
    }

    /// The handle of this number, if the node was opened by it.
    pub(super) fn get(&self, number: u64, node: u64, dir: bool) -> Result<Arc<Handle>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = open.map.get(&number).ok_or(Errno::BADF)?;
        let fits = handle.node == node && handle.dir == dir;
        if fits { Ok(Arc::clone(handle)) } else { Err(Errno::BADF) }
    }

    pub(super) fn remove(&self, number: u64, node: u64) -> Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.map.get(&number) {
            Some(handle) if handle.node == node => {
                open.map.remove(&number);
                Ok(())
            }
            _ => Err(Errno::BADF),
        }
    }
}
