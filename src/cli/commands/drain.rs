//! `msb drain`: lets what runs in sandboxes by `exec` come to its end, and stops them then. Takes no
//! lease: it may take any time.

use tokio::task::JoinSet;

use crate::cli::args::{Drain, Global};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::cli::{filter, interrupt, project};
use crate::supervisor::{self, ControlClient, ControlError};

pub(crate) fn run(ui: &Ui, global: &Global, args: &Drain) -> Result<Exit, CliError> {
    let home = project::home()?;
    let project = project::name(ui, global)?;
    let rows = filter::live(&project, &args.names, &args.filter)?;
    if rows.is_empty() {
        ui.say("nothing runs");
        return Ok(Exit::Ok);
    }
    interrupt::runtime()?.block_on(async {
        let mut ends = JoinSet::new();
        let mut exit = Exit::Ok;
        for row in rows {
            let asked = ControlClient::new(&home, &row.id).drain().await;
            if let Err(error) = ControlError::or_ends(asked) {
                let message = format!("sandbox {}: {error}", row.name);
                ui.error(&CliError::message(Exit::Failed, message));
                exit = Exit::Failed;
                continue;
            }
            if args.no_wait {
                ui.say(&format!("sandbox {}: draining", row.name));
                continue;
            }
            let home = home.clone();
            ends.spawn(async move {
                (supervisor::wait_until(&home, &row.id, |_| false).await, row.name)
            });
        }
        let mut interrupts = interrupt::Interrupts::listen()?;
        loop {
            tokio::select! {
                ended = ends.join_next() => {
                    let Some(ended) = ended else { return Ok(exit) };
                    let (ended, name) = ended.map_err(|error| CliError::new(Exit::Failed, error))?;
                    match ended {
                        Ok(event) => ui.say(&format!("sandbox {name}: {}", event.status)),
                        Err(error) => {
                            ui.error(&error.into());
                            exit = Exit::Failed;
                        }
                    }
                }
                // What has begun goes on.
                () = interrupts.next() => return Ok(Exit::Interrupted),
            }
        }
    })
}
