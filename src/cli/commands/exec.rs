//! `msb exec` and `msb shell`: a command in a running sandbox, with its streams, terminal and exit
//! code.

use crate::cli::args::{Exec, Global, InGuest, Shell};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::cli::{filter, interactive, interrupt, project};
use crate::client::ExecConfig;
use crate::spec::SandboxSpec;
use crate::store::SandboxRow;

pub(crate) fn exec(ui: &Ui, global: &Global, args: &Exec) -> Result<Exit, CliError> {
    let row = filter::running(&project::name(ui, global)?, &args.name)?;
    let (program, rest) = args.argv.split_first().ok_or_else(no_command)?;
    run(ui, &row, ExecConfig::new(program).args(rest), &args.guest)
}

pub(crate) fn shell(ui: &Ui, global: &Global, args: &Shell) -> Result<Exit, CliError> {
    let row = filter::running(&project::name(ui, global)?, &args.name)?;
    let spec: SandboxSpec = serde_json::from_str(&row.spec_json).map_err(|error| {
        CliError::new(Exit::Failed, error).hint("`msb up` writes what is stored of it anew")
    })?;
    let shell = ExecConfig::new(spec.shell_path());
    let config = match &args.command {
        Some(script) => shell.arg("-c").arg(script),
        None => shell,
    };
    run(ui, &row, config, &args.guest)
}

fn no_command() -> CliError {
    CliError::message(Exit::Usage, "there is no command to run")
}

/// Runs a command in a sandbox that runs.
pub(super) fn run(
    ui: &Ui,
    row: &SandboxRow,
    config: ExecConfig,
    flags: &InGuest,
) -> Result<Exit, CliError> {
    let home = project::home()?;
    let runtime = interrupt::runtime()?;
    let exit = runtime.block_on(interactive::run(ui, &home, &row.id, config, flags));
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    exit
}
