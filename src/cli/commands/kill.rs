//! `msb kill`: ends machines at once, or sends workloads a signal. Takes no lease, so that it works
//! whatever another command waits for.

use crate::cli::args::{Global, Kill};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::cli::{filter, interrupt, project};
use crate::home::Home;
use crate::spec::Signal;
use crate::store::SandboxRow;
use crate::supervisor::{self, ControlClient, ControlError};

pub(crate) fn run(ui: &Ui, global: &Global, args: &Kill) -> Result<Exit, CliError> {
    let home = project::home()?;
    let project = project::name(ui, global)?;
    let rows = filter::live(&project, &args.names, &args.filter)?;
    if rows.is_empty() {
        ui.say("nothing runs");
        return Ok(Exit::Ok);
    }
    interrupt::runtime()?.block_on(async {
        let mut exit = Exit::Ok;
        for row in &rows {
            let done = match args.signal {
                Signal::KILL => end(&home, row).await,
                signal => ControlClient::new(&home, &row.id).signal(signal.number()).await,
            };
            match done {
                Ok(()) => ui.say(&format!("sandbox {}: {}", row.name, said(args.signal))),
                Err(error) => {
                    let message = format!("sandbox {}: {error}", row.name);
                    ui.error(&CliError::message(Exit::Failed, message));
                    exit = Exit::Failed;
                }
            }
        }
        Ok(exit)
    })
}

fn said(signal: Signal) -> String {
    match signal {
        Signal::KILL => "killed".to_owned(),
        signal => format!("got {signal}"),
    }
}

/// Returns once nothing of it runs.
async fn end(home: &Home, row: &SandboxRow) -> Result<(), ControlError> {
    ControlError::or_ends(ControlClient::new(home, &row.id).kill().await)?;
    supervisor::wait_until(home, &row.id, |_| false).await.map(drop)
}
