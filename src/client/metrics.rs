//! What sandboxes use.

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use crate::home::Home;
use crate::store::{Store, StoreError};
use crate::supervisor::{self, ControlClient, ControlError, MetricsSample};

/// The time between the two samples that one measurement takes.
const SPAN: Duration = Duration::from_millis(250);
/// How long one of all sandboxes may take, so that one that hangs does not hold up the rest.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a sandbox uses. Byte counts of disks and the network are since its last start; what the guest's
/// kernel counts is the guest's word, within the bounds of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// Of one processor, between the last two samples: at most 100 for each processor it has.
    pub cpu_percent: f64,
    /// Memory in use by the guest, in bytes; what its kernel could give up at once is not in use.
    pub memory_bytes: u64,
    /// The memory that it may use, in bytes.
    pub memory_limit_bytes: u64,
    /// What the VM's process has of this machine's memory, in bytes.
    pub host_memory_bytes: u64,
    /// Read from its disks, in bytes.
    pub disk_read_bytes: u64,
    /// Written to its disks, in bytes.
    pub disk_write_bytes: u64,
    /// Received from the network, in bytes.
    pub net_rx_bytes: u64,
    /// Sent to the network, in bytes.
    pub net_tx_bytes: u64,
    /// Since its VM was started, in milliseconds.
    pub uptime_ms: u64,
    /// When this was measured, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

/// Metrics of one sandbox, again and again. Nothing is measured while nobody asks.
#[derive(Debug)]
pub struct MetricsSampler {
    client: ControlClient,
    before: Option<MetricsSample>,
}

/// What one of all sandboxes uses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SandboxMetrics {
    /// Its project.
    pub project: String,
    /// Its name in the project.
    pub name: String,
    /// Its id.
    pub id: String,
    /// What it uses.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// Why the metrics of all sandboxes cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The store.
    #[error("the sandboxes cannot be read")]
    Store(#[from] StoreError),
    /// `/proc` is not as it should be.
    #[error("cannot tell which processes live")]
    Processes(#[source] std::io::Error),
}

impl MetricsSampler {
    /// Of sandbox `id`. Asks nothing yet.
    pub fn new(home: &Home, id: &str) -> Self {
        Self { client: ControlClient::new(home, id), before: None }
    }

    /// What it uses; the processor time is that since the last call in the same run, and 0 the first
    /// time.
    pub async fn sample(&mut self) -> Result<Metrics, ControlError> {
        let now = self.client.metrics().await?;
        let metrics = between(self.before.as_ref(), &now);
        self.before = Some(now);
        Ok(metrics)
    }
}

/// What sandbox `id` uses, measured over a quarter of a second.
pub async fn metrics(home: &Home, id: &str) -> Result<Metrics, ControlError> {
    let mut sampler = MetricsSampler::new(home, id);
    sampler.sample().await?;
    tokio::time::sleep(SPAN).await;
    sampler.sample().await
}

/// What all sandboxes that run use, of all projects, by project and name. Those that end or do not
/// answer meanwhile are left out.
pub async fn all_sandbox_metrics(home: &Home) -> Result<Vec<SandboxMetrics>, MetricsError> {
    let Some(store) = Store::open_read_only(home)? else { return Ok(Vec::new()) };
    let mut rows = store.all_sandboxes()?;
    drop(store);
    let boot = supervisor::boot_id().map_err(MetricsError::Processes)?;
    rows.retain(|row| supervisor::is_live(row, &boot));
    let mut measuring = tokio::task::JoinSet::new();
    for row in rows {
        let home = home.clone();
        measuring.spawn(async move {
            let metrics = timeout(PATIENCE, metrics(&home, &row.id)).await.ok()?.ok()?;
            Some(SandboxMetrics { project: row.project, name: row.name, id: row.id, metrics })
        });
    }
    let mut all: Vec<SandboxMetrics> = measuring.join_all().await.into_iter().flatten().collect();
    all.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
    Ok(all)
}

fn between(before: Option<&MetricsSample>, now: &MetricsSample) -> Metrics {
    let before = before.filter(|before| before.run_id == now.run_id);
    let share = before.map_or(0.0, |before| {
        let busy = now.cpu_us.saturating_sub(before.cpu_us);
        let passed = now.uptime_us.saturating_sub(before.uptime_us).max(1);
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a few seconds")]
        let percent = busy as f64 * 100.0 / passed as f64;
        percent.min(f64::from(now.cpus) * 100.0)
    });
    Metrics {
        cpu_percent: share,
        memory_bytes: now.memory_bytes,
        memory_limit_bytes: now.memory_limit_bytes,
        host_memory_bytes: now.host_memory_bytes,
        disk_read_bytes: now.disk_read_bytes,
        disk_write_bytes: now.disk_write_bytes,
        net_rx_bytes: now.net_rx_bytes,
        net_tx_bytes: now.net_tx_bytes,
        uptime_ms: now.uptime_us / 1000,
        timestamp_ms: now.at_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_a_share_of_the_time_between() {
        let sample = |run: &str, uptime_us, cpu_us| MetricsSample {
            run_id: run.into(),
            uptime_us,
            cpu_us,
            cpus: 2,
            ..MetricsSample::default()
        };
        let percent = |before: Option<&MetricsSample>, now| between(before, &now).cpu_percent;
        let first = sample("a", 1000, 500);
        assert!((percent(Some(&first), sample("a", 2000, 1000)) - 50.0).abs() < 1e-9);
        assert!((percent(Some(&first), sample("a", 2000, 1_000_000)) - 200.0).abs() < 1e-9);
        assert!(percent(Some(&first), sample("a", 2000, 0)).abs() < 1e-9);
        assert!(percent(Some(&first), sample("b", 2000, 1000)).abs() < 1e-9);
        assert!(percent(None, sample("a", 2000, 1000)).abs() < 1e-9);
    }
}
