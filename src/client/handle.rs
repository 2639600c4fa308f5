//! What is known of a sandbox, without a connection to it.

use super::{Client, Error, Metrics, Sandbox};
use crate::home::Home;
use crate::spec::{SandboxSpec, Status};
use crate::store::SandboxRow;
use crate::supervisor::{self, ControlClient, ControlError, StatusEvent};

/// What was known of a sandbox when it was asked for.
#[derive(Clone, Debug)]
pub struct SandboxHandle {
    client: Client,
    row: SandboxRow,
}

impl SandboxHandle {
    pub(super) const fn new(client: Client, row: SandboxRow) -> Self {
        Self { client, row }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.row.name
    }

    /// What it was doing.
    pub const fn status(&self) -> Status {
        self.row.status
    }

    /// What was declared. No value of a secret is part of it.
    pub fn config(&self) -> Result<SandboxSpec, Error> {
        spec(&self.row)
    }

    /// What was declared, in canonical JSON.
    pub fn config_json(&self) -> &str {
        &self.row.spec_json
    }

    /// When it was made, in milliseconds since the Unix epoch.
    pub const fn created_at(&self) -> i64 {
        self.row.created_ms
    }

    /// When it was made, last started or last ended, in milliseconds since the Unix epoch.
    pub fn updated_at(&self) -> i64 {
        let times = [self.row.started_ms, self.row.finished_ms];
        times.into_iter().flatten().fold(self.row.created_ms, i64::max)
    }

    /// What it uses, measured over a quarter of a second. It must run.
    pub async fn metrics(&self) -> Result<Metrics, Error> {
        Ok(super::metrics(&self.client.home, &self.row.id).await?)
    }

    /// See [`Sandbox::start`].
    pub async fn start(&self) -> Result<Sandbox, Error> {
        self.client.run(&self.row, true).await
    }

    /// See [`Sandbox::start_detached`].
    pub async fn start_detached(&self) -> Result<Sandbox, Error> {
        self.client.run(&self.row, false).await
    }

    /// A handle on it as it runs, which does not own it: dropping it stops nothing.
    pub fn connect(&self) -> Result<Sandbox, Error> {
        let sandbox = Sandbox::new(self.client.clone(), self.client.row(&self.row.name)?, None)?;
        if sandbox.is_live() { Ok(sandbox) } else { Err(Error::NotRunning(sandbox.name().clone())) }
    }

    /// Stops it in order and waits for its end; fine when it does not run.
    pub async fn stop(&self) -> Result<(), Error> {
        begun(control(&self.client.home, &self.row.id).stop(None).await)?;
        wait(&self.client.home, &self.row.id).await.map(drop)
    }

    /// Kills it and waits for its end; fine when it does not run.
    pub async fn kill(&self) -> Result<(), Error> {
        begun(control(&self.client.home, &self.row.id).kill().await)?;
        wait(&self.client.home, &self.row.id).await.map(drop)
    }

    /// Removes it with its disk. It must not run.
    pub async fn remove(&self) -> Result<(), Error> {
        self.client.discard(&self.row.name, &self.row.id).await
    }
}

pub(super) fn control(home: &Home, id: &str) -> ControlClient {
    ControlClient::new(home, id)
}

/// The request has been granted, or there is nothing to be done any more.
pub(super) fn begun(asked: Result<(), ControlError>) -> Result<(), Error> {
    Ok(ControlError::or_ends(asked)?)
}

/// The last status of a run.
pub(super) async fn wait(home: &Home, id: &str) -> Result<StatusEvent, Error> {
    Ok(supervisor::wait_until(home, id, |_| false).await?)
}

pub(super) fn spec(row: &SandboxRow) -> Result<SandboxSpec, Error> {
    serde_json::from_str(&row.spec_json)
        .map_err(|source| Error::StoredSpec { name: row.name.clone(), source })
}
