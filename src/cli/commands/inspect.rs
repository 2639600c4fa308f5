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
use crate::spec::{Mount, MountSource, SandboxSpec};
use crate::store::{SandboxRow, Store, VolumeRow};
use crate::supervisor::{ControlClient, SandboxPaths};

/// How long a supervisor may take for an answer: one that hangs is inspected too.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn run(ui: &Ui, global: &Global, args: &Select) -> Result<Exit, CliError> {
    let home = project::home()?;
    let project = project::name(ui, global)?;
    let (rows, volumes) = match Store::open_read_only(&home)? {
        Some(store) => (reconcile::rows(&store, project.as_str())?, store.volumes()?),
        None => (Vec::new(), Vec::new()),
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
            documents.push(document(&home, row, &volumes).await);
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
async fn document(home: &Home, row: &SandboxRow, volumes: &[VolumeRow]) -> Value {
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
        "mounts": mounts(home, row, volumes),
        "protect": row.protect,
        "origin_file": row.origin_file,
        "spec_hash": row.spec_hash,
        "spec": serde_json::from_str::<Value>(&row.spec_json).unwrap_or_default(),
        "jail": jail,
    })
}

/// What is mounted, by guest path; what is not known is null.
fn mounts(home: &Home, row: &SandboxRow, volumes: &[VolumeRow]) -> Vec<Value> {
    let Ok(spec) = serde_json::from_str::<SandboxSpec>(&row.spec_json) else { return Vec::new() };
    let describe = |mount: &Mount| match &mount.source {
        MountSource::Bind { path, .. } => (Some("bind"), json!(path), None),
        MountSource::Tmpfs { .. } => (Some("tmpfs"), Value::Null, None),
        MountSource::Named { volume, external } => {
            let project = (!external).then_some(row.project.as_str());
            let name = if *external { volume.local() } else { volume.clone() };
            let is_it =
                |row: &&VolumeRow| row.project.as_deref() == project && row.name == name.as_str();
            let found = volumes.iter().find(is_it);
            let path = found.map(|row| reconcile::volume_path(home, row));
            (found.map(|row| row.kind.as_str()), json!(path), Some(name.to_string()))
        }
    };
    let mounts = spec.volumes.iter().map(|(at, mount)| {
        let (kind, source, volume) = describe(mount);
        json!({
            "path": at.to_string(),
            "kind": kind,
            "source": source,
            "volume": volume,
            "readonly": mount.readonly,
        })
    });
    mounts.collect()
}
