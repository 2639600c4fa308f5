//! Projects.

use rusqlite::{OptionalExtension, Row, params};

use super::{Store, StoreError, Writer, now_ms};

/// A project that has been brought up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRow {
    /// Its name.
    pub name: String,
    /// The directory of its Sandboxfile, absolute.
    pub root: String,
    /// The files that it was read from.
    pub files: Vec<String>,
    /// Rises with every change of a spec column of its sandboxes.
    pub serial: u64,
    /// Of the inputs of the last complete `up`; cleared by every change of a spec column.
    pub fingerprint: Option<String>,
}

const COLUMNS: &str = "name, root, files, serial, fingerprint";

impl ProjectRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let files: String = row.get(2)?;
        Ok(Self {
            name: row.get(0)?,
            root: row.get(1)?,
            files: serde_json::from_str(&files).unwrap_or_default(),
            serial: row.get(3)?,
            fingerprint: row.get(4)?,
        })
    }
}

impl Store {
    /// The project `name`.
    pub fn project(&self, name: &str) -> Result<Option<ProjectRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(&format!("SELECT {COLUMNS} FROM project WHERE name = ?1"))?
                .query_row([name], ProjectRow::read)
                .optional()
        };
        self.sql("read a project", read())
    }

    /// All projects, by name.
    pub fn projects(&self) -> Result<Vec<ProjectRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(&format!("SELECT {COLUMNS} FROM project ORDER BY name"))?
                .query_map([], ProjectRow::read)?
                .collect()
        };
        self.sql("read the projects", read())
    }
}

impl Writer<'_> {
    /// Makes the project `name`, or updates where it was read from.
    pub fn put_project(&self, name: &str, root: &str, files: &[String]) -> Result<(), StoreError> {
        let files = serde_json::Value::from(files).to_string();
        let write = || {
            self.conn
                .prepare_cached(
                    "INSERT INTO project (name, root, files, updated_ms) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (name) DO UPDATE SET
                         root = excluded.root, files = excluded.files, updated_ms = excluded.updated_ms",
                )?
                .execute(params![name, root, files, now_ms()])
        };
        self.sql("write a project", write()).map(drop)
    }

    /// Records that the inputs with this fingerprint are what exists.
    pub fn set_fingerprint(&self, project: &str, fingerprint: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached("UPDATE project SET fingerprint = ?2 WHERE name = ?1")?
                .execute([project, fingerprint])
        };
        self.sql("write a fingerprint", write()).map(drop)
    }

    /// Forgets the project `name` when it has no sandboxes; says whether it did.
    pub fn remove_project_if_empty(&self, name: &str) -> Result<bool, StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "DELETE FROM project WHERE name = ?1
                     AND NOT EXISTS (SELECT 1 FROM sandbox WHERE project = ?1)",
                )?
                .execute([name])
        };
        Ok(self.sql("remove a project", write())? > 0)
    }

    /// Something that belongs to no project has changed: every next `up` looks closely.
    pub(super) fn clear_fingerprints(&self) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "UPDATE project SET fingerprint = NULL WHERE fingerprint IS NOT NULL",
                )?
                .execute([])
        };
        self.sql("write a fingerprint", write()).map(drop)
    }

    pub(super) fn bump(&self, project: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "UPDATE project SET serial = serial + 1, fingerprint = NULL, updated_ms = ?2
                     WHERE name = ?1",
                )?
                .execute(params![project, now_ms()])
        };
        self.sql("raise the serial", write()).map(drop)
    }
}
