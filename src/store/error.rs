//! What can go wrong with the store.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;

use crate::home::HomeError;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory could not be made.
    #[error("the state directory cannot be used")]
    Home(#[from] HomeError),
    /// A file beside the database could not be used.
    #[error("{path}: cannot be used")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database could not be opened.
    #[error("{path}: cannot open the database")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<rusqlite::Error>,
    },
    /// A newer version wrote the database.
    #[error(
        "{path}: a newer version of msb made this database \
         (schema {found}, this version knows up to {known}): use that version"
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The newest that this build knows.
        known: u32,
    },
    /// The file is damaged, cut off, or no database of ours.
    #[error(
        "{path}: the database is damaged: restore it from a copy, or move it away to start anew"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What SQLite says.
        source: Box<rusqlite::Error>,
    },
    /// The file is shorter than any database.
    #[error(
        "{path}: the database is cut off after {length} bytes: restore it from a copy, or move it away to start anew"
    )]
    CutOff {
        /// Which.
        path: PathBuf,
        /// What is left of it, in bytes.
        length: u64,
    },
    /// The file is a database, but of another program.
    #[error("{path}: this is not a database of msb")]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// Other writers held the database for too long.
    #[error("{path}: the database is busy: another msb has been writing for a long time")]
    Busy {
        /// Which.
        path: PathBuf,
    },
    /// There is no space left for the database.
    #[error("{path}: no space left for the database")]
    Full {
        /// Which.
        path: PathBuf,
    },
    /// The SQLite that this build is linked to is too old.
    #[error("SQLite {found} is too old: 3.51.3 is needed")]
    Library {
        /// Its version.
        found: &'static str,
    },
    /// A sandbox of this name exists in the project.
    #[error("sandbox `{name}` exists in project `{project}`")]
    Exists {
        /// The project.
        project: String,
        /// The sandbox.
        name: String,
    },
    /// A volume of this name exists.
    #[error("volume `{name}` exists")]
    VolumeExists {
        /// Its name, with its project where it has one.
        name: String,
    },
    /// The row that was to be changed does not exist.
    #[error("{what} does not exist")]
    Missing {
        /// Which.
        what: String,
    },
    /// A statement failed.
    #[error("{path}: cannot {operation}")]
    Sql {
        /// The database.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// Why.
        source: Box<rusqlite::Error>,
    },
}

impl StoreError {
    /// Sorts a failure of SQLite by what the user can do about it.
    pub(super) fn sql(
        path: &std::path::Path,
        operation: &'static str,
        source: rusqlite::Error,
    ) -> Self {
        let path = path.to_owned();
        let source = Box::new(source);
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, source }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            _ => Self::Sql { path, operation, source },
        }
    }
}
