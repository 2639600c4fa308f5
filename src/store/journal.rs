//! The journal: steps are written before they are applied and closed after.

use rusqlite::params;

use super::{Store, StoreError, Writer, now_ms};

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRow {
    /// Its row.
    pub id: i64,
    /// The project.
    pub project: String,
    /// The project's serial that the plan was made against.
    pub serial: u64,
    /// The step, as the executor writes it.
    pub step: String,
    /// Where it is.
    pub state: JournalState,
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalState {
    /// Written before it is applied.
    Intent,
    /// Applied.
    Done,
    /// Failed, and rolled back.
    Failed,
}

impl JournalState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl Store {
    /// The steps of `project` that were begun and not closed, in order: those a crash left.
    pub fn open_journal(&self, project: &str) -> Result<Vec<JournalRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(
                    "SELECT id, project, serial, step FROM journal
                     WHERE project = ?1 AND state = 'intent' ORDER BY id",
                )?
                .query_map([project], |row| {
                    Ok(JournalRow {
                        id: row.get(0)?,
                        project: row.get(1)?,
                        serial: row.get(2)?,
                        step: row.get(3)?,
                        state: JournalState::Intent,
                    })
                })?
                .collect()
        };
        self.sql("read the journal", read())
    }
}

impl Writer<'_> {
    /// Writes that `steps` of a plan against `serial` are about to be applied; their rows.
    pub fn begin_steps<'s>(
        &self,
        project: &str,
        serial: u64,
        steps: impl IntoIterator<Item = &'s str>,
    ) -> Result<Vec<i64>, StoreError> {
        let write = || {
            let mut insert = self.conn.prepare_cached(
                "INSERT INTO journal (project, serial, step, state, updated_ms)
                 VALUES (?1, ?2, ?3, 'intent', ?4)",
            )?;
            steps
                .into_iter()
                .map(|step| insert.insert(params![project, serial, step, now_ms()]))
                .collect()
        };
        self.sql("write the journal", write())
    }

    /// Closes the step in row `id`.
    pub fn close_step(&self, id: i64, state: JournalState) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached("UPDATE journal SET state = ?2, updated_ms = ?3 WHERE id = ?1")?
                .execute(params![id, state.as_str(), now_ms()])
        };
        self.sql("close a step", write()).map(drop)
    }

    /// Drops these rows of the journal.
    pub fn drop_steps(&self, ids: impl IntoIterator<Item = i64>) -> Result<(), StoreError> {
        let write = || {
            let mut delete = self.conn.prepare_cached("DELETE FROM journal WHERE id = ?1")?;
            ids.into_iter().try_for_each(|id| delete.execute([id]).map(drop))
        };
        self.sql("drop steps", write())
    }

    /// Drops the journal of `project`: its plan has been carried out, or given up.
    pub fn clear_journal(&self, project: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn.prepare_cached("DELETE FROM journal WHERE project = ?1")?.execute([project])
        };
        self.sql("clear the journal", write()).map(drop)
    }
}
