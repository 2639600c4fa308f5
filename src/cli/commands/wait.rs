//! `msb wait`: until sandboxes are where they should be.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use crate::cli::args::{Global, Until, Wait};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::cli::{filter, interrupt, project};
use crate::home::Home;
use crate::spec::Health;
use crate::store::SandboxRow;
use crate::supervisor::{self, ControlError, StatusEvent};

/// The position of a sandbox on the command line, and what came of waiting for it.
type Arrived = (usize, Result<StatusEvent, ControlError>);

pub(crate) fn run(ui: &Ui, global: &Global, args: &Wait) -> Result<Exit, CliError> {
    let home = project::home()?;
    let project = project::name(ui, global)?;
    let mut rows = filter::rows(&project, &args.names, &args.filter)?;
    if !args.names.is_empty() {
        let place = |row: &SandboxRow| args.names.iter().position(|name| name.as_str() == row.name);
        rows.sort_by_key(place);
    }
    interrupt::runtime()?.block_on(async {
        let mut interrupts = interrupt::Interrupts::listen()?;
        let limit = async {
            match args.timeout {
                Some(limit) => tokio::time::sleep(limit.duration()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            exit = all(ui, &home, &rows, args.condition) => exit,
            () = limit => Err(CliError::message(Exit::TimedOut, "waiting took too long")),
            () = interrupts.next() => Ok(Exit::Interrupted),
        }
    })
}

/// The exit code of the first, in the order of the command line, that is not 0.
async fn all(
    ui: &Ui,
    home: &Home,
    rows: &[SandboxRow],
    condition: Until,
) -> Result<Exit, CliError> {
    let mut waiting: JoinSet<Arrived> = JoinSet::new();
    for (index, row) in rows.iter().enumerate() {
        let (home, id) = (home.clone(), row.id.clone());
        waiting.spawn(async move {
            let reached = move |event: &StatusEvent| is_settled(event, condition);
            (index, supervisor::wait_until(&home, &id, reached).await)
        });
    }
    let mut exits = BTreeMap::new();
    while let Some(arrived) = waiting.join_next().await {
        let (index, event) = arrived.map_err(|error| CliError::new(Exit::Failed, error))?;
        let event = event?;
        let name = rows.get(index).map_or("", |row| row.name.as_str());
        ui.log_line(&format!("{name} {}", told(&event, condition)))?;
        exits.insert(index, exit(&event, condition));
    }
    Ok(exits.into_values().find(|exit| *exit != Exit::Ok).unwrap_or(Exit::Ok))
}

/// Whether there is nothing more to wait for while it runs.
fn is_settled(event: &StatusEvent, condition: Until) -> bool {
    match condition {
        Until::Ended | Until::Completed => false,
        Until::Started => event.started,
        Until::Healthy => matches!(event.health, Some(Health::Healthy | Health::Unhealthy)),
    }
}

fn told(event: &StatusEvent, condition: Until) -> String {
    match (event.exit_code, event.health) {
        (Some(code), _) if event.has_ended() => format!("{} (exit {code})", event.status),
        (_, Some(health)) if condition == Until::Healthy => format!("{} ({health})", event.status),
        _ => event.status.to_string(),
    }
}

fn exit(event: &StatusEvent, condition: Until) -> Exit {
    let code = Exit::of_run(event);
    match condition {
        Until::Ended => code,
        Until::Completed if event.exit_code == Some(0) => code,
        Until::Completed if code == Exit::Ok => Exit::Failed,
        Until::Completed => code,
        Until::Started if event.started => Exit::Ok,
        Until::Healthy if event.health == Some(Health::Healthy) && !event.has_ended() => Exit::Ok,
        Until::Started | Until::Healthy => Exit::Dependency,
    }
}
