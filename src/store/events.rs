//! Events: what happened, for `msb events`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rusqlite::params;

use super::{Store, StoreError, Writer, now_ms};
use crate::home::Home;

/// Events that are kept; the oldest go first.
pub const MAX_EVENTS: i64 = 10_000;
/// The oldest are dropped once in this many, so that most inserts touch one page.
const TRIM_EVERY: i64 = 256;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The project.
    pub project: &'a str,
    /// The sandbox's name.
    pub sandbox: Option<&'a str>,
    /// The sandbox's id.
    pub sandbox_id: Option<&'a str>,
    /// One word: `created`, `starting`, `running`, `healthy`, `stopped`, `crashed`, ….
    pub kind: &'a str,
    /// More, as JSON.
    pub detail: Option<&'a str>,
}

/// An event as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Rises by at least 1; never used twice.
    pub seq: i64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The project.
    pub project: String,
    /// The sandbox's name.
    pub sandbox: Option<String>,
    /// The sandbox's id.
    pub sandbox_id: Option<String>,
    /// One word.
    pub kind: String,
    /// More, as JSON.
    pub detail: Option<String>,
}

impl Store {
    /// At most `limit` events of `project` (of all where `None`) after `seq`, oldest first.
    pub fn events_since(
        &self,
        project: Option<&str>,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(
                    "SELECT seq, at_ms, project, sandbox, sandbox_id, kind, detail FROM event
                     WHERE seq > ?1 AND (?2 IS NULL OR project = ?2) ORDER BY seq LIMIT ?3",
                )?
                .query_map(params![seq, project, limit], |row| {
                    Ok(EventRow {
                        seq: row.get(0)?,
                        at_ms: row.get(1)?,
                        project: row.get(2)?,
                        sandbox: row.get(3)?,
                        sandbox_id: row.get(4)?,
                        kind: row.get(5)?,
                        detail: row.get(6)?,
                    })
                })?
                .collect()
        };
        self.sql("read the events", read())
    }
}

impl Store {
    /// The sequence number of the oldest event that is kept; `None` when there is none.
    pub fn oldest_event(&self) -> Result<Option<i64>, StoreError> {
        self.event_number("SELECT min(seq) FROM event")
    }

    /// The sequence number of the newest event; `None` when there is none.
    pub fn newest_event(&self) -> Result<Option<i64>, StoreError> {
        self.event_number("SELECT max(seq) FROM event")
    }

    fn event_number(&self, query: &str) -> Result<Option<i64>, StoreError> {
        let read = || self.conn.query_row(query, [], |row| row.get::<_, Option<i64>>(0));
        self.sql("read the events", read())
    }
}

/// Opens the file by which followers hear of new events; makes it where it is missing.
pub fn event_signal(home: &Home) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(home.events())
}

/// Wakes whoever follows the events: after the commit, so that they find what they are woken for.
/// The kernel tells them of the write; a full disk keeps nobody from recording an event.
pub(super) fn announce(home: &Home) {
    let _ = event_signal(home).and_then(|file| file.write_all_at(b".", 0));
}

impl Writer<'_> {
    /// Records an event; its sequence number.
    pub fn add_event(&self, event: &Event<'_>) -> Result<i64, StoreError> {
        let write = || {
            let seq = self
                .conn
                .prepare_cached(
                    "INSERT INTO event (at_ms, project, sandbox, sandbox_id, kind, detail)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .insert(params![
                    now_ms(),
                    event.project,
                    event.sandbox,
                    event.sandbox_id,
                    event.kind,
                    event.detail
                ])?;
            if seq % TRIM_EVERY == 0 {
                self.conn
                    .prepare_cached("DELETE FROM event WHERE seq <= ?1")?
                    .execute([seq - MAX_EVENTS])?;
            }
            Ok(seq)
        };
        self.has_events.set(true);
        self.sql("record an event", write())
    }
}
