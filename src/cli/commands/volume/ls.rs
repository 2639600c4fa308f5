//! `msb volume ls`.

use serde_json::{Value, json};

use super::{all, limit};
use crate::cli::args::{Format, Formatted, Global, disk_size};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::{Table, Tone, Ui};
use crate::reconcile::VolumeInfo;
use crate::store::now_ms;

pub(super) fn run(ui: &Ui, global: &Global, args: &Formatted) -> Result<Exit, CliError> {
    let mut volumes = all()?;
    if let Some(project) = &global.project {
        volumes.retain(|info| info.row.project.as_deref() == Some(project.as_str()));
    }
    match args.format {
        Format::Text => text(ui, &volumes)?,
        Format::Json => ui.json(&json!({
            "schema": "msb.volumes/1",
            "volumes": volumes.iter().map(document).collect::<Vec<_>>(),
        }))?,
    }
    Ok(Exit::Ok)
}

fn text(ui: &Ui, volumes: &[VolumeInfo]) -> Result<(), CliError> {
    let mut table =
        Table::new(&["PROJECT", "NAME", "KIND", "SIZE", "USED", "MOUNTED BY", "CREATED"]);
    let now = now_ms();
    let or_none = |text: String| {
        if text.is_empty() { ("-".to_owned(), Tone::Dim) } else { (text, Tone::Plain) }
    };
    for info in volumes {
        let users: Vec<&str> = info.users.iter().map(|user| user.sandbox.as_str()).collect();
        table.row([
            or_none(info.row.project.clone().unwrap_or_default()),
            (info.row.name.clone(), Tone::Plain),
            (info.row.kind.as_str().to_owned(), Tone::Plain),
            (limit(info), Tone::Plain),
            (disk_size(info.disk_usage()), Tone::Plain),
            or_none(users.join(", ")),
            (ago(now - info.row.created_ms), Tone::Plain),
        ]);
    }
    ui.table(&table)
}

/// A time span in its largest unit.
fn ago(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// A volume as JSON.
pub(super) fn document(info: &VolumeInfo) -> Value {
    let row = &info.row;
    let used = info.disk_usage();
    json!({
        "id": row.id,
        "project": row.project,
        "name": row.name,
        "kind": row.kind,
        "path": info.path,
        "quota_bytes": row.quota_bytes,
        "used_bytes": used.bytes,
        "used_complete": used.complete,
        "labels": row.labels,
        "protect": row.protect,
        "origin_file": row.origin_file,
        "created_ms": row.created_ms,
        "used_by": info.users.iter().map(|user| json!({
            "project": user.project,
            "sandbox": user.sandbox,
        })).collect::<Vec<_>>(),
    })
}
