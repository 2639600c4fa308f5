//! Sandboxes that exist, chosen by name, label and status.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::reconcile;
use crate::spec::Name;
use crate::store::{SandboxRow, Store};

use super::args::Filter;
use super::error::{CliError, Exit};
use super::project;

impl Filter {
    /// Whether it lets everything through.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.statuses.is_empty()
    }

    /// Whether it lets `row`, whose status is as it is, through: all labels, any status.
    pub(crate) fn admits(&self, row: &SandboxRow) -> bool {
        let by_status = self.statuses.is_empty() || self.statuses.contains(&row.status);
        by_status && (self.labels.is_empty() || self.has_labels(&row.spec_json))
    }

    fn has_labels(&self, spec_json: &str) -> bool {
        #[derive(Deserialize)]
        struct Labelled {
            #[serde(default)]
            labels: BTreeMap<String, String>,
        }
        let Ok(Labelled { labels }) = serde_json::from_str(spec_json) else { return false };
        self.labels.iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        })
    }
}

/// The rows of `project` that are named (all where none is) and pass the filter, by name. One that
/// is named and does not exist is an error.
pub(crate) fn rows(
    project: &Name,
    names: &[Name],
    filter: &Filter,
) -> Result<Vec<SandboxRow>, CliError> {
    let mut rows = all(project)?;
    for name in names {
        if !rows.iter().any(|row| row.name == name.as_str()) {
            let message = format!("sandbox `{name}` of project `{project}` does not exist");
            return Err(CliError::message(Exit::Failed, message));
        }
    }
    rows.retain(|row| {
        let named = names.is_empty() || names.iter().any(|name| name.as_str() == row.name);
        named && filter.admits(row)
    });
    Ok(rows)
}

fn all(project: &Name) -> Result<Vec<SandboxRow>, CliError> {
    Ok(match Store::open_read_only(&project::home()?)? {
        Some(store) => reconcile::rows(&store, project.as_str())?,
        None => Vec::new(),
    })
}

/// The row of a sandbox that runs.
pub(crate) fn running(project: &Name, name: &Name) -> Result<SandboxRow, CliError> {
    match all(project)?.into_iter().find(|row| row.name == name.as_str()) {
        Some(row) if row.status.is_live() => Ok(row),
        Some(row) => {
            let message = format!("sandbox `{name}` is not running: it is {}", row.status);
            Err(CliError::message(Exit::Failed, message)
                .hint(format!("`msb up {name}` or `msb start {name}` starts it")))
        }
        None => {
            let message = format!("sandbox `{name}` of project `{project}` does not exist");
            Err(CliError::message(Exit::Failed, message).hint(format!("`msb up {name}` makes it")))
        }
    }
}

/// Those of [`rows`] that run. Without a filter, one that is named must run.
pub(crate) fn live(
    project: &Name,
    names: &[Name],
    filter: &Filter,
) -> Result<Vec<SandboxRow>, CliError> {
    if !names.is_empty() && filter.is_empty() {
        return names.iter().map(|name| running(project, name)).collect();
    }
    let mut rows = rows(project, names, filter)?;
    rows.retain(|row| row.status.is_live());
    Ok(rows)
}

/// The `names`, where nothing is filtered; else the names of the [`rows`], of which there may be none.
pub(crate) fn names(
    project: &Name,
    names: &[Name],
    filter: &Filter,
) -> Result<Option<BTreeSet<Name>>, CliError> {
    if filter.is_empty() {
        return Ok(Some(names.iter().cloned().collect()));
    }
    let rows = rows(project, names, filter)?;
    let found: BTreeSet<Name> =
        rows.iter().filter_map(|row| Name::new(row.name.as_str()).ok()).collect();
    Ok((!found.is_empty()).then_some(found))
}
