//! `msb ps`: the project's sandboxes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::args::{Format, Global, Ps};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::{Table, Tone, Ui};
use crate::cli::{filter, interrupt, project};
use crate::spec::{Health, SandboxSpec, Status};
use crate::store::{SandboxRow, now_ms};
use crate::supervisor::{self, ControlClient};

/// Hex digits of an id or a digest that are shown to people.
const SHORT: usize = 12;
/// How long a supervisor may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn run(ui: &Ui, global: &Global, args: &Ps) -> Result<Exit, CliError> {
    let project = project::name(ui, global)?;
    let rows = filter::rows(&project, &args.names, &args.filter)?;
    let due = due(&rows)?;
    match args.format {
        Format::Text => table(ui, &rows, &due)?,
        Format::Json => ui.json(&json!({
            "schema": "msb.ps/1",
            "project": project,
            "sandboxes": rows.iter().map(|row| document(row, &due)).collect::<Vec<_>>(),
        }))?,
    }
    Ok(Exit::Ok)
}

/// When the next runs of sandboxes that wait for one begin, by id, in milliseconds since the Unix
/// epoch: only their supervisors know.
type Due = BTreeMap<String, i64>;

fn due(rows: &[SandboxRow]) -> Result<Due, CliError> {
    let mut due = Due::new();
    let waiting: Vec<_> = rows.iter().filter(|row| row.status == Status::Restarting).collect();
    if waiting.is_empty() {
        return Ok(due);
    }
    let home = project::home()?;
    interrupt::runtime()?.block_on(async {
        for row in waiting {
            let client = ControlClient::new(&home, &row.id);
            if let Ok(Ok(event)) = tokio::time::timeout(PATIENCE, client.status()).await
                && let Some(at) = event.restart_at_ms
            {
                due.insert(row.id.clone(), at);
            }
        }
    });
    Ok(due)
}

fn table(ui: &Ui, rows: &[SandboxRow], due: &Due) -> Result<(), CliError> {
    let now = now_ms();
    let mut table = Table::new(&["NAME", "STATUS", "FOR", "IMAGE", "ID"]);
    for row in rows {
        let (status, tone) = status(row, due.get(&row.id).map(|at| at - now));
        table.row([
            (row.name.clone(), Tone::Plain),
            (status, tone),
            (age(row, now), Tone::Plain),
            (image(row), Tone::Plain),
            (row.id.clone(), Tone::Dim),
        ]);
    }
    ui.table(&table)
}

/// The status with what qualifies it, such as `running (healthy)`, `stopped (exit 1)` and
/// `restarting in 4s (exit 1)`; `due_ms` is the time to the next run.
pub(crate) fn status(row: &SandboxRow, due_ms: Option<i64>) -> (String, Tone) {
    let tone = match (row.status, row.health, row.exit_code) {
        (Status::Crashed, _, _)
        | (Status::Running, Some(Health::Unhealthy), _)
        | (Status::Stopped, _, Some(1..)) => Tone::Bad,
        (Status::Running, Some(Health::Starting), _) => Tone::Busy,
        (Status::Running, _, _) => Tone::Good,
        (Status::Starting | Status::Draining | Status::Restarting, _, _) => Tone::Busy,
        (Status::Created | Status::Stopped, _, _) => Tone::Plain,
    };
    let word = row.status.as_str();
    let mut word = word.to_owned();
    if let Some(due) = due_ms {
        word.push_str(&format!(" in {}s", (due.max(0) + 999) / 1000));
    }
    let over = |reason| row.error.as_ref().is_some_and(|error| error.starts_with(reason));
    let text = match (row.status, row.health, row.exit_code) {
        (Status::Running, Some(health), _) => format!("{word} ({health})"),
        (Status::Stopped, _, _) if over(supervisor::EXPIRED) => format!("{word} (max_duration)"),
        (Status::Stopped, _, _) if over(supervisor::IDLED) => format!("{word} (idle_timeout)"),
        (Status::Restarting, _, None) => format!("{word} (crashed)"),
        (Status::Stopped | Status::Crashed | Status::Restarting, _, Some(code)) => {
            format!("{word} (exit {code})")
        }
        _ => word,
    };
    (text, tone)
}

/// Since the last change that is known: start, end, or creation.
fn age(row: &SandboxRow, now: i64) -> String {
    let since =
        if row.status.is_live() { row.started_ms } else { row.finished_ms.or(row.started_ms) };
    span(now - since.unwrap_or(row.created_ms))
}

/// A time of `ms` milliseconds in its largest unit.
pub(crate) fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The reference that it was made from, or its short digest.
pub(super) fn image(row: &SandboxRow) -> String {
    match serde_json::from_str::<SandboxSpec>(&row.spec_json) {
        Ok(spec) => spec.image.source.to_string(),
        Err(_) => row
            .image_digest
            .as_deref()
            .map(|digest| digest.chars().take("sha256:".len() + SHORT).collect())
            .unwrap_or_default(),
    }
}

fn document(row: &SandboxRow, due: &Due) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "health": row.health,
        "exit_code": row.exit_code,
        "image": image(row),
        "image_digest": row.image_digest,
        "driver": row.driver,
        "spec_hash": row.spec_hash,
        "origin_file": row.origin_file,
        "protect": row.protect,
        "supervisor_pid": row.run.as_ref().filter(|_| row.status.is_live()).map(|run| run.pid),
        "created_ms": row.created_ms,
        "started_ms": row.started_ms,
        "finished_ms": row.finished_ms,
        "restart_at_ms": due.get(&row.id),
        "error": row.error,
    })
}
