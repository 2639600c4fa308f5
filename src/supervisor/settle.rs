//! Rows whose supervisor is dead.

use crate::spec::Status;
use crate::store::{Durability, Event, SandboxRow, StatusChange, Store, StoreError, now_ms};

use super::control::StatusEvent;
use super::identity;
use super::state::START_FAILED;

const DIED: &str = "the supervisor ended unexpectedly";
const REBOOTED: &str = "the machine was restarted while the sandbox was running";

/// Whether the supervisor of `row` lives in the boot `boot` ([`super::boot_id`]).
pub fn is_live(row: &SandboxRow, boot: &str) -> bool {
    row.status.is_live() && row.run.as_ref().is_some_and(|run| identity::is_alive(run, boot))
}

/// Corrects `rows` in memory: a live status whose supervisor is dead means `crashed`. For commands
/// that only read. Costs one read of `/proc` for each live row. Returns the indices of those that
/// were corrected.
pub fn interpret(rows: &mut [SandboxRow], boot: &str) -> Vec<usize> {
    let mut dead = Vec::new();
    for (index, row) in rows.iter_mut().enumerate() {
        if !row.status.is_live() || is_live(row, boot) {
            continue;
        }
        let rebooted = row.run.as_ref().is_some_and(|run| run.boot_id != boot);
        row.status = Status::Crashed;
        row.health = None;
        row.error = Some(if rebooted { REBOOTED } else { DIED }.to_owned());
        row.finished_ms.get_or_insert_with(now_ms);
        dead.push(index);
    }
    dead
}

/// Corrects `rows` as [`interpret`] does, and writes the corrections, in one transaction. Signals
/// nothing. A row whose run is another by now is left alone.
pub fn settle(store: &Store, rows: &mut [SandboxRow], boot: &str) -> Result<usize, StoreError> {
    let dead = interpret(rows, boot);
    if dead.is_empty() {
        return Ok(0);
    }
    store.write(Durability::Synced, |w| {
        for row in dead.iter().filter_map(|index| rows.get(*index)) {
            let Some(run) = &row.run else { continue };
            let change = StatusChange {
                status: row.status,
                health: row.health,
                exit_code: row.exit_code,
                finished_ms: row.finished_ms,
                error: row.error.clone(),
            };
            if w.set_status(&row.id, &run.run_id, &change)? {
                w.add_event(&Event {
                    project: &row.project,
                    sandbox: Some(&row.name),
                    sandbox_id: Some(&row.id),
                    kind: Status::Crashed.as_str(),
                    detail: None,
                })?;
            }
        }
        Ok::<(), StoreError>(())
    })?;
    Ok(dead.len())
}

/// Brings the row of a sandbox up to what its supervisor says of itself: the supervisor may not have
/// been able to write it, for want of space. Costs one read where they agree.
pub fn catch_up(store: &Store, event: &StatusEvent) -> Result<(), StoreError> {
    let Some(row) = store.sandbox_by_id(&event.id)? else { return Ok(()) };
    let same_run = row.run.as_ref().is_some_and(|run| run.run_id == event.run_id);
    if !same_run || (row.status, row.health) == (event.status, event.health) {
        return Ok(());
    }
    let change = StatusChange {
        status: event.status,
        health: event.health,
        exit_code: event.exit_code,
        finished_ms: event.has_ended().then_some(event.at_ms),
        error: event.error.clone(),
    };
    store.write(Durability::Relaxed, |w| w.set_status(&event.id, &event.run_id, &change)).map(drop)
}

/// [`settle`] for one sandbox.
pub(super) fn settle_one(store: &Store, id: &str) -> Result<(), StoreError> {
    let Some(row) = store.sandbox_by_id(id)? else { return Ok(()) };
    let boot = identity::boot_id().map_err(|source| StoreError::Io {
        path: "/proc/sys/kernel/random/boot_id".into(),
        source,
    })?;
    settle(store, &mut [row], &boot).map(drop)
}

/// The status that a row tells.
pub fn as_event(row: &SandboxRow) -> StatusEvent {
    let failed = row.error.as_ref().is_some_and(|error| error.starts_with(START_FAILED));
    let ran = row.exit_code.is_some() && !failed;
    StatusEvent {
        id: row.id.clone(),
        run_id: row.run.as_ref().map(|run| run.run_id.clone()).unwrap_or_default(),
        at_ms: row.finished_ms.or(row.started_ms).unwrap_or(row.created_ms),
        status: row.status,
        health: row.health,
        started: ran
            || matches!(row.status, Status::Running | Status::Draining | Status::Restarting),
        exit_code: row.exit_code,
        error: row.error.clone(),
        probe_output: None,
        vm_pid: None,
        restarts: 0,
        restart_at_ms: None,
    }
}
