//! What a command gives.

use std::borrow::Cow;

use msb_protocol::ExitStatus;

/// What happens in an exec session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// The command runs.
    Started {
        /// Its pid in the guest.
        pid: u32,
    },
    /// It wrote to standard output (or, with a terminal, to either).
    Stdout(Vec<u8>),
    /// It wrote to standard error.
    Stderr(Vec<u8>),
    /// It ended; nothing follows.
    Exited(ExitStatus),
}

/// All that a command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl ExecOutput {
    /// How it ended.
    pub const fn status(&self) -> ExitStatus {
        self.status
    }

    /// Its exit code; 128 + n for signal n.
    pub const fn code(&self) -> i32 {
        self.status.code()
    }

    /// Whether it exited with code 0.
    pub const fn success(&self) -> bool {
        self.status.success()
    }

    /// Standard output as text; what is not UTF-8 is replaced.
    pub fn stdout(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// Standard error as text; what is not UTF-8 is replaced.
    pub fn stderr(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }

    /// Standard output.
    pub fn stdout_bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// Standard error.
    pub fn stderr_bytes(&self) -> &[u8] {
        &self.stderr
    }
}
