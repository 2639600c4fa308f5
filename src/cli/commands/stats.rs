//! `msb stats`: what running sandboxes use.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cli::args::{Format, Global, Stats, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::{Table, Tone, Ui};
use crate::cli::{filter, interrupt, project};
use crate::client::{Metrics, MetricsSampler};
use crate::home::Home;
use crate::spec::Name;
use crate::store::SandboxRow;

/// The time between two measurements.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time to the first one that knows what the processors do.
const FIRST: Duration = Duration::from_millis(250);

/// A sandbox that is measured; none any more once it has ended.
struct Measured {
    name: String,
    id: String,
    sampler: MetricsSampler,
    last: Option<Metrics>,
}

pub(crate) fn run(ui: &Ui, global: &Global, args: &Stats) -> Result<Exit, CliError> {
    let home = project::home()?;
    let project = project::name(ui, global)?;
    let mut rows = filter::rows(&project, &args.names, &args.filter)?;
    rows.retain(|row| row.status.is_live());
    interrupt::runtime()?.block_on(async {
        let mut interrupts = interrupt::Interrupts::listen()?;
        tokio::select! {
            shown = show(ui, &project, args, measured(&home, rows)) => shown.map(|()| Exit::Ok),
            () = interrupts.next() => Ok(Exit::Interrupted),
        }
    })
}

fn measured(home: &Home, rows: Vec<SandboxRow>) -> Vec<Measured> {
    let measured = rows.into_iter().map(|row| {
        let sampler = MetricsSampler::new(home, &row.id);
        Measured { name: row.name, id: row.id, sampler, last: None }
    });
    measured.collect()
}

async fn show(
    ui: &Ui,
    project: &Name,
    args: &Stats,
    mut sandboxes: Vec<Measured>,
) -> Result<(), CliError> {
    sandboxes = measure(sandboxes).await?;
    tokio::time::sleep(FIRST).await;
    let mut lines = 0;
    loop {
        sandboxes = measure(sandboxes).await?;
        match args.format {
            Format::Json => ui.json_line(&document(project, &sandboxes))?,
            Format::Text => lines = ui.redraw(&table(&sandboxes), lines)?,
        }
        if args.no_stream || sandboxes.iter().all(|sandbox| sandbox.last.is_none()) {
            return Ok(());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// One measurement of each, at the same time.
async fn measure(sandboxes: Vec<Measured>) -> Result<Vec<Measured>, CliError> {
    let mut measuring = JoinSet::new();
    for mut sandbox in sandboxes {
        measuring.spawn(async move {
            sandbox.last = sandbox.sampler.sample().await.ok();
            sandbox
        });
    }
    let mut sandboxes = Vec::new();
    while let Some(sandbox) = measuring.join_next().await {
        sandboxes.push(sandbox.map_err(|error| CliError::new(Exit::Failed, error))?);
    }
    sandboxes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sandboxes)
}

fn table(sandboxes: &[Measured]) -> Table {
    let heads = ["NAME", "CPU", "MEMORY", "LIMIT", "HOST", "DISK R/W", "NET R/W", "UP"];
    let mut table = Table::new(&heads);
    for Measured { name, last, .. } in sandboxes {
        let cells = match last {
            None => vec!["-".to_owned(); heads.len() - 1],
            Some(metrics) => vec![
                format!("{:.1}%", metrics.cpu_percent),
                size(metrics.memory_bytes),
                size(metrics.memory_limit_bytes),
                size(metrics.host_memory_bytes),
                pair(metrics.disk_read_bytes, metrics.disk_write_bytes),
                pair(metrics.net_rx_bytes, metrics.net_tx_bytes),
                format!("{}s", metrics.uptime_ms / 1000),
            ],
        };
        let name = (name.clone(), Tone::Plain);
        table.row([name].into_iter().chain(cells.into_iter().map(|cell| (cell, Tone::Plain))));
    }
    table
}

fn pair(a: u64, b: u64) -> String {
    format!("{} / {}", size(a), size(b))
}

fn document(project: &Name, sandboxes: &[Measured]) -> Value {
    let shown = sandboxes.iter().filter_map(|sandbox| {
        let metrics = sandbox.last?;
        Some(json!({ "name": sandbox.name, "id": sandbox.id, "metrics": metrics }))
    });
    json!({ "schema": "msb.stats/1", "project": project, "sandboxes": shown.collect::<Vec<_>>() })
}
