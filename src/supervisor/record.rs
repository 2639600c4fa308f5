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
        pending.retain(|event| !is_passing(event));
        if let Some(now) = pending.pop() {
            let entries = entries(&before, pending.iter().chain([&now]));
            let begins = now.run_id != before.run_id;
            let is_new = (now.status, now.health) != (before.status, before.health);
            before = now.clone();
            if begins || is_new || !entries.is_empty() {
                keep(&subject, now, begins, entries).await;
            }
        }
        if last.has_ended()
            && let Some(release) = release.take()
        {
            release();
        }
        watchers.send_replace(last);
    }
}

/// A run that ends by itself passes through `draining` on its way: that is not recorded.
fn is_passing(event: &StatusEvent) -> bool {
    event.status == Status::Draining && event.exit_code.is_some()
}

async fn keep(subject: &Arc<Subject>, now: StatusEvent, begins: bool, entries: Vec<Entry>) {
    let subject = Arc::clone(subject);
    let written = tokio::task::spawn_blocking(move || write(&subject, &now, begins, &entries));
    match written.await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => tracing::warn!("the sandbox has no row of this run"),
        Ok(Err(error)) => {
            tracing::error!(error = super::link::chain(&error), "status not recorded");
        }
        Err(error) => tracing::error!(%error, "status not recorded"),
    }
}

/// An event of the store: its kind, and more as JSON.
type Entry = (&'static str, Option<String>);

/// The events that `pending` stand for.
fn entries<'a>(before: &StatusEvent, pending: impl Iterator<Item = &'a StatusEvent>) -> Vec<Entry> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NewSandbox;
    use crate::supervisor::identity;

    fn event(status: Status, health: Option<Health>, exit_code: Option<i32>) -> StatusEvent {
        StatusEvent {
            id: "s".into(),
            run_id: "r".into(),
            at_ms: 0,
            status,
            health,
            started: true,
            exit_code,
            error: None,
            probe_output: None,
            vm_pid: None,
            restarts: 0,
            restart_at_ms: None,
        }
    }

    /// A store with one sandbox, in its first run.
    fn subject(home: &Home) -> Result<Subject, Box<dyn std::error::Error>> {
        let owner = identity::own("r".into())?;
        let row = NewSandbox {
            id: "s",
            project: "p",
            name: "web",
            spec_json: "{}",
            spec_hash: "h",
            image_digest: None,
            origin_file: None,
            protect: false,
            driver: None,
        };
        Store::open(home)?.write(Durability::Relaxed, |w| {
            w.put_project("p", "/", &[])?;
            w.create_sandbox(&row)?;
            w.begin_run("s", &owner)?;
            Ok::<_, StoreError>(())
        })?;
        Ok(Subject { home: home.clone(), project: "p".into(), name: "web".into(), owner })
    }

    #[tokio::test]
    async fn what_comes_at_once_is_recorded_like_what_comes_one_by_one()
    -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let home = Home::at(dir.path().join("home"));
        let (watchers, mut told) = watch::channel(event(Status::Starting, None, None));
        let (send, changes) = mpsc::unbounded_channel();
        // In batches: those that arrive while the last one is written.
        let healthy = || event(Status::Running, Some(Health::Healthy), None);
        let batches = [
            vec![event(Status::Running, None, None), healthy()],
            vec![event(Status::Running, Some(Health::Unhealthy), None), healthy()],
            vec![healthy(), event(Status::Draining, Some(Health::Healthy), Some(3))],
            vec![event(Status::Stopped, Some(Health::Healthy), Some(3))],
        ];
        let subject = Arc::new(subject(&home)?);
        let recorder = tokio::spawn(record(subject, changes, watchers, || ()));
        for batch in batches {
            for event in batch {
                send.send(event)?;
            }
            told.changed().await?;
        }
        drop(send);
        recorder.await?;
        let events = Store::open(&home)?.events_since(None, 0, 100)?;
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["running", "healthy", "unhealthy", "healthy", "stopped"]);
        Ok(())
    }
}
