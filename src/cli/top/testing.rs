//! What tests of the dashboard are made of.

use std::sync::Arc;

use super::state::{Sandbox, Seen, State};
use crate::client::Metrics;
use crate::spec::Status;
use crate::store::SandboxRow;
use crate::supervisor::logs::{LogRecord, LogStream};

pub(super) fn row(name: &str, status: Status) -> SandboxRow {
    SandboxRow {
        id: format!("id-{name}"),
        project: "p".into(),
        name: name.into(),
        spec_json: Arc::from("{}"),
        spec_hash: String::new(),
        image_digest: None,
        origin_file: None,
        protect: false,
        driver: None,
        created_ms: 0,
        status,
        health: None,
        run: None,
        exit_code: None,
        started_ms: None,
        finished_ms: None,
        error: None,
    }
}

pub(super) const fn seen(row: SandboxRow) -> Seen {
    Seen { row, restarts: None, restart_at_ms: None, cpus: 2 }
}

/// Sandboxes that run.
pub(super) fn state(names: &[&str]) -> State {
    let sandbox = |name: &&str| Sandbox::new(seen(row(name, Status::Running)));
    let sandboxes = names.iter().map(sandbox).collect();
    State { project: "p".into(), sandboxes, is_loaded: true, ..State::default() }
}

pub(super) const fn metrics(cpu_percent: f64) -> Metrics {
    Metrics {
        cpu_percent,
        memory_bytes: 100 << 20,
        memory_limit_bytes: 512 << 20,
        host_memory_bytes: 0,
        disk_read_bytes: 0,
        disk_write_bytes: 0,
        net_rx_bytes: 0,
        net_tx_bytes: 0,
        uptime_ms: 0,
        timestamp_ms: 0,
    }
}

pub(super) fn record(message: &str) -> LogRecord {
    let (time, stream) = (String::new(), LogStream::Stdout);
    LogRecord { time, stream, message: message.into(), partial: false }
}
