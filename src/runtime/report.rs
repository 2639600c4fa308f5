//! What a VM process says about its set-up before its guest runs.
#![allow(clippy::disallowed_methods, reason = "this module waits for a process")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The longest report, in bytes.
const MAX_REPORT: usize = 64 << 10;

/// The set-up of a VM process; without an error the guest starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Why there will be no guest.
    pub(super) error: Option<String>,
    /// Why it could not give up the system calls that a running guest does not need.
    pub(super) filter: Option<String>,
}

impl Report {
    /// Sends it. Whoever it is for may be gone, and this process then ends with it.
    pub(super) fn send(&self, mut to: File) {
        if let Ok(text) = serde_json::to_vec(self) {
            let _ = to.write_all(&text);
        }
    }

    /// Waits for it until the sender has closed its end, but not past `deadline`.
    pub(super) fn receive(from: &OwnedFd, deadline: Instant) -> io::Result<Self> {
        let text = read_to_end(from, MAX_REPORT, deadline)?;
        if text.is_empty() {
            return Err(io::Error::other("it ended while it was set up"));
        }
        Ok(serde_json::from_slice(&text)?)
    }
}

/// Reads `pipe` until nobody holds its other end, at most `most` bytes and not past `deadline`.
pub(super) fn read_to_end(pipe: &OwnedFd, most: usize, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; most];
    let mut length = 0;
    while length < most {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its set-up takes too long"));
            }
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match rustix::io::read(pipe, &mut bytes[length..])? {
            0 => break,
            more => length += more,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}
