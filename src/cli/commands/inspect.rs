//! `msb inspect`: all that is known of sandboxes, as one document.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cli::args::{Global, Select};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::cli::{interrupt, project};
use crate::home::Home;
use crate::reconcile;
use crate::store::{SandboxRow, Store};
use crate::supervisor::{ControlClient, SandboxPaths};

/// How long a supervisor may take for an answer: one that hangs is inspected too.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn run(ui: &Ui, global: &Global, args: &Select) -> Result<Exit, CliError> {
    let home = project::home()?;
    let project = project::name(ui, global)?;
    let rows = match Store::open_read_only(&home)? {
        Some(store) => reconcile::rows(&store, project.as_str())?,
        None => Vec::new(),
    };
    let chosen = |name: &crate::spec::Name| {
        rows.iter().find(|row| row.name == name.as_str()).ok_or_else(|| {
            let message = format!("sandbox `{name}` of project `{project}` does not exist");
            CliError::message(Exit::Failed, message)
        })
    };
    let chosen: Vec<&SandboxRow> = args.names.iter().map(chosen).collect::<Result<_, _>>()?;
    let sandboxes: Vec<Value> = interrupt::runtime()?.block_on(async {
        let mut documents = Vec::new();
        for row in chosen {
            documents.push(document(&home, row).await);
        }
        documents
    });
    ui.json(&json!({
        "schema": "msb.inspect/1",
        "project": project,
        "sandboxes": sandboxes,
    }))?;
    Ok(Exit::Ok)
}

/// What only a supervisor knows is null without one.
async fn document(home: &Home, row: &SandboxRow) -> Value {
    let (mut event, mut jail) = (None, None);
    let run = row.run.as_ref().filter(|_| row.status.is_live());
    if run.is_some() {
        let client = ControlClient::new(home, &row.id);
        let asked = async { (client.status().await, client.jail().await) };
        if let Ok((status, layers)) = timeout(PATIENCE, asked).await {
            event = status.ok();
            jail = layers.ok();
        }
    }
    let disk = SandboxPaths::new(home, &row.id).upper();
    json!({
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "health": row.health,
        "exit_code": row.exit_code,
        "error": row.error,
        "created_ms": row.created_ms,
        "started_ms": row.started_ms,
        "finished_ms": row.finished_ms,
        "image": super::ps::image(row),
        "image_digest": row.image_digest,
        "driver": row.driver,
        "supervisor_pid": run.map(|run| run.pid),
        "run_id": run.map(|run| &run.run_id),
        "vm_pid": event.as_ref().and_then(|event| event.vm_pid),
        "restarts": event.as_ref().map(|event| event.restarts),
        "restart_at_ms": event.as_ref().and_then(|event| event.restart_at_ms),
        "disk": Some(disk).filter(|disk| disk.exists()),
        "protect": row.protect,
        "origin_file": row.origin_file,
        "spec_hash": row.spec_hash,
        "spec": serde_json::from_str::<Value>(&row.spec_json).unwrap_or_default(),
        "jail": jail,
    })
}
