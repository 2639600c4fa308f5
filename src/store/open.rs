//! Opening the database, and transactions.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{StoreError, migrations};
use crate::home::Home;

/// How long a statement waits for other writers.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The oldest SQLite that is safe with several processes in WAL mode: earlier ones can lose a
/// commit when a checkpoint restarts the log at the wrong moment.
const SQLITE_MIN: i32 = 3_051_003;
/// Marks the file as ours (`PRAGMA application_id`): "msb\0".
pub(super) const APPLICATION_ID: i32 = 0x6d73_6200;
/// One page, in bytes: SQLite's default, which is what databases are made with.
const SMALLEST_DATABASE: u64 = 4096;
/// Statements kept prepared.
const STATEMENTS: usize = 64;

/// The open database. One connection: not for several threads at a time.
#[derive(Debug)]
pub struct Store {
    pub(super) conn: Connection,
    pub(super) path: PathBuf,
    home: Home,
}

/// Whether a commit is synced to the disk before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives a power cut.
    Synced,
    /// Survives the end of every process, not a power cut.
    Relaxed,
}

/// A transaction in progress: what may be written.
#[derive(Debug)]
pub struct Writer<'a> {
    pub(super) conn: &'a Connection,
    pub(super) path: &'a Path,
    /// Whether an event was recorded.
    pub(super) has_events: Cell<bool>,
}

impl Store {
    /// Opens the database of `home` for reading and writing; makes it, and the directories, where
    /// missing, and applies missing migrations.
    pub fn open(home: &Home) -> Result<Self, StoreError> {
        check_library()?;
        home.create()?;
        let path = home.database();
        let length =
            make_file(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        check_length(&path, length)?;
        let mut conn = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let sql = |operation, source| StoreError::sql(&path, operation, source);
        if check_version(&conn, &path)? < migrations::SCHEMA_VERSION {
            // The journal mode cannot be changed while others open the database, and no busy
            // handler waits for that.
            let alone = lock_dir(home.root());
            let _alone =
                alone.map_err(|source| StoreError::Io { path: home.root().to_owned(), source })?;
            if check_version(&conn, &path)? == 0 {
                conn.pragma_update(None, "journal_mode", "wal")
                    .map_err(|e| sql("set the journal mode", e))?;
            }
            migrations::apply(&mut conn).map_err(|e| sql("update the schema", e))?;
            check_version(&conn, &path)?;
        }
        conn.pragma_update(None, "foreign_keys", true).map_err(|e| sql("set it up", e))?;
        Ok(Self { conn, path, home: home.clone() })
    }

    /// Opens the database of `home` for reading; `None` when there is none. Applies no migration:
    /// a database that needs some is opened, migrated and closed first.
    pub fn open_read_only(home: &Home) -> Result<Option<Self>, StoreError> {
        check_library()?;
        let path = home.database();
        match fs::metadata(&path) {
            Ok(meta) if meta.len() == 0 => return Ok(None),
            Ok(meta) => check_length(&path, meta.len())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path, source }),
        }
        let conn = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let version = check_version(&conn, &path)?;
        if version == migrations::SCHEMA_VERSION {
            return Ok(Some(Self { conn, path, home: home.clone() }));
        }
        drop(conn);
        Self::open(home).map(Some)
    }

    /// Opens the database of `home` for reading and writing, which must exist.
    pub fn open_existing(home: &Home) -> Result<Self, StoreError> {
        let path = home.database();
        match fs::metadata(&path) {
            Ok(_) => Self::open(home),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    /// The state directory it belongs to.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Runs `body` in one transaction: all of it is committed, or, when it fails, none.
    pub fn write<T, E: From<StoreError>>(
        &self,
        durability: Durability,
        body: impl FnOnce(&Writer<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let sql = |operation, source| E::from(StoreError::sql(&self.path, operation, source));
        let level = match durability {
            Durability::Synced => "FULL",
            Durability::Relaxed => "NORMAL",
        };
        self.conn.pragma_update(None, "synchronous", level).map_err(|e| sql("set it up", e))?;
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(|e| sql("begin a change", e))?;
        // Dropped without a commit (an error, a panic), it rolls back.
        let guard = Rollback(&self.conn);
        let writer = Writer { conn: &self.conn, path: &self.path, has_events: Cell::new(false) };
        let value = body(&writer)?;
        self.conn.execute_batch("COMMIT").map_err(|e| sql("commit a change", e))?;
        drop(guard);
        if writer.has_events.get() {
            super::events::announce(&self.home);
        }
        Ok(value)
    }

    pub(super) fn sql<T>(
        &self,
        operation: &'static str,
        result: rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        result.map_err(|source| StoreError::sql(&self.path, operation, source))
    }
}

impl Writer<'_> {
    pub(super) fn sql<T>(
        &self,
        operation: &'static str,
        result: rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        result.map_err(|source| StoreError::sql(self.path, operation, source))
    }
}

struct Rollback<'a>(&'a Connection);

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        if !self.0.is_autocommit() {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}

fn check_library() -> Result<(), StoreError> {
    if rusqlite::version_number() < SQLITE_MIN {
        return Err(StoreError::Library { found: rusqlite::version() });
    }
    Ok(())
}

/// SQLite takes a file without a whole page for a new database, and would write over it.
fn check_length(path: &Path, length: u64) -> Result<(), StoreError> {
    if (1..SMALLEST_DATABASE).contains(&length) {
        return Err(StoreError::CutOff { path: path.to_owned(), length });
    }
    Ok(())
}

/// SQLite would make the file with the permissions of the umask, so it is made here; its length.
fn make_file(path: &Path) -> io::Result<u64> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    // SQLite gives its other files the mode of the database.
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let meta = file.metadata()?;
    if meta.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(meta.len())
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let open = |source| StoreError::Open { path: path.to_owned(), source: Box::new(source) };
    let conn = Connection::open_with_flags(path, flags).map_err(open)?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(open)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(open)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(open)?;
    Ok(conn)
}

fn lock_dir(dir: &Path) -> io::Result<File> {
    let dir = File::open(dir)?;
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(dir)
}

/// Reads whose database it is, and its version, as of one moment.
fn check_version(conn: &Connection, path: &Path) -> Result<u32, StoreError> {
    let read = || {
        let tx = conn.unchecked_transaction()?;
        let tables: u32 =
            tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let application: i32 = tx.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        Ok((tables, application, migrations::version(&tx)?))
    };
    let (tables, application, found) =
        read().map_err(|source| StoreError::sql(path, "read its version", source))?;
    if application != APPLICATION_ID && tables > 0 {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    if found > migrations::SCHEMA_VERSION {
        let known = migrations::SCHEMA_VERSION;
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    Ok(found)
}
