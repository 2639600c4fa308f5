//! `msb graph`: which sandboxes depend on which.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::json;

use crate::cli::args::{Global, Graph, GraphFormat};
use crate::cli::error::{CliError, Exit};
use crate::cli::project;
use crate::cli::ui::{Table, Tone, Ui};
use crate::spec::{Dependency, Name, Project, SandboxKind};

/// The sandboxes in the order of starts, each with what it waits for.
type Order<'a> = Vec<(&'a Name, Vec<(&'a Name, &'a Dependency)>)>;

pub(crate) fn run(ui: &Ui, global: &Global, args: &Graph) -> Result<Exit, CliError> {
    let loaded = project::load(ui, global)?;
    let selected = project::select(ui, &loaded, &args.names, global)?;
    let order = order(&loaded.project, &selected);
    match args.format {
        GraphFormat::Text => text(ui, &order)?,
        GraphFormat::Dot => ui.log_line(dot(&loaded.project, &order).trim_end())?,
        GraphFormat::Json => json(ui, &loaded.project, &order)?,
    }
    Ok(Exit::Ok)
}

/// What is ready is taken in the order of names; the manifest has no cycles.
fn order<'a>(project: &'a Project, selected: &'a BTreeSet<Name>) -> Order<'a> {
    let mut open: BTreeMap<&Name, Vec<(&Name, &Dependency)>> = selected
        .iter()
        .filter_map(|name| {
            let spec = project.sandboxes.get(name)?;
            let known = spec.depends_on.iter().filter(|(to, _)| selected.contains(*to));
            Some((name, known.collect()))
        })
        .collect();
    let mut order = Order::new();
    let mut done = BTreeSet::new();
    loop {
        let ready = open.iter().find(|(_, after)| after.iter().all(|(to, _)| done.contains(to)));
        let Some(name) = ready.map(|(name, _)| *name) else { return order };
        if let Some(after) = open.remove(name) {
            done.insert(name);
            order.push((name, after));
        }
    }
}

fn text(ui: &Ui, order: &Order<'_>) -> Result<(), CliError> {
    let mut table = Table::new(&["SANDBOX", "AFTER"]);
    for (name, after) in order {
        let after: Vec<_> = after.iter().map(|(to, how)| format!("{to} {}", edge(how))).collect();
        table.row([(name.to_string(), Tone::Plain), (after.join(", "), Tone::Plain)]);
    }
    ui.table(&table)
}

fn edge(how: &Dependency) -> String {
    let mut words = vec![how.condition.to_string()];
    if !how.required {
        words.push("optional".into());
    }
    if how.restart {
        words.push("restarts along".into());
    }
    format!("({})", words.join(", "))
}

fn dot(project: &Project, order: &Order<'_>) -> String {
    let mut text = format!("digraph \"{}\" {{\n  rankdir = \"RL\"\n", project.name);
    for (name, _) in order {
        let shape = if is_job(project, name) { "box" } else { "ellipse" };
        let _ = writeln!(text, "  \"{name}\" [shape = \"{shape}\"]");
    }
    for (name, after) in order {
        for (to, how) in after {
            let style = if how.required { "solid" } else { "dashed" };
            let label = how.condition;
            let _ = writeln!(
                text,
                "  \"{name}\" -> \"{to}\" [label = \"{label}\", style = \"{style}\"]"
            );
        }
    }
    text.push('}');
    text
}

fn is_job(project: &Project, name: &Name) -> bool {
    project.sandboxes.get(name).is_some_and(|spec| spec.kind == SandboxKind::Job)
}

fn json(ui: &Ui, project: &Project, order: &Order<'_>) -> Result<(), CliError> {
    let nodes = order.iter().map(|(name, _)| {
        let kind = project.sandboxes.get(*name).map(|spec| spec.kind);
        json!({ "name": name, "kind": kind })
    });
    let edges = order.iter().flat_map(|(name, after)| {
        after.iter().map(move |(to, how)| {
            json!({
                "from": name,
                "to": to,
                "condition": how.condition,
                "required": how.required,
                "restart": how.restart,
            })
        })
    });
    ui.json(&json!({
        "schema": "msb.graph/1",
        "project": project.name,
        "sandboxes": nodes.collect::<Vec<_>>(),
        "edges": edges.collect::<Vec<_>>(),
    }))
}
