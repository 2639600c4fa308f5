//! What a VM process says about its set-up before its guest runs.

use std::fs::File;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// The longest report, in bytes.
const MAX_REPORT: u64 = 64 << 10;

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

    /// Waits for it until the sender has closed its end.
    pub(super) fn receive(from: File) -> io::Result<Self> {
        let mut text = Vec::new();
        from.take(MAX_REPORT).read_to_end(&mut text)?;
        if text.is_empty() {
            return Err(io::Error::other("it ended while it was set up"));
        }
        Ok(serde_json::from_slice(&text)?)
    }
}
