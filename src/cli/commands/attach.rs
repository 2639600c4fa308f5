//! `msb attach`: what a workload writes, until it ends.

use crate::cli::args::{Attach, Global};
use crate::cli::error::{CliError, Exit};
use crate::cli::interactive::Signals;
use crate::cli::log_lines::{self, Printer, Shown, Style};
use crate::cli::ui::Ui;
use crate::cli::{filter, interrupt, project};
use crate::spec::Status;
use crate::supervisor::logs::LogRange;
use crate::supervisor::{self, ControlClient, ControlError, DeniedReason};

pub(crate) fn run(ui: &Ui, global: &Global, args: &Attach) -> Result<Exit, CliError> {
    let home = project::home()?;
    let row = filter::running(&project::name(ui, global)?, &args.name)?;
    let sandboxes = [Shown { id: row.id.clone(), name: row.name }];
    let style = Style { prefix: false, timestamps: false, raw: args.raw, json: false };
    let printer = Printer::new(ui, style, &sandboxes);
    let range = LogRange { since: None, tail: Some(args.tail) };
    let runtime = interrupt::runtime()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let client = ControlClient::new(&home, &row.id);
        // Beside the rest, which does not wait for it: a use until the runtime ends. A supervisor of
        // an older version refuses, and knows of no idle sandboxes either.
        tokio::spawn({
            let client = ControlClient::new(&home, &row.id);
            async move {
                let _in_use = client.attach().await;
                std::future::pending::<()>().await;
            }
        });
        let followed = log_lines::follow(&printer, &home, &sandboxes, &range);
        tokio::pin!(followed);
        loop {
            tokio::select! {
                followed = &mut followed => {
                    followed?;
                    break;
                }
                number = signals.next_ending() => {
                    if !args.sig_proxy {
                        return Ok(Exit::Interrupted);
                    }
                    // Of one that has ended meanwhile the end is about to be told.
                    let sent = client.signal(number).await;
                    if let Err(ControlError::Denied(DeniedReason::NoWorkload | DeniedReason::NotReady)) = sent {
                        // There is nobody to have it but this command.
                        return Ok(Exit::Interrupted);
                    }
                }
            }
        }
        let last = supervisor::wait_until(&home, &row.id, |_| false).await?;
        match (last.status, last.exit_code, last.error) {
            (Status::Stopped, Some(code), _) => Ok(Exit::Guest(u8::try_from(code).unwrap_or(1))),
            (Status::Stopped, None, _) => Ok(Exit::Ok),
            (_, _, error) => {
                let why = error.unwrap_or_else(|| "it is not known why".to_owned());
                let message = format!("sandbox `{}` crashed: {why}", args.name);
                Err(CliError::message(Exit::Failed, message))
            }
        }
    })
}
