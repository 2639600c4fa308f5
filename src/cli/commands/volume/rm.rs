//! `msb volume rm`.

use super::{all, find};
use crate::cli::args::{Global, VolumeNames};
use crate::cli::error::{CliError, Exit};
use crate::cli::project;
use crate::cli::ui::Ui;
use crate::reconcile::{VolumeInfo, remove_volume};
use crate::store::Store;

pub(super) fn run(ui: &Ui, global: &Global, args: &VolumeNames) -> Result<Exit, CliError> {
    let all = all()?;
    let found: Vec<&VolumeInfo> =
        args.names.iter().map(|name| find(&all, global, name)).collect::<Result<_, _>>()?;
    let store = Store::open(&project::home()?)?;
    let mut exit = Exit::Ok;
    for info in found {
        match remove_volume(&store, &info.row) {
            Ok(()) => ui.say(&format!("volume {}: removed", info.row.title())),
            Err(error) => {
                ui.error(&error.into());
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}
