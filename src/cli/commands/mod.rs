//! One file per command.

mod completion;
mod init;
mod version;

use super::args::{Cli, Command};
use super::error::{CliError, Exit};
use super::ui::Ui;

/// Runs the chosen command.
pub(crate) fn run(ui: &Ui, cli: Cli) -> Result<Exit, CliError> {
    match cli.command {
        Command::Init(args) => init::run(ui, &args),
        Command::Completion(args) => completion::run(ui, &args),
        Command::Version(args) => version::run(ui, &args),
        _ => Err(CliError::message(Exit::Failed, "not carried out yet")),
    }
}
