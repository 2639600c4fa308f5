//! `msb schema`: the JSON schema of the Sandboxfile.

use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::manifest;

pub(crate) fn run(ui: &Ui) -> Result<Exit, CliError> {
    ui.data(&manifest::json_schema())?;
    Ok(Exit::Ok)
}
