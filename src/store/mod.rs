//! What exists: the SQLite database `msb.db`.
//!
//! The only module that knows SQL. Writers of a sandbox row keep to their columns:
//!
//! ```text
//! reconcile   spec columns     id project name spec_* image_digest origin_file protect driver
//! supervisor  status columns   status health pid start_time boot_id run_id exit_code *_ms error
//! ```
//!
//! Every write is a transaction (`BEGIN IMMEDIATE`) made by [`Store::write`], which groups what
//! belongs together; [`Durability`] says whether the commit is synced. A project's `serial` rises
//! with every change of its spec columns, in the same transaction.
//!
//! Durability: the database is in WAL mode. [`Durability::Synced`] commits survive a power cut; a
//! [`Durability::Relaxed`] commit may be lost by one (never torn, never reordered past a synced
//! one). Relaxed is right for what a restart of the machine makes obsolete: leases, the status of
//! live processes, health. The WAL is not checkpointed when a connection closes, so that a command
//! that only reads syncs nothing.
//!
//! Migrations are append-only SQL files; the database's `user_version` counts those applied. A
//! database with a higher count is refused.
#![allow(clippy::disallowed_methods, reason = "this module keeps the database and its lock files")]

mod error;
mod events;
mod images;
mod journal;
mod lease;
mod migrations;
mod open;
mod projects;
mod sandboxes;
mod volumes;

pub use error::StoreError;
pub use events::{Event, EventRow, MAX_EVENTS, event_signal};
pub use images::{ImageDetail, ImageDocuments, ImageRefRow, ImageRow, ImageUser};
pub use journal::{JournalRow, JournalState};
pub use lease::{Holder, Lease, LeaseError};
pub use migrations::SCHEMA_VERSION;
pub use open::{Durability, Store, Writer};
pub use projects::ProjectRow;
pub use sandboxes::{NewSandbox, RunIdentity, SandboxRow, SandboxUpdate, StatusChange};
pub use volumes::{VolumeRow, VolumeUpdate};

/// The time for rows: milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let elapsed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
