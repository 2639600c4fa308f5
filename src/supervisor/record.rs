//! Writes the status to the store, then tells the watchers: who hears of a status finds it in the
//! row.
//!
//! Changes that pile up while one is written go into one transaction. A write that fails (a full
//! disk, a database that was taken away) is logged and given up: the sandbox keeps running.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::control::StatusEvent;
use crate::home::Home;
use crate::spec::{Health, Status};
use crate::store::{Durability, Event, RunIdentity, StatusChange, Store, StoreError, now_ms};

/// Whose status it is.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) home: Home,
    pub(super) project: String,
    pub(super) name: String,
    /// This process, in its first run.
    pub(super) owner: RunIdentity,
}

/// Writes and tells what arrives on `changes` until its sender is dropped. Between the last row and
/// the last word to the watchers it calls `release`: whoever hears of the end may start the next run.
pub(super) async fn record(
    subject: Arc<Subject>,
    mut changes: mpsc::UnboundedReceiver<StatusEvent>,
    watchers: watch::Sender<StatusEvent>,
    release: impl FnOnce(),
) {
    let mut release = Some(release);
    let mut before = watchers.borrow().clone();
    while let Some(first) = changes.recv().await {
        let mut pending = vec![first];
        while let Ok(more) = changes.try_recv() {
            pending.push(more);
        }
        let Some(last) = pending.last().cloned() else { continue };
        let entries = entries(&before, &pending);
        if worth_a_row(&before, &last) {
            let (subject, event) = (subject.clone(), last.clone());
            let begins = last.run_id != before.run_id;
            let written =
                tokio::task::spawn_blocking(move || write(&subject, &event, begins, &entries));
            match written.await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => tracing::warn!("the sandbox has no row of this run"),
                Ok(Err(error)) => {
                    tracing::error!(error = super::link::chain(&error), "status not recorded");
                }
                Err(error) => tracing::error!(%error, "status not recorded"),
            }
        }
        if last.has_ended()
            && let Some(release) = release.take()
        {
            release();
        }
        before = last.clone();
        watchers.send_replace(last);
    }
}

/// A run that ends by itself passes through `draining` on its way: no row is written for that.
fn worth_a_row(before: &StatusEvent, now: &StatusEvent) -> bool {
    let by_itself = now.status == Status::Draining && now.exit_code.is_some();
    !by_itself
        && (now.status != before.status
            || now.health != before.health
            || now.run_id != before.run_id)
}

/// An event of the store: its kind, and more as JSON.
type Entry = (&'static str, Option<String>);

/// The events that `pending` stand for.
fn entries(before: &StatusEvent, pending: &[StatusEvent]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut before = (before.status, before.health);
    for event in pending {
        if event.status != before.0 {
            entries.push((event.status.as_str(), detail(event)));
        }
        if let Some(health) = event.health.filter(|h| *h != Health::Starting)
            && event.health != before.1
        {
            let failed = event.probe_output.as_ref().filter(|_| health == Health::Unhealthy);
            let detail = failed.map(|output| serde_json::json!({ "output": output }).to_string());
            entries.push((health.as_str(), detail));
        }
        before = (event.status, event.health);
    }
    entries
}

/// How a run ended, and whether another follows.
fn detail(event: &StatusEvent) -> Option<String> {
    let (code, error) = (event.exit_code, &event.error);
    let detail = match event.restart_at_ms {
        Some(at) => serde_json::json!({
            "exit_code": code, "error": error, "restarts": event.restarts, "restart_at_ms": at,
        }),
        None if event.has_ended() => serde_json::json!({ "exit_code": code, "error": error }),
        None => return None,
    };
    Some(detail.to_string())
}

fn write(
    subject: &Subject,
    event: &StatusEvent,
    begins: bool,
    entries: &[Entry],
) -> Result<bool, StoreError> {
    let store = Store::open_existing(&subject.home)?;
    // What has ended is worth a sync: that a job is done must not be forgotten.
    let ended = event.has_ended();
    let durability = if ended { Durability::Synced } else { Durability::Relaxed };
    let change = StatusChange {
        status: event.status,
        health: event.health,
        exit_code: event.exit_code,
        finished_ms: ended.then(now_ms),
        error: event.error.clone(),
    };
    store.write(durability, |w| {
        if begins {
            let run = RunIdentity { run_id: event.run_id.clone(), ..subject.owner.clone() };
            w.begin_run(&event.id, &run)?;
        }
        if !w.set_status(&event.id, &event.run_id, &change)? {
            return Ok(false);
        }
        for (kind, detail) in entries {
            w.add_event(&Event {
                project: &subject.project,
                sandbox: Some(&subject.name),
                sandbox_id: Some(&event.id),
                kind,
                detail: detail.as_deref(),
            })?;
        }
        Ok(true)
    })
}
