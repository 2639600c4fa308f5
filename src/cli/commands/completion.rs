//! `msb completion`: the completion script of a shell.

use clap::CommandFactory;

use crate::cli::args::{Cli, Completion};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;

pub(crate) fn run(ui: &Ui, args: &Completion) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "msb", &mut script);
    ui.bytes(&script)?;
    Ok(Exit::Ok)
}
