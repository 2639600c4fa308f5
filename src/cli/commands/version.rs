//! `msb version`.

use serde_json::json;

use crate::cli::args::{Format, Formatted};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(ui: &Ui, args: &Formatted) -> Result<Exit, CliError> {
    match args.format {
        Format::Text => ui.data(&format!("msb {VERSION}\n"))?,
        Format::Json => ui.json(&json!({
            "schema": "msb.version/1",
            "version": VERSION,
            "agent_protocol": msb_protocol::VERSION,
        }))?,
    }
    Ok(Exit::Ok)
}
