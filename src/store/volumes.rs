//! Volumes.

use std::collections::BTreeMap;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::sandboxes::{UNIQUE, UnknownWord};
use super::{Store, StoreError, Writer};
use crate::spec::VolumeKind;

/// A volume that exists. As JSON it is the record that the volume's directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRow {
    /// 12 lower-case hex digits.
    pub id: String,
    /// The project that it belongs to; none for one that was made by hand.
    pub project: Option<String>,
    /// Its name, in the project or among those without one.
    pub name: String,
    /// How it is kept.
    pub kind: VolumeKind,
    /// The most that it holds, in bytes; none: as much as there is room for.
    pub quota_bytes: Option<u64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Never removed but on request by name, without the protection.
    pub protect: bool,
    /// The file that declared it.
    pub origin_file: Option<String>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// What of a volume changes in place.
#[derive(Clone, Debug)]
pub struct VolumeUpdate<'a> {
    /// The most that it holds, in bytes.
    pub quota_bytes: Option<u64>,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Whether it is protected.
    pub protect: bool,
    /// The file that declares it.
    pub origin_file: Option<&'a str>,
}

const COLUMNS: &str =
    "id, project, name, kind, quota_bytes, labels_json, protect, origin_file, created_ms";

struct Kind(VolumeKind);

impl FromSql for Kind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let word = value.as_str()?;
        [VolumeKind::Disk, VolumeKind::Dir]
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .map(Self)
            .ok_or_else(|| FromSqlError::other(UnknownWord(word.to_owned())))
    }
}

impl VolumeRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let labels: String = row.get(5)?;
        Ok(Self {
            id: row.get(0)?,
            project: row.get(1)?,
            name: row.get(2)?,
            kind: row.get::<_, Kind>(3)?.0,
            quota_bytes: row.get(4)?,
            labels: serde_json::from_str(&labels).unwrap_or_default(),
            protect: row.get(6)?,
            origin_file: row.get(7)?,
            created_ms: row.get(8)?,
        })
    }

    /// What commands and messages call it: `PROJECT/NAME`, or `NAME` where it has no project.
    pub fn title(&self) -> String {
        match &self.project {
            Some(project) => format!("{project}/{}", self.name),
            None => self.name.clone(),
        }
    }
}

impl Store {
    /// All volumes, those without a project first, by project and name.
    pub fn volumes(&self) -> Result<Vec<VolumeRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM volume ORDER BY ifnull(project, ''), name"
                ))?
                .query_map([], VolumeRow::read)?
                .collect()
        };
        self.sql("read the volumes", read())
    }

    /// The volume `name` of `project`, or the one of that name without a project.
    pub fn volume(
        &self,
        project: Option<&str>,
        name: &str,
    ) -> Result<Option<VolumeRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM volume
                     WHERE ifnull(project, '') = ifnull(?1, '') AND name = ?2"
                ))?
                .query_row(params![project, name], VolumeRow::read)
                .optional()
        };
        self.sql("read a volume", read())
    }

    /// The volume with this id.
    pub fn volume_by_id(&self, id: &str) -> Result<Option<VolumeRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(&format!("SELECT {COLUMNS} FROM volume WHERE id = ?1"))?
                .query_row([id], VolumeRow::read)
                .optional()
        };
        self.sql("read a volume", read())
    }
}

impl Writer<'_> {
    /// Makes a volume's row.
    pub fn create_volume(&self, new: &VolumeRow) -> Result<(), StoreError> {
        let labels = serde_json::json!(new.labels).to_string();
        let write = || {
            self.conn
                .prepare_cached(&format!(
                    "INSERT INTO volume ({COLUMNS})
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
                ))?
                .execute(params![
                    new.id,
                    new.project,
                    new.name,
                    new.kind.as_str(),
                    new.quota_bytes,
                    labels,
                    new.protect,
                    new.origin_file,
                    new.created_ms,
                ])
        };
        match write() {
            Ok(_) => self.bump_volume(new.project.as_deref()),
            Err(e) if e.sqlite_error().is_some_and(|e| e.extended_code == UNIQUE) => {
                Err(StoreError::VolumeExists { name: new.title() })
            }
            Err(e) => self.sql("make a volume", Err(e)),
        }
    }

    /// Changes what of volume `id` changes in place.
    pub fn update_volume(&self, id: &str, new: &VolumeUpdate<'_>) -> Result<(), StoreError> {
        let labels = serde_json::json!(new.labels).to_string();
        let write = || {
            self.conn
                .prepare_cached(
                    "UPDATE volume SET quota_bytes = ?2, labels_json = ?3, protect = ?4,
                         origin_file = ?5
                     WHERE id = ?1 RETURNING project",
                )?
                .query_row(
                    params![id, new.quota_bytes, labels, new.protect, new.origin_file],
                    |row| row.get::<_, Option<String>>(0),
                )
                .optional()
        };
        self.volume_changed(id, self.sql("change a volume", write())?)
    }

    /// Removes the row of volume `id`.
    pub fn remove_volume(&self, id: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached("DELETE FROM volume WHERE id = ?1 RETURNING project")?
                .query_row([id], |row| row.get::<_, Option<String>>(0))
                .optional()
        };
        self.volume_changed(id, self.sql("remove a volume", write())?)
    }

    fn volume_changed(&self, id: &str, found: Option<Option<String>>) -> Result<(), StoreError> {
        match found {
            Some(project) => self.bump_volume(project.as_deref()),
            None => Err(StoreError::Missing { what: format!("volume {id}") }),
        }
    }

    /// A volume without a project may be the external one of any.
    fn bump_volume(&self, project: Option<&str>) -> Result<(), StoreError> {
        match project {
            Some(project) => self.bump(project),
            None => self.clear_fingerprints(),
        }
    }
}
