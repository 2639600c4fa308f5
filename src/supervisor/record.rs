//! Writes the status to the store, then tells the watchers: who hears of a status finds it in the
//! row.
//!
//! Changes that pile up while one is written go into one transaction. A write that fails (a full
//! disk, a database that was taken away) is logged and given up: the sandbox keeps running.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::control::StatusEvent;
use crate::home::Home;
use crate::spec::Health;
use crate::store::{Durability, Event, StatusChange, Store, StoreError, now_ms};

/// Whose status it is.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) home: Home,
    pub(super) project: String,
    pub(super) name: String,
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
        let kinds = kinds(&before, &pending);
        if worth_a_row(&before, &last) {
            let (subject, event) = (subject.clone(), last.clone());
            let written =
                tokio::task::spawn_blocking(move || write(&subject, &event, &kinds)).await;
            match written {
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
    let by_itself = now.status == crate::spec::Status::Draining && now.exit_code.is_some();
    !by_itself && (now.status != before.status || now.health != before.health)
}

/// The events that `pending` stand for.
fn kinds(before: &StatusEvent, pending: &[StatusEvent]) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    let mut before = (before.status, before.health);
    for event in pending {
        if event.status != before.0 {
            kinds.push(event.status.as_str());
        }
        if event.health != before.1 && event.health.is_some_and(|h| h != Health::Starting) {
            kinds.extend(event.health.map(Health::as_str));
        }
        before = (event.status, event.health);
    }
    kinds
}

fn write(subject: &Subject, event: &StatusEvent, kinds: &[&str]) -> Result<bool, StoreError> {
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
    let detail = serde_json::json!({ "exit_code": event.exit_code, "error": event.error });
    let detail = ended.then(|| detail.to_string());
    store.write(durability, |w| {
        if !w.set_status(&event.id, &event.run_id, &change)? {
            return Ok(false);
        }
        for kind in kinds {
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
