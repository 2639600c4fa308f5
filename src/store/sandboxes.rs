//! Sandboxes.

use std::sync::Arc;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, Type, ValueRef};
use rusqlite::{OptionalExtension, Row, params};

use super::{Store, StoreError, Writer, now_ms};
use crate::spec::{Health, Status};

/// A sandbox: what was declared, and what its supervisor last wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRow {
    /// 12 lower-case hex digits.
    pub id: String,
    /// Its project.
    pub project: String,
    /// Its name in the project.
    pub name: String,
    /// The spec in canonical JSON, not parsed.
    pub spec_json: Arc<str>,
    /// The hash of the spec.
    pub spec_hash: String,
    /// The manifest digest of the image it was made from.
    pub image_digest: Option<String>,
    /// The file that declared it.
    pub origin_file: Option<String>,
    /// Never removed or replaced by a plan.
    pub protect: bool,
    /// The driver that runs it.
    pub driver: Option<String>,
    /// When the row was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// What it is doing, as last written: see [`crate::supervisor::settle`] for a dead supervisor.
    pub status: Status,
    /// Outcome of the health check, where there is one.
    pub health: Option<Health>,
    /// The supervisor of the current or last run.
    pub run: Option<RunIdentity>,
    /// Exit code of the workload in the last run (128 + n for a signal).
    pub exit_code: Option<i32>,
    /// When the last run began, in milliseconds since the Unix epoch.
    pub started_ms: Option<i64>,
    /// When the last run ended, in milliseconds since the Unix epoch.
    pub finished_ms: Option<i64>,
    /// Why the last run failed.
    pub error: Option<String>,
}

/// The process that owns a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunIdentity {
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: when the process started, in clock ticks since boot.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` when it started.
    pub boot_id: String,
    /// Random; differs for every run.
    pub run_id: String,
}

/// The spec columns of a sandbox that is made.
#[derive(Clone, Debug)]
pub struct NewSandbox<'a> {
    /// 12 lower-case hex digits; [`crate::supervisor::new_id`] makes one.
    pub id: &'a str,
    /// Its project, which must exist.
    pub project: &'a str,
    /// Its name in the project.
    pub name: &'a str,
    /// The spec in canonical JSON.
    pub spec_json: &'a str,
    /// The hash of the spec.
    pub spec_hash: &'a str,
    /// The manifest digest of its image.
    pub image_digest: Option<&'a str>,
    /// The file that declares it.
    pub origin_file: Option<&'a str>,
    /// Never removed or replaced by a plan.
    pub protect: bool,
    /// The driver that runs it.
    pub driver: Option<&'a str>,
}

/// The spec columns of a sandbox that is changed in place.
#[derive(Clone, Debug)]
pub struct SandboxUpdate<'a> {
    /// The spec in canonical JSON.
    pub spec_json: &'a str,
    /// The hash of the spec.
    pub spec_hash: &'a str,
    /// The manifest digest of its image.
    pub image_digest: Option<&'a str>,
    /// The file that declares it.
    pub origin_file: Option<&'a str>,
    /// Never removed or replaced by a plan.
    pub protect: bool,
}

/// Status columns as a whole: each write states all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// What it is doing.
    pub status: Status,
    /// Outcome of the health check.
    pub health: Option<Health>,
    /// Exit code of the workload.
    pub exit_code: Option<i32>,
    /// When the run ended, in milliseconds since the Unix epoch.
    pub finished_ms: Option<i64>,
    /// Why the run failed.
    pub error: Option<String>,
}

const COLUMNS: &str = "id, project, name, spec_json, spec_hash, image_digest, origin_file, protect,
    driver, created_ms, status, health, pid, start_time, boot_id, run_id, exit_code, started_ms,
    finished_ms, error";

struct Word<T>(T);

impl FromSql for Word<Status> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let word = value.as_str()?;
        Status::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .map(Self)
            .ok_or_else(|| FromSqlError::other(UnknownWord(word.to_owned())))
    }
}

impl FromSql for Word<Health> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let word = value.as_str()?;
        [Health::Starting, Health::Healthy, Health::Unhealthy]
            .into_iter()
            .find(|health| health.as_str() == word)
            .map(Self)
            .ok_or_else(|| FromSqlError::other(UnknownWord(word.to_owned())))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("unknown word `{0}`")]
pub(super) struct UnknownWord(pub(super) String);

impl SandboxRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let pid: Option<u32> = row.get(12)?;
        let run = match pid {
            None => None,
            Some(pid) => Some(RunIdentity {
                pid,
                start_time: row.get(13)?,
                boot_id: row.get(14)?,
                run_id: row.get(15)?,
            }),
        };
        Ok(Self {
            id: row.get(0)?,
            project: row.get(1)?,
            name: row.get(2)?,
            spec_json: match row.get_ref(3)? {
                ValueRef::Text(text) => std::str::from_utf8(text)
                    .map_err(|e| {
                        rusqlite::Error::FromSqlConversionFailure(3, Type::Text, e.into())
                    })?
                    .into(),
                other => {
                    return Err(rusqlite::Error::InvalidColumnType(
                        3,
                        "spec_json".into(),
                        other.data_type(),
                    ));
                }
            },
            spec_hash: row.get(4)?,
            image_digest: row.get(5)?,
            origin_file: row.get(6)?,
            protect: row.get(7)?,
            driver: row.get(8)?,
            created_ms: row.get(9)?,
            status: row.get::<_, Word<Status>>(10)?.0,
            health: row.get::<_, Option<Word<Health>>>(11)?.map(|word| word.0),
            run,
            exit_code: row.get(16)?,
            started_ms: row.get(17)?,
            finished_ms: row.get(18)?,
            error: row.get(19)?,
        })
    }
}

impl Store {
    /// All sandboxes of `project`, by name.
    pub fn sandboxes(&self, project: &str) -> Result<Vec<SandboxRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM sandbox WHERE project = ?1 ORDER BY name"
                ))?
                .query_map([project], SandboxRow::read)?
                .collect()
        };
        self.sql("read the sandboxes", read())
    }

    /// All sandboxes of all projects, by project and name.
    pub fn all_sandboxes(&self) -> Result<Vec<SandboxRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(&format!("SELECT {COLUMNS} FROM sandbox ORDER BY project, name"))?
                .query_map([], SandboxRow::read)?
                .collect()
        };
        self.sql("read the sandboxes", read())
    }

    /// The sandbox `name` of `project`.
    pub fn sandbox(&self, project: &str, name: &str) -> Result<Option<SandboxRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM sandbox WHERE project = ?1 AND name = ?2"
                ))?
                .query_row([project, name], SandboxRow::read)
                .optional()
        };
        self.sql("read a sandbox", read())
    }

    /// The sandbox with this id.
    pub fn sandbox_by_id(&self, id: &str) -> Result<Option<SandboxRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(&format!("SELECT {COLUMNS} FROM sandbox WHERE id = ?1"))?
                .query_row([id], SandboxRow::read)
                .optional()
        };
        self.sql("read a sandbox", read())
    }
}

/// Spec columns: for reconcile.
impl Writer<'_> {
    /// Makes a sandbox row with status `created` and raises the project's serial.
    pub fn create_sandbox(&self, new: &NewSandbox<'_>) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "INSERT INTO sandbox (id, project, name, spec_json, spec_hash, image_digest,
                         origin_file, protect, driver, created_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                )?
                .execute(params![
                    new.id,
                    new.project,
                    new.name,
                    new.spec_json,
                    new.spec_hash,
                    new.image_digest,
                    new.origin_file,
                    new.protect,
                    new.driver,
                    now_ms(),
                ])
        };
        match write() {
            Ok(_) => self.bump(new.project),
            Err(e) if e.sqlite_error().is_some_and(|e| e.extended_code == UNIQUE) => {
                Err(StoreError::Exists { project: new.project.into(), name: new.name.into() })
            }
            Err(e) => self.sql("make a sandbox", Err(e)),
        }
    }

    /// Changes the spec columns of sandbox `id` and raises the project's serial.
    pub fn update_sandbox(&self, id: &str, new: &SandboxUpdate<'_>) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "UPDATE sandbox SET spec_json = ?2, spec_hash = ?3, image_digest = ?4,
                         origin_file = ?5, protect = ?6
                     WHERE id = ?1 RETURNING project",
                )?
                .query_row(
                    params![
                        id,
                        new.spec_json,
                        new.spec_hash,
                        new.image_digest,
                        new.origin_file,
                        new.protect
                    ],
                    |row| row.get::<_, String>(0),
                )
                .optional()
        };
        self.changed(id, self.sql("change a sandbox", write())?)
    }

    /// Sets the driver of sandbox `id`. The serial stays: it is no part of the spec.
    pub fn set_driver(&self, id: &str, driver: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached("UPDATE sandbox SET driver = ?2 WHERE id = ?1")?
                .execute([id, driver])
        };
        self.sql("change a sandbox", write()).map(drop)
    }

    /// Removes the row of sandbox `id` and raises the project's serial.
    pub fn remove_sandbox(&self, id: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached("DELETE FROM sandbox WHERE id = ?1 RETURNING project")?
                .query_row([id], |row| row.get::<_, String>(0))
                .optional()
        };
        self.changed(id, self.sql("remove a sandbox", write())?)
    }

    fn changed(&self, id: &str, project: Option<String>) -> Result<(), StoreError> {
        match project {
            Some(project) => self.bump(&project),
            None => Err(StoreError::Missing { what: format!("sandbox {id}") }),
        }
    }
}

/// `SQLITE_CONSTRAINT_UNIQUE`.
pub(super) const UNIQUE: i32 = rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE;

/// Status columns: for the supervisor, and for observers that settle a dead one.
impl Writer<'_> {
    /// A run of sandbox `id` begins: status `starting`, and whose it is.
    pub fn begin_run(&self, id: &str, run: &RunIdentity) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "UPDATE sandbox SET status = 'starting', health = NULL, pid = ?2,
                         start_time = ?3, boot_id = ?4, run_id = ?5, exit_code = NULL,
                         started_ms = ?6, finished_ms = NULL, error = NULL
                     WHERE id = ?1",
                )?
                .execute(params![id, run.pid, run.start_time, run.boot_id, run.run_id, now_ms()])
        };
        match self.sql("begin a run", write())? {
            0 => Err(StoreError::Missing { what: format!("sandbox {id}") }),
            _ => Ok(()),
        }
    }

    /// Writes the status columns of sandbox `id` while the run is still `run_id`'s; says whether
    /// it was.
    pub fn set_status(
        &self,
        id: &str,
        run_id: &str,
        change: &StatusChange,
    ) -> Result<bool, StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "UPDATE sandbox SET status = ?3, health = ?4, exit_code = ?5,
                         finished_ms = ?6, error = ?7
                     WHERE id = ?1 AND run_id = ?2",
                )?
                .execute(params![
                    id,
                    run_id,
                    change.status.as_str(),
                    change.health.map(Health::as_str),
                    change.exit_code,
                    change.finished_ms,
                    change.error,
                ])
        };
        Ok(self.sql("write a status", write())? > 0)
    }

    /// Sandbox `id` has run at some time and does not run: nothing more is known.
    pub fn set_stopped(&self, id: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached("UPDATE sandbox SET status = 'stopped' WHERE id = ?1")?
                .execute([id])
        };
        self.sql("write a status", write()).map(drop)
    }

    /// Puts sandbox `id`, which has no live run, back to `created`: its disk is new.
    pub fn reset_status(&self, id: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "UPDATE sandbox SET status = 'created', health = NULL, pid = NULL,
                         start_time = NULL, boot_id = NULL, run_id = NULL, exit_code = NULL,
                         started_ms = NULL, finished_ms = NULL, error = NULL
                     WHERE id = ?1",
                )?
                .execute([id])
        };
        self.sql("reset a status", write()).map(drop)
    }
}
