//! The workload's log: JSON lines, rotated by size, read backwards or followed.
//!
//! ```text
//! log/workload.log      the newest records
//! log/workload.log.1    older ones
//! log/workload.log.2    the oldest
//! ```
//!
//! A record is one line of output, `{"t":"2026-01-02T03:04:05.678901234Z","s":"stdout","m":"text"}`.
//! The time has nine digits of fraction, so that records sort as text. A record with `"p":true` is
//! part of a line: the next record of that stream continues it. Bytes that are no UTF-8 are written
//! as U+FFFD.

mod follow;
mod reader;
mod record;
mod writer;

pub use follow::LogFollower;
pub use reader::{LogRange, read};
pub use record::{LogRecord, LogStream};
pub use writer::{LOG_FILES, LOG_MAX_BYTES, LogWriter, MAX_LINE};

use std::path::{Path, PathBuf};

const NAME: &str = "workload.log";

/// The file that is `age` rotations old.
fn file(dir: &Path, age: usize) -> PathBuf {
    match age {
        0 => dir.join(NAME),
        age => dir.join(format!("{NAME}.{age}")),
    }
}
