//! One record.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The supervisor, about the log itself.
    Msb,
}

/// A line of output, or a part of a long one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// When the line was complete: RFC 3339, UTC, nine digits of fraction. Sorts as text.
    #[serde(rename = "t")]
    pub time: String,
    /// Where it came from.
    #[serde(rename = "s")]
    pub stream: LogStream,
    /// The text without its newline.
    #[serde(rename = "m")]
    pub message: String,
    /// The line goes on in the next record of the stream.
    #[serde(rename = "p", default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// A time as records have it.
pub(super) fn format_time(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.9}")
}

/// The time of a record that is not parsed.
pub(super) fn time_of(line: &[u8]) -> Option<&str> {
    let rest = line.strip_prefix(b"{\"t\":\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

impl LogRecord {
    /// Reads a line of a log; `None` for what is no record.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Msb => "msb",
        })
    }
}
