//! `msb ls`: all projects.

use std::collections::BTreeMap;

use serde_json::json;

use crate::cli::args::{Format, Ls};
use crate::cli::error::{CliError, Exit};
use crate::cli::project;
use crate::cli::ui::{Table, Tone, Ui};
use crate::spec::Status;
use crate::store::{ProjectRow, SandboxRow, Store};
use crate::supervisor;

pub(crate) fn run(ui: &Ui, args: &Ls) -> Result<Exit, CliError> {
    let (mut projects, mut rows) = match Store::open_read_only(&project::home()?)? {
        Some(store) => (store.projects()?, store.all_sandboxes()?),
        None => (Vec::new(), Vec::new()),
    };
    if rows.iter().any(|row| row.status.is_live()) {
        supervisor::interpret(&mut rows, &supervisor::boot_id()?);
    }
    if !args.filter.is_empty() {
        rows.retain(|row| args.filter.admits(row));
        projects.retain(|project| rows.iter().any(|row| row.project == project.name));
    }
    match args.format {
        Format::Text => {
            let mut table = Table::new(&["PROJECT", "SANDBOXES", "DIRECTORY"]);
            for project in &projects {
                table.row([
                    (project.name.clone(), Tone::Plain),
                    (counts(project, &rows), Tone::Plain),
                    (project.root.clone(), Tone::Dim),
                ]);
            }
            ui.table(&table)?;
        }
        Format::Json => ui.json(&json!({
            "schema": "msb.ls/1",
            "projects": projects.iter().map(|project| json!({
                "name": project.name,
                "root": project.root,
                "files": project.files,
                "sandboxes": by_status(project, &rows),
            })).collect::<Vec<_>>(),
        }))?,
    }
    Ok(Exit::Ok)
}

fn by_status(project: &ProjectRow, rows: &[SandboxRow]) -> BTreeMap<Status, usize> {
    let mut counts = BTreeMap::new();
    for row in rows.iter().filter(|row| row.project == project.name) {
        *counts.entry(row.status).or_default() += 1;
    }
    counts
}

fn counts(project: &ProjectRow, rows: &[SandboxRow]) -> String {
    let counts = by_status(project, rows);
    let parts: Vec<_> = counts.iter().map(|(status, n)| format!("{n} {status}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}
